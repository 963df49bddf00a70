//! Messaging: connections and users, channels and rooms, direct and group messages.
//!
//! A message is framed once, and goes to the followers of a topic, as the changes of a service do.
//! [`Aim`] names the connections of the topic that it is for, or is not for.
//!
//! # Promises
//!
//! * A count of receivers is exact at the moment of the command: each JSON socket that has been
//!   welcomed and has not ended is counted once.
//! * Presence and room events are sent after the fact that they tell of.
//!
//! [`commands`], [`replies`] and [`aim`] hold the data; the other files are methods of [`State`].

pub mod aim;
pub mod commands;
pub mod replies;

mod accounts;
mod admin;
mod channel;
mod channel_reads;
mod direct_message;
mod envelope;
mod node_request;
mod presence;
mod publish;
mod replicated;
mod room;
mod user_name;

use std::sync::Arc;

use bytes::Bytes;

use super::State;
use super::audit::Actor;
use super::command::MessagingCommand;
use super::effect::{Effect, Message};
use super::reply::{Reply, ReplyTo};
use crate::clock::Moment;
use crate::id::{ShardSet, Topic, UserId};
use crate::wire::event::TimeText;
use crate::wire::message::Stamp;
use crate::wire::refusal::{Code, Refusal};
use aim::Aim;
use commands::{
    ApplyAccounts, Closed, DeleteChannel, DescribeChannel, DescribeConnection, Disconnect,
    EndTokens, LeaveRoom, ListChannels, ListOnline, NoteAction, PingAll, ReadUnwritten, SeeUser,
    StoreChange, Unfollow,
};

pub(super) use publish::PublisherReply;

impl State {
    /// Carries out one command.
    pub(super) fn apply_messaging(
        &mut self,
        actor: Option<Arc<Actor>>,
        command: MessagingCommand,
        now: Moment,
    ) {
        use MessagingCommand as C;
        match command {
            C::Opened(opened, reply) => {
                self.opened(opened, now);
                self.reply(reply, Ok(()));
            }
            C::Closed(Closed(conn), reply) => {
                self.closed(conn, now);
                self.reply(reply, Ok(()));
            }
            C::SeeUser(SeeUser(person), reply) => {
                self.people.see(&person);
                self.reply(reply, Ok(()));
            }
            C::ApplyAccounts(ApplyAccounts(changes), reply) => {
                self.apply_accounts(changes);
                self.reply(reply, Ok(()));
            }
            C::EndTokens(EndTokens(_), reply) => self.reply(reply, Ok(())),
            C::Follow(follow, reply) => {
                self.follow(follow, Attempt::First, now, |state, result| {
                    state.reply(reply, result);
                });
            }
            C::Unfollow(Unfollow { conn, channel }, reply) => {
                let unfollowed = self.unfollow(conn, channel, now);
                self.reply(reply, Ok(unfollowed));
            }
            C::Publish(publish, reply) => self.publish(publish, reply, now),
            C::ListChannels(ListChannels, reply) => {
                let channels = self.list_channels();
                self.reply(reply, Ok(channels));
            }
            C::DescribeChannel(DescribeChannel(name), reply) => {
                self.describe_channel(name, reply, now);
            }
            C::ReadHistory(read, reply) => self.read_history(read, reply, now),
            C::DefineChannel(define, reply) => self.define_channel(actor, define, reply, now),
            C::DeleteChannel(DeleteChannel(channel), reply) => {
                self.delete_channel(actor, channel, reply, now);
            }
            C::JoinRoom(join, reply) => self.join(join, reply, Attempt::First, now),
            C::LeaveRoom(LeaveRoom { conn, channel }, reply) => {
                let left = self.leave(conn, channel, now);
                self.reply(reply, Ok(left));
            }
            C::Chat(chat, reply) => self.chat(chat, reply, now),
            C::SendEnvelope(envelope, reply) => self.send_envelope(envelope, reply, now),
            C::Broadcast(broadcast, reply) => self.broadcast(broadcast, reply, now),
            C::ListOnline(ListOnline, reply) => {
                let online = self.list_online();
                self.reply(reply, Ok(online));
            }
            C::ListConnections(list, reply) => self.list_connections(list, reply),
            C::DescribeConnection(DescribeConnection(name), reply) => {
                self.describe_connection(&name, reply);
            }
            C::Disconnect(Disconnect(name), reply) => {
                self.disconnect_anywhere(actor, &name, reply, now);
            }
            C::NoteAction(NoteAction(note), reply) => {
                self.audit(actor.as_ref(), note);
                self.reply(reply, Ok(()));
            }
            C::SetSubscription(set, reply) => self.set_subscription(set, reply, now),
            C::SetMetadata(set, reply) => self.set_metadata(set, reply),
            C::ChatAs(chat, reply) => self.chat_as(chat, reply, now),
            C::PingAll(PingAll, reply) => {
                self.push(Effect::PingAll);
                self.reply(reply, Ok(()));
            }
            C::StoreChange(StoreChange(write), reply) => self.store_change(actor, write, reply),
            C::SendPrivate(send, reply) => self.send_private(send, reply, now),
            C::SendToGroup(send, reply) => self.send_to_group(send, reply, now),
            C::ReadUnwritten(ReadUnwritten(page), reply) => self.read_unwritten(page, reply),
        }
    }

    fn refuse<T: Reply>(&mut self, reply: ReplyTo<T>, code: Code, message: &'static str) {
        self.reply(reply, Err(Refusal::new(code, message)));
    }

    fn stamp(&mut self, now: Moment) -> Stamp {
        Stamp { id: self.ids.next(now.wall_ms), time: TimeText::of(now.wall_ms) }
    }

    /// Sends the frame of a message to each connection of a user. Returns how many there are.
    fn send_to_user(
        &mut self,
        user_id: &UserId,
        id: &dyn std::fmt::Display,
        frame: Bytes,
    ) -> usize {
        let shards = self.people.shards_of(user_id);
        self.send(Topic::User(user_id.clone()), Some(shards), frame, Aim::default());
        let connections = self.people.of_user(user_id).count();
        tracing::debug!(
            target: "fanfare::messages",
            user = user_id.as_str(),
            %id,
            connections,
            "message pushed to user"
        );
        connections
    }

    /// Sends the frame of a channel's message.
    fn send_to_channel(&mut self, key: u32, frame: Bytes, aim: Aim) {
        let state = self.channels.get(key);
        let (channel, shards) = (state.name.clone(), state.shards);
        tracing::debug!(
            target: "fanfare::messages",
            channel = channel.as_str(),
            bytes = frame.len(),
            "message published to channel"
        );
        let (topic, shards) = (Topic::Channel(channel), Some(shards));
        self.push(Effect::ChannelMessage(Message { topic, shards, frame, aim }));
    }

    fn send(&mut self, topic: Topic, shards: Option<ShardSet>, frame: Bytes, aim: Aim) {
        if shards.is_none_or(|shards| !shards.is_empty()) {
            self.push(Effect::Message(Message { topic, shards, frame, aim }));
        }
    }
}

/// How often a command has come this far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It has not waited yet.
    First,
    /// What it waited for has come.
    AfterWait,
}

/// The refusal of whatever names a user who was never seen.
fn no_user() -> Refusal {
    Refusal::new(Code::NotFound, "there is no such user")
}
