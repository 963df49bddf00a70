//! How a state that is one of several begins, and begins anew: from an image and the entries behind it.
//!
//! ```text
//! image, entries --> a state of nobody --> its registry, and who is where --> in place of what was
//! ```
//!
//! # Promises
//!
//! * What was there is shown until all that the log has is there in its place: nobody sees what lies
//!   between an old image and the present.
//! * Before there is anything to show, reads wait for it. Where the log cannot be reached they
//!   go on, marked as degraded; but whoever has a picture already keeps that.
//!
//! Imports `clock`, `id` and its siblings. Part of `state`.

use std::collections::HashSet;

use super::abroad::Release;
use super::durable::PeopleImage;
use super::log::LogItem;
use super::order::{Answer, Order};
use super::registry::Registry;
use super::replica::ReplicaImage;
use super::{Outcome, Settings, State};
use crate::clock::Moment;
use crate::id::ServiceName;

/// What beginning anew has led to.
#[derive(Debug)]
pub struct Begun {
    /// The services whose followers need a snapshot: what they have led to here may be another
    /// history.
    pub services: HashSet<ServiceName>,
    /// What this node's own entries among those read are answered, by their numbers; nothing where
    /// one came behind a later one.
    pub answers: Vec<(u64, Option<Answer>)>,
}

impl State {
    /// Begins anew from an image and all entries behind it.
    pub fn begin_anew(
        &mut self,
        mut image: ReplicaImage,
        items: Vec<LogItem>,
        now: Moment,
    ) -> Begun {
        let people = std::mem::take(&mut image.people);
        let mut registry = Registry::from_image(self.registry.settings(), &self.node, image, now);
        registry.inherit(&self.registry);
        // It only carries the users over: the bound is that of the state that they come to.
        let (node, users_max) = (self.node.to_string(), usize::MAX);
        let settings = Settings { users_max, node, ..Settings::default() };
        let mut fresh = State::new(registry, settings, PeopleImage::default()).joined(None);
        fresh.replace_shared(people, now);
        let mut answers = Vec::new();
        for item in items {
            let number = (*item.node == *self.node).then_some(item.number);
            let answer = fresh.apply_logged(item, now);
            answers.extend(number.map(|number| (number, answer)));
        }
        self.replace_shared(fresh.commons_image().unwrap_or_default(), now);
        let before = std::mem::replace(&mut self.registry, fresh.registry);
        let services = self.registry.succeed(&before, now);
        // Whoever gets a snapshot now gets the mark with it.
        self.registry.check_contact(now);
        self.registry.settle(now);
        self.registry.announce_turn(std::iter::empty());
        self.registry.announcements.clear();
        self.release_unbegun(now);
        Begun { services, answers }
    }

    /// Has an order wait that reads a registry which has not begun, or says why it is not carried out.
    pub(super) fn await_registry(&mut self, order: Order, now: Moment) -> Result<Order, Outcome> {
        let (Some(until_ms), Some(abroad)) = (self.hopes_until_ms(), &mut self.abroad) else {
            return Ok(order);
        };
        if !matches!(
            order,
            Order::Subscribe { .. }
                | Order::Views(_)
                | Order::AllViews
                | Order::Delta { .. }
                | Order::Leases(_)
                | Order::Roll(_)
        ) {
            return Ok(order);
        }
        if now.unix_ms < until_ms {
            abroad.unbegun.push(self.ticket);
            return Err(Outcome::Await(Box::new(order)));
        }
        match order {
            Order::Subscribe { service, since: Some(_), .. } => {
                Err(Outcome::Answer(Answer::NotSubscribed(service)))
            }
            order => Ok(order),
        }
    }

    /// Orders that waited for the registry go on, where it is there or does not come soon.
    pub(super) fn release_unbegun(&mut self, now: Moment) {
        if self.hopes_until_ms().is_some_and(|until_ms| now.unix_ms < until_ms) {
            return;
        }
        if let Some(abroad) = &mut self.abroad {
            let unbegun = std::mem::take(&mut abroad.unbegun);
            abroad.release(unbegun, Release::Again);
        }
    }

    /// When orders that wait for the registry have to go on without it.
    pub(super) fn next_hope_ms(&self) -> Option<u64> {
        let abroad = self.abroad.as_ref()?;
        self.hopes_until_ms().filter(|_| !abroad.unbegun.is_empty())
    }

