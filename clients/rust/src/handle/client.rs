//! The client: its views, leases, messages, and its end.
//!
//! Imports `connection::http_tasks`, `shared` and its siblings. Imported by `builder` and the root.

use std::sync::Arc;

use fanfare_protocol::id::ServiceName;
use fanfare_protocol::instance::{Instance, check_name, check_service_id};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::api;
use crate::connection::http_tasks;
use crate::error::Error;
use crate::event::{Person, Position};
use crate::handle::messaging::{Channel, Envelopes, Messages, Post, Published, Room};
use crate::handle::registration::Lease;
use crate::handle::view::{AllServices, ServiceView};
use crate::shared::{Shared, ShutdownGuard, Status};
use crate::state::room;
use crate::transport::http;

/// A connection to a server, which reconnects when it is lost. Cloning is cheap and gives another
/// handle of the same connection; it ends when the last handle, view, stream and lease is dropped.
#[derive(Clone)]
pub struct Client {
    guard: Arc<ShutdownGuard>,
}

/// A stored message's receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The message's id.
    pub id: String,
    /// When it was stored, in seconds since 1970.
    pub created_at: u64,
}

impl Client {
    pub(crate) fn new(guard: Arc<ShutdownGuard>) -> Client {
        Client { guard }
    }

    fn shared(&self) -> &Shared {
        &self.guard.0
    }

    /// Whether there is a connection, and to which server.
    pub fn status(&self) -> Status {
        self.shared().status.borrow().clone()
    }

