//! Recent frames: a frame that was scanned for one subscriber need not be scanned for the next.
//!
//! All subscribers of a service get the same bytes. A subscriber's position tells which change
//! comes next, so the frame that another subscriber got for it is compared byte by byte; if they
//! are equal, the result of that scan holds here too. Comparing costs a fraction of scanning, and
//! reads every byte just the same.
//!
//! Imports nothing of the crate. Imported by `fleet`.

/// How many frames are remembered. A power of two, above the window of a flood.
const ENTRIES: usize = 1024;

/// A longer frame is not remembered: 4 MiB in all.
const PAYLOAD_BYTES_MAX: usize = 4 * 1024;

/// A frame that was scanned.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    payload: Vec<u8>,
    /// The revision before its changes.
    pub(crate) from: u64,
    /// The revision after them.
    pub(crate) revision: u64,
    /// Their send times.
    pub(crate) stamps: Vec<u64>,
}

/// The frames of the last changes, by service and revision.
#[derive(Debug)]
pub(crate) struct Recent {
    entries: Vec<Entry>,
}

impl Recent {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Recent { entries: (0..ENTRIES).map(|_| Entry::default()).collect() }
    }

    /// The scan of `payload`, if the frame after `from` was equal.
    pub(crate) fn find(&self, service: usize, from: u64, payload: &[u8]) -> Option<&Entry> {
        let entry = &self.entries[index(service, from)];
        (entry.payload == payload && entry.from == from).then_some(entry)
    }

    /// Remembers the scan of `payload`. The payload names its service, so two services that share
    /// an entry are never mixed up.
    pub(crate) fn keep(
        &mut self,
        service: usize,
        (from, revision): (u64, u64),
        stamps: &[u64],
        payload: &[u8],
    ) {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return;
        }
        let entry = &mut self.entries[index(service, from)];
        entry.payload.clear();
        entry.payload.extend_from_slice(payload);
        entry.stamps.clear();
        entry.stamps.extend_from_slice(stamps);
        (entry.from, entry.revision) = (from, revision);
    }
}

fn index(service: usize, from: u64) -> usize {
    // A remainder by a power of two: the cast cannot matter.
    (service.wrapping_mul(61).wrapping_add(from as usize)) % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_same_bytes_are_recognised() {
        let mut recent = Recent::new();
        recent.keep(3, (7, 8), &[42], b"payload");
        let entry = recent.find(3, 7, b"payload").unwrap();
        assert_eq!((entry.revision, entry.stamps.as_slice()), (8, &[42][..]));
        assert!(recent.find(3, 7, b"paylaod").is_none());
        assert!(recent.find(3, 8, b"payload").is_none());
        assert!(recent.find(3, 7 + ENTRIES as u64, b"payload").is_none());
    }

    #[test]
    fn long_frames_are_not_kept() {
        let mut recent = Recent::new();
        let long = vec![b'x'; PAYLOAD_BYTES_MAX + 1];
        recent.keep(0, (0, 1), &[1], &long);
        assert!(recent.find(0, 0, &long).is_none());
    }
}
