//! What one node asks of others: to deliver what is for their connections, and to say what they have.
//!
//! Part of `state::talk`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Aimed, Talk, Told};
use crate::id::{ChannelName, ConnId, ConnName, UserId};
use crate::limits;
use crate::state::abroad::Errand;
use crate::state::call::{Call, Reply};
use crate::state::people::ConnectionView;
use crate::state::then::Then;
use crate::state::{Outcome, State};
use crate::wire::frame;
use crate::wire::message;
use crate::wire::refusal::{Code, Refusal};

/// What is asked. A message is the JSON that its receivers get.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question<'a> {
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
struct Names {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
}

/// What a question is answered with; not all of it in every case.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Given {
    /// What it reached.
    count: usize,
    /// Whether what it is about is there.
    found: bool,
    /// One connection, or many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    views: Vec<Value>,
}

impl Names {
    fn of(aim: &Aimed, node: &str) -> Names {
        let texts = |names: &[ConnName]| names.iter().map(|name| name.text_from(node)).collect();
        Names { only: aim.only.as_deref().map(texts), except: texts(&aim.except) }
    }

    fn aimed(self) -> Aimed {
        let names =
            |texts: Vec<String>| texts.iter().filter_map(|text| text.parse().ok()).collect();
        Aimed { only: self.only.map(names), except: names(self.except) }
    }
}

/// The message of a frame, as JSON.
fn message_of(frame: &Bytes) -> Option<Box<RawValue>> {
    let text = String::from_utf8(frame::payload(frame).to_vec()).ok()?;
    RawValue::from_string(text).ok()
}

/// Has nodes deliver a message. None where there are no nodes, and then nothing is copied.
fn ask_to_deliver(
    nodes: Vec<String>,
    frame: &Bytes,
    then: Then,
    question: impl FnOnce(&RawValue) -> Question<'_>,
) -> Option<Outcome> {
    if nodes.is_empty() {
        return None;
    }
    let message = message_of(frame)?;
    ask(nodes, &question(&message), then)
}

/// Puts a question to nodes. None where there are none.
fn ask(nodes: Vec<String>, question: &Question<'_>, then: Then) -> Option<Outcome> {
    if nodes.is_empty() {
        return None;
    }
    let question = serde_json::to_string(question).ok()?;
    Some(Outcome::Call(Box::new((Call::Ask { nodes, question }, then))))
}

impl State {
    /// The other nodes that can be asked just now.
    fn others(&self) -> Vec<String> {
        match &self.abroad {
            Some(abroad) if !self.registry.is_cut_off() => abroad.commons.others(),
            _ => Vec::new(),
        }
    }

    /// The other nodes that an aim leaves, of those given.
    fn aimed_nodes(nodes: Vec<String>, aim: &Aimed) -> Vec<String> {
        let Some(only) = &aim.only else { return nodes };
        let is_meant = |node: &String| only.iter().any(|name| name.node.as_deref() == Some(node));
        nodes.into_iter().filter(is_meant).collect()
    }

    /// Has other nodes deliver to a user's connections there. None where there is nobody to ask.
    pub(super) fn ask_user(
        &self,
        user: &UserId,
        frame: &Bytes,
        id: &str,
        here: usize,
    ) -> Option<Outcome> {
        let abroad = self.abroad.as_ref()?;
        let mut nodes = abroad.commons.nodes_of(user);
        if self.registry.is_cut_off() {
            return None;
        }
        if nodes.is_empty() {
            if here > 0 {
                return None;
            }
            // They may have come a moment ago.
            nodes = abroad.commons.others();
        }
        let user_id = user.as_str().to_owned();
        let user = (!self.people.is_known(user)).then(|| user.clone());
        let then = Then::Delivered { id: id.into(), here, user };
        ask_to_deliver(nodes, frame, then, |message| Question::User { user_id, message })
    }

    /// Has other nodes deliver to everyone signed in there, but for one user.
    pub(super) fn ask_users(
        &self,
        except: &UserId,
        frame: &Bytes,
        id: &str,
        here: usize,
    ) -> Option<Outcome> {
        let then = Then::Delivered { id: id.into(), here, user: None };
        let except = except.as_str().to_owned();
        ask_to_deliver(self.others(), frame, then, |message| Question::Users { except, message })
    }

    /// Has other nodes deliver to every JSON socket there.
    pub(super) fn ask_everyone(
        &self,
        aim: &Aimed,
        frame: &Bytes,
        id: &str,
        here: usize,
    ) -> Option<Outcome> {
        let nodes = State::aimed_nodes(self.others(), aim);
        let then = Then::Delivered { id: id.into(), here, user: None };
        ask_to_deliver(nodes, frame, then, |message| Question::Everyone {
            aim: Names::of(aim, &self.node),
            message,
        })
    }

