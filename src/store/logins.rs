//! Accounts in the database: names, passwords, and the validity of tokens.
//!
//! The statement that writes also makes the deciding check, so the check holds while other nodes or the
//! command line write at the same time.
//!
//! Imports `auth`, `id`, `limits`, `state` and `wire`. Part of `store`.

use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection, Row};
use std::collections::HashSet;

use super::address::Address;
use super::statement::{PEOPLE_LOCK, insert};
use crate::auth::names;
use crate::id::UserId;
use crate::limits;
use crate::state::durable::{Write, WriteResult, Written};
use crate::state::people::Person;
use crate::wire::refusal::{Code, Refusal};

/// The stamp of a changed account: not before any change so far, whatever the clocks of the writers
/// say. So a poller that knows the newest change finds all later ones.
pub(super) fn stamp(at_ms: &str) -> String {
    let next = "COALESCE((SELECT MAX(changed_ms) FROM account), 0) + 1";
    format!("CASE WHEN {at_ms} >= {next} THEN {at_ms} ELSE {next} END")
}

/// The stamp of the end of a user's tokens: after the last one, whatever the clocks say.
pub(super) fn end_stamp(at_ms: &str) -> String {
    let next = "account.tokens_from_ms + 1";
    format!("CASE WHEN {at_ms} >= {next} THEN {at_ms} ELSE {next} END")
}

/// Carries out a write to an account.
pub(super) async fn execute(
    connection: &mut AnyConnection,
    address: &Address,
    write: &Write,
) -> Result<WriteResult, sqlx::Error> {
    match write {
        Write::Account { user_id, username, email, password_hash, at_ms } => {
            let account = (user_id, &**username, email.as_deref(), &**password_hash);
            add(connection, address, account, *at_ms).await
        }
        Write::Seen { people, at_ms } => {
            let row = |person: &Person| {
                let id = person.user_id.as_str();
                json!([id, &*person.username, names::id_skeleton(id), at_ms])
            };
            let statement = format!(
                "INSERT INTO account (user_id, username, id_skeleton, is_disabled, created_ms,
                 changed_ms) SELECT value->>0, value->>1, value->>2, FALSE,
                 CAST(value->>3 AS BIGINT), {} FROM {{rows}} WHERE TRUE ON CONFLICT DO NOTHING",
                stamp("CAST(value->>3 AS BIGINT)")
            );
            let rows = || people.iter().map(row).collect::<Vec<_>>();
            let added = insert(connection, address, &statement, rows()).await?;
            if added < people.len() as u64 {
                come_back(connection, address, rows()).await?;
            }
            Ok(Ok(Written::Done))
        }
        Write::RemoveAccount { person, at_ms } => {
            remove(connection, address, person, *at_ms).await?;
            Ok(Ok(Written::Done))
        }
        Write::SetPassword { user_id, old_hash, password_hash, kept_token, at_ms } => {
            let kept = kept_token.map(|token| token.to_string());
            let row = json!([user_id.as_str(), old_hash, password_hash, kept, at_ms]);
            let statement = format!(
                "UPDATE account SET password_hash = given.hash, kept_token = given.kept,
                 tokens_from_ms = {}, changed_ms = {}
                 FROM (SELECT value->>0 AS id, value->>1 AS old, value->>2 AS hash,
                     value->>3 AS kept, CAST(value->>4 AS BIGINT) AS at_ms FROM {{rows}}) AS given
                 WHERE account.user_id = given.id AND account.password_hash = given.old",
                end_stamp("given.at_ms"),
                stamp("given.at_ms")
            );
            let count = insert(connection, address, &statement, vec![row]).await?;
            let message = "the password was changed a moment ago";
            let refusal = || Refusal::new(Code::Conflict, message);
            Ok(if count == 1 { Ok(Written::Done) } else { Err(refusal()) })
        }
        Write::EndTokens { person, at_ms } => {
            end_tokens(connection, address, person, *at_ms).await?;
            Ok(Ok(Written::Done))
        }
        Write::EndToken { person, token, expires_s, at_ms } => {
            let user_id = Some(&person.user_id);
            let token = (token.to_string(), *expires_s);
            if !end_token(connection, address, user_id, &token, *at_ms).await? {
                end_tokens(connection, address, person, *at_ms).await?;
            }
            Ok(Ok(Written::Done))
        }
        _ => Ok(Err(Refusal::internal())),
    }
}

