//! Folding: a storm of equal lines becomes a few lines, and one with a count.
//!
//! Lines are equal if they come from one place in the program and agree in every field except
//! `connection`, `request_id`, and the port of `client`, which name the one case. Of equal lines
//! the first [`limits::LOG_EQUAL_LINES_MAX`] within [`limits::LOG_WINDOW_MS`] are written, of all
//! lines of one place the first [`limits::LOG_LINES_MAX`]. At the end of that time one line has the
//! number of those left out, their kind, and the first and the last of their request ids.
//!
//! # Promises
//!
//! * The tables are bounded: [`limits::LOG_KINDS_MAX`] kinds, each for one window.
//! * Lines of `debug` and below, and the access log, are never folded; with `debug` enabled
//!   anywhere, no line is.
//!
//! Imports `address`, `clock` and `limits`. Part of `logging`.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write as _};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{ACCESS, OWN};
use crate::address::ClientAddress;
use crate::clock::Clock;
use crate::limits;

/// Decides which lines are written, and counts the others.
#[derive(Debug)]
pub(super) struct Fold {
    is_on: bool,
    clock: Clock,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    kinds: HashMap<(Identifier, u64), Tally>,
    /// All lines of a place in the program, and those left out for which no kind had room.
    places: HashMap<Identifier, Tally>,
}

/// The lines of a kind within one window.
#[derive(Debug)]
struct Tally {
    since_ms: u64,
    lines: u32,
    left_out: Option<LeftOut>,
}

/// Lines that were not written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LeftOut {
    count: u64,
    level: Level,
    target: &'static str,
    /// The text of the first of them.
    line: String,
    /// The request ids of the first and the last of them, if they have any.
    first_id: Option<String>,
    last_id: Option<String>,
}

impl Tally {
    fn new(since_ms: u64) -> Tally {
        Tally { since_ms, lines: 0, left_out: None }
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.since_ms + limits::LOG_WINDOW_MS
    }
}

impl Table {
    /// Whether a line is written. If not, it is counted.
    fn admit(&mut self, place: Identifier, line: &LineKey, event: &Event<'_>, now_ms: u64) -> bool {
        let all = self.places.entry(place.clone()).or_insert_with(|| Tally::new(now_ms));
        let has_room = self.kinds.len() < limits::LOG_KINDS_MAX;
        let key = (place, line.hash.finish());
        let kind = match self.kinds.get_mut(&key) {
            Some(kind) => Some(kind),
            None if has_room => Some(self.kinds.entry(key).or_insert_with(|| Tally::new(now_ms))),
            None => None,
        };
        let is_first = kind.as_ref().is_none_or(|kind| kind.lines < limits::LOG_EQUAL_LINES_MAX);
        if is_first && all.lines < limits::LOG_LINES_MAX {
            all.lines += 1;
            if let Some(kind) = kind {
                kind.lines += 1;
            }
            return true;
        }
        let tally = kind.unwrap_or(all);
        let left_out = tally.left_out.get_or_insert_with(|| LeftOut {
            count: 0,
            level: *event.metadata().level(),
            target: event.metadata().target(),
            line: text_of(event),
            first_id: line.request_id.clone(),
            last_id: None,
        });
        left_out.count += 1;
        left_out.last_id.clone_from(&line.request_id);
        false
    }

    /// Removes windows that are over, and returns the lines left out of them.
    fn sweep(&mut self, now_ms: Option<u64>) -> Vec<LeftOut> {
        let mut told = Vec::new();
        let mut keep = |tally: &mut Tally| {
            let is_over = now_ms.is_none_or(|now_ms| tally.is_over(now_ms));
            if is_over {
                told.extend(tally.left_out.take());
            }
            !is_over
        };
        self.kinds.retain(|_, tally| keep(tally));
        self.places.retain(|_, tally| keep(tally));
        told
    }
}

impl Fold {
    /// A fold without lines. One that is off writes every line.
    pub(super) fn new(is_on: bool) -> Fold {
        Fold { is_on, clock: Clock::start(), table: Mutex::default() }
    }

    fn admits(&self, event: &Event<'_>) -> bool {
        let meta = event.metadata();
        if !self.is_on || *meta.level() > Level::INFO || [ACCESS, OWN].contains(&meta.target()) {
            return true;
        }
        let mut key = LineKey::default();
        event.record(&mut key);
        let now_ms = self.clock.now().unix_ms;
        self.table.lock().admit(meta.callsite(), &key, event, now_ms)
    }

    /// Logs the lines that were left out of windows that are over.
    pub(super) fn tell(&self) {
        let told = self.table.lock().sweep(Some(self.clock.now().unix_ms));
        told.into_iter().for_each(say);
    }

    /// Logs the lines that were left out so far.
    pub(super) fn tell_all(&self) {
        let told = self.table.lock().sweep(None);
        told.into_iter().for_each(say);
    }
}

/// Writes one line for many.
fn say(left_out: LeftOut) {
    let LeftOut { count, level, target, line, first_id, last_id } = left_out;
    let within_s = limits::LOG_WINDOW_MS / 1_000;
    let (first_request_id, last_request_id) = (first_id.as_deref(), last_id.as_deref());
    macro_rules! say {
        ($level:expr) => {
            tracing::event!(
                target: "fanfare::log",
                $level,
                left_out = count,
                within_s,
                of = target,
                line,
                first_request_id,
                last_request_id,
                "more lines like this were left out"
            )
        };
    }
    match level {
        Level::ERROR => say!(Level::ERROR),
        Level::WARN => say!(Level::WARN),
        _ => say!(Level::INFO),
    }
}

