//! Namespaces: rules for all channels with a common prefix.
//!
//! A namespace has the rules for subscribing and publishing, the bounds of the history, and whether
//! presence is announced. The longest prefix that matches a channel decides.
//!
//! # Promises
//!
//! * A reserved channel takes only messages of its own endpoint ([`Reserved`]); no configuration
//!   changes that. Names are compared byte by byte, as channels themselves are: `Chat:r` is an
//!   ordinary channel, and no other channel than `chat:r` is the room's.
//!
//! Imports `auth::jwt`, `auth::permission` and `limits`. Imported by `config`, `ws`, `shard`, `http`
//! and `state`.

use std::fmt;

use super::jwt::Identity;
use super::permission::Scopes;
use crate::limits;

/// A rule: the callers that may use a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Every connection.
    Anyone,
    /// Every signed-in user.
    Users,
    /// Holders of the scope, if tokens are required; else everyone.
    With(Scopes),
    /// No client. The embedding program still may.
    Nobody,
}

impl Who {
    /// Reads the word of the configuration.
    ///
    /// # Errors
    ///
    /// The correct form.
    pub fn parse(word: &str) -> Result<Who, String> {
        match word {
            "anyone" => Ok(Who::Anyone),
            "users" => Ok(Who::Users),
            "nobody" => Ok(Who::Nobody),
            word => Scopes::of_word(word).map(Who::With).ok_or_else(|| {
                format!("neither anyone, users, nobody nor a scope ({})", Scopes::WORDS_LISTED)
            }),
        }
    }

    /// Whether the rule includes a caller. None is a caller without a token.
    pub(crate) fn includes(self, identity: Option<&Identity>, is_auth_required: bool) -> bool {
        match self {
            Who::Anyone => true,
            Who::Users => identity.is_some(),
            Who::With(scopes) => {
                !is_auth_required || identity.is_some_and(|who| who.scopes.contains(scopes))
            }
            Who::Nobody => false,
        }
    }
}

/// The word of the configuration.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Anyone => f.write_str("anyone"),
            Who::Users => f.write_str("users"),
            Who::With(scopes) => scopes.fmt(f),
            Who::Nobody => f.write_str("nobody"),
        }
    }
}

/// The rules of the channels under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// The prefix of their names; empty = all channels.
    pub prefix: String,
    /// The rule for subscribing, and for reading the history.
    pub subscribe: Who,
    /// The rule for publishing.
    pub publish: Who,
    /// Messages kept for each. None: the server's limit.
    pub history_max: Option<usize>,
    /// How long a message is kept, in milliseconds.
    pub history_ms: u64,
    /// Whether arrivals and departures of users are announced, and users listed.
    pub presence: bool,
}

impl Namespace {
    /// A namespace with the default rules.
    pub fn new(prefix: &str) -> Namespace {
        Namespace {
            prefix: prefix.to_owned(),
            subscribe: Who::Anyone,
            publish: Who::Anyone,
            history_max: None,
            history_ms: limits::CHANNEL_HISTORY_MS_DEFAULT,
            presence: false,
        }
    }
}

/// A kind of channel that takes only messages of its own endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// `chat:`: rooms take what their members say with `chat`, and the server's announcements.
    Room,
    /// `user:`: the channels of users. Only the user `ann` may follow `user:ann`.
    User,
    /// `dashboard:`: dashboards take metrics, by HTTP.
    Dashboard,
    /// `live:`: live entities take updates, by HTTP.
    Live,
    /// `$`: the server's own.
    Server,
}

impl Reserved {
    const PREFIXES: [(&'static str, Reserved); 5] = [
        ("chat:", Reserved::Room),
        ("user:", Reserved::User),
        ("dashboard:", Reserved::Dashboard),
        ("live:", Reserved::Live),
        ("$", Reserved::Server),
    ];

    /// The kind of a channel, or of the channels under a prefix; none if any message may be
    /// published.
    #[must_use]
    pub fn of(channel: &str) -> Option<Reserved> {
        let mut kinds = Self::PREFIXES.iter();
        kinds.find(|(prefix, _)| channel.starts_with(prefix)).map(|(_, kind)| *kind)
    }

    /// Whether the namespace's `publish` holds for its endpoint. The other kinds take messages of
    /// the members of a room, or of the server alone.
    #[must_use]
    pub const fn has_publish_rule(self) -> bool {
        matches!(self, Reserved::Dashboard | Reserved::Live)
    }

    /// The reason of a refused message.
    #[must_use]
    pub const fn refusal(self) -> &'static str {
        match self {
            Reserved::Room => "channels of rooms take only what their members say with chat",
            Reserved::User => "channels of users take only what the server sends",
            Reserved::Dashboard => "dashboards take only /api/v1/dashboards/{name}/metrics",
            Reserved::Live => "live entities take only /api/v1/live/{entity}/{id}",
            Reserved::Server => "channels that begin with $ are the server's own",
        }
    }
}