/// Adds an account, unless its name is taken: by another name that is the same or looks the same,
/// or by a user id.
async fn add(
    connection: &mut AnyConnection,
    address: &Address,
    (user_id, username, email, password_hash): (&UserId, &str, Option<&str>, &str),
    at_ms: u64,
) -> Result<WriteResult, sqlx::Error> {
    let (id, key) = (user_id.as_str(), names::key(username));
    let (drawn, id_drawn) = (names::skeleton(username), names::id_skeleton(id));
    let row = json!([id, username, key, email, password_hash, at_ms, drawn, id_drawn]);
    let statement = format!(
        "INSERT INTO account (user_id, username, login, name_key, name_skeleton, id_skeleton,
         email, password_hash, is_disabled, created_ms, changed_ms)
         SELECT value->>0, value->>1, value->>2, value->>2, value->>6, value->>7,
         value->>3, value->>4, FALSE, CAST(value->>5 AS BIGINT), {}
         FROM {{rows}} WHERE NOT EXISTS (SELECT 1 FROM account
             WHERE id_skeleton = value->>6 OR user_id = value->>1 OR user_id = value->>2)
         ON CONFLICT DO NOTHING",
        stamp("CAST(value->>5 AS BIGINT)")
    );
    let count = insert(connection, address, &statement, vec![row]).await?;
    let taken = || Refusal::new(Code::Conflict, "the username is taken, or looks like one that is");
    Ok(if count == 1 { Ok(Written::Done) } else { Err(taken()) })
}

/// Ends all tokens of a user so far. An unknown user gets a row.
pub(super) async fn end_tokens(
    connection: &mut AnyConnection,
    address: &Address,
    person: &Person,
    at_ms: u64,
) -> Result<(), sqlx::Error> {
    let id = person.user_id.as_str();
    let row = json!([id, &*person.username, names::id_skeleton(id), at_ms]);
    let statement = format!(
        "INSERT INTO account (user_id, username, id_skeleton, is_disabled, created_ms, changed_ms,
         tokens_from_ms)
         SELECT value->>0, value->>1, value->>2, FALSE, CAST(value->>3 AS BIGINT), {},
         CAST(value->>3 AS BIGINT) FROM {{rows}} WHERE TRUE
         ON CONFLICT (user_id) DO UPDATE SET kept_token = NULL, changed_ms = excluded.changed_ms,
         tokens_from_ms = {}",
        stamp("CAST(value->>3 AS BIGINT)"),
        end_stamp("excluded.tokens_from_ms")
    );
    insert(connection, address, &statement, vec![row]).await?;
    // The stamp covers them.
    let delete = "DELETE FROM revoked_token WHERE user_id = $1";
    sqlx::query(delete).bind(id.to_owned()).execute(connection).await?;
    Ok(())
}

/// Gives a removed user, who shows a newer token of another issuer, the name back.
async fn come_back(
    connection: &mut AnyConnection,
    address: &Address,
    rows: Vec<Value>,
) -> Result<(), sqlx::Error> {
    let statement = format!(
        "UPDATE account SET username = given.name, changed_ms = {}
         FROM (SELECT value->>0 AS id, value->>1 AS name, CAST(value->>3 AS BIGINT) AS at_ms
             FROM {{rows}}) AS given
         WHERE account.user_id = given.id AND account.username = '' AND NOT account.is_disabled",
        stamp("given.at_ms")
    );
    insert(connection, address, &statement, rows).await?;
    Ok(())
}

