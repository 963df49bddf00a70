//! Requests between nodes: deliver a message to connections there, or say what they are.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::aim::Aimed;
use super::commands::{ListConnections, SetSubscription};
use super::replies::{Connections, Delivered};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnName, UserId};
use crate::limits;
use crate::state::State;
use crate::state::audit::{Actor, Note, kind};
use crate::state::backplane::TypedRequest;
use crate::state::cluster_presence::ClusterPresence;
use crate::state::people::{ConnectionView, Person};
use crate::state::reply::ReplyTo;
use crate::wire::frame;
use crate::wire::message;
use crate::wire::refusal::{Code, Refusal};

/// What one node asks of others. A message is the JSON that its receivers get. Connections are named in
/// full.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NodeRequest {
    /// To each connection of a user.
    User { user_id: UserId, message: Box<RawValue> },
    /// To everyone signed in, but for one user.
    Users { except: UserId, message: Box<RawValue> },
    /// To every JSON socket.
    Everyone { aim: Aimed, message: Box<RawValue> },
    /// To the followers of a channel.
    Channel { channel: ChannelName, aim: Aimed, message: Box<RawValue> },
    /// To one connection.
    Connection { name: ConnName, message: Box<RawValue> },
    /// A connection, seen from outside.
    View { name: ConnName },
    /// The connections, seen from outside.
    Views { after: Option<ConnName>, limit: usize },
    /// The end of a connection.
    Disconnect { name: ConnName },
    /// A subscription of a connection that begins, or ends.
    Subscription { name: ConnName, channel: ChannelName, is_subscribed: bool },
    /// What is to be noted of a connection: an object, or null.
    Metadata { name: ConnName, metadata: Option<Box<RawValue>> },
}

/// What a node responds; not all of it to every request.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct NodeResponse {
    /// How many connections a message goes to, or how many connections there are.
    pub(super) count: usize,
    /// Whether what the request is about is there.
    #[serde(rename = "found")]
    pub(super) is_found: bool,
    /// One connection, or many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    views: Vec<Value>,
}

impl NodeResponse {
    fn found(is_found: bool) -> NodeResponse {
        NodeResponse { is_found, ..NodeResponse::default() }
    }

    fn count(count: usize) -> NodeResponse {
        NodeResponse { count, ..NodeResponse::default() }
    }

    /// Adds up what the nodes responded.
    fn sum(answers: &[(String, String)]) -> NodeResponse {
        let responses =
            answers.iter().filter_map(|(_, text)| serde_json::from_str::<NodeResponse>(text).ok());
        responses.fold(NodeResponse::default(), |mut sum, one| {
            sum.count += one.count;
            sum.is_found |= one.is_found;
            sum.views.extend(one.views);
            sum
        })
    }

    fn connections(&self) -> impl Iterator<Item = ConnectionView> {
        self.views.iter().filter_map(ConnectionView::from_value)
    }
}

/// A framed message, for another node. None where its text cannot be read.
pub(super) fn message_of(frame: &Bytes) -> Option<Box<RawValue>> {
    let text = String::from_utf8(frame::payload(frame).to_vec()).ok()?;
    RawValue::from_string(text).ok()
}

impl State {
    /// Asks nodes, and goes on with the sum of their responses; at once where there are none, and
    /// then `request` is not made.
    pub(super) fn ask_nodes(
        &mut self,
        nodes: Vec<String>,
        request: impl FnOnce(&State) -> Option<NodeRequest>,
        finish: impl FnOnce(&mut State, Result<NodeResponse, Refusal>) + Send + 'static,
    ) {
        let request = if nodes.is_empty() { None } else { request(self) };
        let text = request.and_then(|request| serde_json::to_string(&request).ok());
        let Some(request) = text else { return finish(self, Ok(NodeResponse::default())) };
        self.request(TypedRequest::ask_nodes(nodes, request), |state, answers, _| {
            let sum = answers.map(|answers| NodeResponse::sum(&answers));
            finish(state, sum.map_err(|_| Refusal::unavailable()));
        });
    }