/// The refusal of a subscription or a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barred {
    /// Whether the caller is anonymous, so that a token may help.
    pub needs_token: bool,
    /// The reason.
    pub reason: &'static str,
}

impl Barred {
    /// The caller is not included in `who`.
    fn by(who: Who, identity: Option<&Identity>, reason: &'static str) -> Barred {
        Barred { needs_token: identity.is_none() && who != Who::Nobody, reason }
    }
}

/// All namespaces of a server, the longest prefix first.
///
/// # Invariants
///
/// 1. Sorted by falling length of the prefix; the last one's prefix is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces(Vec<Namespace>);

impl Default for Namespaces {
    /// Chat rooms announce presence. Live updates and dashboards, on which others rely, come from
    /// callers with `publish`. Channels that begin with `$` are the server's own.
    fn default() -> Namespaces {
        let mut namespaces = Namespaces(vec![Namespace::new("")]);
        namespaces.insert(Namespace { presence: true, ..Namespace::new("chat:") });
        for prefix in ["live:", "dashboard:"] {
            let publish = Who::With(Scopes::PUBLISH);
            namespaces.insert(Namespace { publish, ..Namespace::new(prefix) });
        }
        namespaces.insert(Namespace { subscribe: Who::Users, ..Namespace::new("user:") });
        let subscribe = Who::With(Scopes::SOCKETS_READ);
        namespaces.insert(Namespace { subscribe, ..Namespace::new("$") });
        namespaces
    }
}

impl Namespaces {
    /// Adds a namespace, or replaces the one of the same prefix. If the channels have an endpoint
    /// of their own that no rule opens, the rule for publishing becomes `nobody`.
    pub fn insert(&mut self, mut namespace: Namespace) {
        if Reserved::of(&namespace.prefix).is_some_and(|kind| !kind.has_publish_rule()) {
            namespace.publish = Who::Nobody;
        }
        self.0.retain(|other| other.prefix != namespace.prefix);
        self.0.push(namespace);
        self.0.sort_by(|a, b| {
            b.prefix.len().cmp(&a.prefix.len()).then_with(|| a.prefix.cmp(&b.prefix))
        });
    }

    /// The rules of a channel.
    ///
    /// # Panics
    ///
    /// Never: the empty prefix fits every name.
    pub fn of(&self, channel: &str) -> &Namespace {
        let found = self.0.iter().find(|namespace| channel.starts_with(&namespace.prefix));
        found.expect("the empty prefix fits every name")
    }

