//! Rooms: who is in one, and what is said there.
//!
//! Part of `state::messaging`.

use std::sync::Arc;

use super::Attempt;
use super::aim::Aim;
use super::commands::{Chat, JoinRoom, Publisher};
use super::replicated::PlacedReply;
use super::replies::{Chatted, Joined, Left};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName, Topic, UserId};
use crate::limits;
use crate::state::State;
use crate::state::backplane::ChannelMessage;
use crate::state::channels::Channel;
use crate::state::cluster_state::ClusterState;
use crate::state::effect::{Condition, Effect, Waited};
use crate::state::event::DomainEvent;
use crate::state::people::{Membership, Person};
use crate::state::reply::ReplyTo;
use crate::wire::refusal::{Code, Refusal};
use crate::wire::{frame, message};

/// The room of those who speak before they have joined one.
const LOBBY: &str = "lobby";

impl State {
    /// A connection of a user comes into a channel that tells who is there.
    pub(super) fn enter_channel(&mut self, key: u32, person: &Person, conn: ConnId, now: Moment) {
        if self.channels.get_mut(key).enter(person) {
            let channel = self.channels.get(key).name.clone();
            if let Some(cluster_state) =
                self.cluster_state.as_mut().filter(|_| !channel.as_str().starts_with('$'))
            {
                // Announced on commit, if first in the cluster.
                return cluster_state.cluster_presence.note_room(&channel, &person.user_id);
            }
            self.tell_room(key, "user.joined", person, vec![conn], now);
            let user = person.clone();
            self.push(Effect::Event(DomainEvent::UserJoined { channel, user }));
        }
    }

    /// A connection's membership has ended, in so far as `left` says.
    pub(super) fn exit_channel(
        &mut self,
        key: u32,
        left: Membership,
        person: &Person,
        conn: Option<ConnId>,
        now: Moment,
    ) {
        let channel = self.channels.get_mut(key);
        let was_in_it = if channel.name.room().is_some() {
            left.is_joined
        } else {
            left.is_subscribed && channel.has_presence
        };
        if was_in_it && channel.exit(&person.user_id) {
            let channel = self.channels.get(key).name.clone();
            if let Some(cluster_state) =
                self.cluster_state.as_mut().filter(|_| !channel.as_str().starts_with('$'))
            {
                return cluster_state.cluster_presence.note_room(&channel, &person.user_id);
            }
            self.tell_room(key, "user.left", person, conn.into_iter().collect(), now);
            let user = person.clone();
            self.push(Effect::Event(DomainEvent::UserLeft { channel, user }));
        }
    }

