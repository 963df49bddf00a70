//! What the command line does to accounts: straight in the database, beside a running server, which
//! sees it within a second.
//!
//! Imports `id`. Imported by the binary.

use std::path::Path;

use sqlx::{AnyConnection, Connection};

use super::database::{Address, Mode, connect, insert};
use super::library::{ACCOUNT, Account, account, account_of};
use super::people;
use crate::id::UserId;
use crate::state::durable::Write;
use crate::wire::refusal::Code;

/// The accounts of a database.
#[derive(Debug)]
pub struct Accounts {
    runtime: tokio::runtime::Runtime,
    connection: AnyConnection,
    address: Address,
}

/// Why something cannot be done to an account, in words for whoever asked.
pub type AccountError = String;

impl Accounts {
    /// Opens the database at `url`, or the embedded one in `data_dir`.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened.
    pub fn open(url: Option<&str>, data_dir: &Path) -> Result<Accounts, AccountError> {
        let address = Address::new(url, data_dir).map_err(|fault| fault.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|fault| fault.to_string())?;
        let connection = runtime
            .block_on(connect(&address, None))
            .map_err(|fault| format!("the database {} cannot be used: {fault}", address.shown()))?;
        Ok(Accounts { runtime, connection, address })
    }

    /// Adds an account with a password that has been hashed, and with scopes.
    ///
    /// # Errors
    ///
    /// Where the name is taken.
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
        let results = runtime.block_on(async {
            let mut change = connection.begin().await?;
            let results =
                people::execute(&mut change, address, Mode::Alone, std::slice::from_ref(&write))
                    .await?;
            if let (Some(scope), [Ok(_)]) = (scope, &*results) {
                set_scope(&mut change, address, &user_id, scope, at_ms).await?;
            }
            change.commit().await?;
            Ok::<_, sqlx::Error>(results)
        });
        match results.map_err(|fault| fault.to_string())?.pop() {
            Some(Ok(_)) => Ok(user_id),
            Some(Err(refusal)) if refusal.code == Code::Conflict => {
                Err(format!("the username {username} is taken"))
            }
            _ => Err(String::from("the account could not be added")),
        }
    }

    /// Every account, oldest first, those included that only a token was seen of.
    ///
    /// # Errors
    ///
    /// The database's.
    pub fn list(&mut self) -> Result<Vec<Account>, AccountError> {
        let all = format!("{ACCOUNT} ORDER BY created_ms, user_id");
        let query = sqlx::query(sqlx::AssertSqlSafe(all));
        let rows = self.runtime.block_on(query.fetch_all(&mut self.connection));
        let rows = rows.map_err(|fault| fault.to_string())?;
        rows.iter().map(account_of).collect::<Result<_, _>>().map_err(|fault| fault.to_string())
    }

    /// Sets what an account may do with its name and password, by its user id or its name. An empty
    /// text is nothing.
    ///
    /// # Errors
    ///
    /// Where nobody has that name or id.
    pub fn set_scope(
        &mut self,
        who: &str,
        scope: &str,
        at_ms: u64,
    ) -> Result<UserId, AccountError> {
        let Accounts { runtime, connection, address } = self;
        let who = who.to_owned();
        runtime
            .block_on(async {
                let user_id = user_of(connection, &who).await?;
                let count = set_scope(connection, address, &user_id, scope, at_ms).await?;
                Ok::<_, sqlx::Error>((count > 0).then_some(user_id))
            })
            .map_err(|fault| fault.to_string())?
            .ok_or_else(|| format!("there is no user {who}"))
    }

    /// Disables an account, by its user id or its name, or enables it again. A user of whom only a
    /// token exists, and who was never seen, is disabled by the id.
    ///
    /// # Errors
    ///
    /// Where nobody has that name or id.
    pub fn set_disabled(
        &mut self,
        who: &str,
        is_disabled: bool,
        at_ms: u64,
    ) -> Result<UserId, AccountError> {
        let Accounts { runtime, connection, address } = self;
        let who = who.to_owned();
        runtime
            .block_on(async {
                let user_id = user_of(connection, &who).await?;
                let row = serde_json::json!([user_id.as_str(), i32::from(is_disabled), at_ms]);
                let statement = format!(
                    "UPDATE account SET
                     is_disabled = (SELECT CAST(value->>1 AS BOOLEAN) FROM {{rows}}),
                     changed_ms = (SELECT {} FROM {{rows}})
                     WHERE user_id = (SELECT value->>0 FROM {{rows}})",
                    people::stamp("CAST(value->>2 AS BIGINT)")
                );
                let count = insert(connection, address, &statement, vec![row]).await?;
                Ok::<_, sqlx::Error>((count > 0).then_some(user_id))
            })
            .map_err(|fault| fault.to_string())?
            .ok_or_else(|| format!("there is no user {who}"))
    }
}

/// The user of a sign-in name, else whoever has it as their id.
async fn user_of(connection: &mut AnyConnection, who: &str) -> Result<UserId, sqlx::Error> {
    let by_name = account(connection, &who.to_lowercase()).await?.map(|account| account.user_id);
    Ok(by_name.unwrap_or_else(|| UserId::new(who)))
}

async fn set_scope(
    connection: &mut AnyConnection,
    address: &Address,
    user_id: &UserId,
    scope: &str,
    at_ms: u64,
) -> Result<u64, sqlx::Error> {
    let scope = Some(scope.trim()).filter(|scope| !scope.is_empty());
    let row = serde_json::json!([user_id.as_str(), scope, at_ms]);
    let statement = format!(
        "UPDATE account SET
         scope = (SELECT value->>1 FROM {{rows}}),
         changed_ms = (SELECT {} FROM {{rows}})
         WHERE user_id = (SELECT value->>0 FROM {{rows}})",
        people::stamp("CAST(value->>2 AS BIGINT)")
    );
    insert(connection, address, &statement, vec![row]).await
}
