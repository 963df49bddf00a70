//! Namespaces: what holds for all channels whose names begin alike.
//!
//! Who may follow and who may publish, how much is kept for those who come back, and whether it is
//! announced who comes and goes. The longest prefix that fits a channel decides.
//!
//! Imports `auth::jwt`, `auth::permission` and `limits`. Imported by `config`, `ws`, `shard`, `http`
//! and `state`.

use super::jwt::Identity;
use super::permission::Scopes;
use crate::limits;

/// Who may do something in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Everyone who is connected.
    Anyone,
    /// Whoever is signed in.
    Users,
    /// Whoever has the scope, where tokens are required; else everyone.
    With(Scopes),
    /// No client. The server's own program still may.
    Nobody,
}

impl Who {
    /// Reads the word of the configuration.
    ///
    /// # Errors
    ///
    /// What would be right.
    pub fn parse(word: &str) -> Result<Who, String> {
        match word {
            "anyone" => Ok(Who::Anyone),
            "users" => Ok(Who::Users),
            "publish" => Ok(Who::With(Scopes::PUBLISH)),
            "admin" => Ok(Who::With(Scopes::ADMIN)),
            "nobody" => Ok(Who::Nobody),
            _ => Err(String::from("neither anyone, users, publish, admin nor nobody")),
        }
    }

    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Who::Anyone => "anyone",
            Who::Users => "users",
            Who::With(Scopes::ADMIN) => "admin",
            Who::With(_) => "publish",
            Who::Nobody => "nobody",
        }
    }

    /// Whether a caller is one of them.
    pub fn includes(self, identity: Option<&Identity>, is_auth_required: bool) -> bool {
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

/// The rules of the channels under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// How their names begin; empty = all of them.
    pub prefix: String,
    /// Who may follow them, and read what is kept.
    pub subscribe: Who,
    /// Who may publish to them.
    pub publish: Who,
    /// Messages kept for each. None: the server's limit.
    pub history_max: Option<usize>,
    /// How long a message is kept, in milliseconds.
    pub history_ms: u64,
    /// Whether the users who come and go are announced and listed.
    pub presence: bool,
}

impl Namespace {
    /// A namespace with the rules of channels that none is made for.
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

/// All namespaces of a server, the longest prefix first.
///
/// # Invariants
///
/// 1. Sorted by falling length of the prefix; the last one's prefix is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces(Vec<Namespace>);

impl Default for Namespaces {
    /// Chat rooms tell who is there; what is published for others to rely on, live updates and
    /// dashboards, comes from those who may publish. What begins with `$` is the server's own.
    fn default() -> Namespaces {
        let mut namespaces = Namespaces(vec![Namespace::new("")]);
        namespaces.insert(Namespace { presence: true, ..Namespace::new("chat:") });
        for prefix in ["live:", "dashboard:"] {
            let publish = Who::With(Scopes::PUBLISH);
            namespaces.insert(Namespace { publish, ..Namespace::new(prefix) });
        }
        namespaces.insert(Namespace { publish: Who::Nobody, ..Namespace::new("$") });
        namespaces
    }
}

impl Namespaces {
    /// Adds a namespace, or replaces the one of the same prefix.
    pub fn insert(&mut self, namespace: Namespace) {
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

    #[test]
    fn the_longest_prefix_decides() {
        let mut namespaces = Namespaces::default();
        namespaces.insert(Namespace { publish: Who::Nobody, ..Namespace::new("chat:quiet-") });
        assert_eq!(namespaces.of("chat:quiet-room").publish, Who::Nobody);
        assert!(namespaces.of("chat:general").presence);
        assert!(!namespaces.of("news").presence);
        namespaces.insert(Namespace { presence: true, ..Namespace::new("") });
        assert!(namespaces.of("news").presence && namespaces.of("").presence);
        assert_eq!(namespaces.iter().count(), 6);
    }

    #[test]
    fn words_survive_the_round_trip() {
        for word in ["anyone", "users", "publish", "admin", "nobody"] {
            assert_eq!(Who::parse(word).map(Who::as_str), Ok(word));
        }
        assert!(Who::parse("Anyone").is_err());
    }

    #[test]
    fn scopes_count_where_tokens_are_required() {
        let publishers = Who::With(Scopes::PUBLISH);
        assert!(publishers.includes(None, false) && !publishers.includes(None, true));
        assert!(!Who::Users.includes(None, false) && !Who::Nobody.includes(None, false));
    }
}
