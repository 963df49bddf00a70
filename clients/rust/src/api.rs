//! A server without a client: single HTTP calls, and a plain socket.
//!
//! For tools, and for calls before a connection: making an account, signing in.
//!
//! Imports `clock` and `transport`. Imported by the root and `handle::client`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::address::Address;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::Person;
use crate::transport::http::{self, Call};
use crate::transport::socket::{Incoming, Socket};
use crate::transport::token::{self, BoxError, Issuer, TokenSource};

/// How long a call or a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Largest message that a raw socket takes, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A server, and optionally a token for it, or a source of tokens. Clones share the token.
///
/// ```no_run
/// # async fn example() -> Result<(), fanfare_client::Error> {
/// use fanfare_client::Api;
///
/// let api = Api::new("http://localhost:8080")?;
/// api.create_account("ann", "correct horse", None).await?;
/// let login = api.login("ann", "correct horse").await?;
/// let online = api.with_token(&login.token)?.call("GET", "/ws/online", None).await?;
/// println!("{}", online["count"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Api {
    address: Address,
    source: TokenSource,
    /// The token of the next call.
    token: Arc<Mutex<Option<Arc<str>>>>,
    clock: Clock,
    answer_bytes_max: usize,
}

/// The result of signing in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The token.
    pub token: String,
    /// Its user.
    pub user_id: String,
    /// When it expires, as the server writes it.
    pub expires_at: String,
}

impl Api {
    /// A server by its URL, as for [`crate::Builder::url`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is not a URL of a server.
    pub fn new(url: &str) -> Result<Api, Error> {
        let (address, clock) = (Address::parse(url)?, Clock::start());
        let answer_bytes_max = http::ANSWER_BYTES_MAX;
        Ok(Api {
            address,
            source: TokenSource::None,
            token: Arc::default(),
            clock,
            answer_bytes_max,
        })
    }

    /// The same with another bound of an answer's body than 128 MiB.
    #[must_use]
    pub fn with_answer_bytes_max(mut self, bytes: usize) -> Api {
        self.answer_bytes_max = bytes;
        self
    }

    /// The same with a token.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it does not fit a header.
    pub fn with_token(mut self, token: &str) -> Result<Api, Error> {
        if !token::is_header_safe(token) {
            return Err(Error::invalid("the token does not fit a header"));
        }
        let token: Arc<str> = token.into();
        self.source = TokenSource::Fixed(Arc::clone(&token));
        self.token = Arc::new(Mutex::new(Some(token)));
        Ok(self)
    }

    /// The same with an account of the server, as for [`crate::Builder::login`]. There is no token
    /// before [`Api::renew`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), fanfare_client::Error> {
    /// use fanfare_client::Api;
    ///
    /// let api = Api::new("http://localhost:8080")?.with_login("ann", "correct horse");
    /// api.renew().await?;
    /// let mut socket = api.open_socket().await?;
    /// while let Some(wait) = api.renew_in() {
    ///     tokio::select! {
    ///         text = socket.next() => println!("{}", text?),
    ///         () = tokio::time::sleep(wait) => if let Some(token) = api.renew().await? {
    ///             socket.send(format!(r#"{{"type":"refresh","token":"{token}"}}"#));
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_login(self, username: &str, password: &str) -> Api {
        self.with_source(TokenSource::Login {
            username: username.into(),
            password: password.into(),
        })
    }

