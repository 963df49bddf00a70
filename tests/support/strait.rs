//! A way between two programs, whose weather a test makes: bytes pass, pass late, or wait.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::disallowed_methods, reason = "weather is time")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// What Redis begins a published message with.
const MESSAGE: &[u8] = b"$7\r\nmessage\r\n";

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weather {
    Clear,
    /// Each piece this much later.
    Slow(Duration),
    /// Nothing passes, and nobody is told.
    Blocked,
    /// What Redis publishes does not pass, and everything else does.
    Deaf,
    /// There is nothing on the other side: what is open ends, and what comes ends at once.
    Gone,
}

pub struct Strait {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    weather: Arc<Mutex<Weather>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Strait {
    /// A way to an address, with an address of its own.
    pub fn to(target: SocketAddr) -> Strait {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let weather = Arc::new(Mutex::new(Weather::Clear));
        let open = Arc::new(Mutex::new(Vec::new()));
        let target = Arc::new(Mutex::new(target));
        let leads_to = Arc::clone(&target);
        let (shared, all) = (Arc::clone(&weather), Arc::clone(&open));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if *shared.lock() == Weather::Gone {
                    continue;
                }
                let Ok(far) = TcpStream::connect(*leads_to.lock()) else { continue };
                let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else {
                    continue;
                };
                all.lock().extend(near.try_clone());
                for (from, to) in [(near, far), (far_too, near_too)] {
                    let weather = Arc::clone(&shared);
                    std::thread::spawn(move || carry(from, to, &weather));
                }
            }
        });
        Strait { address, target, weather, open }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads to another address from here on, as a name does that was moved. What is open stays where it
    /// is.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.target.lock() = target;
    }

    pub fn set(&self, weather: Weather) {
        *self.weather.lock() = weather;
        if weather == Weather::Gone {
            for stream in self.open.lock().drain(..) {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, weather: &Mutex<Weather>) {
    let now = || *weather.lock();
    let mut buffer = [0; 16_384];
    while let Ok(bytes) = from.read(&mut buffer) {
        if bytes == 0 {
            break;
        }
        if let Weather::Slow(delay) = now() {
            std::thread::sleep(delay);
        }
        while now() == Weather::Blocked {
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_message = || buffer[..bytes].windows(MESSAGE.len()).any(|part| part == MESSAGE);
        if now() == Weather::Deaf && is_message() {
            continue;
        }
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
