//! Our own fault: an answer that does not fit its order closes that one connection with 1011.

use std::sync::Arc;

use fanfare::internals::clock::Moment;
use fanfare::internals::mailbox::to_control::{Command, Origin};
use fanfare::internals::mailbox::to_shard::Parcel;
use fanfare::internals::mailbox::{Bell, mailbox};
use fanfare::internals::rng::Rng;
use fanfare::internals::shard::Shard;
use fanfare::internals::state::order::Answer;
use fanfare::internals::stats::Stats;

use super::client::Client;
use super::oracle::Oracle;
use super::pipe::{Link, Ready};
use super::world::{open_gate, shard_settings};

#[test]
fn an_answer_that_does_not_fit_closes_with_1011() {
    let now = Moment::new(1_800_000_000_000, 0);
    let (orders, inbox) = mailbox(16, Bell::silent());
    let (outlet, inlet) = mailbox(16, Bell::silent());
    let settings =
        shard_settings(0, &Arc::default(), &Arc::new(open_gate()), &Arc::new(Stats::new(1)), 1);
    let mut shard = Shard::new(settings, orders, inlet, now);
    let ready = Ready::default();
    let link = Link::new(&ready, 4_096, Rng::seeded(1));
    shard.accept(now, |slot, generation| link.accept(slot, generation));
    let mut client = Client::new(link);
    client.subscribe("s", false, None);
    client.send(usize::MAX);
    let mut turn = || while shard.turn(now, || ready.borrow_mut().pop_front()).has_more {};
    turn();
    // The connection's announcement comes before what it asks for.
    assert!(matches!(inbox.take(), Some(Command { origin: Origin::Shard(_), .. })));
    let Some(Command { origin: Origin::Conn(conn), .. }) = inbox.take() else {
        panic!("the subscription did not reach control");
    };
    outlet.send(Parcel::Answer(conn, Answer::Batch(Vec::new()))).expect("room");
    turn();
    client.receive(usize::MAX, &Oracle::default());
    assert_eq!(client.close_code(), Some(1011));
}