    /// The status as it changes.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.shared().status.subscribe()
    }

    /// Follows a service, from now on and over reconnects, while the view lives.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an invalid service name: 1 to 255 bytes, no control characters.
    pub fn watch_service(&self, service: &str) -> Result<ServiceView, Error> {
        check_service_id(service).map_err(Error::Invalid)?;
        Ok(ServiceView::new(&self.guard, ServiceName::of(service)))
    }

    /// Follows every service, also those to come.
    pub fn watch_all(&self) -> AllServices {
        AllServices::new(&self.guard)
    }

    /// Registers an instance and keeps its lease alive. An instance that asks for no lease gets one
    /// of [`LEASE_TTL_MS_DEFAULT`](crate::LEASE_TTL_MS_DEFAULT) milliseconds.
    ///
    /// # Errors
    ///
    /// The fault of the instance, or that this client has registered it already.
    pub fn register(&self, instance: Instance) -> Result<Lease, Error> {
        Lease::new(&self.guard, instance)
    }

    /// Follows a channel from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an invalid channel name: 1 to 255 bytes, no control characters.
    pub fn channel(&self, name: &str) -> Result<Channel, Error> {
        check_channel(name)?;
        Ok(Channel::new(&self.guard, name, None))
    }

    /// Follows a channel from a reader's earlier position. Messages that the history does not have
    /// any more are reported as [`ChannelEvent::Lost`](crate::ChannelEvent::Lost).
    ///
    /// # Errors
    ///
    /// As [`Client::channel`].
    pub fn channel_since(&self, name: &str, since: Position) -> Result<Channel, Error> {
        check_channel(name)?;
        Ok(Channel::new(&self.guard, name, Some(since)))
    }

    /// Publishes a message to a channel.
    ///
    /// # Errors
    ///
    /// The server's refusal, or that there was no answer in time: then it may have been published.
    pub async fn publish(&self, post: Post) -> Result<Published, Error> {
        check_channel(&post.channel)?;
        let silent = post.is_silent.then(|| post.channel.as_str().into());
        let answer = self.shared().request(post.body, None, silent).await?;
        Ok(Published {
            position: Position {
                epoch: answer.epoch.unwrap_or_default(),
                offset: answer.offset.unwrap_or_default(),
            },
            message_id: answer.message_id.unwrap_or_default().into(),
        })
    }

    /// Joins a chat room. For signed-in clients.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an invalid room name: 1 to 250 bytes, no control characters.
    pub fn join(&self, room: &str) -> Result<Room, Error> {
        check_name("room", room).map_err(Error::Invalid)?;
        check_channel(&room::channel_of(room))?;
        Ok(Room::new(&self.guard, room))
    }

    /// Sends an envelope to a user, by id or as `name:bob`, or to every other user online. For
    /// signed-in clients. `data` is a JSON object; text goes as its `content`. Returns the number
    /// of connections that got it: 0 for a user who is offline.
    ///
    /// # Errors
    ///
    /// The server's refusal, as `not_found` for an unknown user, or no answer in time.
    pub async fn send(
        &self,
        message_type: &str,
        data: impl Into<Value>,
        to_user_id: Option<&str>,
    ) -> Result<u64, Error> {
        let mut body = Map::new();
        body.insert(String::from("message_type"), Value::from(message_type));
        body.insert(String::from("data"), data.into());
        if let Some(to) = to_user_id {
            body.insert(String::from("to_user_id"), Value::from(to));
        }
        // Its receivers see the id, and can recognise repeated envelopes by it.
        let id = uuid::Uuid::now_v7().to_string();
        let answer = self.shared().request(body, Some(id), None).await?;
        Ok(answer.data.and_then(|data| data["delivered_to"].as_u64()).unwrap_or_default())
    }

    /// The envelopes that arrive from now on.
    pub fn envelopes(&self) -> Envelopes {
        Envelopes::new(&self.guard)
    }

    /// The direct and group messages to the user: the stored ones, then new ones. For signed-in
    /// clients.
    pub fn messages(&self) -> Messages {
        Messages::new(&self.guard, None)
    }

    /// The same after a message that was handled already.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is not a message's id.
    pub fn messages_after(&self, id: &str) -> Result<Messages, Error> {
        let id =
            uuid::Uuid::parse_str(id).map_err(|_| Error::invalid("that is no message's id"))?;
        Ok(Messages::new(&self.guard, Some(id.to_string())))
    }

    /// Sends a direct message to a user, by id or as `name:bob`. It is stored before this returns:
    /// it arrives, if not now.
    ///
    /// # Errors
    ///
    /// The server's answer, as 404 for an unknown user, or no connection.
    pub async fn send_message(&self, to_user_id: &str, content: &str) -> Result<Sent, Error> {
        let body = json!({"to_user_id": to_user_id, "content": content});
        self.post("/api/v1/messages", body).await
    }

    /// Sends a message to a group, which is stored before this returns.
    ///
    /// # Errors
    ///
    /// The server's answer, as 403 for a user who is no member, or no connection.
    pub async fn send_group_message(&self, group_id: &str, content: &str) -> Result<Sent, Error> {
        let group = utf8_percent_encode(group_id, NON_ALPHANUMERIC);
        self.post(&format!("/api/v1/groups/{group}/messages"), json!({"content": content})).await
    }

    async fn post(&self, path: &str, body: Value) -> Result<Sent, Error> {
        let answer = http_tasks::call(self.shared(), Method::POST, path, Some(body)).await?;
        Ok(Sent {
            id: answer["id"].as_str().unwrap_or_default().to_owned(),
            created_at: answer["created_at"].as_u64().unwrap_or_default(),
        })
    }

    /// The user with this name, in any case; none if there is no such account. A message needs no
    /// such call: in place of a user's id, `name:bob` is the account with the name bob.
    ///
    /// # Errors
    ///
    /// [`Error::Status`] 401 or 403 if the server wants a token with the scope `message`, 429 after
    /// too many unknown names, or no connection.
    pub async fn find_user(&self, name: &str) -> Result<Option<Person>, Error> {
        match http_tasks::call(self.shared(), Method::GET, &api::find_path(name), None).await {
            Ok(answer) => Ok(Some(api::found(&answer))),
            Err(Error::Status { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Any other call of the server's HTTP API, with the client's token. Returns the body.
    ///
    /// ```no_run
    /// # async fn example(client: fanfare_client::Client) -> Result<(), fanfare_client::Error> {
    /// let online = client.http("GET", "/ws/online", None).await?;
    /// println!("{}", online["count"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Status`] for an answer other than success, or no connection.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Error> {
        let method = http::checked(method, path)?;
        http_tasks::call(self.shared(), method, path, body).await
    }

    /// Unregisters every instance, closes the connection and ends. Every other handle ends with it.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if the server did not answer within the timeout for requests; the client
    /// then ends without it.
    pub async fn close(self) -> Result<(), Error> {
        self.shared().update(|state| {
            state.leases.release_all();
            state.is_stopping = true;
        });
        let mut status = self.watch_status();
        let patience = self.shared().settings.request_timeout;
        let closed = status.wait_for(|status| matches!(status, Status::Closed(_)));
        let result = tokio::time::timeout(patience, closed).await;
        result.map(|_| ()).map_err(|_| Error::Timeout)
    }
}

fn check_channel(name: &str) -> Result<(), Error> {
    if name == "*" {
        return Err(Error::invalid("\"*\" is no channel"));
    }
    check_name("channel", name).map_err(Error::Invalid)
}
