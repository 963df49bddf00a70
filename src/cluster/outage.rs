//! Log lines about trouble with Redis: one when it begins, one a minute while it lasts, and one when it is
//! over, for all connections and tries together.
//!
//! # Promises
//!
//! * A fault that an operator has to mend, as a wrong password, is told at once even while another
//!   lasts; each wording once.
//! * Trouble is over when every path has proved to work since the last fault.

use parking_lot::Mutex;

use crate::limits;

/// Time between two lines about the same trouble.
const PAUSE_NS: u64 = 60_000_000_000;

/// Trouble that lasts.
#[derive(Debug)]
struct Lasting {
    began_ns: u64,
    /// When the last fault was met.
    failed_ns: u64,
    /// When the log was last told.
    told_ns: u64,
    told: Vec<String>,
    /// Whether the last fault was silence, and no refusal.
    is_unreachable: bool,
}

/// The trouble of one node, if there is any.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Lasting>>);

impl Outage {
    /// Notes a fault. Returns for how many seconds there has been trouble, where the log is to be told.
    pub(super) fn note(&self, fault: &str, is_unreachable: bool, now_ns: u64) -> Option<u64> {
        let mut lasting = self.0.lock();
        let Some(known) = &mut *lasting else {
            *lasting = Some(Lasting {
                began_ns: now_ns,
                failed_ns: now_ns,
                told_ns: now_ns,
                told: vec![fault.to_owned()],
                is_unreachable,
            });
            return Some(0);
        };
        (known.failed_ns, known.is_unreachable) = (now_ns, is_unreachable);
        let is_news = !is_unreachable
            && known.told.len() < limits::OUTAGE_WORDINGS_MAX
            && known.told.iter().all(|told| told != fault);
        if !is_news && now_ns.saturating_sub(known.told_ns) < PAUSE_NS {
            return None;
        }
        if is_news {
            known.told.push(fault.to_owned());
        }
        known.told_ns = now_ns;
        Some(now_ns.saturating_sub(known.began_ns) / 1_000_000_000)
    }

    /// Ends the trouble, where everything has proved to work at `proven_ns`. Returns for how many
    /// seconds it lasted.
    pub(super) fn end(&self, proven_ns: u64, now_ns: u64) -> Option<u64> {
        let over = self.0.lock().take_if(|lasting| proven_ns > lasting.failed_ns)?;
        Some(now_ns.saturating_sub(over.began_ns) / 1_000_000_000)
    }

    /// Whether Redis is silent, as far as the last fault says.
    pub(super) fn is_unreachable(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|lasting| lasting.is_unreachable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_storm_of_faults_is_a_line_a_minute() {
        let outage = Outage::default();
        assert_eq!(outage.note("refused", true, S), Some(0));
        let told: Vec<u64> = (10..1_810)
            .filter_map(|tenths| {
                outage.note(["refused", "silent"][tenths % 2], true, tenths as u64 * S / 10)
            })
            .collect();
        assert_eq!(told, [60, 120], "in three minutes, in whatever words");
        assert!(outage.is_unreachable());
        assert_eq!(outage.end(180 * S, 181 * S), None, "a fault came after that proof");
        assert_eq!(outage.end(182 * S, 183 * S), Some(182));
        assert_eq!(outage.end(184 * S, 184 * S), None, "it is told once");
        assert_eq!(outage.note("refused", true, 185 * S), Some(0), "the next one begins at once");
    }

    #[test]
    fn what_an_operator_has_to_mend_is_told_at_once() {
        let outage = Outage::default();
        assert_eq!(outage.note("refused", true, S), Some(0));
        assert_eq!(outage.note("wrong password", false, 2 * S), Some(1));
        assert_eq!(outage.note("wrong password", false, 3 * S), None);
        let told = (0..100).filter(|n| outage.note(&format!("{n}"), false, 4 * S).is_some());
        assert_eq!(told.count(), limits::OUTAGE_WORDINGS_MAX - 2, "but not for ever");
        assert!(!outage.is_unreachable());
    }
}
