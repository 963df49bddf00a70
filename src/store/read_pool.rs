//! Read queries, on connections of their own beside the one that writes.
//!
//! A thread drives a few connections. The caller awaits the answer on its own thread, so a slow
//! query delays no other caller.
//!
//! Imports its siblings, `auth`, `id`, `limits`, `state` and `wire`. Imported by `http`.

use std::future::Future;
use std::pin::Pin;
use std::thread::JoinHandle;
use std::time::Duration;

use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{AnyConnection, AnyPool, Row};
use tokio::sync::{mpsc, oneshot};

use super::address::Address;
use super::audit::{self, AuditPage, AuditQuery};
use super::statement::unsigned;
use super::{account_poller, people};
use crate::auth::{Standing, names};
use crate::id::{MessageId, UserId};
use crate::limits;
use crate::state::durable::AccountChange;
use crate::state::journal::{Addressee, JournalEntry};
use crate::wire::refusal::{Code, Refusal};

type Work = Box<dyn FnOnce(AnyPool) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReadPool {
    queue: Option<mpsc::Sender<Work>>,
}

/// An account with the fields for a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub user_id: UserId,
    /// The name as it was registered.
    pub username: String,
    /// The mail address.
    pub email: Option<String>,
    /// argon2id, in the PHC string format; none for a user without an account.
    pub password_hash: Option<String>,
    /// The key of its name; none if it has no name to sign in with.
    pub name_key: Option<Box<str>>,
    /// Whether it may sign in, and which of its tokens are valid.
    pub standing: Standing,
    /// The scopes of its name and password in place of a token, between spaces.
    pub scope: Option<String>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was last changed.
    pub changed_ms: u64,
}

impl Account {
    /// Whether it was removed. The remaining row keeps its tokens invalid.
    pub fn is_removed(&self) -> bool {
        self.username.is_empty()
    }

    /// The part of it that control needs.
    fn change(self) -> AccountChange {
        let is_removed = self.is_removed();
        let Account { user_id, name_key, standing, changed_ms, .. } = self;
        AccountChange { user_id, name_key, standing, is_removed, changed_ms }
    }
}

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its id.
    pub id: String,
    /// Its author.
    pub from_user_id: String,
    /// Its receiver, if it is direct.
    pub to_user_id: Option<String>,
    /// Which group it is for, if it is for one.
    pub group_id: Option<String>,
    /// Its content.
    pub content: String,
    /// When, in seconds since the Unix epoch.
    pub created_at: u64,
}

impl StoredMessage {
    /// A message that is accepted and not written yet.
    pub fn of(entry: &JournalEntry) -> StoredMessage {
        let (to_user_id, group_id) = match &entry.message.to {
            Addressee::User(to) => (Some(to.as_str().to_owned()), None),
            Addressee::Group { group_id, .. } => (None, Some(group_id.clone())),
        };
        StoredMessage {
            id: entry.id.to_string(),
            from_user_id: entry.message.from.as_str().to_owned(),
            to_user_id,
            group_id,
            content: entry.message.content.clone(),
            created_at: entry.at_s(),
        }
    }
}

/// A group, as its members see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub group_id: String,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: UserId,
    /// Its members in the order in which they came, the owner among them. Empty in a list.
    pub members: Vec<UserId>,
    /// The invited users, in the order of their invitations. Empty in a list.
    pub invited: Vec<UserId>,
    /// When it came to be, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// An invitation to a group that its user has not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The group's id.
    pub group_id: String,
    /// The group's name.
    pub name: String,
    /// The group's owner.
    pub owner: UserId,
    /// The user who invites.
    pub invited_by: UserId,
    /// When, in milliseconds since the Unix epoch.
    pub invited_ms: u64,
}

impl ReadPool {
    /// A pool without a database: every query is `unavailable`.
    pub fn closed() -> ReadPool {
        ReadPool { queue: None }
    }

