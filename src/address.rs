//! Client addresses: their text, and the blocks of addresses that count as one client.
//!
//! A bound per client is worthless if the client picks its address. An IPv6 host owns the whole /64
//! that it is in (RFC 4291, section 2.5.1), so that prefix counts; an IPv4 host owns one address,
//! however it is written.
//!
//! Imports nothing of the crate. Imported by `ws`, `state`, `shard`, `http` and `server`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

/// A client's address, and its port if it is known. A proxy may have named only the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress {
    /// The address, as IPv4 if it was mapped into IPv6.
    pub ip: IpAddr,
    /// The port. Without a zero among its values it takes two bytes, in every connection's record.
    pub port: Option<NonZeroU16>,
}

impl ClientAddress {
    /// An address whose port is unknown.
    pub fn of_ip(ip: IpAddr) -> ClientAddress {
        ClientAddress { ip: ip.to_canonical(), port: None }
    }

    /// The block by which a bound per address counts it.
    pub(crate) fn block(self) -> AddressBlock {
        AddressBlock::of(self.ip)
    }
}

impl From<SocketAddr> for ClientAddress {
    fn from(peer: SocketAddr) -> ClientAddress {
        ClientAddress { ip: peer.ip().to_canonical(), port: NonZeroU16::new(peer.port()) }
    }
}

/// As a socket address, or the address alone.
impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port.get()).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

impl FromStr for ClientAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<ClientAddress, Self::Err> {
        let with_port = text.parse::<SocketAddr>().map(ClientAddress::from);
        with_port.or_else(|_| text.parse().map(ClientAddress::of_ip))
    }
}

/// The unit of a bound per address: one IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressBlock(IpAddr);

impl AddressBlock {
    /// The block of an address. An IPv4 address mapped into IPv6 counts as the IPv4 address.
    pub(crate) fn of(address: IpAddr) -> AddressBlock {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                AddressBlock(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
            address @ IpAddr::V4(_) => AddressBlock(address),
        }
    }

    /// Whether the block is this machine's own.
    pub fn is_loopback(self) -> bool {
        // The /64 of `::1`, in which no other address is ever routed.
        self.0.is_loopback() || self.0 == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    }
}

/// The address, or the prefix with its length.
impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> AddressBlock {
        AddressBlock::of(text.parse().expect("an address"))
    }

    #[test]
    fn a_prefix_of_64_bits_is_one_client() {
        assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
        assert_eq!(block("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn an_ipv4_address_is_one_client_in_both_spellings() {
        assert_eq!(block("::ffff:192.0.2.7"), block("192.0.2.7"));
        assert_ne!(block("192.0.2.8"), block("192.0.2.7"));
        assert_eq!(block("192.0.2.7").to_string(), "192.0.2.7");
    }

    #[test]
    fn addresses_are_read_back_as_they_are_shown() {
        for text in ["192.0.2.7", "192.0.2.7:80", "2001:db8::1", "[2001:db8::1]:80"] {
            let address: ClientAddress = text.parse().expect("an address");
            assert_eq!(address.to_string(), text);
        }
        let mapped: ClientAddress = "[::ffff:192.0.2.7]:80".parse().expect("an address");
        assert_eq!(mapped.to_string(), "192.0.2.7:80");
        assert!("host".parse::<ClientAddress>().is_err());
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for text in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(block(text).is_loopback(), "{text}");
        }
        assert!(!block("192.0.2.7").is_loopback());
        assert!(!block("fe80::1").is_loopback());
    }
}
