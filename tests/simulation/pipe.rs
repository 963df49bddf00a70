//! A TCP connection of memory: short reads and writes, a bounded send buffer, readiness that is
//! reported only to who was told that there is none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;

use fanfare::internals::id::Slot;
use fanfare::internals::rng::Rng;
use fanfare::internals::shard::socket::Socket;

/// The sockets of a shard that have something to tell it.
pub type Ready = Rc<RefCell<VecDeque<(Slot, u32)>>>;

/// What the client has done to the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ClientEnd {
    Open,
    /// It said that it will write no more.
    Ended,
    /// It has gone, and whatever is sent to it comes back as a reset.
    Gone,
}

/// What lies between the two ends.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Wire {
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    send_bytes_max: usize,
    client: ClientEnd,
    /// Whether the server has said that it writes no more, or has dropped its end.
    is_shut: bool,
    is_dropped: bool,
    wants_to_read: bool,
    wants_to_write: bool,
    place: (Slot, u32),
    ready: Ready,
    rng: Rng,
}

impl Wire {
    fn wake(&mut self) {
        let can_read = !self.to_server.is_empty() || self.client != ClientEnd::Open;
        let can_write =
            self.to_client.len() < self.send_bytes_max || self.client == ClientEnd::Gone;
        if (self.wants_to_read && can_read) || (self.wants_to_write && can_write) {
            self.wants_to_read &= !can_read;
            self.wants_to_write &= !can_write;
            self.ready.borrow_mut().push_back(self.place);
        }
    }
}

/// The client's end.
pub struct Link(Rc<RefCell<Wire>>);

/// The server's end.
pub struct FakeSocket(Rc<RefCell<Wire>>);

impl Link {
    pub fn new(ready: &Ready, send_bytes_max: usize, rng: Rng) -> Link {
        Link(Rc::new(RefCell::new(Wire {
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            send_bytes_max,
            client: ClientEnd::Open,
            is_shut: false,
            is_dropped: false,
            wants_to_read: false,
            wants_to_write: false,
            place: (Slot(0), 0),
            ready: Rc::clone(ready),
            rng,
        })))
    }

    /// The other end, for a shard that gave it this place.
    pub fn accept(&self, slot: Slot, generation: u32) -> FakeSocket {
        self.0.borrow_mut().place = (slot, generation);
        FakeSocket(Rc::clone(&self.0))
    }

    pub fn send(&self, bytes: impl Iterator<Item = u8>) {
        let mut wire = self.0.borrow_mut();
        if wire.client == ClientEnd::Open && !wire.is_dropped {
            wire.to_server.extend(bytes);
            wire.wake();
        }
    }

    /// Takes up to `bytes_max` of what the server has sent.
    pub fn take(&self, bytes_max: usize) -> Vec<u8> {
        let mut wire = self.0.borrow_mut();
        let count = bytes_max.min(wire.to_client.len());
        let taken = wire.to_client.drain(..count).collect();
        wire.wake();
        taken
    }

    pub fn leave(&self, how: ClientEnd) {
        let mut wire = self.0.borrow_mut();
        wire.client = how;
        wire.wake();
    }

    pub fn has_bytes(&self) -> bool {
        !self.0.borrow().to_client.is_empty()
    }

    /// Whether the server waits for room to send more.
    pub fn is_full(&self) -> bool {
        self.0.borrow().wants_to_write
    }

    /// Whether the server will send nothing more.
    pub fn is_over(&self) -> bool {
        let wire = self.0.borrow();
        wire.is_dropped || wire.is_shut
    }

    pub fn is_dropped(&self) -> bool {
        self.0.borrow().is_dropped
    }
}

impl Socket for FakeSocket {
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        if wire.client == ClientEnd::Gone {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if wire.to_server.is_empty() {
            if wire.client == ClientEnd::Ended {
                return Ok(0);
            }
            wire.wants_to_read = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let there = wire.to_server.len().min(into.len());
        let count = if wire.rng.below(3) == 0 {
            1 + usize::try_from(wire.rng.below(there as u64)).expect("small")
        } else {
            there
        };
        for (byte, from) in into.iter_mut().zip(wire.to_server.drain(..count)) {
            *byte = from;
        }
        Ok(count)
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        if wire.client == ClientEnd::Gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        assert!(!wire.is_shut, "a write after the end of writing");
        let room = wire.send_bytes_max - wire.to_client.len();
        if room == 0 && !bytes.is_empty() {
            wire.wants_to_write = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = room.min(bytes.len());
        wire.to_client.extend(&bytes[..count]);
        Ok(count)
    }

    fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.try_write(&all)
    }

    fn shut_down(&mut self) {
        self.0.borrow_mut().is_shut = true;
    }
}

impl Drop for FakeSocket {
    fn drop(&mut self) {
        self.0.borrow_mut().is_dropped = true;
    }
}

/// Adds a client's masked frame to what it sends. The payload is below 64 KiB.
pub fn push_frame(outgoing: &mut VecDeque<u8>, first: u8, payload: &[u8]) {
    outgoing.push_back(first);
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => outgoing.push_back(0x80 | short),
        _ => {
            let length = u16::try_from(payload.len()).expect("below 64 KiB");
            outgoing.push_back(0x80 | 0x7e);
            outgoing.extend(length.to_be_bytes());
        }
    }
    let mask = [0x1f, 0x2e, 0x3d, 0x4c];
    outgoing.extend(mask);
    outgoing.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}
