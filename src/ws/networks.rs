//! Lists of addresses and networks, as settings give them: trusted proxies, addresses that need no token.
//!
//! Imports nothing of the crate. Imported by its siblings and `config`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Networks; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// Why a list cannot be used: the entry that is neither an address nor a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadNetwork(pub String);

/// By comma: `10.0.0.0/8, 192.0.2.7, fd00::/8`.
impl FromStr for Networks {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Networks, BadNetwork> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let nets = entries.map(|entry| net(entry).ok_or_else(|| BadNetwork(entry.to_owned())));
        nets.collect::<Result<_, _>>().map(Networks)
    }
}

/// Each as a network, single addresses too.
impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, net) in self.0.iter().enumerate() {
            write!(f, "{}{net}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// A network, or that of a single address. Peers are compared in IPv4 if they have such an address,
/// so a network of mapped addresses is converted, too.
fn net(text: &str) -> Option<IpNet> {
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    let mapped = |net: &IpNet| match net.addr() {
        IpAddr::V6(address) => Some((address.to_ipv4_mapped()?, net.prefix_len().checked_sub(96)?)),
        IpAddr::V4(_) => None,
    };
    match mapped(&net) {
        Some((address, bits)) => IpNet::new(address.into(), bits).ok().map(|net| net.trunc()),
        None => Some(net.trunc()),
    }
}

impl Networks {
    /// The networks, as texts.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(ToString::to_string)
    }

    /// Whether an address is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        let networks: Networks =
            "10.0.0.7/8, 192.0.2.7,, ::ffff:10.1.0.0/112".parse().expect("a list");
        assert_eq!(networks.to_string(), "10.0.0.0/8,192.0.2.7/32,10.1.0.0/16");
        assert_eq!(networks.to_string().parse(), Ok(networks.clone()));
        let has = |text: &str| networks.contains(text.parse().expect("an address"));
        assert!(has("10.9.9.9") && has("::ffff:10.9.9.9") && has("192.0.2.7"));
        assert!(!has("192.0.2.8") && !has("::1"));
        assert_eq!("10.0.0.0/8,x".parse::<Networks>(), Err(BadNetwork("x".into())));
        assert!(!Networks::default().contains([127, 0, 0, 1].into()));
    }
}
