//! Accounts, messages, groups and defined channels in the database.
//!
//! The last check of a write happens here, inside its transaction: whether a name is taken, and who
//! is a member or the owner of a group.
//!
//! Imports its siblings, `auth`, `id`, `limits`, `state` and `wire`. Part of `store`.

use std::collections::HashMap;

use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Connection, Row};

use super::address::{Address, Mode};
use super::statement::{PEOPLE_LOCK, flag, insert, unsigned};
use super::{journal, logins};
use crate::auth::Standing;
use crate::id::UserId;
use crate::limits;
use crate::state::durable::{
    AccountChange, EndedToken, PeopleSnapshot, Write, WriteResult, Written,
};
use crate::state::journal::{Addressee, DirectMessage, JournalEntry};
use crate::wire::refusal::{Code, Refusal};

/// The columns of an [`AccountChange`].
pub(super) const CHANGE: &str = "SELECT user_id, CAST(is_disabled AS INTEGER) AS is_disabled,
    changed_ms, name_key, tokens_from_ms, kept_token,
    CASE WHEN username = '' THEN 1 ELSE 0 END AS is_removed";

pub(super) fn change_of(row: &AnyRow) -> Result<AccountChange, sqlx::Error> {
    let kept: Option<String> = row.try_get("kept_token")?;
    Ok(AccountChange {
        user_id: UserId::new(row.try_get("user_id")?),
        name_key: row.try_get::<Option<String>, _>("name_key")?.map(String::into_boxed_str),
        standing: Standing {
            is_disabled: flag(row, "is_disabled")?,
            tokens_from_ms: unsigned(row, "tokens_from_ms")?,
            kept_token: kept.and_then(|id| id.parse().ok()),
        },
        is_removed: flag(row, "is_removed")?,
        changed_ms: unsigned(row, "changed_ms")?,
    })
}

/// The columns of an [`EndedToken`].
pub(super) const ENDED_TOKEN: &str =
    "SELECT token_id, user_id, expires_s, changed_ms FROM revoked_token";

/// None if another program wrote a value that is not a token's id.
pub(super) fn ended_token(row: &AnyRow) -> Result<Option<EndedToken>, sqlx::Error> {
    let (id, user_id): (String, String) = (row.try_get("token_id")?, row.try_get("user_id")?);
    let Ok(id) = id.parse() else { return Ok(None) };
    Ok(Some(EndedToken {
        id,
        user_id: Some(user_id).filter(|id| !id.is_empty()).map(|id| UserId::new(&id)),
        expires_s: unsigned(row, "expires_s")?,
        changed_ms: unsigned(row, "changed_ms")?,
    }))
}

/// Accounts, groups and channels in the database.
pub(super) async fn read(
    connection: &mut AnyConnection,
    mode: Mode,
) -> Result<PeopleSnapshot, sqlx::Error> {
    let mut snapshot = PeopleSnapshot::default();
    let users = sqlx::AssertSqlSafe(format!("{CHANGE} FROM account"));
    for row in sqlx::query(users).fetch_all(&mut *connection).await? {
        snapshot.users.push(change_of(&row)?);
    }
    let tokens = sqlx::AssertSqlSafe(format!("{ENDED_TOKEN} ORDER BY changed_ms"));
    for row in sqlx::query(tokens).fetch_all(&mut *connection).await? {
        snapshot.ended_tokens.extend(ended_token(&row)?);
    }
    let channels = "SELECT name, description FROM channel";
    for row in sqlx::query(channels).fetch_all(&mut *connection).await? {
        snapshot.channels.push((row.try_get("name")?, row.try_get("description")?));
    }
    // In one query: other nodes may be writing.
    let newest = "SELECT up_to, (SELECT MAX(id) FROM message) AS newest FROM inbox_state";
    let row = sqlx::query(newest).fetch_one(connection).await?;
    let newest: Option<String> = row.try_get("newest")?;
    snapshot.last_message = newest.and_then(|id| id.parse().ok());
    if mode == Mode::Shared {
        snapshot.written = row.try_get::<String, _>("up_to")?.parse().ok();
    }
    Ok(snapshot)
}

