//! Reading: from the socket into the shared buffer, and from there into the tally.
//!
//! The hot path of the program. Part of `fleet`.

use std::io::{self, Read};

use super::Fleet;
use crate::connection::Phase;
use crate::frame::{self, Frame, FrameError, Opcode};
use crate::message::{self, Message};
use crate::target;

impl Fleet {
    /// Reads a connection empty. `must_see_end` reads on after a short read, for the end may lie
    /// right behind it without another edge.
    pub(super) fn serve_readable(&mut self, index: usize, must_see_end: bool) {
        let connection = &mut self.connections[index];
        if connection.is_stalled || connection.phase == Phase::Connecting {
            return;
        }
        let Some(mut stream) = connection.stream.take() else {
            return;
        };
        let mut filled = connection.pending.len();
        if filled >= self.buffer.len() {
            self.buffer.resize(filled * 2, 0);
        }
        self.buffer[..filled].copy_from_slice(&connection.pending);
        connection.pending.clear();
        let mut fault = None;
        loop {
            let space = self.buffer.len() - filled;
            let count = match stream.read(&mut self.buffer[filled..]) {
                Ok(0) => {
                    fault = Some(String::new());
                    break;
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    fault = Some(error.to_string());
                    break;
                }
            };
            let end = filled + count;
            match self.consume(index, end) {
                Ok(used) => {
                    self.buffer.copy_within(used..end, 0);
                    filled = end - used;
                }
                Err(reason) => {
                    fault = Some(reason);
                    break;
                }
            }
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
            if count < space && !must_see_end {
                break;
            }
        }
        self.connections[index].stream = Some(stream);
        match fault {
            Some(reason) => self.lose(index, &reason),
            None => self.keep_rest(index, filled),
        }
    }

    /// Keeps the cut frame at the start of the buffer for the next read, and writes the answers to
    /// the frames before it.
    fn keep_rest(&mut self, index: usize, filled: usize) {
        let connection = &mut self.connections[index];
        if filled > 0 {
            connection.pending.extend_from_slice(&self.buffer[..filled]);
        } else if connection.pending.capacity() > 0 {
            connection.pending = Vec::new();
        }
        if !connection.outgoing.is_empty() && connection.phase == Phase::Open {
            self.flush(index);
        }
    }

    /// Handles all complete frames of `buffer[..end]`. Returns the number of their bytes.
    fn consume(&mut self, index: usize, end: usize) -> Result<usize, String> {
        let now_ns = self.clock.now_ns();
        let mut used = 0;
        // Moved out and back, so that frames can be borrowed from it while we change the rest.
        let buffer = std::mem::take(&mut self.buffer);
        let bytes = &buffer[..end];
        let mut outcome = Ok(());
        if self.connections[index].phase == Phase::Upgrading {
            match target::upgraded(bytes, &self.connections[index].accept) {
                Ok(Some(head)) => {
                    used = head;
                    self.opened(index, now_ns);
                }
                Ok(None) => {}
                Err(reason) => outcome = Err(reason),
            }
        }
        if outcome.is_ok() && self.connections[index].phase == Phase::Open {
            self.counts.bytes += (end - used) as u64;
            outcome = self.frames(index, bytes, &mut used, now_ns).map_err(|e| e.to_string());
        }
        self.buffer = buffer;
        outcome.map(|()| used)
    }

    fn frames(
        &mut self,
        index: usize,
        bytes: &[u8],
        used: &mut usize,
        now_ns: u64,
    ) -> Result<(), FrameError> {
        while let Some(frame) = frame::decode(bytes, *used)? {
            *used = frame.payload.end;
            let payload = &bytes[frame.payload.clone()];
            let is_whole = frame.opcode == Opcode::Text && frame.is_final;
            if is_whole && self.connections[index].fragments.is_empty() {
                self.text(index, payload, now_ns);
            } else {
                self.rare(index, &frame, payload, now_ns)?;
            }
        }
        Ok(())
    }