    /// Whether there is a database behind it, well or not.
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Opens the database for reading. `tell_watch` gets changes of accounts and tokens by others
    /// after the `known` stamps: by the command line, or another node.
    pub(super) fn open(
        address: Address,
        known: account_poller::Known,
        tell_watch: account_poller::Tell,
    ) -> std::io::Result<(ReadPool, JoinHandle<()>)> {
        let (queue, mut questions) = mpsc::channel::<Work>(limits::QUERIES_WAITING_MAX);
        let (tell, opened) = crossbeam_channel::bounded(1);
        let thread =
            std::thread::Builder::new().name(String::from("store-reads")).spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let Ok(runtime) = runtime else {
                    tracing::error!("the store's readers do not start");
                    return;
                };
                runtime.block_on(async move {
                    let Ok(options) = address.options() else {
                        tracing::error!("the database's address cannot be read");
                        return;
                    };
                    let pool = AnyPoolOptions::new()
                        .max_connections(limits::STORE_READERS)
                        .acquire_timeout(Duration::from_millis(limits::QUERY_TIMEOUT_MS))
                        .connect_lazy_with(options);
                    // The first connection now, so that its faults show at the start.
                    let first = pool.acquire().await.ok();
                    let _ = tell.send(());
                    let watch =
                        account_poller::accounts(pool.clone(), first, address, known, tell_watch);
                    let watch = tokio::spawn(watch);
                    while let Some(work) = questions.recv().await {
                        tokio::spawn(work(pool.clone()));
                    }
                    watch.abort();
                    pool.close().await;
                });
            })?;
        // Without a connection the thread has logged why, and every query is unavailable.
        let _ = opened.recv();
        Ok((ReadPool { queue: Some(queue) }, thread))
    }

    async fn ask<T, F, Answer>(&self, question: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(AnyPool) -> Answer + Send + 'static,
        Answer: Future<Output = Result<T, sqlx::Error>> + Send + 'static,
    {
        let queue = self.queue.as_ref().ok_or_else(Refusal::unavailable)?;
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |pool| {
            Box::pin(async move {
                let patience = Duration::from_millis(limits::QUERY_TIMEOUT_MS);
                let result = match tokio::time::timeout(patience, question(pool)).await {
                    Ok(Ok(found)) => Ok(found),
                    Ok(Err(fault)) => {
                        tracing::error!(%fault, "a query failed");
                        Err(Refusal::unavailable())
                    }
                    Err(_) => {
                        tracing::error!("a query took too long");
                        Err(Refusal::unavailable())
                    }
                };
                // The caller may have gone.
                let _ = reply.send(result);
            })
        });
        queue.try_send(work).map_err(|_| Refusal::unavailable())?;
        answer.await.map_err(|_| Refusal::unavailable())?
    }

    /// A page of the audit log.
    pub async fn audit(&self, query: AuditQuery) -> Result<AuditPage, Refusal> {
        self.ask(|pool| async move { audit::read(&pool, &query).await }).await
    }

    /// The account with this username, in any case or form.
    pub async fn account(&self, username: &str) -> Result<Option<Account>, Refusal> {
        let username = username.to_owned();
        if username.contains('\0') {
            return Ok(None);
        }
        self.ask(|pool| async move {
            let mut connection = pool.acquire().await?;
            account_named(&mut connection, &username).await
        })
        .await
    }

    /// The account of a user id. A name is none.
    pub async fn account_of(&self, user: &UserId) -> Result<Option<Account>, Refusal> {
        let user = user.clone();
        if user.as_str().contains('\0') {
            return Ok(None);
        }
        self.ask(|pool| async move {
            let mut connection = pool.acquire().await?;
            account_with_id(&mut connection, &user).await
        })
        .await
    }

    /// The parts for control of a user that this node may not know yet: by a user id, or by a name
    /// if the text begins with `name:`.
    pub async fn change_of(&self, user: &UserId) -> Result<Option<AccountChange>, Refusal> {
        let account = match names::named(user.as_str()) {
            Some(name) => self.account(name).await?,
            None => self.account_of(user).await?,
        };
        Ok(account.map(Account::change))
    }

    /// Messages to and from a user after an id, oldest first; at most `limit`.
    pub async fn messages(
        &self,
        user: &UserId,
        after: Option<MessageId>,
        limit: usize,
        with: Option<UserId>,
    ) -> Result<Vec<StoredMessage>, Refusal> {
        let user = user.as_str().to_owned();
        let after = after.map_or_else(String::new, |id| id.to_string());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.ask(move |pool| async move {
            // The messages in the inbox, and those that came since; the limit bounds the first, the
            // merging of inboxes the second.
            let (old, fresh) = match with {
                None => ("", "from_user_id = $1 OR to_user_id = $1"),
                Some(_) => (
                    "AND with_user = $4",
                    "(from_user_id = $1 AND to_user_id = $4)
                     OR (from_user_id = $4 AND to_user_id = $1)",
                ),
            };
            let statement = format!(
                "SELECT id, from_user_id, to_user_id, group_id, content, created_at
                 FROM message WHERE id IN (
                     SELECT message_id FROM (
                         SELECT message_id FROM inbox
                         WHERE user_id = $1 AND message_id > $2 {old}
                         ORDER BY message_id LIMIT $3
                     ) AS old
                     UNION
                     SELECT id FROM message
                     WHERE id > (SELECT up_to FROM inbox_state) AND id > $2
                     AND to_user_id IS NOT NULL AND ({fresh})
                 ) ORDER BY id LIMIT $3"
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(statement));
            let query = query.bind(user).bind(after).bind(limit);
            let query = match with {
                None => query,
                Some(with) => query.bind(with.as_str().to_owned()),
            };
            let rows = query.fetch_all(&pool).await?;
            rows.iter().map(stored_message).collect()
        })
        .await
    }

    /// The groups that a user is a member of, oldest first.
    pub async fn groups(&self, user: &UserId) -> Result<Vec<Group>, Refusal> {
        let user = user.as_str().to_owned();
        self.ask(move |pool| async move {
            let rows = sqlx::query(
                "SELECT g.group_id, g.name, g.owner, g.created_ms FROM group_member m
                 JOIN chat_group g ON g.group_id = m.group_id WHERE m.user_id = $1
                 ORDER BY g.created_ms, g.group_id LIMIT $2",
            )
            .bind(user)
            .bind(i64::try_from(limits::LISTED_MAX).unwrap_or(i64::MAX))
            .fetch_all(&pool)
            .await?;
            rows.iter().map(group).collect()
        })
        .await
    }

    /// The invitations that a user has not answered, oldest first.
    pub async fn invitations(&self, user: &UserId) -> Result<Vec<Invitation>, Refusal> {
        let user = user.as_str().to_owned();
        self.ask(move |pool| async move {
            let rows = sqlx::query(
                "SELECT g.group_id, g.name, g.owner, i.invited_by, i.invited_ms
                 FROM group_invitation i JOIN chat_group g ON g.group_id = i.group_id
                 WHERE i.user_id = $1 ORDER BY i.invited_ms, g.group_id LIMIT $2",
            )
            .bind(user)
            .bind(i64::try_from(limits::INVITATIONS_PER_USER_MAX).unwrap_or(i64::MAX))
            .fetch_all(&pool)
            .await?;
            rows.iter().map(invitation).collect()
        })
        .await
    }

    /// A group with its members, for one of its members.
    pub async fn group(&self, group_id: &str, user: &UserId) -> Result<Group, Refusal> {
        let (group_id, user) = (group_id.to_owned(), user.clone());
        let found = self.ask(move |pool| async move {
            let mut connection = pool.acquire().await?;
            let members = people::members(&mut connection, &group_id).await?;
            if members.is_empty() {
                return Ok(None);
            }
            let row = sqlx::query(
                "SELECT group_id, name, owner, created_ms FROM chat_group WHERE group_id = $1",
            )
            .bind(group_id.clone())
            .fetch_optional(&mut *connection)
            .await?;
            let found = row.as_ref().map(group).transpose()?;
            let invited = "SELECT user_id FROM group_invitation WHERE group_id = $1
                ORDER BY invited_ms, user_id";
            let rows = sqlx::query(invited).bind(group_id).fetch_all(&mut *connection).await?;
            let invited: Result<Vec<UserId>, sqlx::Error> =
                rows.iter().map(|row| Ok(UserId::new(row.try_get("user_id")?))).collect();
            let invited = invited?;
            Ok(found.map(|found| Group { members, invited, ..found }))
        });
        match found.await? {
            None => Err(Refusal::new(Code::NotFound, "there is no such group")),
            Some(group) if !group.members.contains(&user) => Err(people::stranger()),
            Some(group) => Ok(group),
        }
    }
}

