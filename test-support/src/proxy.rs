//! A proxy between two programs that delays, holds or loses bytes, as a test demands.
//!
//! Imports nothing of the crate. Imported by `nodes` and tests.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// The beginning of a message that Redis publishes.
const MESSAGE: &[u8] = b"$7\r\nmessage\r\n";

/// The fault of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// None: bytes pass.
    None,
    /// Each piece comes this much later.
    Delay(Duration),
    /// Nothing passes, and no connection ends.
    Block,
    /// Messages that Redis publishes do not pass, and everything else does.
    LosePublished,
    /// There is no other side: open connections end, and new ones end at once.
    Down,
}

/// A proxy with an address of its own.
pub struct FaultyProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    fault: Mutex<Fault>,
    /// The clients' ends of all connections.
    open: Mutex<Vec<TcpStream>>,
    /// The first WebSocket frame from the target that holds this text is lost.
    lost_text: Option<String>,
    frames_lost: AtomicUsize,
}

impl FaultyProxy {
    /// Starts a proxy in front of an address.
    pub fn to(target: SocketAddr) -> FaultyProxy {
        FaultyProxy::start(target, None)
    }

    /// Starts a proxy that loses the first WebSocket frame of the target that holds a text.
    pub fn losing_frame(target: SocketAddr, text: &str) -> FaultyProxy {
        FaultyProxy::start(target, Some(text.to_owned()))
    }

    fn start(target: SocketAddr, lost_text: Option<String>) -> FaultyProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            fault: Mutex::new(Fault::None),
            open: Mutex::default(),
            lost_text,
            frames_lost: AtomicUsize::new(0),
        });
        let all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A connection that cannot be made ends.
                let _ = open(&all, client);
            }
        });
        FaultyProxy { address, shared }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that clients of a server connect to.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Leads new connections to another address, as a moved name does.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock() = target;
    }

    /// Applies a fault from now on.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock() = fault;
        if fault == Fault::Down {
            self.cut();
        }
    }

    /// Ends every open connection.
    pub fn cut(&self) {
        for stream in self.shared.open.lock().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The number of lost frames.
    pub fn frames_lost(&self) -> usize {
        self.shared.frames_lost.load(Ordering::SeqCst)
    }
}

/// Opens the other half of a connection, and passes bytes on in both directions.
fn open(shared: &Arc<Shared>, client: TcpStream) -> std::io::Result<()> {
    let handle = client.try_clone()?;
    shared.open.lock().push(handle);
    if *shared.fault.lock() == Fault::Down {
        return client.shutdown(Shutdown::Both);
    }
    let target = TcpStream::connect(*shared.target.lock())?;
    let (client_too, target_too) = (client.try_clone()?, target.try_clone()?);
    for (from, to, is_from_target) in [(client, target, false), (target_too, client_too, true)] {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || carry(from, to, is_from_target, &shared));
    }
    Ok(())
}

fn carry(mut from: TcpStream, mut to: TcpStream, is_from_target: bool, shared: &Shared) {
    let fault = || *shared.fault.lock();
    let lost_text = shared.lost_text.as_deref().filter(|_| is_from_target);
    let mut filter = lost_text.map(FrameFilter::new);
    let mut buffer = [0; 16_384];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        let bytes = &buffer[..count];
        if let Fault::Delay(delay) = fault() {
            std::thread::sleep(delay);
        }
        while fault() == Fault::Block {
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_published = || bytes.windows(MESSAGE.len()).any(|part| part == MESSAGE);
        if fault() == Fault::LosePublished && is_published() {
            continue;
        }
        let passed = match &mut filter {
            None => to.write_all(bytes),
            Some(filter) => to.write_all(&filter.pass(bytes, &shared.frames_lost)),
        };
        if passed.is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Splits a server's bytes: its head, and then frame by frame (RFC 6455, 5.2).
struct FrameFilter<'a> {
    text: &'a str,
    held: Vec<u8>,
    is_past_head: bool,
}

impl FrameFilter<'_> {
    fn new(text: &str) -> FrameFilter<'_> {
        FrameFilter { text, held: Vec::new(), is_past_head: false }
    }

    /// The part of these bytes, and of those held before, that passes.
    fn pass(&mut self, bytes: &[u8], frames_lost: &AtomicUsize) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut passed = Vec::new();
        if !self.is_past_head {
            let end = self.held.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return passed };
            passed.extend(self.held.drain(..end + 4));
            self.is_past_head = true;
        }
        while let Some(length) = frame_length(&self.held).filter(|&it| self.held.len() >= it) {
            let frame: Vec<u8> = self.held.drain(..length).collect();
            let is_it = frame.windows(self.text.len()).any(|part| part == self.text.as_bytes());
            if is_it && frames_lost.fetch_add(1, Ordering::SeqCst) == 0 {
                continue;
            }
            passed.extend(frame);
        }
        passed
    }
}

fn frame_length(bytes: &[u8]) -> Option<usize> {
    let short = usize::from(bytes.get(1)? & 0x7f);
    let number = |from: &[u8]| from.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    match short {
        126 => Some(4 + number(bytes.get(2..4)?)),
        127 => Some(10 + number(bytes.get(2..10)?)),
        short => Some(2 + short),
    }
}