    /// Whether a caller may follow a channel, and read its history.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub(crate) fn may_follow(
        &self,
        channel: &str,
        identity: Option<&Identity>,
        is_auth_required: bool,
    ) -> Result<(), Barred> {
        const REASON: &str = "this channel may not be followed";
        let who = self.of(channel).subscribe;
        if !who.includes(identity, is_auth_required) {
            return Err(Barred::by(who, identity, REASON));
        }
        if let Some(owner) = channel.strip_prefix("user:")
            && identity.is_none_or(|identity| identity.user_id.as_str() != owner)
        {
            return Err(Barred::by(Who::Users, identity, REASON));
        }
        Ok(())
    }

    /// Whether a caller may publish any message of its own to a channel.
    ///
    /// # Errors
    ///
    /// The refusal. That a channel is reserved comes first: no token helps there.
    pub(crate) fn may_publish(
        &self,
        channel: &str,
        identity: Option<&Identity>,
        is_auth_required: bool,
    ) -> Result<(), Barred> {
        match Reserved::of(channel) {
            Some(kind) => Err(Barred { needs_token: false, reason: kind.refusal() }),
            None => self.may_take_door(channel, identity, is_auth_required),
        }
    }

    /// Whether a caller may publish to a channel through the endpoint of its kind.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub(crate) fn may_take_door(
        &self,
        channel: &str,
        identity: Option<&Identity>,
        is_auth_required: bool,
    ) -> Result<(), Barred> {
        let who = self.of(channel).publish;
        if who.includes(identity, is_auth_required) {
            return Ok(());
        }
        Err(Barred::by(who, identity, "this channel may not be published to"))
    }

    /// The namespace of exactly this prefix.
    pub fn exactly(&self, prefix: &str) -> Option<&Namespace> {
        self.0.iter().find(|namespace| namespace.prefix == prefix)
    }

    /// All of them, the longest prefix first.
    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UserId;

    #[test]
    fn the_longest_prefix_decides() {
        let mut namespaces = Namespaces::default();
        namespaces.insert(Namespace { publish: Who::Nobody, ..Namespace::new("chat:quiet-") });
        assert_eq!(namespaces.of("chat:quiet-room").publish, Who::Nobody);
        assert!(namespaces.of("chat:general").presence);
        assert!(!namespaces.of("news").presence);
        namespaces.insert(Namespace { presence: true, ..Namespace::new("") });
        assert!(namespaces.of("news").presence && namespaces.of("").presence);
        assert_eq!(namespaces.iter().count(), 7);
    }

    fn user(name: &str, scope: &str) -> Identity {
        Identity {
            user_id: UserId::new(name),
            username: None,
            scopes: Scopes::from_claim(scope),
            expires_at_s: u64::MAX,
            token: None,
        }
    }

    #[test]
    fn no_rule_opens_a_reserved_channel() {
        let mut namespaces = Namespaces::default();
        for prefix in ["", "chat:", "chat:r", "user:", "live:", "dashboard:", "$", "$stats", "cha"]
        {
            namespaces.insert(Namespace { publish: Who::Anyone, ..Namespace::new(prefix) });
        }
        let admin = user("ann", "admin");
        for channel in ["chat:r", "chat:", "user:ann", "dashboard:d", "live:o", "$stats", "$"] {
            for identity in [None, Some(&admin)] {
                let barred = namespaces.may_publish(channel, identity, false);
                assert!(barred.is_err_and(|barred| !barred.needs_token), "{channel}");
            }
        }
        for channel in ["Chat:r", "chat", "chats:r", "users", "live", "dashboards:d", "x$", "cha"] {
            assert_eq!(namespaces.may_publish(channel, None, false), Ok(()), "{channel}");
        }
        assert_eq!(namespaces.of("chat:r").publish, Who::Nobody, "what is shown is what holds");
        assert_eq!(namespaces.may_take_door("live:o", None, false), Ok(()));
    }

    #[test]
    fn the_channel_of_a_user_is_followed_by_that_user_alone() {
        let mut namespaces = Namespaces::default();
        namespaces.insert(Namespace { subscribe: Who::Anyone, ..Namespace::new("user:") });
        let (ann, admin) = (user("ann", ""), user("bob", "admin"));
        for is_required in [false, true] {
            let may = |who: Option<&Identity>| namespaces.may_follow("user:ann", who, is_required);
            assert_eq!(may(Some(&ann)), Ok(()));
            assert!(may(Some(&admin)).is_err_and(|barred| !barred.needs_token));
            assert!(may(None).is_err_and(|barred| barred.needs_token));
        }
    }

    #[test]
    fn the_server_s_own_figures_need_their_scope() {
        let namespaces = Namespaces::default();
        assert_eq!(namespaces.may_follow("$stats", None, false), Ok(()));
        assert!(namespaces.may_follow("$stats", Some(&user("ann", "message")), true).is_err());
        assert_eq!(
            namespaces.may_follow("$stats", Some(&user("ann", "sockets:read")), true),
            Ok(())
        );
    }

    #[test]
    fn words_survive_the_round_trip() {
        for word in ["anyone", "users", "publish", "admin", "channels:read", "nobody"] {
            assert_eq!(Who::parse(word).map(|who| who.to_string()).as_deref(), Ok(word));
        }
        for word in ["Anyone", "", "publish admin", "sockets"] {
            assert!(Who::parse(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn scopes_count_where_tokens_are_required() {
        let publishers = Who::With(Scopes::PUBLISH);
        assert!(publishers.includes(None, false) && !publishers.includes(None, true));
        assert!(!Who::Users.includes(None, false) && !Who::Nobody.includes(None, false));
    }
}