    /// Has other nodes deliver to a channel's followers there.
    pub(super) fn ask_channel(
        &self,
        channel: &ChannelName,
        aim: &Aimed,
        frame: &Bytes,
        then: Then,
    ) -> Option<Outcome> {
        let abroad = self.abroad.as_ref().filter(|_| !self.registry.is_cut_off())?;
        if !self.is_linked(channel) {
            return None;
        }
        let following = abroad.commons.followers(channel).map(|(node, _)| node.to_owned());
        let nodes = State::aimed_nodes(following.collect(), aim);
        let (channel, aim) = (channel.as_str().to_owned(), Names::of(aim, &self.node));
        ask_to_deliver(nodes, frame, then, |message| Question::Channel { channel, aim, message })
    }

    /// The node of a connection that is not here, where it is alive.
    fn node_of(&self, name: &ConnName) -> Option<Vec<String>> {
        let node = name.node.as_deref()?;
        let abroad = self.abroad.as_ref().filter(|_| !self.registry.is_cut_off())?;
        abroad.commons.is_alive(node).then(|| vec![node.to_owned()])
    }

    /// Has another node deliver to one of its connections.
    pub(super) fn ask_connection(
        &self,
        name: &ConnName,
        frame: &Bytes,
        id: &str,
    ) -> Option<Outcome> {
        let (then, name_text) = (Then::Found { id: Some(id.into()) }, name.to_string());
        ask_to_deliver(self.node_of(name)?, frame, then, |message| Question::Connection {
            name: name_text,
            message,
        })
    }

    /// A connection, wherever it is.
    pub(super) fn view_of(&self, name: &ConnName) -> Outcome {
        if name.is_at(&self.node) {
            let key = self.people.find(name.conn).map(|(key, _)| key);
            return Told::Connection(key.map(|key| Box::new(self.connection(key)))).into();
        }
        let asked = self.node_of(name).and_then(|nodes| {
            ask(nodes, &Question::View { name: name.to_string() }, Then::Connection)
        });
        asked.unwrap_or_else(|| Told::Connection(None).into())
    }

    /// The connections of all nodes.
    pub(super) fn views(&self, after: Option<&ConnName>, limit: usize) -> Outcome {
        let text = after.map(|after| after.text_from(&self.node));
        let question = Question::Views { after: text, limit };
        let then = Then::Connections { after: after.cloned(), limit };
        ask(self.others(), &question, then).unwrap_or_else(|| {
            let connections = self.own_views(after, limit);
            Told::Connections { total: self.people.connections(), connections }.into()
        })
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
    pub(super) fn disconnect_anywhere(&mut self, name: &ConnName) -> Outcome {
        if name.is_at(&self.node) {
            return self.disconnect(name.conn).into();
        }
        self.ask_about(name, &Question::Disconnect { name: name.to_string() })
    }

    /// Has another node subscribe one of its connections, or end a subscription.
    pub(super) fn ask_to_subscribe(
        &self,
        connection: &ConnName,
        channel: &ChannelName,
        is_subscribed: bool,
    ) -> Outcome {
        let channel = channel.as_str().to_owned();
        let question =
            Question::Subscription { name: connection.to_string(), channel, is_subscribed };
        self.ask_about(connection, &question)
    }

    /// Has another node note something of one of its connections.
    pub(super) fn ask_to_note(
        &self,
        connection: &ConnName,
        metadata: Option<&RawValue>,
    ) -> Outcome {
        self.ask_about(connection, &Question::Metadata { name: connection.to_string(), metadata })
    }

    fn ask_about(&self, connection: &ConnName, question: &Question<'_>) -> Outcome {
        let nodes = self.node_of(connection);
        let asked = nodes.and_then(|nodes| ask(nodes, question, Then::Found { id: None }));
        asked.unwrap_or_else(|| no_connection().into())
    }

    /// Answers another node.
    pub fn on_asked(&mut self, question: &str) -> String {
        let given = match serde_json::from_str::<Question<'_>>(question) {
            Ok(question) => self.give(question),
            Err(fault) => {
                tracing::warn!(%fault, "a question that is not understood");
                Given::default()
            }
        };
        serde_json::to_string(&given).unwrap_or_default()
    }

