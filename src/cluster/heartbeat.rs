//! Heartbeats: this node tells Redis that it is alive, and Redis answers which nodes are.

use std::time::Duration;

use redis::RedisResult;
use tokio::time::{Instant, MissedTickBehavior};

use super::connections::PrimaryConnection;
use super::{News, NodeView, Shared, back_off, fresh_rng, journal, scripts, snapshots};
use crate::limits;

/// The answer to a heartbeat: the number of the newest entry, each node's name, age and words, the time by
/// Redis' clock, and whether a snapshot is asked for.
type HeartbeatReply = (String, Vec<(String, u64, String)>, u64, bool);

/// Sends a heartbeat once a second, for ever. One that fails is tried again sooner: before the node counts as
/// cut off there is time for one that waits for long.
pub(super) async fn run(shared: Shared) {
    let mut rng = fresh_rng();
    let (mut connection, mut failures) = (None, 0_u32);
    let pause = Duration::from_millis(limits::CLUSTER_HEARTBEAT_MS);
    let mut ticks = tokio::time::interval_at(Instant::now() + pause, pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        match send(&shared, &mut connection).await {
            Ok(news) => {
                if std::mem::take(&mut failures) > 0 {
                    shared.stats.cluster.reconnects.add(1);
                }
                shared.answered();
                shared.tell(news);
                ticks.tick().await;
            }
            Err(fault) => {
                shared.trouble(&fault);
                if let Some(link) = &connection {
                    shared.judge(link, &fault);
                }
                (connection, failures) = (None, failures + 1);
                back_off(&mut rng, failures.min(limits::CLUSTER_HEARTBEAT_DOUBLINGS_MAX)).await;
            }
        }
    }
}

/// One heartbeat, and the answer of Redis.
async fn send(shared: &Shared, connection: &mut Option<PrimaryConnection>) -> RedisResult<News> {
    let patience = Duration::from_millis(limits::CLUSTER_HEARTBEAT_PATIENCE_MS);
    let open = shared.reopen(connection, patience).await?;
    let contact_ms = shared.clock.now().unix_ms;
    let (newest, nodes, at_ms, is_snapshot_wanted): HeartbeatReply = scripts::HEARTBEAT
        .key(&[scripts::NODES, scripts::SEQUENCE, scripts::ABOUT, scripts::WANTED])
        .arg(&*shared.node)
        .arg(limits::CLUSTER_NODE_MS)
        .arg((shared.about)())
        .arg(limits::CLUSTER_FORGET_MS)
        .invoke_async(&mut **open)
        .await?;
    shared.links.signed(open, at_ms);
    if shared.stats.cluster.joined_ms.value() == 0 {
        shared.stats.cluster.joined_ms.set(at_ms);
    }
    if is_snapshot_wanted && shared.stats.cluster.caught_up.value() == 1 {
        tokio::spawn(snapshots::answer_request(shared.clone()));
    }
    let (newest_message, written) = journal::standing(open).await?;
    if shared.reads_journal {
        shared.stats.cluster.journal_newest.set(newest_message);
    }
    let nodes = nodes.into_iter().map(|(id, age_ms, about)| NodeView {
        is_alive: age_ms <= limits::CLUSTER_NODE_MS,
        id,
        age_ms,
        about,
    });
    let newest = newest.parse().unwrap_or(0);
    Ok(News::Nodes { nodes: nodes.collect(), contact_ms, newest, written })
}

/// Tells the others that this node goes, so that its leases are taken over at once.
pub(super) async fn leave(shared: &Shared) {
    let patience = Duration::from_millis(limits::CLUSTER_HEARTBEAT_MS);
    if let Ok(mut connection) = shared.connect(patience).await {
        // Without it the others find out by themselves.
        let _: Result<(), _> = redis::cmd("ZREM")
            .arg(scripts::NODES)
            .arg(&*shared.node)
            .query_async(&mut *connection)
            .await;
    }
}
