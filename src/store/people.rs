//! Accounts, messages, groups and defined channels in the database.
//!
//! The last check of a write happens here, inside its transaction: whether a name is taken, who is a
//! member, who manages a group.
//!
//! Imports `limits`, `state` and `wire`. Part of `store`.

use std::collections::HashMap;

use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection, Row};

use super::database::{Address, flag, insert, unsigned};
use crate::id::UserId;
use crate::limits;
use crate::state::durable::{AccountChange, PeopleImage, Write, WriteResult, Written};
use crate::wire::refusal::{Code, Refusal};

/// What the database knows of people and channels.
pub(super) async fn read(connection: &mut AnyConnection) -> Result<PeopleImage, sqlx::Error> {
    let mut image = PeopleImage::default();
    let users = "SELECT user_id, CAST(is_disabled AS INTEGER) AS is_disabled, changed_ms
        FROM account";
    for row in sqlx::query(users).fetch_all(&mut *connection).await? {
        image.users.push(AccountChange {
            user_id: UserId::new(row.try_get("user_id")?),
            is_disabled: flag(&row, "is_disabled")?,
            changed_ms: unsigned(&row, "changed_ms")?,
        });
    }
    let channels = "SELECT name, description FROM channel";
    for row in sqlx::query(channels).fetch_all(&mut *connection).await? {
        image.channels.push((row.try_get("name")?, row.try_get("description")?));
    }
    let newest = "SELECT id FROM message ORDER BY id DESC LIMIT 1";
    if let Some(row) = sqlx::query(newest).fetch_optional(connection).await? {
        image.last_message = row.try_get::<String, _>("id")?.parse().ok();
    }
    Ok(image)
}

/// Sorts the direct messages that came since the last time into the inboxes.
///
/// An inbox is written to in as many places as there are users. Written message by message, nearly
/// every row would dirty a page of its own; in bulk and in the order of the index, many share one.
/// That is what log-structured merge trees do (O'Neil et al., 1996), with two levels.
pub(super) async fn merge_inboxes(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let mut change = connection.begin().await?;
    sqlx::query(
        "INSERT INTO inbox (user_id, message_id, with_user)
         SELECT user_id, message_id, with_user FROM (
             SELECT from_user_id AS user_id, id AS message_id, to_user_id AS with_user
             FROM message
             WHERE id > (SELECT up_to FROM inbox_state) AND to_user_id IS NOT NULL
             UNION ALL
             SELECT to_user_id, id, from_user_id FROM message
             WHERE id > (SELECT up_to FROM inbox_state) AND to_user_id <> from_user_id
         ) AS fresh WHERE TRUE ORDER BY user_id, message_id ON CONFLICT DO NOTHING",
    )
    .execute(&mut *change)
    .await?;
    sqlx::query("UPDATE inbox_state SET up_to = COALESCE((SELECT MAX(id) FROM message), up_to)")
        .execute(&mut *change)
        .await?;
    change.commit().await
}

/// Rows that gather during a transaction and leave in two statements.
#[derive(Default)]
struct Batch {
    messages: Vec<Value>,
    inbox: Vec<Value>,
    /// The members of the groups looked up, oldest first; none where there is no such group.
    members: HashMap<String, Option<Vec<UserId>>>,
}

/// Carries out writes in their order.
pub(super) async fn execute(
    connection: &mut AnyConnection,
    address: &Address,
    writes: &[Write],
) -> Result<Vec<WriteResult>, sqlx::Error> {
    let (mut batch, mut results) = (Batch::default(), Vec::with_capacity(writes.len()));
    for write in writes {
        results.push(one(connection, address, &mut batch, write).await?);
    }
    // A transaction whose end got lost is carried out again: what is there stays.
    insert(
        connection,
        address,
        "INSERT INTO message (id, from_user_id, to_user_id, group_id, content, created_at)
         SELECT value->>0, value->>1, value->>2, value->>3, value->>4, CAST(value->>5 AS BIGINT)
         FROM {rows} WHERE TRUE ON CONFLICT (id) DO NOTHING",
        batch.messages,
    )
    .await?;
    insert(
        connection,
        address,
        "INSERT INTO inbox (user_id, message_id, with_user)
         SELECT value->>0, value->>1, value->>2
         FROM {rows} WHERE TRUE ON CONFLICT (user_id, message_id) DO NOTHING",
        batch.inbox,
    )
    .await?;
    Ok(results)
}