/// Sorts direct messages since the last merge into the inboxes.
///
/// An inbox is written to in as many places as there are users. Written message by message, nearly
/// every row would dirty a page of its own; in bulk and in the order of the index, many share one.
/// That is what log-structured merge trees do (O'Neil et al., 1996), with two levels.
pub(super) async fn merge_inboxes(
    connection: &mut AnyConnection,
    mode: Mode,
) -> Result<(), sqlx::Error> {
    let mut change = connection.begin().await?;
    if mode == Mode::Shared {
        journal::take_turn(&mut change).await?;
    }
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
    /// The members of the groups looked up, oldest first; none if there is no such group.
    members: HashMap<String, Option<Vec<UserId>>>,
}

impl Batch {
    /// Inserts the rows that have gathered.
    async fn flush(
        &mut self,
        connection: &mut AnyConnection,
        address: &Address,
    ) -> Result<(), sqlx::Error> {
        insert(connection, address, journal::MESSAGES, std::mem::take(&mut self.messages)).await?;
        insert(connection, address, journal::INBOX, std::mem::take(&mut self.inbox)).await?;
        Ok(())
    }
}

/// Whether a write only reads, when several nodes share the database.
pub(super) fn is_check(write: &Write) -> bool {
    matches!(write, Write::Message(_)) || !is_shareable(write)
}

/// Whether a write may reach a database that several nodes share: writes whose data is in the
/// nodes' log or journal may not.
fn is_shareable(write: &Write) -> bool {
    match write {
        Write::Message(entry) => matches!(entry.message.to, Addressee::Group { .. }),
        Write::DefineChannel { .. } | Write::DropChannel { .. } => false,
        _ => true,
    }
}

/// Lets one node at a time write, as one server does by itself: the checks of a write hold until
/// its end, and no two nodes wait for each other's rows. Accounts and groups do not wait for
/// messages. Both locks are taken before anything else, and always in this order.
async fn take_turns(connection: &mut AnyConnection, writes: &[Write]) -> Result<(), sqlx::Error> {
    let is_run = |write: &Write| matches!(write, Write::JournalRun(_));
    if writes.iter().any(|write| !is_check(write) && !is_run(write)) {
        // The driver does not know the type VOID.
        let lock = "SELECT pg_advisory_xact_lock($1) IS NULL AS is_taken";
        sqlx::query(lock).bind(PEOPLE_LOCK).execute(&mut *connection).await?;
    }
    if writes.iter().any(is_run) {
        journal::take_turn(connection).await?;
    }
    Ok(())
}

/// Carries out writes in their order.
pub(super) async fn execute(
    connection: &mut AnyConnection,
    address: &Address,
    mode: Mode,
    writes: &[Write],
) -> Result<Vec<WriteResult>, sqlx::Error> {
    if mode == Mode::Shared {
        take_turns(connection, writes).await?;
    }
    let (mut batch, mut results) = (Batch::default(), Vec::with_capacity(writes.len()));
    let mut run: Vec<&JournalEntry> = Vec::new();
    for write in writes {
        results.push(match (mode, write) {
            (Mode::Shared, Write::JournalRun(entries)) => {
                run.extend(entries.iter().map(|entry| &**entry));
                Ok(Written::Done)
            }
            (Mode::Alone, Write::JournalRun(_)) => Err(Refusal::internal()),
            (Mode::Shared, write) if !is_shareable(write) => Err(Refusal::internal()),
            (Mode::Shared, Write::Message(entry)) => match &entry.message.to {
                Addressee::Group { group_id, .. } => {
                    check_member(connection, &mut batch, group_id, &entry.message.from).await?
                }
                Addressee::User(_) => Err(Refusal::internal()),
            },
            _ => one(connection, address, &mut batch, write).await?,
        });
        if batch.inbox.len() >= limits::STORE_STATEMENT_ROWS {
            // Thousands of messages to large groups are millions of rows.
            batch.flush(connection, address).await?;
        }
    }
    batch.flush(connection, address).await?;
    journal::write(connection, address, &run).await?;
    Ok(results)
}