    /// Until when a registry that has not begun may soon do so; none where it has.
    fn hopes_until_ms(&self) -> Option<u64> {
        self.registry.replica()?.hopes_until_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::id::{ConnId, ShardId, Slot, UserId};
    use crate::limits;
    use crate::state::commons::Facts;
    use crate::state::log::{Bounds, Entry};
    use crate::state::order::Snapshot;
    use crate::state::people::{Opened, Person};
    use crate::state::talk::Talk;
    use crate::state::{empty_image, lone_node, new_node};
    use crate::wire::command::Since;
    use crate::wire::instance::Instance;

    const BOUNDS: Bounds = Bounds { instances_max: 8, services_max: 8 };

    fn item(number: u64, entry: Entry) -> LogItem {
        let (position, node) = (format!("{number}-0"), String::from("b"));
        LogItem { position, node, number, at_ms: 1, entry }
    }

    fn registration(number: u64) -> LogItem {
        let text = format!(r#"{{"serviceId":"s","instanceId":"i{number}"}}"#);
        let instance: Instance = serde_json::from_str(&text).expect("an instance");
        item(number, Entry::Register(vec![instance.register().expect("valid")], BOUNDS))
    }

    fn subscribe(since: Option<Since>) -> Order {
        Order::Subscribe { service: ServiceName::of("s"), snapshot: Snapshot::Yes, since }
    }

    /// Carries an order out. Nothing where it waits.
    fn ask(state: &mut State, order: Order, now: Moment) -> Option<Answer> {
        match state.apply(order, now) {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Await(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn revision(answer: Option<Answer>) -> Option<(u64, bool)> {
        match answer {
            Some(Answer::Subscribed(one)) => Some((one.view.revision, one.view.degraded)),
            _ => None,
        }
    }

    #[test]
    fn reads_wait_until_there_is_a_registry() {
        let now = Clock::start().now();
        let mut state = new_node("a", None, now);
        let image = empty_image(now);
        state.on_nodes(&[String::from("a")], (now.unix_ms, 2), now);
        let name = ServiceName::of("s");
        let reads = [subscribe(None), Order::Views(vec![name]), Order::AllViews];
        for (ticket, order) in (1..).zip(reads) {
            state.ticket = ticket;
            assert!(ask(&mut state, order, now).is_none(), "nothing is known yet");
        }
        state.tick(now);
        assert!(state.take_released().is_empty());
        let begun = state.begin_anew(image, vec![registration(1), registration(2)], now);
        assert!(begun.services.contains(&ServiceName::of("s")) && begun.answers.is_empty());
        assert_eq!(state.take_released(), [1, 2, 3].map(|ticket| (ticket, Release::Again)));
        assert_eq!(revision(ask(&mut state, subscribe(None), now)), Some((2, false)));
        // Whoever was there for the first of them misses one.
        let since = Since { epoch: "e".into(), revision: 1 };
        let Some(Answer::Subscribed(resumed)) = ask(&mut state, subscribe(Some(since)), now) else {
            panic!("it is answered");
        };
        assert_eq!(resumed.recovered, Some(true));
    }

    #[test]
    fn without_the_log_reads_go_on_but_nobody_loses_a_picture() {
        let mut now = Clock::start().now();
        let mut state = new_node("a", None, now);
        state.ticket = 1;
        assert!(ask(&mut state, subscribe(None), now).is_none());
        assert_eq!(state.next_tick_ms(), Some(now.unix_ms + limits::CLUSTER_BEGIN_MS));
        now.unix_ms += limits::CLUSTER_BEGIN_MS;
        state.tick(now);
        assert_eq!(state.take_released(), [(1, Release::Again)]);
        assert_eq!(revision(ask(&mut state, subscribe(None), now)), Some((0, true)));
        let since = Since { epoch: "e".into(), revision: 7 };
        let answer = ask(&mut state, subscribe(Some(since)), now);
        assert!(matches!(answer, Some(Answer::NotSubscribed(service)) if service.as_str() == "s"));
        // Somebody answers again: it may begin soon.
        state.on_nodes(&[String::from("a")], (now.unix_ms, 2), now);
        assert!(ask(&mut state, subscribe(None), now).is_none());
        assert!(matches!(
            state.on_given_up(&subscribe(None), now),
            Answer::NotSubscribed(service) if service == ServiceName::of("s")
        ));
    }

    #[test]
    fn nobody_sees_what_lies_between() {
        let now = Clock::start().now();
        let mut state = lone_node("a", None, now);
        let old = empty_image(now);
        let user = |name: &str, connections| {
            let facts = vec![(name.to_owned(), name.to_owned(), connections, 1)];
            Entry::Present(Facts { users: facts, ..Facts::default() })
        };
        let items = [
            item(1, user("ann", 1)),
            registration(2),
            item(3, user("bob", 1)),
            item(4, user("bob", 0)),
        ];
        for item in &items[..2] {
            state.apply_logged(item.clone(), now);
        }
        let conn = ConnId { shard: ShardId(0), slot: Slot(0), generation: 0 };
        let person = Person { user_id: UserId::new("eve"), username: "eve".into() };
        let opened = Opened { conn, person: Some(person), remote: None };
        let _ = state.apply(Talk::Opened(opened).into(), now);
        state.take_outgoing();
        state.take_announcements();
        let begun = state.begin_anew(old, items.to_vec(), now);
        assert!(begun.services.contains(&ServiceName::of("s")));
        assert!(state.take_announcements().is_empty(), "the snapshot says it all");
        let said = state.take_outgoing();
        assert!(said.is_empty(), "nobody came or went: {said:?}");
        assert_eq!(state.users_anywhere(), 1);
    }
}
