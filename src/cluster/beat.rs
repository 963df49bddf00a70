//! Signs of life: this node's to the others, and Redis' to this node.
//!
//! Part of `cluster`.

use std::time::Duration;

use super::{News, NodeView, Shared, journal, scripts};
use crate::limits;

/// What a beat tells: the number of the newest entry, and each node's name, age and words.
type Answer = (String, Vec<(String, u64, String)>);

/// Beats once a second, for ever.
pub(super) async fn beat(shared: Shared) {
    let pause = Duration::from_millis(limits::CLUSTER_BEAT_MS);
    let (mut connection, mut was_lost) = (None, false);
    loop {
        if connection.is_none() {
            connection = shared.connect(pause).await.ok();
            if connection.is_some() && std::mem::take(&mut was_lost) {
                shared.stats.cluster.reconnects.add(1);
            }
        }
        if let Some(open) = &mut connection {
            let contact_ms = shared.clock.now().unix_ms;
            let answer: Result<Answer, _> = scripts::BEAT
                .key(scripts::NODES)
                .key(scripts::SEQUENCE)
                .key(scripts::ABOUT)
                .arg(&*shared.node)
                .arg(limits::CLUSTER_NODE_MS)
                .arg((shared.about)())
                .arg(limits::CLUSTER_FORGET_MS)
                .invoke_async(open)
                .await;
            let answer = match answer {
                Ok(answer) => journal::standing(open).await.map(|standing| (answer, standing)),
                Err(fault) => Err(fault),
            };
            match answer {
                Ok(((newest, nodes), (posted, written))) => {
                    let nodes = nodes.into_iter().map(|(id, age_ms, about)| NodeView {
                        is_alive: age_ms <= limits::CLUSTER_NODE_MS,
                        id,
                        age_ms,
                        about,
                    });
                    let newest = newest.parse().unwrap_or(0);
                    let nodes = nodes.collect();
                    if shared.reads_journal {
                        shared.stats.cluster.posted.set(posted);
                    }
                    shared.tell(News::Nodes { nodes, contact_ms, newest, posted, written });
                }
                Err(fault) => {
                    tracing::warn!(%fault, "Redis does not answer");
                    (connection, was_lost) = (None, true);
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Tells the others that this node goes, so that its leases are taken over at once.
pub(super) async fn leave(shared: &Shared) {
    let patience = Duration::from_millis(limits::CLUSTER_BEAT_MS);
    if let Ok(mut connection) = shared.connect(patience).await {
        // Without it the others find out by themselves.
        let _: Result<(), _> = redis::cmd("ZREM")
            .arg(scripts::NODES)
            .arg(&*shared.node)
            .query_async(&mut connection)
            .await;
    }
}