    /// Every frame but a whole text.
    fn rare(
        &mut self,
        index: usize,
        frame: &Frame,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<(), FrameError> {
        let connection = &mut self.connections[index];
        match frame.opcode {
            Opcode::Ping => {
                self.counts.pings += 1;
                connection.push(Opcode::Pong, payload, self.mask_key);
            }
            Opcode::Pong => {}
            Opcode::Close => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                connection.close_code = Some(code.unwrap_or(1005));
                if !connection.is_closing {
                    connection.push(Opcode::Close, &payload[..payload.len().min(2)], 1);
                }
            }
            Opcode::Text | Opcode::Binary => {
                if !connection.fragments.is_empty() {
                    return Err(FrameError::BadFragment);
                }
                connection.fragments.extend_from_slice(payload);
            }
            Opcode::Continuation => {
                if connection.fragments.is_empty() {
                    return Err(FrameError::BadFragment);
                }
                connection.fragments.extend_from_slice(payload);
                if frame.is_final {
                    let whole = std::mem::take(&mut connection.fragments);
                    self.text(index, &whole, now_ns);
                }
            }
        }
        Ok(())
    }

    /// A whole text message. The hot path of the program.
    fn text(&mut self, index: usize, payload: &[u8], now_ns: u64) {
        let layout = self.tally.layout;
        // With one subscription, its index and the next change are known beforehand.
        let due = if layout.per_connection == 1 { self.tally.revision(index) } else { None };
        if let Some(from) = due
            && let Some(known) = self.recent.find(layout.service_at(index), from, payload)
        {
            self.counts.change_frames += 1;
            self.tally.deliver(index, known.from, known.revision, &known.stamps, now_ns);
            return;
        }
        let Some(change) = self.scanner.scan(payload, &mut self.stamps) else {
            return self.other(index, payload, now_ns);
        };
        self.counts.change_frames += 1;
        let Some(place) = self.place(index, change.service_id) else {
            self.tally.counts.duplicated += self.stamps.len() as u64;
            return;
        };
        if due.is_some() {
            let service = layout.service_at(place);
            self.recent.keep(service, (change.from, change.revision), &self.stamps, payload);
        }
        self.tally.deliver(place, change.from, change.revision, &self.stamps, now_ns);
    }

    fn other(&mut self, index: usize, payload: &[u8], now_ns: u64) {
        let Some(message) = message::parse(payload) else {
            *self.counts.errors.entry("(not JSON)".to_owned()).or_default() += 1;
            return;
        };
        let place = self.place(index, message.service_id.as_bytes());
        match (message.kind.as_str(), place) {
            ("service_change", Some(place)) => {
                self.counts.change_frames += 1;
                let stamps: Vec<u64> = message.stamps().collect();
                self.tally.deliver(place, message.from, message.revision, &stamps, now_ns);
            }
            ("service_change" | "service_snapshot", None) => self.tally.counts.duplicated += 1,
            ("service_snapshot", Some(place)) => self.tally.collapse(place, message.revision),
            ("subscribed", Some(place)) => self.subscribed(index, place, &message, now_ns),
            ("error", _) => *self.counts.errors.entry(message.code).or_default() += 1,
            ("welcome" | "pong" | "unsubscribed" | "reconnect", _) => {}
            (kind, _) => {
                let name = format!("(unexpected {kind})");
                *self.counts.errors.entry(name).or_default() += 1;
            }
        }
    }

    fn subscribed(&mut self, index: usize, place: usize, message: &Message, now_ns: u64) {
        let service = self.tally.layout.service_at(place);
        message.epoch.clone_into(&mut self.epochs[service]);
        match message.recovered {
            None if self.tally.revision(place).is_none() => {
                self.tally.subscribe(place, message.revision);
            }
            // The missed changes follow as ordinary frames; if they do not, they are lost.
            None | Some(true) => {}
            Some(false) => self.tally.collapse(place, message.revision),
        }
        self.counts.subscribed += 1;
        let connection = &mut self.connections[index];
        connection.subscribed += 1;
        if connection.subscribed == self.tally.layout.per_connection {
            self.subscribe.saturating_record(now_ns - connection.started_ns);
        }
    }

    fn place(&self, index: usize, service_id: &[u8]) -> Option<usize> {
        let digits = service_id.strip_prefix(self.prefix.as_bytes())?;
        if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let service = digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        self.tally.layout.index_of(index, service)
    }
}