    fn give(&mut self, question: Question<'_>) -> Given {
        let here =
            |text: &str| -> Option<ConnId> { text.parse::<ConnName>().ok().map(|name| name.conn) };
        let framed = |message: &RawValue| message::framed(message.get().as_bytes());
        match question {
            Question::User { user_id, message } => {
                let user_id = UserId::new(&user_id);
                let found = self.people.is_known(&user_id);
                Given {
                    count: self.send_to_user(&user_id, &"of another node", framed(message)),
                    found,
                    ..Given::default()
                }
            }
            Question::Users { except, message } => {
                let count = self.send_to_users_but(&UserId::new(&except), framed(message));
                Given { count, ..Given::default() }
            }
            Question::Everyone { aim, message } => {
                let aim = aim.aimed().here(&self.node);
                let count = self.send_to_everyone(framed(message), aim);
                Given { count, ..Given::default() }
            }
            Question::Channel { channel, aim, message } => {
                let (channel, aim) = (ChannelName::new(&channel), aim.aimed().here(&self.node));
                let count = self.send_to_followers(&channel, framed(message), aim);
                Given { count, ..Given::default() }
            }
            Question::Connection { name, message } => {
                let conn = here(&name);
                let found = conn.is_some_and(|conn| self.send_to_connection(conn, framed(message)));
                Given { count: usize::from(found), found, ..Given::default() }
            }
            Question::View { name } => {
                let key = here(&name).and_then(|conn| self.people.find(conn)).map(|(key, _)| key);
                let views = key.map(|key| self.connection(key).to_value()).into_iter().collect();
                Given { found: key.is_some(), views, ..Given::default() }
            }
            Question::Views { after, limit } => {
                let after = after.and_then(|text| text.parse().ok());
                let views = self.own_views(after.as_ref(), limit.min(limits::LISTED_MAX));
                let views = views.iter().map(ConnectionView::to_value).collect();
                Given { count: self.people.connections(), found: true, views }
            }
            Question::Disconnect { name } => {
                let told = here(&name).map(|conn| self.disconnect(conn));
                Given { found: matches!(told, Some(Told::Done)), ..Given::default() }
            }
            Question::Subscription { name, channel, is_subscribed } => {
                let conn = here(&name).filter(|conn| self.people.find(*conn).is_some());
                if let (Some(conn), Some(abroad)) = (conn, &mut self.abroad) {
                    // It may have to wait for the backplane itself; whoever asked does not.
                    let talk = Talk::SetSubscription {
                        connection: ConnName::new(&self.node, conn),
                        channel: ChannelName::new(&channel),
                        is_subscribed,
                    };
                    abroad.errands.push(Errand::Talk(Box::new(talk)));
                }
                Given { found: conn.is_some(), ..Given::default() }
            }
            Question::Metadata { name, metadata } => {
                let metadata = metadata.filter(|metadata| metadata.get() != "null");
                let told = here(&name)
                    .map(|conn| self.note_metadata(conn, metadata.map(RawValue::to_owned)));
                Given { found: matches!(told, Some(Told::Done)), ..Given::default() }
            }
        }
    }

    /// What the other nodes answered.
    pub(in crate::state) fn on_given(&mut self, then: Then, reply: Reply) -> Told {
        let Reply::Nodes(answers) = reply else { return Told::Refused(Refusal::unavailable()) };
        let given: Vec<Given> =
            answers.iter().filter_map(|(_, text)| serde_json::from_str(text).ok()).collect();
        let there: usize = given.iter().map(|one| one.count).sum();
        let is_found = given.iter().any(|one| one.found);
        match then {
            Then::Delivered { id, here, user } => match user {
                Some(user) if !is_found && !self.people.is_known(&user) => {
                    Told::refuse(Code::NotFound, "there is no such user")
                }
                _ => Told::Delivered { count: here + there, id },
            },
            Then::Aimed { channel, id, here } => {
                let epoch = match self.channels.find(&channel) {
                    Some(key) => self.channels.get(key).epoch.clone(),
                    None => crate::id::Epoch::new(""),
                };
                let delivered_to = here + there;
                Told::Published { channel, epoch, offset: None, message_id: id, delivered_to }
            }
            Then::Found { .. } if !is_found => no_connection(),
            Then::Found { id: Some(id) } => Told::Delivered { count: 1, id },
            Then::Found { id: None } => Told::Done,
            Then::Connection => {
                let view = given.iter().flat_map(|one| &one.views).next();
                Told::Connection(view.and_then(ConnectionView::from_value).map(Box::new))
            }
            Then::Connections { after, limit } => {
                let mut connections = self.own_views(after.as_ref(), limit);
                let views = given.iter().flat_map(|one| &one.views);
                connections.extend(views.filter_map(ConnectionView::from_value));
                connections.sort_by(|a, b| a.id.cmp(&b.id));
                connections.truncate(limit);
                Told::Connections { total: self.people.connections() + there, connections }
            }
            _ => Told::Refused(Refusal::internal()),
        }
    }
}

pub(super) fn no_connection() -> Told {
    Told::refuse(Code::NotFound, "there is no such connection")
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
