//! Writes runs of the journal to the database. In a cluster, messages are accepted by the journal and written
//! here behind it.
//!
//! A run is one transaction with all its rows of inboxes and the journal's position, so a client
//! that pulls sees the journal up to some message and nothing after it. Two nodes may write the
//! same run when one takes over from another: each row is there once.
//!
//! Imports `id`, `limits` and `state`. Part of `store`.

use serde_json::json;
use sqlx::AnyConnection;

use super::address::Address;
use super::statement::insert;
use crate::id::MessageId;
use crate::limits;
use crate::state::journal::{Addressee, JournalEntry};

/// Lets one node at a time extend the inboxes, until the end of its transaction.
pub(super) async fn take_turn(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT up_to FROM inbox_state FOR UPDATE").execute(connection).await?;
    Ok(())
}

/// A row of an inbox: its user, the message, and the other user of a direct message.
type Row<'a> = (&'a str, &'a str, Option<&'a str>);

/// Writes a run of the journal. The caller has taken its turn.
pub(super) async fn write(
    connection: &mut AnyConnection,
    address: &Address,
    run: &[&JournalEntry],
) -> Result<(), sqlx::Error> {
    let Some(newest) = run.iter().map(|entry| entry.id).max() else { return Ok(()) };
    let ids: Vec<String> = run.iter().map(|entry| entry.id.to_string()).collect();
    let mut rows: Vec<Row<'_>> = Vec::with_capacity(run.len() * 2);
    for (entry, id) in run.iter().zip(&ids) {
        let from = entry.message.from.as_str();
        match &entry.message.to {
            Addressee::User(to) => {
                rows.push((from, id, Some(to.as_str())));
                rows.push((to.as_str(), id, Some(from)));
            }
            Addressee::Group { members, .. } => {
                rows.extend(members.iter().map(|member| (member.as_str(), &**id, None)));
            }
        }
    }
    // In the order of the index, many rows share a page.
    rows.sort_unstable();
    rows.dedup();
    let message = |(entry, id): (&&JournalEntry, &String)| {
        let (to, group) = match &entry.message.to {
            Addressee::User(to) => (Some(to.as_str()), None),
            Addressee::Group { group_id, .. } => (None, Some(group_id)),
        };
        let post = &entry.message;
        json!([id, post.from.as_str(), to, group, post.content, entry.at_s()])
    };
    insert(connection, address, MESSAGES, run.iter().zip(&ids).map(message).collect()).await?;
    // A message to a group of a thousand is as many rows: not all of a run's at once.
    for part in rows.chunks(limits::STORE_STATEMENT_ROWS) {
        let row = |(user, id, with): &Row<'_>| json!([user, id, with]);
        insert(connection, address, INBOX, part.iter().map(row).collect()).await?;
    }
    pass(connection, newest).await
}

/// Moves the journal's position. The caller has taken its turn.
pub(super) async fn pass(
    connection: &mut AnyConnection,
    newest: MessageId,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE inbox_state SET up_to = GREATEST(up_to, $1)")
        .bind(newest.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// A transaction whose end was lost is repeated: existing rows stay.
pub(super) const MESSAGES: &str =
    "INSERT INTO message (id, from_user_id, to_user_id, group_id, content, created_at)
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, CAST(value->>5 AS BIGINT)
     FROM {rows} WHERE TRUE ON CONFLICT (id) DO NOTHING";

/// The same for rows of inboxes.
pub(super) const INBOX: &str = "INSERT INTO inbox (user_id, message_id, with_user)
     SELECT value->>0, value->>1, value->>2
     FROM {rows} WHERE TRUE ON CONFLICT (user_id, message_id) DO NOTHING";
