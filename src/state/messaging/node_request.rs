//! Requests between nodes: deliver a message to connections there, or say what they are.
//!
//! Part of `state::messaging`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::aim::Aimed;
use super::commands::{ListConnections, SetSubscription};
use super::replies::{Connections, Delivered};
use crate::clock::Moment;
use crate::id::{ChannelName, ConnId, ConnName, UserId};
use crate::limits;
use crate::state::State;
use crate::state::backplane::TypedRequest;
use crate::state::cluster_presence::ClusterPresence;
use crate::state::people::ConnectionView;
use crate::state::reply::ReplyTo;
use crate::wire::frame;
use crate::wire::message;
use crate::wire::refusal::{Code, Refusal};

/// What one node asks of others. A message is the JSON that its receivers get.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NodeRequest<'a> {
    /// To each connection of a user.
    User {
        user_id: String,
        #[serde(borrow)]
        message: &'a RawValue,
    },
    /// To everyone signed in, but for one user.
    Users {
        except: String,
        #[serde(borrow)]
        message: &'a RawValue,
    },
    /// To every JSON socket.
    Everyone {
        aim: Names,
        #[serde(borrow)]
        message: &'a RawValue,
    },
    /// To the followers of a channel.
    Channel {
        channel: String,
        aim: Names,
        #[serde(borrow)]
        message: &'a RawValue,
    },
    /// To one connection.
    Connection {
        name: String,
        #[serde(borrow)]
        message: &'a RawValue,
    },
    /// A connection, seen from outside.
    View { name: String },
    /// The connections, seen from outside.
    Views { after: Option<String>, limit: usize },
    /// The end of a connection.
    Disconnect { name: String },
    /// A subscription of a connection that begins, or ends.
    Subscription { name: String, channel: String, is_subscribed: bool },
    /// What is to be noted of a connection: an object, or null.
    Metadata {
        name: String,
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
    },
}

/// Connections by their full names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Names {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
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

impl Names {
    pub(super) fn of(aim: &Aimed, node: &str) -> Names {
        let texts = |names: &[ConnName]| names.iter().map(|name| name.text_from(node)).collect();
        Names { only: aim.only.as_deref().map(texts), except: texts(&aim.except) }
    }

    fn aimed(self) -> Aimed {
        let names =
            |texts: Vec<String>| texts.iter().filter_map(|text| text.parse().ok()).collect();
        Aimed { only: self.only.map(names), except: names(self.except) }
    }
}

/// The request to deliver a framed message. None where its text cannot be read.
pub(super) fn delivery(
    frame: &Bytes,
    request: impl FnOnce(&RawValue) -> NodeRequest<'_>,
) -> Option<String> {
    let text = String::from_utf8(frame::payload(frame).to_vec()).ok()?;
    let message = RawValue::from_string(text).ok()?;
    serde_json::to_string(&request(&message)).ok()
}

