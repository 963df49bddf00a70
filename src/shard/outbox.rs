//! The outbox: frames waiting to leave on one socket.
//!
//! The last stage of the journey. All frames for a client pass through here, in order: broadcasts,
//! answers, pongs, the close frame. Nothing else writes to a WebSocket, so no frame can land in the
//! middle of another.
//!
//! ```text
//! fanout --+
//! answer --+--> push --> [ chunk | chunk | chunk ] --> write_to --> socket
//! pong   --+             bounded in bytes and in frames
//! ```
//!
//! # Promises
//!
//! * `push` copies no payload: it keeps a counted handle, and because a chunk never leaves its
//!   shard the count is a plain integer that no other core touches.
//! * `write_to` writes what the kernel takes and remembers its place inside a half-sent chunk.
//! * An empty outbox owns no memory.
//!
//! # Not here
//!
//! The outbox drops nothing by itself and closes nothing. It tells whether a chunk fits, and drops
//! replaceable chunks on request; `shard::slow_reader` decides. One rule, one metric, one place.
//!
//! Imports `id` and `limits`. Imported by `shard`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use bytes::Bytes;

use super::socket::Socket;
use crate::id::ServiceName;
use crate::limits;

/// Bytes that travel together: one frame, or a run of frames for the same readers.
#[derive(Debug)]
pub struct Chunk {
    /// The bytes.
    pub head: Bytes,
    /// More bytes of the same frame, shared with other chunks. Often empty.
    pub tail: Bytes,
    /// How many frames end in this chunk.
    pub frames: u32,
    /// The source, which decides whether the chunk may be dropped.
    pub source: Source,
}

/// The source of a chunk, which decides whether it may be dropped when the budget is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An answer, or part of one. It always fits: reading pauses instead.
    Direct,
    /// A message. It is never dropped.
    Message,
    /// Changes of a service. They may be dropped: a snapshot replaces them.
    Service(ServiceName),
}

impl Source {
    /// The service whose changes it has.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Source::Service(service) => Some(service),
            _ => None,
        }
    }
}

impl Chunk {
    /// An answer of one frame.
    pub fn frame(bytes: Bytes) -> Rc<Chunk> {
        Rc::new(Chunk { head: bytes, tail: Bytes::new(), frames: 1, source: Source::Direct })
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether it has none.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes after the first `offset`, in up to two parts.
    fn parts(&self, offset: usize) -> [&[u8]; 2] {
        let in_head = offset.min(self.head.len());
        [&self.head[in_head..], &self.tail[offset - in_head..]]
    }
}

/// The bound of a connection's unsent data.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of all chunks.
    pub bytes_max: usize,
    /// Frames of all chunks.
    pub frames_max: usize,
}

/// The result of a round of writing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Written {
    /// Bytes the kernel took.
    pub bytes: usize,
    /// Frames that left completely.
    pub frames: usize,
    /// System calls that took something.
    pub writes: usize,
    /// Whether the kernel takes no more for now.
    pub is_blocked: bool,
}

/// The queue of one connection.
///
/// # Invariants
///
/// 1. `rest` is none unless chunks wait behind the first one or a part of the first one has left.
/// 2. Its counts are those of the chunks behind the first one.
/// 3. `offset` lies inside the first chunk.
#[derive(Debug, Default)]
pub struct Outbox {
    first: Option<Rc<Chunk>>,
    /// Boxed: nearly every outbox holds one chunk at most, nearly all of the time.
    rest: Option<Box<Rest>>,
}

/// What waits behind the first chunk.
#[derive(Debug, Default)]
struct Rest {
    chunks: VecDeque<Rc<Chunk>>,
    /// How many bytes of the first chunk have left.
    offset: usize,
    bytes: usize,
    /// Bytes and frames that count in the budget: all but answers.
    budgeted_bytes: usize,
    budgeted_frames: usize,
}

impl Rest {
    fn push(&mut self, chunk: Rc<Chunk>) {
        self.bytes += chunk.len();
        if chunk.source != Source::Direct {
            self.budgeted_bytes += chunk.len();
            self.budgeted_frames += chunk.frames as usize;
        }
        self.chunks.push_back(chunk);
    }

    fn pop(&mut self) -> Option<Rc<Chunk>> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        if chunk.source != Source::Direct {
            self.budgeted_bytes -= chunk.len();
            self.budgeted_frames -= chunk.frames as usize;
        }
        Some(chunk)
    }
}

impl Outbox {
    /// Whether everything has left.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Bytes that have not left.
    pub fn bytes(&self) -> usize {
        let first = self.first.as_ref().map_or(0, |first| first.len());
        first + self.rest.as_ref().map_or(0, |rest| rest.bytes) - self.offset()
    }