    /// The other nodes, and who is where. None while this node is cut off and cannot ask them.
    fn reachable(&self) -> Option<&ClusterPresence> {
        (!self.registry.is_cut_off()).then_some(&self.cluster_presence)
    }

    /// The other nodes that can be asked just now.
    pub(super) fn others(&self) -> Vec<String> {
        self.reachable().map(ClusterPresence::others).unwrap_or_default()
    }

    /// The other nodes that may have connections of a user. Where nobody knows of one and there is
    /// none here, every node is asked: the user may have come a moment ago.
    pub(super) fn nodes_of_user(&self, user: &UserId, here: usize) -> Vec<String> {
        let Some(presence) = self.reachable() else { return Vec::new() };
        let nodes = presence.nodes_of(user);
        if nodes.is_empty() && here == 0 { presence.others() } else { nodes }
    }

    /// The other nodes with followers of a channel, of those that an aim leaves.
    pub(super) fn following_nodes(&self, channel: &ChannelName, aim: &Aimed) -> Vec<String> {
        let following = self.reachable().into_iter().flat_map(|nodes| nodes.followers(channel));
        aim.nodes(following.map(|(node, _)| node.to_owned()).collect())
    }

    /// Asks the node of a connection that is not here, where it is alive.
    fn ask_node_of(
        &mut self,
        connection: &ConnName,
        request: impl FnOnce(&State) -> Option<NodeRequest>,
        finish: impl FnOnce(&mut State, Result<NodeResponse, Refusal>) + Send + 'static,
    ) {
        let is_alive = |node: &&str| self.reachable().is_some_and(|nodes| nodes.is_alive(node));
        let node = connection.node.as_deref().filter(is_alive);
        let nodes = node.map(str::to_owned).into_iter().collect();
        self.ask_nodes(nodes, request, finish);
    }

    /// Has the node of a connection do something with it. `done` is called once it is done.
    pub(super) fn order_node_of(
        &mut self,
        connection: &ConnName,
        request: NodeRequest,
        reply: ReplyTo<()>,
        done: impl FnOnce(&mut State) + Send + 'static,
    ) {
        self.ask_node_of(
            connection,
            |_| Some(request),
            |state, there| {
                let result = there
                    .and_then(|there| if there.is_found { Ok(()) } else { Err(no_connection()) });
                if result.is_ok() {
                    done(state);
                }
                state.reply(reply, result);
            },
        );
    }

    /// Has another node deliver to one of its connections.
    pub(super) fn deliver_to_node(
        &mut self,
        name: &ConnName,
        frame: &Bytes,
        id: Box<str>,
        reply: ReplyTo<Delivered>,
    ) {
        let request = |_: &State| {
            let message = message_of(frame)?;
            Some(NodeRequest::Connection { name: name.clone(), message })
        };
        self.ask_node_of(name, request, move |state, there| {
            let delivered = there.and_then(|there| {
                if there.is_found { Ok(Delivered { count: 1, id }) } else { Err(no_connection()) }
            });
            state.reply(reply, delivered);
        });
    }

    /// Describes a connection, wherever it is.
    pub(super) fn describe_connection(
        &mut self,
        name: &ConnName,
        reply: ReplyTo<Option<Box<ConnectionView>>>,
    ) {
        if name.is_at(&self.node) {
            let key = self.people.find(name.conn).map(|(key, _)| key);
            let view = key.map(|key| Box::new(self.connection(key)));
            return self.reply(reply, Ok(view));
        }
        let request = NodeRequest::View { name: name.clone() };
        self.ask_node_of(
            name,
            |_| Some(request),
            |state, there| {
                state.reply(reply, there.map(|there| there.connections().next().map(Box::new)));
            },
        );
    }