/// Every column of an account.
pub(super) const ACCOUNT: &str = "SELECT user_id, username, email, password_hash,
    CAST(is_disabled AS INTEGER) AS is_disabled, scope, created_ms, changed_ms, name_key,
    tokens_from_ms, kept_token, CASE WHEN username = '' THEN 1 ELSE 0 END AS is_removed
    FROM account";

/// The account that signs in by a name. One of an older release under exactly its own spelling comes
/// before another one whose name has the same form.
pub(super) async fn account_named(
    connection: &mut AnyConnection,
    username: &str,
) -> Result<Option<Account>, sqlx::Error> {
    let statement = format!(
        "{ACCOUNT} WHERE login = $1 OR name_key = $2
         ORDER BY CASE WHEN login = $1 THEN 0 ELSE 1 END LIMIT 1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(username.to_lowercase())
        .bind(names::key(username))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(account_of).transpose()
}

/// The account of a user id.
pub(super) async fn account_with_id(
    connection: &mut AnyConnection,
    user: &UserId,
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{ACCOUNT} WHERE user_id = $1")))
        .bind(user.as_str().to_owned())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(account_of).transpose()
}

pub(super) fn account_of(row: &AnyRow) -> Result<Account, sqlx::Error> {
    let AccountChange { user_id, name_key, standing, changed_ms, .. } = people::change_of(row)?;
    Ok(Account {
        user_id,
        username: row.try_get("username")?,
        email: row.try_get("email")?,
        password_hash: row.try_get("password_hash")?,
        scope: row.try_get("scope")?,
        created_ms: unsigned(row, "created_ms")?,
        name_key,
        standing,
        changed_ms,
    })
}

fn stored_message(row: &AnyRow) -> Result<StoredMessage, sqlx::Error> {
    Ok(StoredMessage {
        id: row.try_get("id")?,
        from_user_id: row.try_get("from_user_id")?,
        to_user_id: row.try_get("to_user_id")?,
        group_id: row.try_get("group_id")?,
        content: row.try_get("content")?,
        created_at: unsigned(row, "created_at")?,
    })
}

fn group(row: &AnyRow) -> Result<Group, sqlx::Error> {
    Ok(Group {
        group_id: row.try_get("group_id")?,
        name: row.try_get("name")?,
        owner: UserId::new(row.try_get("owner")?),
        members: Vec::new(),
        invited: Vec::new(),
        created_ms: unsigned(row, "created_ms")?,
    })
}

fn invitation(row: &AnyRow) -> Result<Invitation, sqlx::Error> {
    Ok(Invitation {
        group_id: row.try_get("group_id")?,
        name: row.try_get("name")?,
        owner: UserId::new(row.try_get("owner")?),
        invited_by: UserId::new(row.try_get("invited_by")?),
        invited_ms: unsigned(row, "invited_ms")?,
    })
}
