//! Accounts as the command line changes them: directly in the database. A running server sees the change
//! within a second.
//!
//! An id is looked up among ids and a name among names. A text that may be either is accepted if it
//! fits one account, and refused if it fits two.
//!
//! Imports its siblings, `auth`, `id`, `limits`, `state` and `wire`. Imported by the binary.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection};

use super::address::{Address, Mode};
use super::database::{connect, is_without_tables, timed_out};
use super::read_pool::{ACCOUNT, Account, account_named, account_of, account_with_id};
use super::statement::insert;
use super::{StoreError, logins, people};
use crate::auth::{Scopes, TokenId};
use crate::id::UserId;
use crate::limits;
use crate::state::durable::Write;
use crate::state::people::Person;
use crate::wire::refusal::Code;

/// The accounts of a database.
#[derive(Debug)]
pub struct Accounts {
    runtime: tokio::runtime::Runtime,
    connection: AnyConnection,
    address: Address,
}

/// The fault of a command on an account, as a text for the operator.
pub type AccountError = String;

impl Accounts {
    /// Opens a database, and makes its tables if there are none.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub fn open(address: &Address) -> Result<Accounts, AccountError> {
        let (runtime, address) = (runtime()?, address.clone());
        let connection =
            runtime.block_on(connect(&address, None)).map_err(|fault| explain(&address, fault))?;
        Ok(Accounts { runtime, connection, address })
    }

    /// Whether a database is without a server's tables. Changes nothing there.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub fn is_empty(address: &Address) -> Result<bool, AccountError> {
        let is_empty = runtime()?.block_on(is_without_tables(address));
        is_empty.map_err(|fault| explain(address, fault))
    }

    /// Adds an account with the hash of its password, and with scopes.
    ///
    /// # Errors
    ///
    /// If the name is taken.
    pub fn add(
        &mut self,
        username: &str,
        email: Option<&str>,
        password_hash: &str,
        scope: Option<&str>,
        at_ms: u64,
    ) -> Result<UserId, AccountError> {
        let user_id = UserId::new(&uuid::Uuid::new_v4().hyphenated().to_string());
        let write = Write::Account {
            user_id: user_id.clone(),
            username: username.to_owned(),
            email: email.map(str::to_owned),
            password_hash: password_hash.to_owned(),
            at_ms,
        };
        let Accounts { runtime, connection, address } = self;
        let results = runtime.block_on(in_time(async {
            let mut change = connection.begin().await?;
            let results =
                people::execute(&mut change, address, Mode::Alone, std::slice::from_ref(&write))
                    .await?;
            if let (Some(scope), [Ok(_)]) = (scope, &*results) {
                set_scope(&mut change, address, &user_id, scope).await?;
            }
            change.commit().await?;
            Ok::<_, sqlx::Error>(results)
        }));
        match results.map_err(|fault| explain(address, fault))?.pop() {
            Some(Ok(_)) => Ok(user_id),
            Some(Err(refusal)) if refusal.code == Code::Conflict => Err(format!(
                "the username {username} is taken, looks like one that is, or is a user's id"
            )),
            _ => Err(String::from("the account could not be added")),
        }
    }

    /// Every account, oldest first, users without an account included.
    ///
    /// # Errors
    ///
    /// The database's.
    pub fn list(&mut self) -> Result<Vec<Account>, AccountError> {
        let all = format!("{ACCOUNT} ORDER BY created_ms, user_id");
        let query = sqlx::query(sqlx::AssertSqlSafe(all));
        let rows = self.runtime.block_on(in_time(query.fetch_all(&mut self.connection)));
        let rows = rows.map_err(|fault| explain(&self.address, fault))?;
        let mut accounts: Vec<Account> = rows
            .iter()
            .map(account_of)
            .collect::<Result<_, _>>()
            .map_err(|fault| fault.to_string())?;
        accounts.retain(|account| !account.is_removed());
        Ok(accounts)
    }

    /// Sets the scopes of an account. An empty text is none. If that removes a scope, the tokens
    /// made so far are ended; returns whether they are.
    ///
    /// # Errors
    ///
    /// If `who` is not exactly one account.
    pub fn set_scope(
        &mut self,
        who: &Who,
        scope: &str,
        at_ms: u64,
    ) -> Result<(UserId, bool), AccountError> {
        let account = self.find(who)?;
        let scope = Some(scope.trim()).filter(|scope| !scope.is_empty());
        let scopes = |claim: Option<&str>| Scopes::from_claim(claim.unwrap_or_default());
        let is_less = !scopes(scope).contains(scopes(account.scope.as_deref()));
        let mut set = String::from("scope = given.text");
        if is_less {
            let end = logins::end_stamp("given.at_ms");
            set += &format!(", kept_token = NULL, tokens_from_ms = {end}");
        }
        let who = Who::Id(account.user_id.as_str().to_owned());
        Ok((self.update(&who, &set, &scope.into(), at_ms)?, is_less))
    }

    /// Removes an account: its name is free again, its tokens are ended, and its groups go on under
    /// their eldest member.
    ///
    /// # Errors
    ///
    /// If `who` is not exactly one account.
    pub fn remove(&mut self, who: &Who, at_ms: u64) -> Result<UserId, AccountError> {
        let account = self.find(who)?;
        let person = Person { user_id: account.user_id.clone(), username: account.username.into() };
        let write = Write::RemoveAccount { person, at_ms };
        let Accounts { runtime, connection, address } = self;
        runtime
            .block_on(in_time(async {
                let mut change = connection.begin().await?;
                let write = std::slice::from_ref(&write);
                people::execute(&mut change, address, Mode::Alone, write).await?;
                change.commit().await
            }))
            .map_err(|fault: sqlx::Error| explain(address, fault))?;
        Ok(account.user_id)
    }

    /// Disables an account, or enables it again.
    ///
    /// # Errors
    ///
    /// If `who` is not exactly one account.
    pub fn set_disabled(
        &mut self,
        who: &Who,
        is_disabled: bool,
        at_ms: u64,
    ) -> Result<UserId, AccountError> {
        let flag = i32::from(is_disabled).to_string();
        let set = "is_disabled = CAST(CAST(given.text AS INTEGER) AS BOOLEAN)";
        self.update(who, set, &flag.into(), at_ms)
    }

    /// Gives an account another password, by its hash, and ends the tokens made so far.
    ///
    /// # Errors
    ///
    /// If `who` is not exactly one account, or one without a name to sign in with.
    pub fn set_password(
        &mut self,
        who: &Who,
        password_hash: &str,
        at_ms: u64,
    ) -> Result<UserId, AccountError> {
        let account = self.find(who)?;
        if account.password_hash.is_none() {
            let user_id = account.user_id;
            return Err(format!("the user {user_id} has no name to sign in with, only tokens"));
        }
        let set = format!(
            "password_hash = given.text, kept_token = NULL, tokens_from_ms = {}",
            logins::end_stamp("given.at_ms")
        );
        self.update(
            &Who::Id(account.user_id.as_str().to_owned()),
            &set,
            &password_hash.into(),
            at_ms,
        )
    }

    /// Ends all tokens of an account made so far.
    ///
    /// # Errors
    ///
    /// If `who` is not exactly one account.
    pub fn end_tokens(&mut self, who: &Who, at_ms: u64) -> Result<UserId, AccountError> {
        let account = self.find(who)?;
        let person = Person { user_id: account.user_id.clone(), username: account.username.into() };
        let Accounts { runtime, connection, address } = self;
        runtime
            .block_on(in_time(async {
                let mut change = connection.begin().await?;
                logins::end_tokens(&mut change, address, &person, at_ms).await?;
                change.commit().await
            }))
            .map_err(|fault: sqlx::Error| explain(address, fault))?;
        Ok(account.user_id)
    }

    /// Ends one token, which runs out at the second `expires_s`.
    ///
    /// # Errors
    ///
    /// If so many tokens are ended already that there is no room.
    pub fn end_token(
        &mut self,
        token: TokenId,
        user_id: Option<&UserId>,
        expires_s: u64,
        at_ms: u64,
    ) -> Result<(), AccountError> {
        let Accounts { runtime, connection, address } = self;
        let token = (token.to_string(), expires_s);
        let has_room = runtime
            .block_on(in_time(async {
                let mut change = connection.begin().await?;
                let done = logins::end_token(&mut change, address, user_id, &token, at_ms).await?;
                change.commit().await?;
                Ok(done)
            }))
            .map_err(|fault: sqlx::Error| explain(address, fault))?;
        let full = "too many single tokens are revoked; end all tokens of the user in place of one: \
            fanfare user revoke";
        if has_room { Ok(()) } else { Err(String::from(full)) }
    }

    /// Sets columns of one account from `given.text` and `given.at_ms`.
    fn update(
        &mut self,
        who: &Who,
        set: &str,
        text: &Value,
        at_ms: u64,
    ) -> Result<UserId, AccountError> {
        let user_id = self.find(who)?.user_id;
        let row = json!([user_id.as_str(), text, at_ms]);
        let statement = format!(
            "UPDATE account SET {set}, changed_ms = {}
             FROM (SELECT value->>0 AS id, value->>1 AS text, CAST(value->>2 AS BIGINT) AS at_ms
                 FROM {{rows}}) AS given WHERE account.user_id = given.id",
            logins::stamp("given.at_ms")
        );
        let Accounts { runtime, connection, address } = self;
        let count = runtime.block_on(in_time(insert(connection, address, &statement, vec![row])));
        match count.map_err(|fault| explain(address, fault))? {
            0 => Err(format!("there is no user {who}")),
            _ => Ok(user_id),
        }
    }

    /// The one account that `who` names.
    fn find(&mut self, who: &Who) -> Result<Account, AccountError> {
        let Accounts { runtime, connection, address } = self;
        let (id, name) = match who {
            Who::Id(id) => (Some(id), None),
            Who::Name(name) => (None, Some(name)),
            Who::Either(text) => (Some(text), Some(text)),
        };
        let is_possible = |text: &&String| !text.contains('\0');
        let found = runtime.block_on(in_time(async {
            let mut found = (None, None);
            if let Some(id) = id.filter(is_possible) {
                let account = account_with_id(connection, &UserId::new(id)).await?;
                found.0 = account.filter(|account| !account.is_removed());
            }
            if let Some(name) = name.filter(is_possible) {
                found.1 = account_named(connection, name).await?;
            }
            Ok::<_, sqlx::Error>(found)
        }));
        match found.map_err(|fault| explain(address, fault))? {
            (Some(by_id), Some(by_name)) if by_id.user_id != by_name.user_id => Err(format!(
                "{who} is the id of one user ({}, called {}) and the name of another ({}, called \
                 {}): say which with --id or --name",
                by_id.user_id, by_id.username, by_name.user_id, by_name.username
            )),
            (Some(account), _) | (None, Some(account)) => Ok(account),
            (None, None) => Err(format!("there is no user {who}")),
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, AccountError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|fault| fault.to_string())
}

/// Waits for the database no longer than a query may take.
async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let patience = Duration::from_millis(limits::QUERY_TIMEOUT_MS);
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(timed_out()))
}

/// Explains a fault of the database.
fn explain(address: &Address, fault: sqlx::Error) -> AccountError {
    StoreError::Open { path: address.shown(), fault }.to_string()
}

/// The name of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// By its user id.
    Id(String),
    /// By its name.
    Name(String),
    /// By either, if that is one account.
    Either(String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Id(id) => write!(f, "with the id {id}"),
            Who::Name(name) => write!(f, "called {name}"),
            Who::Either(text) => f.write_str(text),
        }
    }
}

async fn set_scope(
    connection: &mut AnyConnection,
    address: &Address,
    user_id: &UserId,
    scope: &str,
) -> Result<(), sqlx::Error> {
    let scope = Some(scope.trim()).filter(|scope| !scope.is_empty());
    let statement = "UPDATE account SET scope = given.text
        FROM (SELECT value->>0 AS id, value->>1 AS text FROM {rows}) AS given
        WHERE account.user_id = given.id";
    insert(connection, address, statement, vec![json!([user_id.as_str(), scope])]).await?;
    Ok(())
}