    /// Lists the connections of all nodes.
    pub(super) fn list_connections(&mut self, list: ListConnections, reply: ReplyTo<Connections>) {
        let ListConnections { after, limit } = list;
        let request = |state: &State| {
            let after = after.as_ref().map(|after| after.named_from(&state.node));
            Some(NodeRequest::Views { after, limit })
        };
        self.ask_nodes(self.others(), request, {
            let after = after.clone();
            move |state, there| {
                let connections = there.map(|there| {
                    let mut connections = state.own_views(after.as_ref(), limit);
                    connections.extend(there.connections());
                    connections.sort_by(|a, b| a.id.cmp(&b.id));
                    connections.truncate(limit);
                    let total = state.people.connections() + there.count;
                    Connections { total, connections }
                });
                state.reply(reply, connections);
            }
        });
    }

    /// Those of this node, in the order of their full names.
    fn own_views(&self, after: Option<&ConnName>, limit: usize) -> Vec<ConnectionView> {
        let conn = match after {
            Some(after) if after.is_at(&self.node) => Some(after.conn),
            Some(after) if after.node.as_deref() > Some(&*self.node) => return Vec::new(),
            _ => None,
        };
        let keys = self.people.list(conn, limit);
        let listed = |key| ConnectionView { metadata: None, ..self.connection(key) };
        keys.into_iter().map(listed).collect()
    }

    /// Ends a connection, wherever it is.
    /// Ends a connection, here or at another node. The node that was asked notes it for the audit log.
    pub(super) fn disconnect_anywhere(
        &mut self,
        actor: Option<Arc<Actor>>,
        name: &ConnName,
        reply: ReplyTo<()>,
        now: Moment,
    ) {
        let connection = name.named_from(&self.node).to_string();
        let detail = json!({"connection_id": connection});
        let note = Note::new(kind::DISCONNECTED, now).with(&detail);
        if name.is_at(&self.node) {
            let result = self.disconnect(name.conn);
            if result.is_ok() {
                self.audit(actor.as_ref(), note);
            }
            return self.reply(reply, result);
        }
        let request = NodeRequest::Disconnect { name: name.clone() };
        self.order_node_of(name, request, reply, move |state| state.audit(actor.as_ref(), note));
    }

    /// Answers another node.
    pub fn on_asked(&mut self, request: &str, now: Moment) -> String {
        let response = match serde_json::from_str(request) {
            Ok(request) => self.respond(request, now),
            Err(fault) => {
                tracing::warn!(%fault, "a request of another node cannot be read");
                NodeResponse::default()
            }
        };
        serde_json::to_string(&response).unwrap_or_default()
    }

    fn respond(&mut self, request: NodeRequest, now: Moment) -> NodeResponse {
        let framed = |message: Box<RawValue>| message::framed(message.get().as_bytes());
        match request {
            NodeRequest::User { user_id, message } => {
                let is_found = self.people.is_known(&user_id);
                let count = self.send_to_user(&user_id, &"of another node", framed(message));
                NodeResponse { count, is_found, ..NodeResponse::default() }
            }
            NodeRequest::Users { except, message } => {
                NodeResponse::count(self.send_to_users_but(&except, framed(message)))
            }
            NodeRequest::Everyone { aim, message } => {
                let aim = aim.here(&self.node);
                NodeResponse::count(self.send_to_everyone(framed(message), aim))
            }
            NodeRequest::Channel { channel, aim, message } => {
                let aim = aim.here(&self.node);
                NodeResponse::count(self.send_to_followers(&channel, framed(message), aim))
            }
            NodeRequest::Connection { name, message } => {
                let is_found = self.send_to_connection(name.conn, framed(message));
                NodeResponse { count: usize::from(is_found), is_found, ..NodeResponse::default() }
            }
            NodeRequest::View { name } => {
                let key = self.people.find(name.conn).map(|(key, _)| key);
                let views = key.map(|key| self.connection(key).to_value()).into_iter().collect();
                NodeResponse { is_found: key.is_some(), views, ..NodeResponse::default() }
            }
            NodeRequest::Views { after, limit } => {
                let views = self.own_views(after.as_ref(), limit.min(limits::LISTED_MAX));
                let views = views.iter().map(ConnectionView::to_value).collect();
                NodeResponse { count: self.people.connections(), is_found: true, views }
            }
            NodeRequest::Disconnect { name } => {
                NodeResponse::found(self.disconnect(name.conn).is_ok())
            }
            NodeRequest::Subscription { name, channel, is_subscribed } => {
                let is_found = self.people.find(name.conn).is_some();
                if is_found {
                    // It may have to wait for the backplane itself. The node that asks does not.
                    let connection = name.conn.into();
                    let set = SetSubscription { connection, channel, is_subscribed };
                    self.set_subscription(set, ReplyTo::Nobody, now);
                }
                NodeResponse::found(is_found)
            }
            NodeRequest::Metadata { name, metadata } => {
                NodeResponse::found(self.note_metadata(name.conn, metadata).is_ok())
            }
        }
    }
}