    fn offset(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.offset)
    }

    /// Whether `chunk` may be added. One chunk, however large, always fits beside answers alone:
    /// answers do not count, so that a client with a long replay in its outbox has all of the room
    /// for later messages.
    pub fn fits(&self, chunk: &Chunk, budget: Budget) -> bool {
        let Some(first) = &self.first else { return true };
        let (mut bytes, mut frames) = match first.source {
            Source::Direct => (0, 0),
            _ => (first.len() - self.offset(), first.frames as usize),
        };
        if let Some(rest) = &self.rest {
            bytes += rest.budgeted_bytes;
            frames += rest.budgeted_frames;
        }
        frames == 0
            || (bytes + chunk.len() <= budget.bytes_max
                && frames + chunk.frames as usize <= budget.frames_max)
    }

    /// Adds a chunk at the end.
    pub fn push(&mut self, chunk: Rc<Chunk>) {
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.rest.get_or_insert_default().push(chunk);
        }
        debug_assert!(self.is_sound());
    }

    /// Drops every chunk that a snapshot can replace and that has not begun to leave. Returns their
    /// services, some of them more than once.
    pub fn drop_replaceable(&mut self) -> Vec<ServiceName> {
        let mut dropped = Vec::new();
        let Outbox { first, rest } = std::mem::take(self);
        let rest = rest.map(|rest| *rest).unwrap_or_default();
        for (index, chunk) in first.into_iter().chain(rest.chunks).enumerate() {
            let is_begun = index == 0 && rest.offset > 0;
            match &chunk.source {
                Source::Service(service) if !is_begun => dropped.push(service.clone()),
                _ => self.push(chunk),
            }
        }
        if rest.offset > 0 {
            self.rest.get_or_insert_default().offset = rest.offset;
        }
        debug_assert!(self.is_sound());
        dropped
    }

    /// Whether [`Outbox::drop_replaceable`] would drop a chunk of this service.
    pub fn has_replaceable(&self, service: &ServiceName) -> bool {
        let begun = usize::from(self.offset() > 0);
        self.chunks().skip(begun).any(|chunk| chunk.source.service() == Some(service))
    }

    /// Drops everything, for a connection that has ended.
    #[cfg(any(test, feature = "internals"))]
    pub fn clear(&mut self) {
        *self = Outbox::default();
    }

    /// Writes until the kernel takes no more or nothing is left. Small chunks are copied into
    /// `scratch` and leave in one piece; large ones go out as vectors. The cut-over is measured in
    /// PERF.md.
    ///
    /// # Errors
    ///
    /// The socket's, except that it is full: the connection is lost.
    pub fn write_to(
        &mut self,
        socket: &mut impl Socket,
        scratch: &mut Vec<u8>,
    ) -> io::Result<Written> {
        let mut written = Written::default();
        while let Some(first) = &self.first {
            let result = match &self.rest {
                None if first.tail.is_empty() => socket.try_write(&first.head),
                Some(rest) if rest.chunks.is_empty() && first.tail.is_empty() => {
                    socket.try_write(&first.head[rest.offset..])
                }
                _ if self.bytes() <= limits::COPY_BYTES_MAX => {
                    scratch.clear();
                    self.copy_into(scratch);
                    socket.try_write(scratch)
                }
                _ => self.write_vectored(socket),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    written.writes += 1;
                    written.bytes += bytes;
                    written.frames += self.advance(bytes);
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    written.is_blocked = true;
                    break;
                }
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
        debug_assert!(self.is_sound());
        Ok(written)
    }

    fn chunks(&self) -> impl Iterator<Item = &Rc<Chunk>> {
        self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.chunks.iter()))
    }

    fn copy_into(&self, scratch: &mut Vec<u8>) {
        let mut offset = self.offset();
        for chunk in self.chunks() {
            for part in chunk.parts(std::mem::take(&mut offset)) {
                scratch.extend_from_slice(part);
            }
        }
    }

    fn write_vectored(&self, socket: &mut impl Socket) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); limits::IO_SLICES_MAX];
        let (mut count, mut offset) = (0, self.offset());
        'fill: for chunk in self.chunks() {
            for part in chunk.parts(std::mem::take(&mut offset)) {
                if count == slices.len() {
                    break 'fill;
                }
                if !part.is_empty() {
                    slices[count] = IoSlice::new(part);
                    count += 1;
                }
            }
        }
        socket.try_write_vectored(&slices[..count])
    }

    /// Moves over bytes that have left. Returns how many frames ended in them; a run counts when
    /// its last byte has left.
    fn advance(&mut self, bytes: usize) -> usize {
        let (mut left, mut frames) = (bytes, 0);
        while let Some(first) = &self.first {
            let remaining = first.len() - self.offset();
            if left < remaining {
                self.rest.get_or_insert_default().offset += left;
                break;
            }
            left -= remaining;
            frames += first.frames as usize;
            self.first = self.rest.as_mut().and_then(|rest| {
                rest.offset = 0;
                rest.pop()
            });
            if self.rest.as_ref().is_some_and(|rest| rest.chunks.is_empty()) {
                self.rest = None;
            }
            if left == 0 {
                break;
            }
        }
        frames
    }

    /// All three invariants. Linear in the queue, so only ever called from `debug_assert!`.
    fn is_sound(&self) -> bool {
        let Some(rest) = &self.rest else { return true };
        let Some(first) = &self.first else { return false };
        let budgeted = || rest.chunks.iter().filter(|chunk| chunk.source != Source::Direct);
        let bytes: usize = rest.chunks.iter().map(|chunk| chunk.len()).sum();
        let budgeted_bytes: usize = budgeted().map(|chunk| chunk.len()).sum();
        let budgeted_frames: usize = budgeted().map(|chunk| chunk.frames as usize).sum();
        (!rest.chunks.is_empty() || rest.offset > 0)
            && bytes == rest.bytes
            && budgeted_bytes == rest.budgeted_bytes
            && budgeted_frames == rest.budgeted_frames
            && (rest.offset == 0 || rest.offset < first.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::shard::socket::testing::Pipe;

    /// Random pushes, drops and short writes against a flat list of bytes.
    #[test]
    fn bytes_leave_once_and_in_order() {
        // Miri takes its time over each byte.
        let (seeds, large) = if cfg!(miri) { (2, 500) } else { (100, 50_000) };
        for seed in 0..seeds {
            let mut rng = Rng::seeded(seed);
            let (mut outbox, mut scratch) = (Outbox::default(), Vec::new());
            let mut pipe = Pipe::default();
            // What must arrive: chunks, each with whether it may be dropped.
            let mut model: VecDeque<(Vec<u8>, bool)> = VecDeque::new();
            let (mut arrived, mut left_of_first) = (Vec::new(), 0_usize);
            for step in 0..200_u8 {
                match rng.below(8) {
                    0..=4 => {
                        let span = if rng.below(5) == 0 { large } else { 300 };
                        let size = 1 + rng.below(span);
                        let bytes = vec![step; size as usize];
                        let cut = rng.below(size) as usize;
                        let is_service = rng.below(2) == 0;
                        model.push_back((bytes.clone(), is_service));
                        outbox.push(Rc::new(Chunk {
                            head: Bytes::copy_from_slice(&bytes[..=cut]),
                            tail: Bytes::copy_from_slice(&bytes[cut + 1..]),
                            frames: 1,
                            source: match is_service {
                                true => Source::Service(ServiceName::of("s")),
                                false if step % 2 == 0 => Source::Direct,
                                false => Source::Message,
                            },
                        }));
                    }
                    5 => {
                        let before = model.len();
                        let mut index = 0;
                        model.retain(|(_, is_service)| {
                            index += 1;
                            !is_service || (index == 1 && left_of_first > 0)
                        });
                        assert_eq!(outbox.drop_replaceable().len(), before - model.len());
                    }
                    _ => {
                        pipe.room = rng.below(large + large * 2 / 5) as usize;
                        let written = outbox.write_to(&mut pipe, &mut scratch).expect("a pipe");
                        let got: Vec<u8> = pipe.written.drain(..).collect();
                        assert_eq!(written.bytes, got.len());
                        arrived.extend_from_slice(&got);
                        let mut count = got.len() + left_of_first;
                        while model.front().is_some_and(|(bytes, _)| bytes.len() <= count) {
                            let (bytes, _) = model.pop_front().expect("just seen");
                            count -= bytes.len();
                        }
                        left_of_first = count;
                        assert_eq!(written.is_blocked, !outbox.is_empty(), "seed {seed}");
                    }
                }
                let want: usize = model.iter().map(|(bytes, _)| bytes.len()).sum();
                assert_eq!(outbox.bytes(), want - left_of_first, "seed {seed} step {step}");
            }
            // Each chunk is a block of one value, and values only rise.
            assert!(arrived.is_sorted(), "seed {seed}");
        }
    }

    #[test]
    fn anything_fits_an_empty_outbox() {
        let budget = Budget { bytes_max: 10, frames_max: 2 };
        let mut outbox = Outbox::default();
        let message = |bytes: usize| {
            let source = Source::Message;
            Rc::new(Chunk { head: vec![0; bytes].into(), tail: Bytes::new(), frames: 1, source })
        };
        outbox.push(Chunk::frame(Bytes::from(vec![0; 5_000])));
        assert!(outbox.fits(&message(1_000), budget), "answers take no room");
        outbox.push(message(1_000));
        assert!(!outbox.fits(&message(1), budget));
    }
}
