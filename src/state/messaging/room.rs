//! Rooms: who is in one, and what is said there.

use std::sync::Arc;

use super::commands::{Chat, JoinRoom, Publisher};
use super::replies::{Chatted, Joined, Left};
use super::{Attempt, PublisherReply};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, UserId};
use crate::limits;
use crate::state::State;
use crate::state::channels::channel::Channel;
use crate::state::effect::{Condition, Waited};
use crate::state::people::{Membership, Person};
use crate::state::reply::ReplyTo;
use crate::wire::message;
use crate::wire::refusal::{Code, Refusal};

/// The room of those who speak before they have joined one.
const LOBBY: &str = "lobby";

impl State {
    /// Joins a room, once its channel is known here and the other nodes know of it.
    pub(super) fn join(
        &mut self,
        join: JoinRoom,
        reply: ReplyTo<Joined>,
        attempt: Attempt,
        now: Moment,
    ) {
        let (conn, channel) = (join.conn, &join.channel);
        if self.person_of(conn).is_some() {
            match self.attach(channel, None, conn, attempt) {
                Ok(None) => {}
                Ok(Some(condition)) => return self.join_after(condition, join, reply),
                Err(refusal) => return self.reply(reply, Err(refusal)),
            }
        }
        if let Err(refusal) = self.join_room(conn, channel, now) {
            return self.reply(reply, Err(refusal));
        }
        if let Some(person) = self.person_of(conn)
            && let Some(condition) = self.announcing(channel, &person, attempt)
        {
            return self.join_after(condition, join, reply);
        }
        let (users, count) = self.room_users(channel, self.person_of(conn).as_ref());
        let Some(key) = self.channels.find(channel) else {
            return self.reply(reply, Err(Refusal::unavailable()));
        };
        let (epoch, offset) = (self.channels.get(key).epoch.clone(), self.channels.get(key).offset);
        let channel = join.channel;
        self.reply(reply, Ok(Joined { channel, epoch, offset, users, count }));
    }

    fn join_after(&mut self, condition: Condition, join: JoinRoom, reply: ReplyTo<Joined>) {
        self.wait(condition, move |state, waited, now| match waited {
            Waited::Met => state.join(join, reply, Attempt::AfterWait, now),
            Waited::Failed | Waited::TimedOut => {
                let _ = state.leave(join.conn, join.channel, now);
                state.reply(reply, Err(Refusal::unavailable()));
            }
        });
    }

    /// The users in a room, up to a bound, in the order of coming, and how many there are. Among
    /// several nodes these are whom all nodes were told of, and whoever asks: the next event goes on
    /// from there, whatever is true at this node and not told yet.
    pub(super) fn room_users(
        &self,
        channel: &ChannelName,
        asking: Option<&Person>,
    ) -> (Vec<(UserId, Arc<str>)>, usize) {
        let count = self.room_count(channel);
        if !self.sequencer.shares(channel) {
            let own = self.channels.find(channel).map(|key| self.channels.get(key));
            return (own.map(Channel::users).unwrap_or_default(), count);
        }
        let mut users = self.cluster_presence.room_users(channel);
        let newcomer = asking.filter(|asking| users.iter().all(|(id, _)| *id != asking.user_id));
        users.extend(newcomer.map(|one| (one.user_id.clone(), Arc::clone(&one.username))));
        users.truncate(limits::ROOM_USERS_LISTED_MAX);
        (users, count + usize::from(newcomer.is_some()))
    }

    /// Makes the connection one of the room's, and the room its latest one.
    pub(super) fn join_room(
        &mut self,
        conn: ConnId,
        channel: &ChannelName,
        now: Moment,
    ) -> Result<u32, Refusal> {
        let person = self.person_of(conn).ok_or_else(no_person)?;
        let key = self.channel_for(channel, Publisher::Connection(conn))?;
        let before = self.set_membership(conn, key, |one| one.is_joined = true, now);
        if before.is_some_and(|before| !before.is_joined) {
            self.enter_channel(key, &person, conn, now);
        }
        Ok(key)
    }

    pub(super) fn leave(&mut self, conn: ConnId, channel: ChannelName, now: Moment) -> Left {
        let mut still_follows = false;
        if let (Some(key), Some(person)) = (self.channels.find(&channel), self.person_of(conn)) {
            let before = self.set_membership(conn, key, |one| one.is_joined = false, now);
            if let Some(before) = before {
                still_follows = before.is_subscribed;
                let left = Membership { is_subscribed: false, ..before };
                self.exit_channel(key, left, &person, Some(conn), now);
            }
        }
        Left { channel, still_follows }
    }

    pub(super) fn chat(&mut self, mut chat: Chat, reply: ReplyTo<Chatted>, now: Moment) {
        let Some(person) = self.person_of(chat.conn) else {
            return self.reply(reply, Err(no_person()));
        };
        let channel = chat.channel.take();
        let channel = channel
            .or_else(|| self.latest_room(chat.conn))
            .unwrap_or_else(|| ChannelName::of_room(LOBBY));
        let saying = Saying { chat, channel, person, is_first: false };
        self.say(saying, reply, Attempt::First, now);
    }