async fn one(
    connection: &mut AnyConnection,
    address: &Address,
    batch: &mut Batch,
    write: &Write,
) -> Result<WriteResult, sqlx::Error> {
    match write {
        Write::Private(message) => {
            let (id, from, to) = (message.id.to_string(), message.from.as_str(), &message.to);
            batch.messages.push(json!([
                id,
                from,
                to.as_str(),
                null,
                message.content,
                message.at_s
            ]));
            Ok(Ok(Written::Done))
        }
        Write::ToGroup(message) => {
            let members = match group_members(connection, batch, &message.to).await? {
                None => return Ok(Err(no_group())),
                Some(members) if !members.contains(&message.from) => return Ok(Err(stranger())),
                Some(members) => members.clone(),
            };
            let (id, from) = (message.id.to_string(), message.from.as_str());
            batch.messages.push(json!([id, from, null, message.to, message.content, message.at_s]));
            batch.inbox.extend(members.iter().map(|user| json!([user.as_str(), id, null])));
            Ok(Ok(Written::For(members)))
        }
        Write::Account { user_id, username, email, password_hash, at_ms } => {
            let row = json!([
                user_id.as_str(),
                username,
                username.to_lowercase(),
                email,
                password_hash,
                at_ms
            ]);
            let statement = "INSERT INTO account (user_id, username, login, email, password_hash,
                is_disabled, created_ms, changed_ms)
                SELECT value->>0, value->>1, value->>2, value->>3, value->>4, FALSE,
                CAST(value->>5 AS BIGINT), CAST(value->>5 AS BIGINT)
                FROM {rows} WHERE TRUE ON CONFLICT DO NOTHING";
            let count = insert(connection, address, statement, vec![row]).await?;
            let taken = || Refusal::new(Code::Conflict, "the username is taken");
            Ok(if count == 1 { Ok(Written::Done) } else { Err(taken()) })
        }
        Write::Seen { people, at_ms } => {
            let row = |person: &crate::state::people::Person| {
                json!([person.user_id.as_str(), &*person.username, at_ms])
            };
            let statement = "INSERT INTO account (user_id, username, is_disabled, created_ms,
                changed_ms) SELECT value->>0, value->>1, FALSE, CAST(value->>2 AS BIGINT),
                CAST(value->>2 AS BIGINT) FROM {rows} WHERE TRUE ON CONFLICT DO NOTHING";
            insert(connection, address, statement, people.iter().map(row).collect()).await?;
            Ok(Ok(Written::Done))
        }
        Write::DefineChannel { channel, description, at_ms } => {
            let row = json!([channel.as_str(), description, at_ms]);
            let statement = "INSERT INTO channel (name, description, created_ms)
                SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT)
                FROM {rows} WHERE TRUE ON CONFLICT DO NOTHING";
            insert(connection, address, statement, vec![row]).await?;
            Ok(Ok(Written::Done))
        }
        Write::DropChannel { channel } => {
            run(connection, "DELETE FROM channel WHERE name = $1", &[channel.as_str()]).await?;
            Ok(Ok(Written::Done))
        }
        groups => group_write(connection, address, batch, groups).await,
    }
}

async fn group_write(
    connection: &mut AnyConnection,
    address: &Address,
    batch: &mut Batch,
    write: &Write,
) -> Result<WriteResult, sqlx::Error> {
    match write {
        Write::CreateGroup { group_id, name, owner, members, at_ms } => {
            let count = "SELECT COUNT(*) AS count FROM chat_group WHERE owner = $1";
            let row = sqlx::query(count).bind(owner.as_str()).fetch_one(&mut *connection).await?;
            let count: i64 = row.try_get("count")?;
            if usize::try_from(count).unwrap_or(usize::MAX) >= limits::GROUPS_PER_OWNER_MAX {
                let message = "one user makes only so many groups";
                return Ok(Err(Refusal::new(Code::RateLimited, message)));
            }
            let statement = "INSERT INTO chat_group (group_id, name, owner, created_ms)
                SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT)
                FROM {rows} WHERE TRUE";
            let row = json!([group_id, name, owner.as_str(), at_ms]);
            insert(connection, address, statement, vec![row]).await?;
            add_members(connection, address, group_id, members, 0).await?;
            batch.members.remove(group_id);
            Ok(Ok(Written::Done))
        }
        Write::DeleteGroup { group_id, by } => {
            if let Err(refusal) = check_owner(connection, batch, group_id, by).await? {
                return Ok(Err(refusal));
            }
            delete_group(connection, batch, group_id).await?;
            Ok(Ok(Written::Done))
        }
        Write::AddMember { group_id, user_id, by } => {
            if let Err(refusal) = check_owner(connection, batch, group_id, by).await? {
                return Ok(Err(refusal));
            }
            let members = group_members(connection, batch, group_id).await?;
            let members = members.as_deref().unwrap_or_default();
            if members.contains(user_id) {
                return Ok(Ok(Written::Unchanged));
            }
            if members.len() >= limits::GROUP_MEMBERS_MAX {
                return Ok(Err(Refusal::new(Code::RateLimited, "the group is full")));
            }
            let next = "SELECT MAX(number) AS number FROM group_member WHERE group_id = $1";
            let row = sqlx::query(next).bind(group_id).fetch_one(&mut *connection).await?;
            let last: Option<i64> = row.try_get("number")?;
            let first = last.unwrap_or(0) + 1;
            add_members(connection, address, group_id, std::slice::from_ref(user_id), first)
                .await?;
            batch.members.remove(group_id);
            Ok(Ok(Written::Done))
        }
        Write::RemoveMember { group_id, user_id, by } => {
            remove_member(connection, batch, group_id, user_id, by).await
        }
        _ => Ok(Err(Refusal::internal())),
    }
}