/// The fields of a line that identify its kind.
#[derive(Default)]
struct LineKey {
    hash: DefaultHasher,
    request_id: Option<String>,
}

impl LineKey {
    fn add(&mut self, field: &Field, value: &str) {
        match field.name() {
            "request_id" => self.request_id = Some(value.to_owned()),
            "connection" => {}
            "client" => (field.name(), without_port(value)).hash(&mut self.hash),
            name => (name, value).hash(&mut self.hash),
        }
    }
}

/// A client's address without its port.
fn without_port(client: &str) -> String {
    let address = client.parse::<ClientAddress>();
    address.map_or_else(|_| client.to_owned(), |address| address.block().to_string())
}

impl Visit for LineKey {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// A line's message and the fields of its kind, up to a bound.
fn text_of(event: &Event<'_>) -> String {
    let mut text = Text(String::new());
    event.record(&mut text);
    let mut text = text.0;
    text.truncate(text.floor_char_boundary(limits::LOG_LIKE_BYTES_MAX));
    text
}

struct Text(String);

impl Text {
    fn add(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        _ = match field.name() {
            "request_id" | "connection" => Ok(()),
            "message" => write!(self.0, "{}{value:?}", if self.0.is_empty() { "" } else { " " }),
            name => write!(self.0, "{}{name}={value:?}", if self.0.is_empty() { "" } else { " " }),
        };
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, value);
    }
}

/// A format that leaves folded lines out.
#[derive(Debug)]
pub(super) struct Folding<F> {
    fold: Arc<Fold>,
    form: F,
}

impl<F> Folding<F> {
    pub(super) fn new(fold: Arc<Fold>, form: F) -> Folding<F> {
        Folding { fold, form }
    }
}

impl<S, N, F> FormatEvent<S, N> for Folding<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.fold.admits(event) {
            return self.form.format_event(context, writer, event);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    /// Judges events at a time that the test sets, and keeps the written lines.
    #[derive(Clone, Default)]
    struct Judge(Arc<Mutex<(Table, u64, usize)>>);

    impl<S: Subscriber> Layer<S> for Judge {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut key = LineKey::default();
            event.record(&mut key);
            let mut inner = self.0.lock();
            let (table, now_ms, written) = &mut *inner;
            *written += usize::from(table.admit(event.metadata().callsite(), &key, event, *now_ms));
        }
    }

    impl Judge {
        fn play(lines: impl FnOnce()) -> Judge {
            let judge = Judge::default();
            let subscriber = tracing_subscriber::registry().with(judge.clone());
            tracing::subscriber::with_default(subscriber, lines);
            judge
        }

        fn written(&self) -> usize {
            self.0.lock().2
        }

        fn told(&self, now_ms: u64) -> Vec<LeftOut> {
            self.0.lock().0.sweep(Some(now_ms))
        }
    }

    const EQUAL_MAX: usize = limits::LOG_EQUAL_LINES_MAX as usize;

    #[test]
    fn a_storm_of_equal_lines_is_a_few_and_one_with_a_count() {
        let judge = Judge::play(|| {
            for n in 0..500 {
                let (request_id, client) = (format!("r-{n}"), format!("192.0.2.7:{}", 1_000 + n));
                tracing::info!(target: "t", status = 401, client, request_id, "refused");
            }
        });
        assert_eq!(judge.written(), EQUAL_MAX);
        assert_eq!(judge.told(limits::LOG_WINDOW_MS - 1), [], "the window is not over");
        let told = judge.told(limits::LOG_WINDOW_MS);
        let [only] = &told[..] else { panic!("{told:?}") };
        assert_eq!((only.count, only.target), (500 - EQUAL_MAX as u64, "t"));
        assert_eq!(only.first_id.as_deref(), Some(&*format!("r-{EQUAL_MAX}")));
        assert_eq!(only.last_id.as_deref(), Some("r-499"));
        assert!(only.line.contains("status=401") && only.line.contains("refused"), "{}", only.line);
        assert_eq!(judge.told(u64::MAX - limits::LOG_WINDOW_MS), [], "it is told once");
        assert!(judge.0.lock().0.kinds.is_empty());
    }

    #[test]
    fn lines_that_differ_are_written_up_to_a_bound_of_their_place() {
        let places = limits::LOG_LINES_MAX as usize;
        let judge = Judge::play(|| {
            for n in 0..places + limits::LOG_KINDS_MAX {
                tracing::info!(target: "t", path = n, "refused");
            }
        });
        assert_eq!(judge.written(), places);
        let told = judge.told(limits::LOG_WINDOW_MS);
        let left_out: u64 = told.iter().map(|one| one.count).sum();
        assert_eq!(left_out, limits::LOG_KINDS_MAX as u64, "each is in one of the counts");
        assert!(judge.0.lock().0.kinds.is_empty() && judge.0.lock().0.places.is_empty());
    }

    #[test]
    fn addresses_are_different_clients_and_ports_are_not() {
        let judge = Judge::play(|| {
            for n in 0..100 {
                let client = format!("192.0.2.{}:{n}", n % 2);
                tracing::info!(target: "t", client, "refused");
            }
        });
        assert_eq!(judge.written(), 2 * EQUAL_MAX);
    }
}