    /// Says something in a room, once its channel is known here and, where the speaker joins by it, the
    /// other nodes know of that.
    fn say(&mut self, mut saying: Saying, reply: ReplyTo<Chatted>, attempt: Attempt, now: Moment) {
        let (conn, channel) = (saying.chat.conn, &saying.channel);
        let is_member = self.membership(conn, channel).is_some_and(|one| one.is_joined);
        if !is_member && channel.room() != Some(LOBBY) {
            return self.refuse(reply, Code::Forbidden, "join the room first");
        }
        match self.attach(channel, None, conn, attempt) {
            Ok(None) => {}
            Ok(Some(condition)) => return self.say_after(condition, saying, reply),
            Err(refusal) => return self.reply(reply, Err(refusal)),
        }
        if !is_member {
            if let Err(refusal) = self.join_room(conn, channel, now) {
                return self.reply(reply, Err(refusal));
            }
            // Others hear first that they came, then what they say.
            let condition = self.announcing(channel, &saying.person, attempt);
            saying.is_first = true;
            if let Some(condition) = condition {
                return self.say_after(condition, saying, reply);
            }
        }
        let Saying { chat: Chat { content, id, .. }, channel, person, is_first } = saying;
        // Who joins by speaking is no follower yet when the message comes, and who gave an id wants
        // it back: these get a copy with the reply, in its place among all others.
        let has_copy = id.is_some() || is_first;
        let stamp = self.stamp(now);
        let by = Publisher::Connection(conn);
        let compose = move |channel: ChannelName, offset: Option<u64>| {
            let from = (&person.user_id, &*person.username);
            let frame = message::chat(&channel, stamp, offset, from, &content, None);
            let reply = PublisherReply::Chatted {
                channel,
                conn,
                person,
                content,
                id,
                stamp,
                has_copy,
                is_first,
                reply,
            };
            (frame, reply)
        };
        self.sequence(channel, has_copy.then_some(conn), by, compose, now);
    }

    fn say_after(&mut self, condition: Condition, saying: Saying, reply: ReplyTo<Chatted>) {
        self.wait(condition, move |state, waited, now| match waited {
            Waited::Met => state.say(saying, reply, Attempt::AfterWait, now),
            Waited::Failed | Waited::TimedOut => {
                if saying.is_first {
                    // What was to be said was not, so they did not join by it.
                    let _ = state.leave(saying.chat.conn, saying.channel, now);
                }
                state.reply(reply, Err(Refusal::unavailable()));
            }
        });
    }

    /// What has to be announced to the other nodes before a command of somebody in a room goes on.
    fn announcing(
        &mut self,
        channel: &ChannelName,
        person: &Person,
        attempt: Attempt,
    ) -> Option<Condition> {
        if !self.sequencer.shares(channel) || self.registry.is_cut_off() {
            return None;
        }
        let presence = &mut self.cluster_presence;
        if !self.channels.tells(channel)
            || (attempt == Attempt::AfterWait && presence.dirty.has_told_all())
            || presence.own_place(channel, &person.user_id).is_some()
        {
            return None;
        }
        Some(Condition::PresenceAnnounced(presence.dirty.await_announcement()))
    }

    pub(super) fn latest_room(&self, conn: ConnId) -> Option<ChannelName> {
        let (_, connection) = self.people.find(conn)?;
        let latest = connection.memberships.iter().rev().find(|one| one.is_joined)?;
        Some(self.channels.get(latest.channel).name.clone())
    }
}

/// A message to a room on its way.
#[derive(Debug)]
struct Saying {
    chat: Chat,
    /// The room's channel.
    channel: ChannelName,
    /// Who speaks.
    person: Person,
    /// Whether it is their first word in a room that they have just joined by it.
    is_first: bool,
}

fn no_person() -> Refusal {
    Refusal::new(Code::Unauthorized, "rooms are for users: a token is needed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ShardId, Slot};
    use crate::state::cluster_presence::update::PresenceUpdate;
    use crate::state::command::Ask as _;
    use crate::state::lone_node;
    use crate::state::people::Opened;

    #[test]
    fn a_list_is_what_the_next_event_goes_on_from() {
        let now = Moment::new(1_000, 0);
        let mut state = lone_node("a", None, now);
        state.on_nodes(&[String::from("a")], (now.unix_ms, 0), now);
        let room = ChannelName::of_room("hall");
        let enter = |state: &mut State, slot: u32, name: &str| {
            let conn = ConnId { shard: ShardId(0), slot: Slot(slot), generation: 0 };
            let person = Person { user_id: UserId::new(name), username: name.into() };
            let opened = Opened { conn, person: Some(person.clone()), remote: None };
            state.apply(opened.unanswered(), now);
            state.join_room(conn, &room, now).expect("there is room");
            (conn, person)
        };
        let tell = |state: &mut State, name: &str, since_ms: Option<u64>| {
            let fact = (room.clone(), UserId::new(name), name.to_owned(), since_ms);
            let facts = PresenceUpdate { rooms: vec![fact], ..PresenceUpdate::default() };
            state.cluster_presence.apply("a", &facts).len()
        };
        let list = |state: &State, asking: &Person| {
            let (users, count) = state.room_users(&room, Some(asking));
            assert_eq!(users.len(), count);
            users.into_iter().map(|(user, _)| user.as_str().to_owned()).collect::<Vec<_>>()
        };

        let (ann, _) = enter(&mut state, 1, "ann");
        assert_eq!(tell(&mut state, "ann", Some(1)), 1);
        let _ = state.leave(ann, room.clone(), now);
        let (_, bob) = enter(&mut state, 2, "bob");
        let (_, cid) = enter(&mut state, 3, "cid");
        assert_eq!(list(&state, &bob), ["ann", "bob"], "what is not told yet comes as an event");
        assert_eq!(tell(&mut state, "ann", None), 1);
        assert_eq!(list(&state, &cid), ["cid"]);
        assert_eq!(tell(&mut state, "bob", Some(2)), 1);
        assert_eq!(list(&state, &cid), ["bob", "cid"]);
    }
}