    /// The same with tokens from a closure, as for [`crate::Builder::token_source`]. There is no
    /// token before [`Api::renew`].
    #[must_use]
    pub fn with_token_source<F, T>(self, fetch: F) -> Api
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        self.with_source(TokenSource::fetching(fetch))
    }

    fn with_source(mut self, source: TokenSource) -> Api {
        self.source = source;
        self.token = Arc::default();
        self
    }

    /// Gets the first token, or the next one, and uses it for every later call and socket. A login
    /// is renewed by its last token; the password is sent if that is not possible. A fixed token
    /// stays. Returns the token, for the `refresh` of an open socket.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for a wrong name or password, [`Error::Token`] if the closure gave no
    /// token, other errors of the server, or no connection.
    pub async fn renew(&self) -> Result<Option<String>, Error> {
        let now_s = self.clock.now().unix_s();
        let issuer = Issuer { address: &self.address, timeout: PATIENCE, now_s };
        let last = self.token.lock().clone();
        let token = self.source.next(issuer, last.as_deref()).await?;
        self.token.lock().clone_from(&token);
        Ok(token.as_deref().map(str::to_owned))
    }

    /// How long until [`Api::renew`] is due: a fifth of the token's time, at most a minute, before
    /// its end. None if there cannot be another token, if there is no token yet, or if it has no
    /// end.
    pub fn renew_in(&self) -> Option<Duration> {
        let token = self.token.lock().clone().filter(|_| self.source.is_renewable())?;
        token::refresh_in_ms(&token, self.clock.now().wall_ms).map(Duration::from_millis)
    }

    /// Makes a call and returns the body of its answer, within 10 s.
    ///
    /// # Errors
    ///
    /// [`Error::Status`] for an answer other than success, or no connection.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Error> {
        let method = http::checked(method, path)?;
        let token = self.token.lock().clone();
        let (address, token) = (&self.address, token.as_deref());
        let (answer_bytes_max, timeout) = (self.answer_bytes_max, PATIENCE);
        http::call(Call { address, token, method, path, body, answer_bytes_max, timeout }).await
    }

    /// Makes an account. Returns the user's id.
    ///
    /// # Errors
    ///
    /// [`Error::Status`] 409 if the name is taken, 400 if the password is too short.
    pub async fn create_account(
        &self,
        username: &str,
        password: &str,
        email: Option<&str>,
    ) -> Result<String, Error> {
        let mut body = json!({"username": username, "password": password});
        if let Some(email) = email {
            body["email"] = Value::from(email);
        }
        let answer = self.call("POST", "/api/v1/users/register", Some(body)).await?;
        Ok(text(&answer["user_id"]))
    }

    /// Signs in one time. For tokens that are renewed, see [`Api::with_login`].
    ///
    /// # Errors
    ///
    /// [`Error::Status`] 401 for a wrong name or password, 429 after too many of them.
    pub async fn login(&self, username: &str, password: &str) -> Result<Login, Error> {
        let body = json!({"username": username, "password": password});
        let answer = self.call("POST", "/api/v1/users/login", Some(body)).await?;
        Ok(Login {
            token: text(&answer["token"]),
            user_id: text(&answer["user_id"]),
            expires_at: text(&answer["expires_at"]),
        })
    }

    /// The user with this name, in any case; none if there is no such account.
    ///
    /// # Errors
    ///
    /// [`Error::Status`] 401 or 403 if the server wants a token with the scope `message`, 429 after
    /// too many unknown names.
    pub async fn find_user(&self, name: &str) -> Result<Option<Person>, Error> {
        match self.call("GET", &find_path(name), None).await {
            Ok(answer) => Ok(Some(found(&answer))),
            Err(Error::Status { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a socket that only answers pings by itself, within 10 s.
    ///
    /// # Errors
    ///
    /// [`Error::Status`] if the server refuses it, or no connection.
    pub async fn open_socket(&self) -> Result<RawSocket, Error> {
        let token = self.token.lock().clone();
        let opening = Socket::open(&self.address, token.as_deref(), MESSAGE_BYTES_MAX);
        let socket =
            tokio::time::timeout(PATIENCE, opening).await.map_err(|_| Error::Timeout)??;
        Ok(RawSocket { socket })
    }
}

/// The call that finds a user by name.
pub(crate) fn find_path(name: &str) -> String {
    let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("/api/v1/users?name={name}")
}

/// Its answer.
pub(crate) fn found(answer: &Value) -> Person {
    Person { user_id: text(&answer["user_id"]), username: text(&answer["username"]) }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A socket without reconnects or subscriptions: JSON texts both ways.
///
/// ```no_run
/// # async fn example() -> Result<(), fanfare_client::Error> {
/// let mut socket = fanfare_client::Api::new("http://localhost:8080")?.open_socket().await?;
/// println!("{}", socket.next().await?); // the welcome
/// socket.send(r#"{"type":"ping"}"#);
/// println!("{}", socket.next().await?);
/// socket.close().await;
/// # Ok(())
/// # }
/// ```
pub struct RawSocket {
    socket: Socket,
}

impl RawSocket {
    /// Sends a text, while [`RawSocket::next`] is awaited. Unsent texts are kept without a bound:
    /// see [`RawSocket::has_room`].
    pub fn send(&mut self, text: impl Into<String>) {
        self.socket.push(text.into());
    }

    /// Whether fewer than 256 texts wait to be sent.
    pub fn has_room(&self) -> bool {
        self.socket.has_room()
    }

    /// The next text. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// The reason why the connection has ended.
    pub async fn next(&mut self) -> Result<String, Error> {
        loop {
            if let Incoming::Text(text) = self.socket.next().await? {
                return Ok(text.as_str().to_owned());
            }
        }
    }

    /// Closes the socket and waits for the server's close frame, for at most 2 s.
    pub async fn close(mut self) {
        self.socket.close();
        let closed = async { while self.socket.next().await.is_ok() {} };
        // The server's answer makes no difference now.
        let _ = tokio::time::timeout(Duration::from_secs(2), closed).await;
    }
}
