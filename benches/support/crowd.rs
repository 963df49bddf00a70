//! A shard and control with any number of connections, over sockets of memory.
//!
//! The sockets cost the shard what a plain socket of the kernel does: sixteen bytes. The other end is a row of numbers
//! in a table that is there from the start, so that whatever is allocated belongs to the server.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fanfare::internals::auth::{Authenticator, Claims};
use fanfare::internals::clock::Moment;
use fanfare::internals::control::Control;
use fanfare::internals::id::{Epoch, ShardId, Slot};
use fanfare::internals::limits::Limits;
use fanfare::internals::mailbox::command_sender::CommandSender;
use fanfare::internals::mailbox::{Bell, mailbox};
use fanfare::internals::shard::socket::Socket;
use fanfare::internals::shard::{self, Shard};
use fanfare::internals::state::channels::bounds;
use fanfare::internals::state::durable::PeopleSnapshot;
use fanfare::internals::state::registry::{self, Registry};
use fanfare::internals::state::{self, State};
use fanfare::internals::stats::Stats;
use fanfare::internals::ws::authorizer::Authorizer;

const START_MS: u64 = 1_800_000_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// The client's end of a socket.
#[derive(Clone, Copy, Default)]
struct Client {
    /// Its slot and generation at the shard.
    place: (u32, u32),
    is_gone: bool,
    /// Bytes that the server has sent.
    received: u32,
}

/// All clients, and what the one that opens its connection sends.
#[derive(Default)]
struct Clients {
    clients: Vec<Client>,
    /// Who sends, and what is left of it.
    sender: usize,
    input: Vec<u8>,
}

struct MemorySocket {
    clients: Rc<RefCell<Clients>>,
    index: usize,
}

impl Socket for MemorySocket {
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut clients = self.clients.borrow_mut();
        if clients.clients[self.index].is_gone {
            return Ok(0);
        }
        if clients.sender != self.index || clients.input.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = clients.input.len().min(into.len());
        into[..count].copy_from_slice(&clients.input[..count]);
        clients.input.drain(..count);
        Ok(count)
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut clients = self.clients.borrow_mut();
        let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let received = &mut clients.clients[self.index].received;
        *received = received.wrapping_add(taken);
        Ok(bytes.len())
    }

    fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.try_write(&all)
    }

    fn shut_down(&mut self) {}
}

/// One shard, control, and their clients.
pub struct Crowd {
    shard: Shard<MemorySocket>,
    control: Control,
    clients: Rc<RefCell<Clients>>,
    now: Moment,
    authenticator: Authenticator,
    opened: usize,
}

fn authorizer() -> Authorizer {
    Authorizer::open(Authenticator::hs256(SECRET))
}

fn people(room: usize) -> state::Settings {
    state::Settings {
        channels: bounds::Settings {
            namespaces: Arc::default(),
            history_max: 8,
            history_bytes_max: 4_096,
            channels_max: 100,
            per_connection_max: 100,
            per_address_max: None,
        },
        history_bytes_max: 1_048_576,
        users_max: room,
        subscriptions_max: 100,
        epoch: String::from("c"),
        node: String::from("n"),
        seed: 1,
    }
}

impl Crowd {
    /// A server with room for so many connections.
    pub fn new(room: usize) -> Crowd {
        let now = Moment::new(START_MS, 0);
        let stats = Arc::new(Stats::new(1));
        let registry = Registry::new(registry::Settings::default(), Epoch::new("e"), 0, now);
        let state = State::new(registry, people(room), PeopleSnapshot::default());
        let (commands, inbox) = mailbox(65_536, Bell::silent());
        let (outlet, inlet) = mailbox(65_536, Bell::silent());
        let outlets = vec![outlet];
        let control = Control::new(state, inbox, outlets, Arc::default(), Arc::clone(&stats), None);
        let settings = shard::Settings {
            id: ShardId(0),
            node_id: "memory".into(),
            limits: Arc::new(Limits::DEFAULT),
            authorizer: Arc::new(authorizer()),
            is_draining: Arc::new(AtomicBool::new(false)),
            access_log: false,
            stats,
            seed: 1,
        };
        let commands = CommandSender::driven(commands, settings.id);
        let shard = Shard::new(settings, commands, inlet, now);
        let clients = Clients { clients: vec![Client::default(); room], ..Clients::default() };
        Crowd {
            shard,
            control,
            clients: Rc::new(RefCell::new(clients)),
            now,
            authenticator: Authenticator::hs256(SECRET),
            opened: 0,
        }
    }