pub(super) fn no_connection() -> Refusal {
    Refusal::new(Code::NotFound, "there is no such connection")
}

impl ConnectionView {
    /// As one node tells another.
    fn to_value(&self) -> Value {
        let person = self.person.as_ref();
        let mut value = json!({
            "connection_id": self.id.to_string(),
            "user_id": person.map(|person| person.user_id.as_str()),
            "username": person.map(|person| &*person.username),
            "remote_addr": self.remote.map(|remote| remote.to_string()),
            "opened_ms": self.opened_ms,
            "channels": self.channels.iter().map(ChannelName::as_str).collect::<Vec<_>>(),
            "rooms": self.rooms,
        });
        if let Some(metadata) = &self.metadata {
            value["metadata"] = serde_json::from_str(metadata.get()).unwrap_or_default();
        }
        value
    }

    /// Reads what another node wrote.
    fn from_value(value: &Value) -> Option<ConnectionView> {
        let text = |field: &str| value[field].as_str();
        let texts = |field: &str| -> Vec<String> {
            let list = value[field].as_array().into_iter().flatten();
            list.filter_map(|one| one.as_str().map(str::to_owned)).collect()
        };
        let person = text("user_id").zip(text("username")).map(|(user_id, username)| Person {
            user_id: UserId::new(user_id),
            username: username.into(),
        });
        Some(ConnectionView {
            id: text("connection_id")?.parse().ok()?,
            person,
            remote: text("remote_addr").and_then(|remote| remote.parse().ok()),
            opened_ms: value["opened_ms"].as_u64()?,
            channels: texts("channels").iter().map(|name| ChannelName::new(name)).collect(),
            rooms: texts("rooms"),
            metadata: value
                .get("metadata")
                .and_then(|one| serde_json::value::to_raw_value(one).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nodes of the release before write and read.
    #[test]
    fn the_words_of_nodes_stay() {
        for text in [
            r#"{"user":{"user_id":"u","message":{"a": 1}}}"#,
            r#"{"users":{"except":"u","message":{}}}"#,
            r#"{"everyone":{"aim":{},"message":{}}}"#,
            r#"{"channel":{"channel":"c","aim":{"only":["n-0-1-2"],"except":["m-3-4-5"]},"message":{}}}"#,
            r#"{"connection":{"name":"n-0-1-2","message":{}}}"#,
            r#"{"view":{"name":"n-0-1-2"}}"#,
            r#"{"views":{"after":null,"limit":9}}"#,
            r#"{"views":{"after":"n-0-1-2","limit":9}}"#,
            r#"{"disconnect":{"name":"n-0-1-2"}}"#,
            r#"{"subscription":{"name":"n-0-1-2","channel":"c","is_subscribed":true}}"#,
            r#"{"metadata":{"name":"n-0-1-2","metadata":{"k": [1]}}}"#,
            r#"{"metadata":{"name":"n-0-1-2","metadata":null}}"#,
        ] {
            let request: NodeRequest = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&request).expect("JSON"), text);
        }
        let view = r#"{"channels":["c"],"connection_id":"n-0-1-2","metadata":{"k":1},"opened_ms":5,"remote_addr":"192.0.2.1","rooms":["r"],"user_id":"u","username":"Ann"}"#;
        let value = serde_json::from_str(view).expect("JSON");
        let read = ConnectionView::from_value(&value).expect("a view");
        assert_eq!(read.to_value().to_string(), view);
    }
}
