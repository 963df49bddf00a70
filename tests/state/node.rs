//! A node that is alone, without threads: each command is answered at once.

use fanfare::internals::clock::Moment;
use fanfare::internals::id::{Dialect, Epoch, InstanceIdentity, ServiceName};
use fanfare::internals::state::command::Ask;
use fanfare::internals::state::durable::PeopleSnapshot;
use fanfare::internals::state::effect::Effect;
use fanfare::internals::state::entry::{Entry, LogItem};
use fanfare::internals::state::registry::commands::{
    Register, SnapshotNeed, Subscribe, Unregister,
};
use fanfare::internals::state::registry::views::{Announcement, Subscribed};
use fanfare::internals::state::registry::{Registry, Settings};
use fanfare::internals::state::{self, State};
use fanfare::internals::wire::command::Since;
use fanfare::internals::wire::instance::{Instance, Registration};
use fanfare::internals::wire::refusal::Refusal;

/// The node, and what its followers were told.
pub struct Node {
    pub state: State,
    pub announcements: Vec<Announcement>,
    /// The frames of channel messages.
    pub messages: Vec<bytes::Bytes>,
}

/// A moment at which all clocks agree.
pub fn at(ms: u64) -> Moment {
    Moment { ns: ms * 1_000_000, unix_ms: ms, wall_ms: ms }
}

/// An instance that differs from another of its name by its URL.
pub fn instance(service: &str, name: &str, url: &str) -> Registration {
    in_region(None, service, name, url)
}

pub fn in_region(region: Option<&str>, service: &str, name: &str, url: &str) -> Registration {
    let instance = Instance {
        region_id: region.map(Into::into),
        service_id: Some(service.into()),
        instance_id: Some(name.into()),
        url: Some(url.into()),
        ..Instance::default()
    };
    instance.register().expect("valid")
}

/// An entry that node "b" has put into the log.
pub fn item(number: u64, entry: impl Into<Entry>) -> LogItem {
    let (position, node) = (format!("{number}-0"), "b".into());
    LogItem { position, node, number, at_ms: 1, entry: entry.into() }
}

impl Node {
    pub fn new(registry: Settings, settings: state::Settings, now: Moment) -> Node {
        let registry = Registry::new(registry, Epoch::new("e"), 0, now);
        let state = State::new(registry, settings, PeopleSnapshot::default());
        Node { state, announcements: Vec::new(), messages: Vec::new() }
    }

    /// One with these settings of the registry, and none for anything else.
    pub fn with(registry: Settings, now: Moment) -> Node {
        Node::new(registry, state::Settings::default(), now)
    }

    pub fn ask<A: Ask>(&mut self, ask: A, now: Moment) -> Result<A::Reply, Refusal> {
        let reply = self.state.ask(ask, now).expect("it is answered at once");
        self.take_effects();
        reply
    }

    pub fn tick(&mut self, now: Moment) {
        self.state.tick(now);
        self.take_effects();
    }

    fn take_effects(&mut self) {
        for effect in self.state.take_effects() {
            match effect {
                Effect::Announce(announcement) => self.announcements.push(announcement),
                Effect::ChannelMessage(message) => self.messages.push(message.frame),
                _ => {}
            }
        }
    }

    /// Whether there was room.
    pub fn register(&mut self, sent: Registration, now: Moment) -> bool {
        self.ask(Register(vec![sent]), now).expect("the log takes it").is_empty()
    }

    pub fn unregister(&mut self, identity: &InstanceIdentity, now: Moment) {
        self.ask(Unregister(vec![identity.clone()]), now).expect("the log takes it");
    }

    pub fn subscribe(
        &mut self,
        service: &str,
        snapshot: SnapshotNeed,
        since: Option<u64>,
    ) -> Result<Box<Subscribed>, Refusal> {
        let since = since.map(|revision| Since { epoch: "e".into(), revision });
        let service = ServiceName::of(service);
        let dialect = Dialect::Fanfare;
        self.ask(Subscribe { service, snapshot, since, dialect }, at(1_000))
    }
}