/// Removes an account. A row without a name stays, so that its tokens stay invalid everywhere: for
/// good if it had a password, because its id is never given to another account; otherwise until its
/// issuer makes the user a newer one.
pub(super) async fn remove(
    connection: &mut AnyConnection,
    address: &Address,
    person: &Person,
    at_ms: u64,
) -> Result<(), sqlx::Error> {
    end_tokens(connection, address, person, at_ms).await?;
    for statement in [
        "UPDATE account SET is_disabled = (password_hash IS NOT NULL OR is_disabled), username = '',
         login = NULL, name_key = NULL, name_skeleton = NULL, email = NULL, password_hash = NULL,
         scope = NULL WHERE user_id = $1",
        // The eldest other member manages a group from here on. A group without others ends.
        "UPDATE chat_group SET owner = (SELECT one.user_id FROM group_member AS one
             WHERE one.group_id = chat_group.group_id AND one.user_id <> $1
             ORDER BY one.number LIMIT 1)
         WHERE owner = $1 AND EXISTS (SELECT 1 FROM group_member AS one
             WHERE one.group_id = chat_group.group_id AND one.user_id <> $1)",
        "DELETE FROM group_member WHERE user_id = $1",
        "DELETE FROM group_invitation WHERE user_id = $1
         OR group_id IN (SELECT group_id FROM chat_group WHERE owner = $1)",
        "DELETE FROM chat_group WHERE owner = $1",
        "DELETE FROM inbox WHERE user_id = $1",
    ] {
        let id = person.user_id.as_str().to_owned();
        sqlx::query(statement).bind(id).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Ends one token, given by its id and the second at which it runs out. Returns false if there is
/// no room for it.
pub(super) async fn end_token(
    connection: &mut AnyConnection,
    address: &Address,
    user_id: Option<&UserId>,
    (token, expires_s): &(String, u64),
    at_ms: u64,
) -> Result<bool, sqlx::Error> {
    let expired = "DELETE FROM revoked_token WHERE expires_s < $1";
    let past_s = (at_ms / 1_000).saturating_sub(limits::REVOKED_TOKEN_REST_S).cast_signed();
    sqlx::query(expired).bind(past_s).execute(&mut *connection).await?;
    let next = "COALESCE((SELECT MAX(changed_ms) FROM revoked_token), 0) + 1";
    let at = "CAST(value->>3 AS BIGINT)";
    // A token's expiry may lie beyond the numbers of a database.
    let expires_s = (*expires_s).min(i64::MAX.cast_unsigned());
    let row = json!([token, user_id.map_or("", |id| id.as_str()), expires_s, at_ms]);
    let statement = format!(
        "INSERT INTO revoked_token (token_id, user_id, expires_s, changed_ms)
         SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT),
         CASE WHEN {at} >= {next} THEN {at} ELSE {next} END
         FROM {{rows}} WHERE (SELECT COUNT(*) FROM revoked_token) < {}
         AND (SELECT COUNT(*) FROM revoked_token WHERE user_id = value->>1) < {}
         ON CONFLICT DO NOTHING",
        limits::REVOKED_TOKENS_MAX,
        limits::REVOKED_TOKENS_PER_USER_MAX
    );
    if insert(connection, address, &statement, vec![row]).await? == 1 {
        return Ok(true);
    }
    let known = "SELECT 1 FROM revoked_token WHERE token_id = $1";
    let known = sqlx::query(known).bind(token.clone()).fetch_optional(connection).await?;
    Ok(known.is_some())
}

/// Fills the keys of names, of accounts that an older release wrote.
pub(super) async fn fill_names(
    connection: &mut AnyConnection,
    address: &Address,
) -> Result<(), sqlx::Error> {
    let missing = "SELECT 1 FROM account WHERE id_skeleton IS NULL LIMIT 1";
    if sqlx::query(missing).fetch_optional(&mut *connection).await?.is_none() {
        return Ok(());
    }
    let mut change = connection.begin().await?;
    if let Address::Postgres(_) = address {
        // Nodes that start together wait for each other here; the later ones find nothing to do.
        let lock = "SELECT pg_advisory_xact_lock($1) IS NULL AS is_taken";
        sqlx::query(lock).bind(PEOPLE_LOCK).execute(&mut *change).await?;
    }
    let (mut keys, mut skeletons) = (HashSet::new(), HashSet::new());
    let filled = "SELECT name_key, name_skeleton FROM account WHERE name_key IS NOT NULL";
    for row in sqlx::query(filled).fetch_all(&mut *change).await? {
        keys.insert(row.try_get::<String, _>("name_key")?);
        skeletons.extend(row.try_get::<Option<String>, _>("name_skeleton")?);
    }
    let missing = "SELECT user_id, username, login FROM account WHERE id_skeleton IS NULL
        ORDER BY created_ms, user_id";
    let mut rows = Vec::new();
    for row in sqlx::query(missing).fetch_all(&mut *change).await? {
        let (id, username): (String, String) = (row.try_get("user_id")?, row.try_get("username")?);
        let has_login = row.try_get::<Option<String>, _>("login")?.is_some();
        let [mut key, mut drawn] = [Value::Null, Value::Null];
        if has_login {
            let [its_key, its_skeleton] = [names::key(&username), names::skeleton(&username)];
            if keys.insert(its_key.clone()) {
                key = its_key.into();
                if skeletons.insert(its_skeleton.clone()) {
                    drawn = its_skeleton.into();
                }
            } else {
                tracing::warn!(
                    user_id = id,
                    "an account's name is the same as an older one's but for case or form; it \
                     signs in under exactly its own spelling"
                );
            }
        }
        rows.push(json!([id, key, drawn, names::id_skeleton(&id)]));
    }
    let statement = "UPDATE account SET name_key = given.key, name_skeleton = given.drawn,
        id_skeleton = given.id_drawn
        FROM (SELECT value->>0 AS id, value->>1 AS key, value->>2 AS drawn,
            value->>3 AS id_drawn FROM {rows}) AS given WHERE account.user_id = given.id";
    for rows in rows.chunks(limits::ACCOUNTS_PAGE) {
        insert(&mut change, address, statement, rows.to_vec()).await?;
    }
    change.commit().await
}
