//! Direct and group messages among several nodes: in the journal first, in the database later.
//!
//! The journal gives every message its id and so one order for all nodes. Whoever pulls messages is
//! given what the database has and what the journal has beyond that.
//!
//! Imports `id` and `limits`. Imported by `state`, `store`, `cluster` and `control`.

use serde::{Deserialize, Serialize};

use crate::id::{MessageId, UserId};
use crate::limits;

/// A message in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its number in the journal: rises by one a message.
    pub sequence: u64,
    /// Its id, made of its place in the journal: ids rise as numbers do.
    pub id: MessageId,
    /// What it is.
    pub post: DirectMessage,
}

/// A message that has no place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectMessage {
    /// Who wrote it.
    pub from: UserId,
    /// Whom it is for.
    pub to: Addressee,
    /// What it says.
    pub content: String,
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    /// A user.
    User(UserId),
    /// A group.
    Group {
        /// Its id.
        group_id: String,
        /// Its members when the message was accepted, the sender among them.
        members: Vec<UserId>,
    },
}

/// Which of a user's messages are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Whose.
    pub user: UserId,
    /// The id before the first one wanted.
    pub after: Option<MessageId>,
    /// Only direct ones from and to this user.
    pub with: Option<UserId>,
    /// How many at most.
    pub limit: usize,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<String>,
    content: String,
}

impl JournalEntry {
    /// When it was accepted, in seconds since the Unix epoch.
    pub fn at_s(&self) -> u64 {
        self.id.unix_ms() / 1_000
    }
}

impl DirectMessage {
    /// Whether a user may pull it.
    pub fn is_of(&self, user: &UserId) -> bool {
        self.from == *user
            || match &self.to {
                Addressee::User(to) => to == user,
                Addressee::Group { members, .. } => members.contains(user),
            }
    }

    /// About how many bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        self.content.len() + limits::POSTED_OVERHEAD_BYTES + 16 * self.readers()
    }

    /// How many users may pull it.
    pub fn readers(&self) -> usize {
        match &self.to {
            Addressee::User(_) => 2,
            Addressee::Group { members, .. } => members.len(),
        }
    }

    /// Whether it is a direct one from one of two users to the other.
    pub fn is_between(&self, a: &UserId, b: &UserId) -> bool {
        match &self.to {
            Addressee::User(to) => (self.from == *a && to == b) || (self.from == *b && to == a),
            Addressee::Group { .. } => false,
        }
    }

    /// The message as the journal carries it.
    pub fn encode(&self) -> String {
        let text = |user: &UserId| user.as_str().to_owned();
        let mut wire = Wire {
            from: text(&self.from),
            to: None,
            group: None,
            members: Vec::new(),
            content: self.content.clone(),
        };
        match &self.to {
            Addressee::User(to) => wire.to = Some(text(to)),
            Addressee::Group { group_id, members } => {
                wire.group = Some(group_id.clone());
                wire.members = members.iter().map(text).collect();
            }
        }
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Reads what [`DirectMessage::encode`] wrote.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(text: &str) -> Result<DirectMessage, String> {
        let wire: Wire = serde_json::from_str(text).map_err(|fault| fault.to_string())?;
        let to = match (wire.to, wire.group) {
            (Some(to), None) => Addressee::User(UserId::new(&to)),
            (None, Some(group_id)) => {
                let members = wire.members.iter().map(|one| UserId::new(one)).collect();
                Addressee::Group { group_id, members }
            }
            _ => return Err(String::from("a message is for a user or for a group")),
        };
        Ok(DirectMessage { from: UserId::new(&wire.from), to, content: wire.content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_journal() {
        let user = UserId::new;
        for to in [
            Addressee::User(user("b")),
            Addressee::Group { group_id: "g".into(), members: vec![user("a"), user("b")] },
        ] {
            let post = DirectMessage { from: user("a"), to, content: "hi \u{1f600}\n".into() };
            assert_eq!(DirectMessage::decode(&post.encode()), Ok(post.clone()));
            assert!(post.is_of(&user("a")) && post.is_of(&user("b")) && !post.is_of(&user("c")));
        }
        assert!(DirectMessage::decode("{}").is_err() && DirectMessage::decode("").is_err());
    }
}