    pub(in crate::state) fn tell_room(
        &mut self,
        key: u32,
        event: &str,
        person: &Person,
        except: Vec<ConnId>,
        now: Moment,
    ) {
        let channel = self.channels.get(key);
        let count = match &self.cluster_state {
            Some(cluster_state) => cluster_state.cluster_presence.room_count(&channel.name),
            None => channel.user_count(),
        };
        if !channel.has_presence || count > limits::PRESENCE_USERS_MAX {
            return;
        }
        let (name, shards) = (channel.name.clone(), channel.shards);
        let stamp = self.stamp(now);
        let who = (&person.user_id, &*person.username);
        let frame = message::room_event(&name, event, who, stamp);
        self.send(Topic::Channel(name), Some(shards), frame, Aim::new(None, except));
    }

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
        let own = self.channels.find(channel).map(|key| self.channels.get(key));
        let Some(cluster_state) = self.shares(channel) else {
            return (
                own.map(Channel::users).unwrap_or_default(),
                own.map_or(0, Channel::user_count),
            );
        };
        let (mut users, mut count) = (
            cluster_state.cluster_presence.room_users(channel),
            cluster_state.cluster_presence.room_count(channel),
        );
        if let Some(asking) = asking
            && !users.iter().any(|(user, _)| *user == asking.user_id)
        {
            users.push((asking.user_id.clone(), Arc::clone(&asking.username)));
            count += 1;
        }
        users.truncate(limits::ROOM_USERS_LISTED_MAX);
        (users, count)
    }

    /// What nodes tell each other, where this channel is one of theirs.
    fn shares(&self, channel: &ChannelName) -> Option<&ClusterState> {
        self.cluster_state.as_ref().filter(|_| !channel.as_str().starts_with('$'))
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

    pub(in crate::state) fn leave(
        &mut self,
        conn: ConnId,
        channel: ChannelName,
        now: Moment,
    ) -> Left {
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

    pub(super) fn chat(&mut self, chat: Chat, reply: ReplyTo<Chatted>, now: Moment) {
        let conn = chat.conn;
        let Some(person) = self.person_of(conn) else {
            return self.reply(reply, Err(no_person()));
        };
        let channel = chat.channel.clone();
        let channel = channel
            .or_else(|| self.latest_room(conn))
            .unwrap_or_else(|| ChannelName::of_room(LOBBY));
        let is_member = self.is_in_room(conn, &channel);
        if !is_member && channel.room() != Some(LOBBY) {
            return self.refuse(reply, Code::Forbidden, "join the room first");
        }
        if self.is_replicated(&channel) {
            let saying = Saying { chat, channel, person, is_first: false };
            return self.chat_in_cluster(saying, reply, Attempt::First, now);
        }
        let key = match self.channels.find(&channel).filter(|_| is_member) {
            Some(key) => key,
            None => match self.join_room(conn, &channel, now) {
                Ok(key) => key,
                Err(refusal) => return self.reply(reply, Err(refusal)),
            },
        };
        let (content, id) = (&*chat.content, chat.id.as_ref());
        let stamp = self.stamp(now);
        let offset = self.channels.advance(key);
        let from = (&person.user_id, &*person.username);
        let frame = message::chat(&channel, stamp, Some(offset), from, content, None);
        self.channels.keep(key, &frame, now.unix_ms);
        // Who joins by speaking is no follower yet when the frame arrives, and who gave an id wants
        // it back: these get a copy with the reply, in its place among all others.
        let copy = match id {
            Some(_) => Some(message::chat(&channel, stamp, Some(offset), from, content, id)),
            None if !is_member => Some(frame.clone()),
            None => None,
        };
        let aim = if copy.is_some() { Aim::past(conn) } else { Aim::default() };
        self.send_to_channel(key, frame, aim);
        self.reply(reply, Ok(Chatted { channel, copy }));
    }

    /// The same where several nodes share the room.
    fn chat_in_cluster(
        &mut self,
        mut saying: Saying,
        reply: ReplyTo<Chatted>,
        attempt: Attempt,
        now: Moment,
    ) {
        let (conn, channel) = (saying.chat.conn, &saying.channel);
        match self.attach(channel, None, conn, attempt) {
            Ok(None) => {}
            Ok(Some(condition)) => return self.chat_after(condition, saying, reply),
            Err(refusal) => return self.reply(reply, Err(refusal)),
        }
        if !self.is_in_room(conn, channel) {
            if let Err(refusal) = self.join_room(conn, channel, now) {
                return self.reply(reply, Err(refusal));
            }
            // Others hear first that they came, then what they say.
            let condition = self.announcing(channel, &saying.person, attempt);
            saying.is_first = true;
            if let Some(condition) = condition {
                return self.chat_after(condition, saying, reply);
            }
        }
        let Saying { chat: Chat { content, id, .. }, channel, person, is_first } = saying;
        // Who joins by speaking is no follower yet when the message comes, and who gave an id wants
        // it back: these get a copy with the reply, in its place among all others.
        let has_copy = id.is_some() || is_first;
        let stamp = self.stamp(now);
        let from = (&person.user_id, &*person.username);
        let text = frame::payload(&message::chat(&channel, stamp, None, from, &content, None));
        let except = has_copy.then(|| ConnName::new(&self.node, conn).to_string());
        let message = ChannelMessage { channel, text, except };
        let reply =
            PlacedReply::Chatted { conn, person, content, id, stamp, has_copy, is_first, reply };
        self.publish_to_all(message, reply, now);
    }

    fn chat_after(&mut self, condition: Condition, saying: Saying, reply: ReplyTo<Chatted>) {
        self.wait(condition, move |state, waited, now| match waited {
            Waited::Met => state.chat_in_cluster(saying, reply, Attempt::AfterWait, now),
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
        let is_cut_off = self.registry.is_cut_off();
        let cluster_state = self.cluster_state.as_mut().filter(|_| !is_cut_off)?;
        if !self.channels.tells(channel)
            || (attempt == Attempt::AfterWait && cluster_state.cluster_presence.has_told_all())
            || cluster_state.cluster_presence.own_place(channel, &person.user_id).is_some()
        {
            return None;
        }
        Some(Condition::PresenceAnnounced(cluster_state.cluster_presence.await_announcement()))
    }

    pub(super) fn latest_room(&self, conn: ConnId) -> Option<ChannelName> {
        let (_, connection) = self.people.find(conn)?;
        let latest = connection.memberships.iter().rev().find(|one| one.is_joined)?;
        Some(self.channels.get(latest.channel).name.clone())
    }

    pub(super) fn is_in_room(&self, conn: ConnId, channel: &ChannelName) -> bool {
        self.channels.find(channel).is_some_and(|key| {
            self.people.find(conn).is_some_and(|(_, connection)| {
                connection.memberships.iter().any(|one| one.channel == key && one.is_joined)
            })
        })
    }
}

/// A message to a room that several nodes share, on its way.
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
    use crate::state::cluster_presence::PresenceUpdate;
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
            let fact = (room.as_str().to_owned(), name.to_owned(), name.to_owned(), since_ms);
            let facts = PresenceUpdate { rooms: vec![fact], ..PresenceUpdate::default() };
            let transitions = state
                .cluster_state
                .as_mut()
                .expect("of several")
                .cluster_presence
                .apply("a", &facts);
            transitions.len()
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
