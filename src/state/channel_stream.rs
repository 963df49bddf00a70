//! A replicated channel's stream: which of its messages is the next, and what to do about a gap.
//!
//! ```text
//! topic --> offer --> Deliver | Gap | Reset | Nothing
//! read  --> repair --> Deliver | JumpTo, ...
//! ```
//!
//! Pure: it decides, and the state carries it out. A channel of one node has no stream.
//!
//! # Promises
//!
//! * What is delivered has the offset after the one before it, under the same epoch. A jump stands
//!   wherever that is not so.

use std::collections::{BTreeMap, VecDeque};

use super::backplane::{ChannelState, SequencedMessage};
use crate::id::Epoch;
use crate::limits;

/// Where the followers here stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamPosition<'a> {
    pub(super) epoch: &'a str,
    /// The offset of the last message that they got.
    pub(super) offset: u64,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is the next one.
    Deliver(SequencedMessage),
    /// Messages before it are missing and have to be read. It waits for them.
    Gap,
    /// The channel goes on with it under another epoch.
    Reset(SequencedMessage),
    /// It waits, or it came before.
    Nothing,
}

/// A step towards what was read of a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The followers get the next message.
    Deliver(SequencedMessage),
    /// The followers hear that they have lost what lies before this offset.
    JumpTo(String, u64),
}

/// What closes a gap.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// These steps.
    Steps(Vec<Step>),
    /// Redis lost messages that the followers have. Their offsets must not be given to other messages
    /// under the same epoch.
    Delete,
}

/// The stream, beside the channel's epoch and offset.
///
/// # Invariants
///
/// 1. `stash` holds at most [`limits::CHANNEL_STASH_MAX`] messages, `past` at most
///    [`limits::CHANNEL_EPOCHS_MAX`] epochs.
#[derive(Debug, Default)]
pub(super) struct ChannelStream {
    /// Whether the channel's history has been read.
    pub(super) is_live: bool,
    /// Whether something is being read.
    pub(super) is_reading: bool,
    /// Messages of the channel's epoch that came before those in front of them.
    stash: BTreeMap<u64, SequencedMessage>,
    /// Epochs that it has left, the newest last: their messages come too late.
    past: VecDeque<Epoch>,
}

impl ChannelStream {
    /// A stream whose history is being read.
    pub(super) fn reading() -> ChannelStream {
        ChannelStream { is_reading: true, ..ChannelStream::default() }
    }

    /// Judges a message. `is_heard` says that it comes from the topic, where what is not there by now was
    /// missed.
    pub(super) fn offer(
        &mut self,
        at: StreamPosition<'_>,
        message: SequencedMessage,
        is_heard: bool,
    ) -> Offered {
        let has_room = self.stash.len() < limits::CHANNEL_STASH_MAX;
        if !self.is_live {
            // Read first, then this. What does not fit is missed and read again.
            if is_heard && has_room {
                self.stash.insert(message.offset, message);
            }
            return Offered::Nothing;
        }
        if at.epoch != message.epoch {
            if is_heard && !self.past.iter().any(|epoch| epoch.as_str() == message.epoch) {
                // Redis lost the channel, or it was deleted.
                return Offered::Reset(message);
            }
            if is_heard && self.is_reading && has_room {
                // Of an epoch that was left, or that this node was led away from: what is being read
                // tells which.
                self.stash.entry(message.offset).or_insert(message);
            }
            return Offered::Nothing;
        }
        if message.offset <= at.offset {
            return Offered::Nothing;
        }
        if message.offset > at.offset + 1 {
            if has_room {
                self.stash.insert(message.offset, message);
            }
            return if is_heard { Offered::Gap } else { Offered::Nothing };
        }
        Offered::Deliver(message)
    }

    /// Takes the next message, where it came too early.
    pub(super) fn take_next(&mut self, at: StreamPosition<'_>) -> Option<SequencedMessage> {
        let next = at.offset + 1;
        self.stash = self.stash.split_off(&next);
        self.stash.remove(&next).filter(|message| message.epoch == at.epoch)
    }

    /// Whether a message waits for those before it.
    pub(super) fn is_stashed(&self, offset: u64) -> bool {
        self.stash.contains_key(&offset)
    }

    /// The history has been read. Returns the messages that came meanwhile.
    pub(super) fn go_live(&mut self) -> impl Iterator<Item = SequencedMessage> + use<> {
        self.is_live = true;
        std::mem::take(&mut self.stash).into_values()
    }

    /// The channel goes on under another epoch, or under the same.
    pub(super) fn enter_epoch(&mut self, before: &Epoch, epoch: &str) {
        if before.as_str() == epoch {
            return;
        }
        self.stash.retain(|_, message| message.epoch == epoch);
        self.past.retain(|past| past.as_str() != epoch);
        self.past.push_back(before.clone());
        if self.past.len() > limits::CHANNEL_EPOCHS_MAX {
            self.past.pop_front();
        }
    }

    /// Begins to read what is missing. Returns whether that is not under way already, and makes sense.
    pub(super) fn begin_repair(&mut self) -> bool {
        self.is_live && !std::mem::replace(&mut self.is_reading, true)
    }
}

