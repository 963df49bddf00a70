//! Our own fault: a reply that nobody waits for closes that one connection with 1011.
//!
//! A reply to another kind of command cannot be written: its address has another type.

use std::sync::Arc;

use fanfare::internals::clock::Moment;
use fanfare::internals::mailbox::command_sender::CommandSender;
use fanfare::internals::mailbox::to_control::{ControlMessage, Task};
use fanfare::internals::mailbox::to_shard::ShardMessage;
use fanfare::internals::mailbox::{Bell, mailbox};
use fanfare::internals::rng::Rng;
use fanfare::internals::shard::Shard;
use fanfare::internals::state::Command;
use fanfare::internals::state::command::MessagingCommand;
use fanfare::internals::state::registry::replies::RefusedEntry;
use fanfare::internals::state::reply::{BatchContext, Reply as _};
use fanfare::internals::stats::Stats;

use super::client::Client;
use super::oracle::Oracle;
use super::pipe::{Link, Ready};
use super::{open_gate, shard_settings};

#[test]
fn a_reply_that_nobody_waits_for_closes_with_1011() {
    let now = Moment::new(1_800_000_000_000, 0);
    let (orders, inbox) = mailbox(16, Bell::silent());
    let (outlet, inlet) = mailbox(16, Bell::silent());
    let settings =
        shard_settings(0, &Arc::default(), &Arc::new(open_gate()), &Arc::new(Stats::new(1)), 1);
    let commands = CommandSender::driven(orders, settings.id);
    let mut shard = Shard::new(settings, commands, inlet, now);
    let ready = Ready::default();
    let link = Link::new(&ready, 4_096, Rng::seeded(1));
    shard.accept(now, |slot, generation| link.accept(slot, generation));
    let mut client = Client::new(link, ("n".into(), 0), "o".into(), None);
    client.send(usize::MAX);
    let mut turn = || while shard.turn(now, || ready.borrow_mut().pop_front()).has_more {};
    turn();
    let Some(ControlMessage { task: Task::Command(Command::Messaging(command)), .. }) =
        inbox.take()
    else {
        panic!("the connection was not announced");
    };
    let MessagingCommand::Opened(opened, _) = *command else { panic!("{command:?}") };
    let context = BatchContext::Unregister { rejected: Vec::new() };
    let reply = Vec::<RefusedEntry>::to_socket(context, Ok(Vec::new()));
    outlet.send(ShardMessage::Reply(opened.conn, reply)).expect("room");
    turn();
    client.receive(usize::MAX, &mut Oracle::default());
    assert_eq!(client.close_code(), Some(1011));
}