async fn remove_member(
    connection: &mut AnyConnection,
    batch: &mut Batch,
    group_id: &String,
    user_id: &UserId,
    by: &UserId,
) -> Result<WriteResult, sqlx::Error> {
    let is_leaving = user_id == by;
    if !is_leaving && let Err(refusal) = check_owner(connection, batch, group_id, by).await? {
        return Ok(Err(refusal));
    }
    let Some(members) = group_members(connection, batch, group_id).await? else {
        return Ok(Err(no_group()));
    };
    if !members.contains(user_id) {
        let refusal = Refusal::new(Code::NotFound, "there is no such member");
        return Ok(Err(if is_leaving { stranger() } else { refusal }));
    }
    let heir = members.iter().find(|member| *member != user_id).cloned();
    let delete = "DELETE FROM group_member WHERE group_id = $1 AND user_id = $2";
    run(connection, delete, &[group_id, user_id.as_str()]).await?;
    batch.members.remove(group_id);
    match heir {
        // A group without an owner could never be managed again.
        Some(heir) => {
            let inherit = "UPDATE chat_group SET owner = $1 WHERE group_id = $2 AND owner = $3";
            run(connection, inherit, &[heir.as_str(), group_id, user_id.as_str()]).await?;
        }
        None => delete_group(connection, batch, group_id).await?,
    }
    Ok(Ok(Written::Done))
}

async fn delete_group(
    connection: &mut AnyConnection,
    batch: &mut Batch,
    group_id: &String,
) -> Result<(), sqlx::Error> {
    run(connection, "DELETE FROM group_member WHERE group_id = $1", &[group_id]).await?;
    run(connection, "DELETE FROM chat_group WHERE group_id = $1", &[group_id]).await?;
    batch.members.remove(group_id);
    Ok(())
}

async fn add_members(
    connection: &mut AnyConnection,
    address: &Address,
    group_id: &str,
    members: &[UserId],
    first: i64,
) -> Result<(), sqlx::Error> {
    let rows = members.iter().zip(first..);
    let rows = rows.map(|(user, number)| json!([group_id, user.as_str(), number])).collect();
    let statement = "INSERT INTO group_member (group_id, user_id, number)
        SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT)
        FROM {rows} WHERE TRUE ON CONFLICT DO NOTHING";
    insert(connection, address, statement, rows).await?;
    Ok(())
}

/// The members of a group, looked up once a transaction.
async fn group_members<'a>(
    connection: &mut AnyConnection,
    batch: &'a mut Batch,
    group_id: &String,
) -> Result<&'a Option<Vec<UserId>>, sqlx::Error> {
    if !batch.members.contains_key(group_id) {
        let members = members(connection, group_id).await?;
        // The last member takes the group along, so no members are no group.
        let members = (!members.is_empty()).then_some(members);
        batch.members.insert(group_id.clone(), members);
    }
    Ok(batch.members.entry(group_id.clone()).or_default())
}

/// The members of a group, in the order in which they came.
pub(super) async fn members(
    connection: &mut AnyConnection,
    group_id: &str,
) -> Result<Vec<UserId>, sqlx::Error> {
    let members = "SELECT user_id FROM group_member WHERE group_id = $1 ORDER BY number";
    let rows = sqlx::query(members).bind(group_id).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(UserId::new(row.try_get("user_id")?))).collect()
}

/// Whether a user manages a group: strangers hear less than members.
async fn check_owner(
    connection: &mut AnyConnection,
    batch: &mut Batch,
    group_id: &String,
    by: &UserId,
) -> Result<Result<(), Refusal>, sqlx::Error> {
    match group_members(connection, batch, group_id).await? {
        None => return Ok(Err(no_group())),
        Some(members) if !members.contains(by) => return Ok(Err(stranger())),
        Some(_) => {}
    }
    let owner = "SELECT owner FROM chat_group WHERE group_id = $1";
    let row = sqlx::query(owner).bind(group_id).fetch_optional(connection).await?;
    let owner: Option<String> = row.map(|row| row.try_get("owner")).transpose()?;
    let is_owner = owner.as_deref() == Some(by.as_str());
    let refusal = || Refusal::new(Code::Forbidden, "only who manages the group may do this");
    Ok(if is_owner { Ok(()) } else { Err(refusal()) })
}

fn no_group() -> Refusal {
    Refusal::new(Code::NotFound, "there is no such group")
}

pub(super) fn stranger() -> Refusal {
    Refusal::new(Code::Forbidden, "only members of the group may do this")
}

async fn run(
    connection: &mut AnyConnection,
    statement: &'static str,
    texts: &[&str],
) -> Result<u64, sqlx::Error> {
    let mut query = sqlx::query(statement);
    for text in texts {
        query = query.bind((*text).to_owned());
    }
    Ok(query.execute(connection).await?.rows_affected())
}
