//! Commands: everything that the state can be asked to do.
//!
//! HTTP, sockets and the embedding program send these commands; nothing else reaches the state.
//! Each command is a type that names its reply ([`Ask`]). [`RegistryCommand`] and [`MessagingCommand`]
//! list them, each with the address of its reply.

use std::sync::Arc;

use super::channels::view::ChannelView;
use super::durable::Written;
use super::journal::JournalEntry;
use super::management::item::ItemRow;
use super::management::operation::OperationRow;
use super::messaging::replies::{
    Chatted, Connections, Delivered, Followed, History, Joined, Left, Online, Published, Stored,
    Unfollowed,
};
use super::people::ConnectionView;
use super::registry::listing::InstanceListing;
use super::registry::replies::{FoundInstance, PutReply, RefusedEntry, ServiceLeases};
use super::registry::views::{
    Delta, ServiceSnapshot, ServiceViews, Subscribed, SubscribedToAll, View,
};
use super::reply::{Reply, ReplyTo};
use crate::id::ConnId;

/// One thing to do, with the address of its reply.
#[derive(Debug)]
pub enum Command {
    /// About services, instances and leases.
    Registry(RegistryCommand),
    /// About connections, users, channels, rooms and messages.
    Messaging(Box<MessagingCommand>),
}

impl Command {
    /// The connection that waits for the reply.
    pub fn conn(&self) -> Option<ConnId> {
        match self {
            Command::Registry(command) => command.conn(),
            Command::Messaging(command) => command.conn(),
        }
    }
}

/// A command before it has the address of its reply.
pub trait Ask: Sized {
    /// The type of its reply.
    type Reply: Reply;

    /// Gives it the address.
    fn reply_to(self, reply: ReplyTo<Self::Reply>) -> Command;

    /// The command without an address for its reply.
    fn unanswered(self) -> Command {
        self.reply_to(ReplyTo::Nobody)
    }
}

/// Lists commands with their replies: one enum, and [`Ask`] for each of them.
macro_rules! commands {
    (
        $(#[$attribute:meta])*
        $set:ident of $($module:ident)::+, wrapped by $wrap:expr;
        $($name:ident => $reply:ty,)*
    ) => {
        use $($module::)+{$($name),*};

        $(#[$attribute])*
        #[derive(Debug)]
        pub enum $set {
            $(
                #[doc = concat!("See [`", stringify!($name), "`].")]
                $name($name, ReplyTo<$reply>),
            )*
        }

        impl $set {
            /// The connection that waits for the reply.
            pub fn conn(&self) -> Option<ConnId> {
                match self {
                    $($set::$name(_, reply) => reply.conn(),)*
                }
            }
        }

        $(
            impl Ask for $name {
                type Reply = $reply;

                fn reply_to(self, reply: ReplyTo<$reply>) -> Command {
                    $wrap($set::$name(self, reply))
                }
            }
        )*
    };
}

commands! {
    /// A command about services, instances and leases.
    RegistryCommand of super::registry::commands, wrapped by Command::Registry;
    Register => Vec<RefusedEntry>,
    Heartbeat => Vec<RefusedEntry>,
    Unregister => Vec<RefusedEntry>,
    Subscribe => Box<Subscribed>,
    SubscribeAll => SubscribedToAll,
    ReadSnapshot => Option<ServiceSnapshot>,
    Operate => bool,
    OperateTargets => Vec<RefusedEntry>,
    ChangeItems => Vec<RefusedEntry>,
    ReadItems => Vec<ItemRow>,
    ReadOperations => Vec<OperationRow>,
    IsInstanceDown => bool,
    Protect => bool,
    ReadViews => Vec<Arc<View>>,
    ReadAllViews => ServiceViews,
    ReadDelta => Option<Delta>,
    ReadLeases => Vec<ServiceLeases>,
    ListInstances => InstanceListing,
    FindInstance => Option<FoundInstance>,
    RenewInstance => Option<FoundInstance>,
    PutInstance => PutReply,
}

commands! {
    /// A command about connections, users, channels, rooms and messages.
    MessagingCommand of super::messaging::commands, wrapped by |command| Command::Messaging(Box::new(command));
    Opened => (),
    Closed => (),
    SeeUser => (),
    ApplyAccounts => (),
    EndTokens => (),
    Follow => Followed,
    Unfollow => Unfollowed,
    Publish => Published,
    ListChannels => Vec<ChannelView>,
    DescribeChannel => Option<ChannelView>,
    ReadHistory => History,
    DefineChannel => ChannelView,
    DeleteChannel => (),
    JoinRoom => Joined,
    LeaveRoom => Left,
    Chat => Chatted,
    SendEnvelope => Delivered,
    Broadcast => Delivered,
    ListOnline => Online,
    ListConnections => Connections,
    DescribeConnection => Option<Box<ConnectionView>>,
    Disconnect => (),
    SetSubscription => (),
    SetMetadata => (),
    ChatAs => Published,
    PingAll => (),
    StoreChange => Written,
    SendPrivate => Stored,
    SendToGroup => Stored,
    ReadUnwritten => Vec<Arc<JournalEntry>>,
    NoteAction => (),
}