async fn one(
    connection: &mut AnyConnection,
    address: &Address,
    batch: &mut Batch,
    write: &Write,
) -> Result<WriteResult, sqlx::Error> {
    match write {
        Write::Message(entry) => message(connection, batch, entry).await,
        Write::Account { .. }
        | Write::Seen { .. }
        | Write::SetPassword { .. }
        | Write::EndTokens { .. }
        | Write::EndToken { .. }
        | Write::RemoveAccount { .. } => logins::execute(connection, address, write).await,
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

/// Adds a direct message, or a group message with a row for each member.
async fn message(
    connection: &mut AnyConnection,
    batch: &mut Batch,
    entry: &JournalEntry,
) -> Result<WriteResult, sqlx::Error> {
    let (id, at_s, DirectMessage { from, to, content }) =
        (entry.id.to_string(), entry.at_s(), &entry.message);
    match to {
        Addressee::User(to) => {
            let row = json!([id, from.as_str(), to.as_str(), null, content, at_s]);
            batch.messages.push(row);
            Ok(Ok(Written::Done))
        }
        Addressee::Group { group_id, .. } => {
            let checked = check_member(connection, batch, group_id, from).await?;
            let Ok(Written::For(members)) = &checked else { return Ok(checked) };
            batch.messages.push(json!([id, from.as_str(), null, group_id, content, at_s]));
            batch.inbox.extend(members.iter().map(|user| json!([user.as_str(), id, null])));
            Ok(checked)
        }
    }
}

/// The receivers of a message to a group, if its sender may write there.
async fn check_member(
    connection: &mut AnyConnection,
    batch: &mut Batch,
    group_id: &String,
    user: &UserId,
) -> Result<WriteResult, sqlx::Error> {
    Ok(match group_members(connection, batch, group_id).await? {
        None => Err(no_group()),
        Some(members) if !members.contains(user) => Err(stranger()),
        Some(members) => Ok(Written::For(members.clone())),
    })
}

async fn group_write(
    connection: &mut AnyConnection,
    address: &Address,
    batch: &mut Batch,
    write: &Write,
) -> Result<WriteResult, sqlx::Error> {
    match write {
        Write::CreateGroup { group_id, name, owner, members, invited, at_ms } => {
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
            invite(connection, address, group_id, invited, (owner, *at_ms)).await?;
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
            match check_addition(connection, batch, group_id, user_id, by).await? {
                Ok(Written::Done) => admit(connection, address, batch, group_id, user_id).await,
                checked => Ok(checked),
            }
        }
        Write::Invite { group_id, user_id, by, at_ms } => {
            match check_addition(connection, batch, group_id, user_id, by).await? {
                Ok(Written::Done) => {}
                checked => return Ok(checked),
            }
            if is_invited(connection, group_id, user_id).await? {
                return Ok(Ok(Written::Invited));
            }
            let users = std::slice::from_ref(user_id);
            let count = invite(connection, address, group_id, users, (by, *at_ms)).await?;
            let message = "the user has too many invitations to answer";
            let full = || Refusal::new(Code::RateLimited, message);
            Ok(if count == 1 { Ok(Written::Invited) } else { Err(full()) })
        }
        Write::AnswerInvitation { group_id, user_id, accepts } => {
            if group_members(connection, batch, group_id).await?.is_none()
                || !is_invited(connection, group_id, user_id).await?
            {
                let message = "there is no such invitation";
                return Ok(Err(Refusal::new(Code::NotFound, message)));
            }
            if *accepts {
                return admit(connection, address, batch, group_id, user_id).await;
            }
            withdraw_invitation(connection, group_id, user_id).await?;
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
        // The owner takes an invitation back, or the invited user declines it.
        if withdraw_invitation(connection, group_id, user_id).await? {
            return Ok(Ok(Written::Done));
        }
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

/// Whether a user may be added to a group, or invited to it, by another. `Done`: yes; `Unchanged`:
/// the user is a member.
async fn check_addition(
    connection: &mut AnyConnection,
    batch: &mut Batch,
    group_id: &String,
    user_id: &UserId,
    by: &UserId,
) -> Result<WriteResult, sqlx::Error> {
    if let Err(refusal) = check_owner(connection, batch, group_id, by).await? {
        return Ok(Err(refusal));
    }
    let members = group_members(connection, batch, group_id).await?;
    let members = members.as_deref().unwrap_or_default();
    if members.contains(user_id) {
        return Ok(Ok(Written::Unchanged));
    }
    let count = members.len();
    let invited = "SELECT COUNT(*) AS count FROM group_invitation WHERE group_id = $1
        AND user_id <> $2";
    let row = sqlx::query(invited)
        .bind(group_id)
        .bind(user_id.as_str())
        .fetch_one(&mut *connection)
        .await?;
    if count + count_of(&row)? >= limits::GROUP_MEMBERS_MAX {
        return Ok(Err(Refusal::new(Code::RateLimited, "the group is full")));
    }
    Ok(Ok(Written::Done))
}

fn count_of(row: &sqlx::any::AnyRow) -> Result<usize, sqlx::Error> {
    let count: i64 = row.try_get("count")?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Makes a user a member, invited or not.
async fn admit(
    connection: &mut AnyConnection,
    address: &Address,
    batch: &mut Batch,
    group_id: &String,
    user_id: &UserId,
) -> Result<WriteResult, sqlx::Error> {
    let next = "SELECT MAX(number) AS number FROM group_member WHERE group_id = $1";
    let row = sqlx::query(next).bind(group_id).fetch_one(&mut *connection).await?;
    let last: Option<i64> = row.try_get("number")?;
    let first = last.unwrap_or(0) + 1;
    add_members(connection, address, group_id, std::slice::from_ref(user_id), first).await?;
    withdraw_invitation(connection, group_id, user_id).await?;
    batch.members.remove(group_id);
    Ok(Ok(Written::Done))
}

/// Invites users, except for those with as many invitations as allowed. Returns how many it
/// invited.
async fn invite(
    connection: &mut AnyConnection,
    address: &Address,
    group_id: &str,
    users: &[UserId],
    (by, at_ms): (&UserId, u64),
) -> Result<u64, sqlx::Error> {
    let row = |user: &UserId| json!([group_id, user.as_str(), by.as_str(), at_ms]);
    let statement = format!(
        "INSERT INTO group_invitation (group_id, user_id, invited_by, invited_ms)
         SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT)
         FROM {{rows}} WHERE (SELECT COUNT(*) FROM group_invitation AS pending
             WHERE pending.user_id = value->>1) < {} ON CONFLICT DO NOTHING",
        limits::INVITATIONS_PER_USER_MAX
    );
    insert(connection, address, &statement, users.iter().map(row).collect()).await
}

async fn is_invited(
    connection: &mut AnyConnection,
    group_id: &str,
    user_id: &UserId,
) -> Result<bool, sqlx::Error> {
    let found = "SELECT 1 FROM group_invitation WHERE group_id = $1 AND user_id = $2";
    let query = sqlx::query(found).bind(group_id.to_owned()).bind(user_id.as_str());
    Ok(query.fetch_optional(connection).await?.is_some())
}

/// Removes an invitation. Returns whether there was one.
async fn withdraw_invitation(
    connection: &mut AnyConnection,
    group_id: &str,
    user_id: &UserId,
) -> Result<bool, sqlx::Error> {
    let delete = "DELETE FROM group_invitation WHERE group_id = $1 AND user_id = $2";
    Ok(run(connection, delete, &[group_id, user_id.as_str()]).await? > 0)
}

async fn delete_group(
    connection: &mut AnyConnection,
    batch: &mut Batch,
    group_id: &String,
) -> Result<(), sqlx::Error> {
    run(connection, "DELETE FROM group_invitation WHERE group_id = $1", &[group_id]).await?;
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
        // The group ends with its last member, so no members are no group.
        let members = (!members.is_empty()).then_some(members);
        batch.members.insert(group_id.clone(), members);
    }
    Ok(batch.members.entry(group_id.clone()).or_default())
}

/// The members of a group, oldest first.
pub(super) async fn members(
    connection: &mut AnyConnection,
    group_id: &str,
) -> Result<Vec<UserId>, sqlx::Error> {
    if group_id.contains('\0') {
        // No group has it, and PostgreSQL refuses a text with it: the whole transaction would fail.
        return Ok(Vec::new());
    }
    let members = "SELECT user_id FROM group_member WHERE group_id = $1 ORDER BY number";
    let rows = sqlx::query(members).bind(group_id).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(UserId::new(row.try_get("user_id")?))).collect()
}

/// Checks that a user owns a group: users who are no members get less detail than members.
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
