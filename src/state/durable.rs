//! What has to be on disk before anyone hears that it is done.
//!
//! The state checks such a write and stamps it; the store carries it out together with all others
//! that wait; then the state tells those it concerns. Groups and passwords live in the database
//! alone, so the last check of many a write happens there, inside the transaction.

use std::sync::Arc;

use super::journal::JournalEntry;
use super::people::Person;
use crate::auth::{Standing, TokenId};
use crate::id::{ChannelName, MessageId, UserId};
use crate::wire::refusal::Refusal;

/// Something to be made durable.
#[derive(Debug, Clone)]
pub enum Write {
    /// An account with a password.
    Account {
        /// The new user.
        user_id: UserId,
        /// The name it signs in with.
        username: String,
        /// Its mail address.
        email: Option<String>,
        /// argon2id, in the PHC string format.
        password_hash: String,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// A new password. It ends the tokens made so far.
    SetPassword {
        /// Whose.
        user_id: UserId,
        /// The hash that is to be replaced: nothing is written where another one is there by now.
        old_hash: String,
        /// argon2id, in the PHC string format.
        password_hash: String,
        /// The token that counts all the same.
        kept_token: Option<TokenId>,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// The end of all tokens of a user so far.
    EndTokens {
        /// Whose, with the name to show.
        person: Person,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// The end of one token; where too many are ended one by one, of all of the user's.
    EndToken {
        /// Whose, with the name to show.
        person: Person,
        /// Which.
        token: TokenId,
        /// When it runs out, in seconds since the Unix epoch.
        expires_s: u64,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// The end of an account: its name is free again, its tokens are ended, its groups go on without
    /// it. What it wrote stays with those it was written to.
    RemoveAccount {
        /// Whose, with the name to show.
        person: Person,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// Users that were seen for the first time.
    Seen {
        /// Who.
        people: Vec<Person>,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// A direct message, or one to a group that its sender is a member of. Among several nodes the
    /// journal keeps them: there the sender's membership is checked, and no more.
    Message(Arc<JournalEntry>),
    /// A run of the journal, in its order. Only among several nodes, and two of them may write the
    /// same run.
    JournalRun(Vec<Arc<JournalEntry>>),
    /// A new group.
    CreateGroup {
        /// Its id.
        group_id: String,
        /// Its name.
        name: String,
        /// Who makes it and manages it.
        owner: UserId,
        /// All its members, the owner among them.
        members: Vec<UserId>,
        /// Who is asked to become one.
        invited: Vec<UserId>,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// The end of a group.
    DeleteGroup {
        /// Which.
        group_id: String,
        /// Who asks.
        by: UserId,
    },
    /// A new member.
    AddMember {
        /// Of which group.
        group_id: String,
        /// Who.
        user_id: UserId,
        /// Who asks.
        by: UserId,
    },
    /// A user is asked to become a member.
    Invite {
        /// Of which group.
        group_id: String,
        /// Who.
        user_id: UserId,
        /// Who asks.
        by: UserId,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// An invitation is accepted, or declined.
    AnswerInvitation {
        /// To which group.
        group_id: String,
        /// Who was invited.
        user_id: UserId,
        /// Whether the user becomes a member.
        accepts: bool,
    },
    /// A member less.
    RemoveMember {
        /// Of which group.
        group_id: String,
        /// Who.
        user_id: UserId,
        /// Who asks.
        by: UserId,
    },
    /// A channel that outlives its subscribers.
    DefineChannel {
        /// Its name.
        channel: ChannelName,
        /// What it is for.
        description: String,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// The end of such a channel.
    DropChannel {
        /// Its name.
        channel: ChannelName,
    },
}

impl Write {
    /// About how many bytes it is for the database.
    pub fn bytes(&self) -> usize {
        let users =
            |users: &[UserId]| users.iter().map(|user| user.as_str().len() + ROW_BYTES).sum();
        let texts: usize = match self {
            Write::Account { username, email, password_hash, .. } => {
                2 * username.len() + email.as_ref().map_or(0, String::len) + password_hash.len()
            }
            Write::Seen { people, .. } => people
                .iter()
                .map(|one| one.user_id.as_str().len() + one.username.len() + ROW_BYTES)
                .sum(),
            Write::Message(entry) => entry.message.content.len(),
            Write::JournalRun(run) => {
                run.iter().map(|one| one.message.content.len() + ROW_BYTES).sum()
            }
            Write::CreateGroup { members, .. } => users(members),
            Write::DefineChannel { description, .. } => description.len(),
            // Ids alone.
            _ => 0,
        };
        texts + ROW_BYTES
    }
}

/// What a row costs beside its longest text, in bytes: ids, names and numbers.
const ROW_BYTES: usize = 256;

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is on disk.
    Done,
    /// It was so before.
    Unchanged,
    /// The user is invited; an older invitation counts on.
    Invited,
    /// It is on disk, and is for these users. Among several nodes it may go to the journal for them.
    For(Vec<UserId>),
}

/// A write's result. A refusal leaves the writes beside it as they are.
pub type WriteResult = Result<Written, Refusal>;

/// What is known of an account, after the command line, another node or this one changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// Whose.
    pub user_id: UserId,
    /// What its name is looked up by; none where it has none to sign in with.
    pub name_key: Option<Box<str>>,
    /// Which of its tokens count.
    pub standing: Standing,
    /// Whether it was removed: then there is no such user, unless one comes back.
    pub is_removed: bool,
    /// When it was changed, in milliseconds since the Unix epoch. One change may be told of often.
    pub changed_ms: u64,
}

/// A single token that counts no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedToken {
    /// Which.
    pub id: TokenId,
    /// Whose; none where that is not known.
    pub user_id: Option<UserId>,
    /// When it runs out, in seconds since the Unix epoch.
    pub expires_s: u64,
    /// When it was revoked, in milliseconds since the Unix epoch. No two have the same stamp.
    pub changed_ms: u64,
}

/// What the store knew of people and channels at the start.
#[derive(Debug, Default)]
pub struct PeopleSnapshot {
    /// Every user.
    pub users: Vec<AccountChange>,
    /// Single tokens that count no more.
    pub ended_tokens: Vec<EndedToken>,
    /// Every defined channel with its description.
    pub channels: Vec<(String, String)>,
    /// The newest message's id.
    pub last_message: Option<MessageId>,
    /// Among several nodes: the journal is in the database up to this message, and with it.
    pub written: Option<MessageId>,
}
