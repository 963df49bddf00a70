//! The events of a run: who publishes them, by which way, and when.

use std::io;

use crate::driver::{Driver, Role};
use crate::options::{Mode, Options, Protocol, PublishBy};
use crate::sample::SECOND_NS;
use crate::wire::{EventTemplate, Route};

/// When events are published.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// At fixed moments, whatever the server does. A late event keeps the stamp of its moment, so
    /// a server that stalls is charged for all the events that had to wait.
    Every { interval_ns: u64, next_ns: u64 },
    /// As many as each publisher may have without an answer.
    Window,
    /// When the one before has been answered and delivered, after a pause. Its stamp is the moment
    /// at which it leaves, so that the time in which this program wakes up is not part of it.
    OneByOne { pause_ns: u64, next_ns: u64 },
}

/// The publishers, what they send, and when.
#[derive(Debug)]
pub(crate) struct Traffic {
    publishers: Vec<usize>,
    /// Events without an answer, of each publisher.
    unanswered_max: u64,
    /// The publisher whose turn it is, where events have moments.
    next_publisher: usize,
    /// Events of each publisher so far.
    published_by: Vec<u64>,
    template: EventTemplate,
    pace: Pace,
    pub(crate) published: u64,
    /// By service; what each subscriber must have got in the end.
    pub(crate) changes: Vec<u64>,
}

impl Traffic {
    /// Opens the publishers' connections. The subscribers must be there already.
    pub(crate) fn open(driver: &mut Driver, options: &Options) -> io::Result<Traffic> {
        let (role, route) = match options.publish_by {
            PublishBy::Frames => (Role::FramePublisher, Route::Frame),
            PublishBy::Http | PublishBy::HttpPipelined => (Role::HttpPublisher, Route::Http),
        };
        let first = driver.open(role, options.publishers, options.concurrent)?;
        let interval_ns = (SECOND_NS as f64 / options.events_per_s) as u64;
        let next_ns = driver.now_ns() + interval_ns;
        let pace = match options.mode {
            Mode::Flood | Mode::Topics => Pace::Window,
            Mode::Register => Pace::OneByOne { pause_ns: interval_ns, next_ns },
            _ => Pace::Every { interval_ns, next_ns },
        };
        let unanswered_max = match (options.publish_by, pace) {
            (PublishBy::Http, _) => 1,
            (_, Pace::Window) => (options.window / options.publishers as u64).max(1),
            // Moments do not wait for answers.
            _ => u64::MAX,
        };
        let template = match options.protocol {
            Protocol::Fanfare => EventTemplate::new(route, options.event_bytes),
            Protocol::Centrifugo => EventTemplate::centrifugo(route, options.event_bytes),
        };
        Ok(Traffic {
            publishers: (first..first + options.publishers).collect(),
            unanswered_max,
            next_publisher: 0,
            published_by: vec![0; options.publishers],
            template,
            pace,
            published: 0,
            changes: vec![0; options.services],
        })
    }

    /// Publishes what is due and takes one turn of the loop, which ends before `until_ns`.
    pub(crate) fn turn(&mut self, driver: &mut Driver, until_ns: u64) -> io::Result<()> {
        let now_ns = driver.now_ns();
        let mut wake_ns = until_ns;
        match self.pace {
            Pace::Every { interval_ns, mut next_ns } => {
                let mut has_room = true;
                while next_ns <= now_ns {
                    has_room = self.publish_on_any(driver, next_ns);
                    if !has_room {
                        break;
                    }
                    next_ns += interval_ns;
                }
                self.pace = Pace::Every { interval_ns, next_ns };
                // Without room, an answer wakes the loop.
                if has_room {
                    wake_ns = wake_ns.min(next_ns);
                }
            }
            Pace::Window => {
                for slot in 0..self.publishers.len() {
                    while self.has_room(driver, slot) {
                        self.publish(driver, slot, now_ns);
                    }
                }
            }
            Pace::OneByOne { pause_ns, mut next_ns } => {
                let is_over = driver.counts.deliveries >= self.published
                    && driver.counts.acknowledged >= self.published;
                if is_over && next_ns == u64::MAX {
                    next_ns = now_ns + pause_ns;
                }
                if next_ns <= now_ns {
                    self.publish(driver, 0, driver.now_ns());
                    next_ns = u64::MAX;
                }
                self.pace = Pace::OneByOne { pause_ns, next_ns };
                wake_ns = wake_ns.min(next_ns);
            }
        }
        self.flush(driver);
        driver.turn(wake_ns)
    }

    /// Writes what waits on the publishers' connections.
    pub(crate) fn flush(&self, driver: &mut Driver) {
        for publisher in &self.publishers {
            driver.flush(*publisher);
        }
    }

    fn has_room(&self, driver: &Driver, slot: usize) -> bool {
        driver.unanswered(self.publishers[slot]) < self.unanswered_max
    }

    /// Publishes on the next connection that has room. False if none has.
    fn publish_on_any(&mut self, driver: &mut Driver, stamp_ns: u64) -> bool {
        let count = self.publishers.len();
        let slot = (0..count)
            .map(|offset| (self.next_publisher + offset) % count)
            .find(|slot| self.has_room(driver, *slot));
        let Some(slot) = slot else { return false };
        self.next_publisher = (slot + 1) % count;
        self.publish(driver, slot, stamp_ns);
        true
    }

    fn publish(&mut self, driver: &mut Driver, slot: usize, stamp_ns: u64) {
        let service =
            service_of(slot, self.published_by[slot], self.publishers.len(), self.changes.len());
        self.changes[service] += 1;
        let number = self.changes[service];
        let into = driver.next_event(self.publishers[slot]);
        self.template.encode(service, stamp_ns, number, into);
        self.published_by[slot] += 1;
        self.published += 1;
    }
}

/// The service of a publisher's nth event: publishers share the services out among them, and each
/// goes round its own. Where there are fewer services than publishers, they share one.
fn service_of(slot: usize, nth: u64, publishers: usize, services: usize) -> usize {
    if publishers > services {
        return slot % services;
    }
    let own = (services - slot).div_ceil(publishers);
    slot + (nth as usize % own) * publishers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_share_the_services_out() {
        for (publishers, services) in [(1, 1), (1, 7), (3, 7), (7, 7), (64, 1_000)] {
            let mut owners = vec![None; services];
            for slot in 0..publishers {
                for nth in 0..2 * services as u64 {
                    let service = service_of(slot, nth, publishers, services);
                    assert!(owners[service].is_none_or(|owner| owner == slot));
                    owners[service] = Some(slot);
                }
            }
            assert!(owners.iter().all(Option::is_some));
        }
        assert_eq!(service_of(5, 9, 8, 3), 2);
    }

    #[test]
    fn one_publisher_goes_round_all_services() {
        let round: Vec<usize> = (0..5).map(|nth| service_of(0, nth, 1, 3)).collect();
        assert_eq!(round, [0, 1, 2, 0, 1]);
    }
}