impl State {
    /// Asks nodes, and goes on with the sum of their responses; at once where there are none, and
    /// then `request` is not made.
    pub(super) fn ask_nodes(
        &mut self,
        nodes: Vec<String>,
        request: impl FnOnce(&State) -> Option<String>,
        finish: impl FnOnce(&mut State, Result<NodeResponse, Refusal>) + Send + 'static,
    ) {
        let request = if nodes.is_empty() { None } else { request(self) };
        let Some(request) = request else { return finish(self, Ok(NodeResponse::default())) };
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

    /// The node of a connection that is not here, where it is alive.
    fn node_of(&self, name: &ConnName) -> Option<Vec<String>> {
        let node = name.node.as_deref()?;
        self.reachable()?.is_alive(node).then(|| vec![node.to_owned()])
    }

    /// Has another node deliver to one of its connections.
    pub(super) fn deliver_to_node(
        &mut self,
        name: &ConnName,
        frame: &Bytes,
        id: Box<str>,
        reply: ReplyTo<Delivered>,
    ) {
        let name_text = name.to_string();
        let request = |_: &State| {
            delivery(frame, |message| NodeRequest::Connection { name: name_text, message })
        };
        let nodes = self.node_of(name).unwrap_or_default();
        self.ask_nodes(nodes, request, move |state, there| {
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
        let request = NodeRequest::View { name: name.to_string() };
        let nodes = self.node_of(name).unwrap_or_default();
        self.ask_nodes(
            nodes,
            |_| serde_json::to_string(&request).ok(),
            |state, there| {
                state.reply(reply, there.map(|there| there.connections().next().map(Box::new)));
            },
        );
    }

    /// Lists the connections of all nodes.
    pub(super) fn list_connections(&mut self, list: ListConnections, reply: ReplyTo<Connections>) {
        let ListConnections { after, limit } = list;
        let text = after.as_ref().map(|after| after.text_from(&self.node));
        let request = NodeRequest::Views { after: text, limit };
        self.ask_nodes(
            self.others(),
            |_| serde_json::to_string(&request).ok(),
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
            },
        );
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
    pub(super) fn disconnect_anywhere(&mut self, name: &ConnName, reply: ReplyTo<()>) {
        if name.is_at(&self.node) {
            let result = self.disconnect(name.conn);
            return self.reply(reply, result);
        }
        self.ask_node_of(name, &NodeRequest::Disconnect { name: name.to_string() }, reply);
    }

    /// Asks the node of a connection to do something with it.
    pub(super) fn ask_node_of(
        &mut self,
        connection: &ConnName,
        request: &NodeRequest<'_>,
        reply: ReplyTo<()>,
    ) {
        let nodes = self.node_of(connection).unwrap_or_default();
        self.ask_nodes(
            nodes,
            |_| serde_json::to_string(request).ok(),
            |state, there| {
                let result = there
                    .and_then(|there| if there.is_found { Ok(()) } else { Err(no_connection()) });
                state.reply(reply, result);
            },
        );
    }

    /// Answers another node.
    pub fn on_asked(&mut self, request: &str, now: Moment) -> String {
        let response = match serde_json::from_str::<NodeRequest<'_>>(request) {
            Ok(request) => self.respond(request, now),
            Err(fault) => {
                tracing::warn!(%fault, "a request of another node cannot be read");
                NodeResponse::default()
            }
        };
        serde_json::to_string(&response).unwrap_or_default()
    }

    fn respond(&mut self, request: NodeRequest<'_>, now: Moment) -> NodeResponse {
        let here =
            |text: &str| -> Option<ConnId> { text.parse::<ConnName>().ok().map(|name| name.conn) };
        let framed = |message: &RawValue| message::framed(message.get().as_bytes());
        match request {
            NodeRequest::User { user_id, message } => {
                let user_id = UserId::new(&user_id);
                let is_found = self.people.is_known(&user_id);
                let count = self.send_to_user(&user_id, &"of another node", framed(message));
                NodeResponse { count, is_found, ..NodeResponse::default() }
            }
            NodeRequest::Users { except, message } => {
                let count = self.send_to_users_but(&UserId::new(&except), framed(message));
                NodeResponse::count(count)
            }
            NodeRequest::Everyone { aim, message } => {
                let aim = aim.aimed().here(&self.node);
                let count = self.send_to_everyone(framed(message), aim);
                NodeResponse::count(count)
            }
            NodeRequest::Channel { channel, aim, message } => {
                let (channel, aim) = (ChannelName::new(&channel), aim.aimed().here(&self.node));
                let count = self.send_to_followers(&channel, framed(message), aim);
                NodeResponse::count(count)
            }
            NodeRequest::Connection { name, message } => {
                let conn = here(&name);
                let is_found =
                    conn.is_some_and(|conn| self.send_to_connection(conn, framed(message)));
                NodeResponse { count: usize::from(is_found), is_found, ..NodeResponse::default() }
            }
            NodeRequest::View { name } => {
                let key = here(&name).and_then(|conn| self.people.find(conn)).map(|(key, _)| key);
                let views = key.map(|key| self.connection(key).to_value()).into_iter().collect();
                NodeResponse { is_found: key.is_some(), views, ..NodeResponse::default() }
            }
            NodeRequest::Views { after, limit } => {
                let after = after.and_then(|text| text.parse().ok());
                let views = self.own_views(after.as_ref(), limit.min(limits::LISTED_MAX));
                let views = views.iter().map(ConnectionView::to_value).collect();
                NodeResponse { count: self.people.connections(), is_found: true, views }
            }
            NodeRequest::Disconnect { name } => {
                NodeResponse::found(here(&name).is_some_and(|conn| self.disconnect(conn).is_ok()))
            }
            NodeRequest::Subscription { name, channel, is_subscribed } => {
                let conn = here(&name).filter(|conn| self.people.find(*conn).is_some());
                if let Some(conn) = conn {
                    // It may have to wait for the backplane itself. The node that asks does not.
                    let connection = ConnName::new(&self.node, conn);
                    let channel = ChannelName::new(&channel);
                    let set = SetSubscription { connection, channel, is_subscribed };
                    self.set_subscription(set, ReplyTo::Nobody, now);
                }
                NodeResponse::found(conn.is_some())
            }
            NodeRequest::Metadata { name, metadata } => {
                let metadata = metadata.filter(|metadata| metadata.get() != "null");
                let metadata = metadata.map(RawValue::to_owned);
                let conn = here(&name);
                NodeResponse::found(
                    conn.is_some_and(|conn| self.note_metadata(conn, metadata).is_ok()),
                )
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
        let person = match (text("user_id"), text("username")) {
            (Some(user_id), Some(username)) => Some(crate::state::people::Person {
                user_id: UserId::new(user_id),
                username: username.into(),
            }),
            _ => None,
        };
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