/// What leads followers from where they are to what was read. `asked` is where they were when it was
/// asked for.
pub(super) fn repair(
    at: StreamPosition<'_>,
    asked: StreamPosition<'_>,
    found: Option<ChannelState>,
) -> Repair {
    let Some(found) = found else { return Repair::Steps(Vec::new()) };
    let (mut steps, mut offset) = (Vec::new(), at.offset);
    if found.epoch != at.epoch {
        // From the first that is kept: nobody here has had any of these.
        offset = found.kept.first().map_or(found.offset, |first| first.offset - 1);
        steps.push(Step::JumpTo(found.epoch.clone(), offset));
    } else if found.epoch == asked.epoch && found.offset < asked.offset {
        return Repair::Delete;
    }
    let mut delivered = 0;
    for message in found.kept {
        if message.offset <= offset {
            continue;
        }
        if message.offset > offset + 1 {
            // What lies between is gone for good.
            steps.push(Step::JumpTo(found.epoch.clone(), message.offset - 1));
        }
        offset = message.offset;
        delivered += 1;
        steps.push(Step::Deliver(message));
    }
    // A full answer may go on.
    if delivered < limits::CHANNEL_HEAL_MAX && offset < found.offset {
        steps.push(Step::JumpTo(found.epoch, found.offset));
    }
    Repair::Steps(steps)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::id::ChannelName;
    use crate::state::backplane::ChannelMessage;

    fn message(epoch: &str, offset: u64) -> SequencedMessage {
        let (channel, text) = (ChannelName::new("c"), Bytes::from_static(b"{}"));
        let message = ChannelMessage { channel, text, except: None };
        SequencedMessage { epoch: epoch.to_owned(), offset, at_ms: 1, message }
    }

    fn at(epoch: &str, offset: u64) -> StreamPosition<'_> {
        StreamPosition { epoch, offset }
    }

    fn live() -> ChannelStream {
        ChannelStream { is_live: true, ..ChannelStream::default() }
    }

    #[test]
    fn what_comes_before_its_turn_waits_for_it() {
        let mut stream = live();
        assert_eq!(stream.offer(at("e", 1), message("e", 1), true), Offered::Nothing, "again");
        assert_eq!(stream.offer(at("e", 1), message("e", 4), true), Offered::Gap);
        assert_eq!(stream.offer(at("e", 1), message("e", 3), false), Offered::Nothing, "own");
        assert!(stream.is_stashed(3) && stream.take_next(at("e", 1)).is_none());
        let next = message("e", 2);
        assert_eq!(stream.offer(at("e", 1), next.clone(), true), Offered::Deliver(next));
        assert_eq!(stream.take_next(at("e", 2)), Some(message("e", 3)));
        assert_eq!(stream.take_next(at("e", 3)), Some(message("e", 4)));
        assert!(stream.take_next(at("e", 4)).is_none() && !stream.is_stashed(4));
    }

    #[test]
    fn a_message_of_another_epoch_resets_unless_that_epoch_is_past() {
        let mut stream = live();
        assert_eq!(stream.offer(at("a", 5), message("b", 1), false), Offered::Nothing);
        let first = message("b", 1);
        assert_eq!(stream.offer(at("a", 5), first.clone(), true), Offered::Reset(first));
        stream.enter_epoch(&Epoch::new("a"), "b");
        assert_eq!(stream.offer(at("b", 1), message("a", 6), true), Offered::Nothing, "too late");
        assert!(stream.begin_repair() && !stream.begin_repair(), "one at a time");
        assert_eq!(stream.offer(at("b", 1), message("a", 6), true), Offered::Nothing);
        assert!(stream.is_stashed(6), "what is read tells which epoch is over");
        stream.enter_epoch(&Epoch::new("b"), "a");
        assert_eq!(stream.take_next(at("a", 5)), Some(message("a", 6)));
    }

    #[test]
    fn what_comes_while_the_history_is_read_waits() {
        let mut stream = ChannelStream::reading();
        assert_eq!(stream.offer(at("e", 0), message("e", 2), true), Offered::Nothing);
        assert!(!stream.begin_repair(), "it is being read");
        assert!(stream.go_live().eq([message("e", 2)]) && stream.is_live);
    }

    #[test]
    fn a_stash_is_bounded() {
        let (mut stream, max) = (live(), limits::CHANNEL_STASH_MAX as u64);
        for offset in 2..max + 10 {
            assert_eq!(stream.offer(at("e", 0), message("e", offset), true), Offered::Gap);
        }
        assert_eq!(stream.stash.len(), limits::CHANNEL_STASH_MAX);
    }

    #[test]
    fn a_gap_is_read_and_what_is_gone_is_jumped_over() {
        let found = |epoch: &str, offset, kept: &[u64]| {
            let kept = kept.iter().map(|&offset| message(epoch, offset)).collect();
            Some(ChannelState { epoch: epoch.to_owned(), offset, kept })
        };
        let steps = |at, asked, found| match repair(at, asked, found) {
            Repair::Steps(steps) => steps,
            Repair::Delete => panic!("nothing is lost"),
        };
        let deliver = |epoch: &str, offset| Step::Deliver(message(epoch, offset));
        let jump = |epoch: &str, offset| Step::JumpTo(epoch.to_owned(), offset);
        assert_eq!(steps(at("e", 2), at("e", 2), None), []);
        assert_eq!(
            steps(at("e", 2), at("e", 1), found("e", 4, &[2, 3, 4])),
            [deliver("e", 3), deliver("e", 4)],
            "what came meanwhile does not come again"
        );
        assert_eq!(
            steps(at("e", 2), at("e", 2), found("e", 9, &[5, 6])),
            [jump("e", 4), deliver("e", 5), deliver("e", 6), jump("e", 9)]
        );
        assert_eq!(
            steps(at("e", 8), at("e", 8), found("f", 3, &[2, 3])),
            [jump("f", 1), deliver("f", 2), deliver("f", 3)]
        );
        assert_eq!(repair(at("e", 8), at("e", 8), found("e", 7, &[7])), Repair::Delete);
        assert_eq!(steps(at("e", 8), at("f", 9), found("e", 7, &[])), [], "asked under another");
    }
}