    /// Takes turns until nothing is left to do.
    fn settle(&mut self, ready: Option<(Slot, u32)>) {
        let ready = RefCell::new(ready);
        loop {
            let outcome = self.shard.turn(self.now, || ready.borrow_mut().take());
            let has_more = self.control.turn(self.now).has_more;
            let is_awake = !self.shard.rest();
            self.shard.wake();
            if !outcome.has_more && !has_more && !is_awake {
                return;
            }
        }
    }

    /// A masked text frame behind `input`.
    fn push_text(input: &mut Vec<u8>, text: &[u8]) {
        input.push(0x81);
        match u8::try_from(text.len()) {
            Ok(short) if short < 126 => input.push(0x80 | short),
            _ => {
                input.push(0x80 | 0x7e);
                input.extend(u16::try_from(text.len()).expect("short texts").to_be_bytes());
            }
        }
        input.extend([0; 4]);
        input.extend(text);
    }

    /// Opens a connection, of a user of its own if `is_signed_in`, that follows the service `s`.
    pub fn open(&mut self, is_signed_in: bool) {
        let index = self.opened;
        self.opened += 1;
        let mut input = std::mem::take(&mut self.clients.borrow_mut().input);
        input.extend_from_slice(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        );
        if is_signed_in {
            let claims = Claims {
                sub: format!("user-{index:07}"),
                username: Some(format!("User {index}")),
                exp: START_MS / 1_000 + 86_400,
                ..Claims::default()
            };
            let token = self.authenticator.sign(&claims).expect("a token");
            input.extend_from_slice(format!("Authorization: Bearer {token}\r\n").as_bytes());
        }
        input.extend_from_slice(b"\r\n");
        Crowd::push_text(&mut input, br#"{"type":"subscribe","service_id":"s"}"#);
        let mut clients = self.clients.borrow_mut();
        (clients.sender, clients.input) = (index, input);
        drop(clients);
        let mut place = None;
        let clients = Rc::clone(&self.clients);
        self.shard.accept(self.now, |slot, generation| {
            place = Some((slot.0, generation));
            MemorySocket { clients, index }
        });
        self.clients.borrow_mut().clients[index].place = place.expect("accepted");
        self.settle(None);
        let received = self.clients.borrow().clients[index].received;
        assert!(received > 200, "a welcome and an answer, not {received} bytes");
    }

    /// Has the first connection register an instance of the service that all follow.
    pub fn publish(&mut self, version: usize) {
        let text = format!(
            r#"{{"type":"register","instances":[{{"serviceId":"s","instanceId":"i","metadata":{{"v":"{version}"}}}}]}}"#
        );
        let mut clients = self.clients.borrow_mut();
        clients.sender = 0;
        Crowd::push_text(&mut clients.input, text.as_bytes());
        let (slot, generation) = clients.clients[0].place;
        drop(clients);
        self.settle(Some((Slot(slot), generation)));
    }

    /// Bytes that each of the connections has got, added up.
    pub fn received(&self) -> u64 {
        self.clients.borrow().clients.iter().map(|client| u64::from(client.received)).sum()
    }

    /// Ends the connections from the last one on, until `left` are left.
    pub fn leave(&mut self, left: usize) {
        while self.opened > left {
            self.opened -= 1;
            let mut clients = self.clients.borrow_mut();
            let client = &mut clients.clients[self.opened];
            client.is_gone = true;
            let (slot, generation) = client.place;
            drop(clients);
            self.settle(Some((Slot(slot), generation)));
        }
        self.let_time_pass(20_000);
    }

    /// Lets seconds pass, so that buffers of the last events are given back.
    pub fn let_time_pass(&mut self, ms: u64) {
        for _ in 0..ms / 1_000 {
            self.now.unix_ms += 1_000;
            self.now.wall_ms += 1_000;
            self.now.ns += 1_000_000_000;
            self.settle(None);
        }
    }

    /// How many connections the shard has.
    pub fn len(&self) -> usize {
        self.shard.len()
    }
}
