//! The rate at which a client sends, below what servers allow, so that none is refused.
//!
//! Imports nothing of the crate. Imported by `session`.

/// Messages that may leave at once after a pause. Servers allow 200.
const BURST: u64 = 150;

/// A bucket of messages that fills with time, which is counted in nanoseconds.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// From one message to the next; 0 where there is no limit.
    step: u64,
    /// The moment at which the bucket is full again.
    full_at: u64,
    now: u64,
}

impl RateLimit {
    pub(crate) fn new(per_s_max: u32, now_ns: u64) -> RateLimit {
        let step = 1_000_000_000_u64.checked_div(u64::from(per_s_max)).unwrap_or(0);
        RateLimit { step, full_at: now_ns, now: now_ns }
    }

    pub(crate) fn refill(&mut self, now_ns: u64) {
        self.now = now_ns;
        self.full_at = self.full_at.max(now_ns);
    }

    /// Whether one more may leave now.
    pub(crate) fn has_token(&self) -> bool {
        self.full_at < self.now + self.step * BURST || self.step == 0
    }

    pub(crate) fn take(&mut self) {
        self.full_at += self.step;
    }

    /// When one may leave.
    pub(crate) fn next_ns(&self) -> u64 {
        (self.full_at + self.step).saturating_sub(self.step * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_its_rate() {
        let mut limit = RateLimit::new(100, 0);
        let mut sent = 0;
        for ms in 0..1_000 {
            limit.refill(ms * 1_000_000);
            while limit.has_token() {
                limit.take();
                sent += 1;
            }
        }
        assert!((BURST + 98..=BURST + 101).contains(&sent), "{sent}");
    }

    #[test]
    fn none_is_no_limit() {
        let mut limit = RateLimit::new(0, 0);
        (0..1_000_000).for_each(|_| limit.take());
        assert!(limit.has_token());
    }
}
