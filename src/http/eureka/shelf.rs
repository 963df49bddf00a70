//! The registry as Eureka's clients fetch it, encoded once an edition and kept for all who ask.
//!
//! ```text
//! control: everyone, by service --> Part, one a service: text, and packed --+--> whole answer
//!            (shared lists)            kept while its service is the same   +--> one application
//!                                                                          \--> those of a VIP
//! ```
//!
//! # Promises
//!
//! * An answer shows an edition that is at least the one that was current when its request came.
//! * However many ask at once, each text is built by one of them, beside its shard's thread where
//!   that takes long; the others wait and find it.
//! * A change costs the encoding of its service, and the copying of the rest.
//! * No answer is put together that is larger than one may be: its parts are summed first.
//! * The hash code, the version and the instances of an answer are of one state.
//!
//! Imports its siblings, `limits` and `state`. Part of `http::eureka`.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::model::{Shown, Word, action};
use super::pack::{Pack, Piece, gzip};
use super::write::{
    Language, close_application, close_applications, open_application, open_applications,
    put_instance, separator,
};
use crate::http::answers::Answers;
use crate::http::budget::Permit;
use crate::http::reply::Problem;
use crate::http::{Desk, body};
use crate::limits;
use crate::state::order::{Answer, Order};
use crate::state::roster::{Called, Entry, Recent, Roll, Rolls, Roster, Step};
use crate::wire::refusal::Refusal;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) language: Language,
    pub(super) is_packed: bool,
}

impl Form {
    const COUNT: usize = 4;

    const fn index(self) -> usize {
        self.language as usize * 2 + self.is_packed as usize
    }

    /// A text in this form.
    pub(super) fn of(self, text: String) -> Bytes {
        if self.is_packed { gzip(text.as_bytes()).into() } else { text.into() }
    }
}

/// Where the newest answers are kept.
#[derive(Debug, Default)]
pub struct Shelf {
    document: RwLock<Option<Arc<Document>>>,
    /// One builds, the others wait for it.
    building: tokio::sync::Mutex<()>,
}

/// The text of an answer, and the room it takes; none where it is kept for the next who asks.
pub(super) type Made = (Bytes, Option<Permit>);

/// Everyone, as of one edition.
#[derive(Debug)]
pub(super) struct Document {
    edition: u64,
    hash: String,
    /// One a service, by name.
    parts: Vec<Arc<Part>>,
    recent: Vec<Recent>,
    complete_from_ms: u64,
    whole: [OnceLock<Bytes>; Form::COUNT],
    /// Each with the moment up to which it is right, in milliseconds since the Unix epoch.
    delta: Mutex<[Option<(u64, Bytes)>; Form::COUNT]>,
}

/// A service's part of an answer.
#[derive(Debug)]
struct Part {
    roster: Arc<Roster>,
    seen: Vec<Seen>,
    counts: Counts,
    texts: [OnceLock<Text>; 2],
    packed: [OnceLock<Piece>; 2],
}

/// What an instance is looked up by.
#[derive(Debug)]
struct Seen {
    instance_id: String,
    vip: String,
    secure_vip: String,
    status: Word,
}

/// An application as a text, and where in it each instance stands.
#[derive(Debug)]
struct Text {
    text: String,
    places: Vec<(usize, usize)>,
}

/// How many instances have which status.
#[derive(Debug, Clone, Copy, Default)]
struct Counts([usize; 5]);

impl Counts {
    fn add(&mut self, status: Word) {
        self.0[status as usize] += 1;
    }

    fn join(&mut self, other: Counts) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    /// By which a client finds out whether it has everyone: each status that there is, by name, and
    /// how many have it.
    fn hash(self) -> String {
        let names = [Word::Down, Word::OutOfService, Word::Starting, Word::Unknown, Word::Up];
        let mut hash = String::new();
        for name in names.into_iter().filter(|&name| self.0[name as usize] > 0) {
            hash += &format!("{}_{}_", name.as_str(), self.0[name as usize]);
        }
        hash
    }
}

impl Text {
    fn of(roster: &Roster, language: Language, mut see: impl FnMut(&Shown)) -> Text {
        let mut text = String::with_capacity(roster.entries.len() * 1_400 + 64);
        let mut places = Vec::with_capacity(roster.entries.len());
        open_application(&mut text, language, &roster.service.as_str().to_ascii_uppercase());
        for (index, entry) in roster.entries.iter().enumerate() {
            if index > 0 {
                text.push_str(separator(language));
            }
            let shown = Shown::of(entry);
            let start = text.len();
            put_instance(&mut text, language, &shown, action(Step::Added));
            places.push((start, text.len()));
            see(&shown);
        }
        close_application(&mut text, language);
        text.shrink_to_fit();
        Text { text, places }
    }

    fn instance(&self, index: usize) -> &str {
        self.places.get(index).and_then(|&(start, end)| self.text.get(start..end)).unwrap_or("")
    }
}

impl Part {
    fn new(roster: Arc<Roster>, language: Language) -> Part {
        let (mut seen, mut counts) = (Vec::with_capacity(roster.entries.len()), Counts::default());
        let text = Text::of(&roster, language, |shown| {
            counts.add(shown.status);
            seen.push(Seen {
                instance_id: shown.instance_id.clone(),
                vip: shown.vip_address.clone(),
                secure_vip: shown.secure_vip_address.clone(),
                status: shown.status,
            });
        });
        let texts = [OnceLock::new(), OnceLock::new()];
        // It is new, so there is nothing in it.
        let _ = texts[language as usize].set(text);
        Part { roster, seen, counts, texts, packed: [OnceLock::new(), OnceLock::new()] }
    }

    fn text(&self, language: Language) -> &Text {
        self.texts[language as usize].get_or_init(|| Text::of(&self.roster, language, |_| ()))
    }

    fn packed(&self, language: Language) -> &Piece {
        self.packed[language as usize]
            .get_or_init(|| Piece::pack(self.text(language).text.as_bytes()))
    }

    fn bytes(&self) -> usize {
        self.roster.entries.iter().map(|entry| entry.json.len()).sum()
    }
}

impl Document {
    fn new(rolls: Rolls, before: Option<&Document>, language: Language) -> Document {
        let mut counts = Counts::default();
        let parts: Vec<Arc<Part>> = rolls
            .rosters
            .into_iter()
            .map(|roster| {
                let same = before.and_then(|before| before.part(roster.service.as_str()));
                match same.filter(|part| Arc::ptr_eq(&part.roster, &roster)) {
                    Some(part) => Arc::clone(part),
                    None => Arc::new(Part::new(roster, language)),
                }
            })
            .collect();
        for part in &parts {
            counts.join(part.counts);
        }
        Document {
            edition: rolls.edition,
            hash: counts.hash(),
            parts,
            recent: rolls.recent,
            complete_from_ms: rolls.complete_from_ms,
            whole: Default::default(),
            delta: Mutex::default(),
        }
    }

    fn part(&self, service: &str) -> Option<&Arc<Part>> {
        let found = self.parts.binary_search_by(|part| part.roster.service.as_str().cmp(service));
        found.ok().and_then(|index| self.parts.get(index))
    }

    fn is_long(&self) -> bool {
        let mut bytes = 0;
        self.parts.iter().any(|part| {
            bytes += part.bytes();
            bytes > limits::DECODE_INLINE_BYTES_MAX
        })
    }

    /// Everyone.
    fn put_whole(&self, form: Form, answers: &Answers) -> Result<Bytes, Problem> {
        let language = form.language;
        let (mut head, mut tail) = (String::new(), String::new());
        open_applications(&mut head, language, self.edition, &self.hash);
        close_applications(&mut tail, language);
        if form.is_packed {
            let bytes = self.parts.iter().map(|part| part.packed(language).bytes() + 16).sum();
            answers.check(bytes)?;
            let mut pack = Pack::with_capacity(bytes);
            pack.text(&head);
            for (index, part) in self.parts.iter().enumerate() {
                if index > 0 {
                    pack.text(separator(language));
                }
                pack.piece(part.packed(language));
            }
            pack.text(&tail);
            return Ok(pack.finish().into());
        }
        let bytes: usize = self.parts.iter().map(|part| part.text(language).text.len() + 1).sum();
        answers.check(bytes)?;
        let mut out = head;
        out.reserve_exact(bytes + tail.len());
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                out.push_str(separator(language));
            }
            out.push_str(&part.text(language).text);
        }
        out.push_str(&tail);
        Ok(out.into())
    }

    /// What changed within the window, and up to when that is right.
    ///
    /// Where not all of it is known, everyone is named as changed. A client that knows somebody who
    /// is gone and not named then has more than we do, and sees by the hash code that it has to
    /// fetch everything.
    fn put_delta(
        &self,
        form: Form,
        now_ms: u64,
        answers: &Answers,
    ) -> Result<(u64, Bytes), Problem> {
        let language = form.language;
        let is_complete = now_ms >= self.complete_from_ms;
        let since_ms = now_ms.saturating_sub(limits::EUREKA_DELTA_MS);
        let recent: Vec<&Recent> = self
            .recent
            .iter()
            .filter(|one| one.at_ms >= since_ms)
            .filter(|one| is_complete || one.step == Step::Deleted)
            .collect();
        let oldest_ms = recent.iter().map(|one| one.at_ms).min();
        let mut named: Vec<(&str, &Entry, Step)> =
            recent.iter().map(|one| (one.service.as_str(), &one.entry, one.step)).collect();
        if !is_complete {
            for part in &self.parts {
                let name = part.roster.service.as_str();
                let entries = part.roster.entries.iter();
                named.extend(entries.map(|entry| (name, entry, Step::Modified)));
            }
        }
        // Within an application in the order in which it happened.
        named.sort_by_key(|(name, ..)| *name);
        let mut out = String::new();
        open_applications(&mut out, language, self.edition, &self.hash);
        let mut applications = Applications::default();
        for (name, entry, step) in named {
            applications.begin(&mut out, language, name);
            put_instance(&mut out, language, &Shown::of(entry), action(step));
            // What it comes to is known by writing it, and no more is written than may be.
            answers.check(out.len())?;
        }
        applications.end(&mut out, language);
        close_applications(&mut out, language);
        let until_ms = match oldest_ms {
            _ if !is_complete => self.complete_from_ms,
            Some(ms) => ms + limits::EUREKA_DELTA_MS,
            None => u64::MAX,
        };
        Ok((until_ms.max(now_ms + limits::EUREKA_DELTA_KEPT_MS), form.of(out)))
    }

    /// The instances behind a virtual address.
    fn put_vip(
        &self,
        form: Form,
        vip: &str,
        is_secure: bool,
        answers: &Answers,
    ) -> Result<Option<Made>, Problem> {
        let language = form.language;
        let mut counts = Counts::default();
        let mut found: Vec<(&str, &str)> = Vec::new();
        for part in &self.parts {
            for (index, seen) in part.seen.iter().enumerate() {
                let vips = if is_secure { &seen.secure_vip } else { &seen.vip };
                if vips.split(',').any(|one| one.trim().eq_ignore_ascii_case(vip)) {
                    counts.add(seen.status);
                    let text = part.text(language).instance(index);
                    found.push((part.roster.service.as_str(), text));
                }
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        let of = |(name, text): &(&str, &str)| text.len() + 6 * name.len() + 64;
        let bytes = found.iter().map(of).sum::<usize>() + 256;
        let permit = answers.reserve(bytes)?;
        let mut out = String::with_capacity(bytes);
        open_applications(&mut out, language, self.edition, &counts.hash());
        let mut applications = Applications::default();
        for (name, text) in found {
            applications.begin(&mut out, language, name);
            out.push_str(text);
        }
        applications.end(&mut out, language);
        close_applications(&mut out, language);
        Ok(Some((form.of(out), Some(permit))))
    }

    /// One application.
    fn put_application(
        &self,
        form: Form,
        service: &str,
        answers: &Answers,
    ) -> Result<Option<Made>, Problem> {
        let Some(part) = self.part(service) else { return Ok(None) };
        let language = form.language;
        let (head, tail) = match language {
            Language::Json => ("{\"application\":", "}"),
            Language::Xml => ("", ""),
        };
        if form.is_packed {
            let piece = part.packed(language);
            let permit = answers.reserve(piece.bytes() + 64)?;
            let mut pack = Pack::with_capacity(piece.bytes() + 64);
            pack.text(head);
            pack.piece(piece);
            pack.text(tail);
            return Ok(Some((pack.finish().into(), Some(permit))));
        }
        let text = &part.text(language).text;
        let permit = answers.reserve(head.len() + text.len() + tail.len())?;
        Ok(Some(([head, text, tail].concat().into(), Some(permit))))
    }

    /// One instance, whatever its application.
    fn put_instance(&self, form: Form, instance_id: &str) -> Option<Bytes> {
        self.parts.iter().find_map(|part| {
            let is_it = |seen: &Seen| seen.instance_id.eq_ignore_ascii_case(instance_id);
            let index = part.seen.iter().position(is_it)?;
            let text = part.text(form.language).instance(index);
            Some(form.of(enveloped(form.language, text)))
        })
    }
}

/// An instance as the whole of an answer.
pub(super) fn enveloped(language: Language, instance: &str) -> String {
    match language {
        Language::Json => format!("{{\"instance\":{instance}}}"),
        Language::Xml => instance.to_owned(),
    }
}

/// Applications of the instances that follow each other under one name.
#[derive(Debug, Default)]
struct Applications<'a> {
    open: Option<&'a str>,
}

impl<'a> Applications<'a> {
    /// Writes what comes before the next instance.
    fn begin(&mut self, out: &mut String, language: Language, service: &'a str) {
        if self.open == Some(service) {
            return out.push_str(separator(language));
        }
        if self.open.is_some() {
            close_application(out, language);
            out.push_str(separator(language));
        }
        open_application(out, language, &service.to_ascii_uppercase());
        self.open = Some(service);
    }

    /// Writes what comes after the last one.
    fn end(&self, out: &mut String, language: Language) {
        if self.open.is_some() {
            close_application(out, language);
        }
    }
}

impl Shelf {
    /// Everyone, as of now or later.
    async fn document(&self, desk: &Desk, language: Language) -> Result<Arc<Document>, Problem> {
        let edition = desk.office.published.edition();
        let newest = || {
            let document = self.document.read();
            document.as_ref().filter(|document| document.edition >= edition).cloned()
        };
        if let Some(document) = newest() {
            return Ok(document);
        }
        let _turn = self.building.lock().await;
        if let Some(document) = newest() {
            return Ok(document);
        }
        let order = Order::Roll(Box::new(Roll::All));
        let Answer::Called(called) = desk.ask(order).await? else {
            return Err(Refusal::internal().into());
        };
        let Called::All(rolls) = *called else { return Err(Refusal::internal().into()) };
        let before = self.document.read().clone();
        let is_old =
            |roster: &Roster| before.as_ref().is_some_and(|it| it.edition >= roster.edition);
        let fresh = rolls.rosters.iter().filter(|roster| !is_old(roster));
        let bytes: usize =
            fresh.flat_map(|roster| roster.entries.iter().map(|entry| entry.json.len())).sum();
        let document = body::beside(bytes > limits::DECODE_INLINE_BYTES_MAX, move || {
            Arc::new(Document::new(rolls, before.as_deref(), language))
        })
        .await?;
        *self.document.write() = Some(Arc::clone(&document));
        Ok(document)
    }

    /// Everyone.
    pub(super) async fn whole(&self, desk: &Desk, form: Form) -> Result<Made, Problem> {
        let document = self.document(desk, form.language).await?;
        let place = form.index();
        if let Some(bytes) = document.whole[place].get() {
            return Ok((bytes.clone(), None));
        }
        let _turn = self.building.lock().await;
        if let Some(bytes) = document.whole[place].get() {
            return Ok((bytes.clone(), None));
        }
        let (shared, answers) = (Arc::clone(&document), Arc::clone(&desk.answers));
        let bytes = body::beside(document.is_long(), move || shared.put_whole(form, &answers));
        let bytes = bytes.await??;
        if bytes.len() <= limits::LISTING_BYTES_KEPT_MAX {
            // Nobody else has a turn now.
            let _ = document.whole[place].set(bytes.clone());
        }
        Ok((bytes, None))
    }

    /// What changed lately.
    pub(super) async fn delta(&self, desk: &Desk, form: Form) -> Result<Made, Problem> {
        let document = self.document(desk, form.language).await?;
        let place = form.index();
        let now_ms = desk.clock.now().unix_ms;
        let kept = || {
            let kept = document.delta.lock();
            let (_, bytes) = kept[place].as_ref().filter(|(until_ms, _)| now_ms < *until_ms)?;
            Some(bytes.clone())
        };
        if let Some(bytes) = kept() {
            return Ok((bytes, None));
        }
        let _turn = self.building.lock().await;
        if let Some(bytes) = kept() {
            return Ok((bytes, None));
        }
        let (shared, answers) = (Arc::clone(&document), Arc::clone(&desk.answers));
        let changed: usize = document.recent.iter().map(|one| one.entry.json.len()).sum();
        let is_long = changed > limits::DECODE_INLINE_BYTES_MAX
            || now_ms < document.complete_from_ms && document.is_long();
        let (until_ms, bytes) =
            body::beside(is_long, move || shared.put_delta(form, now_ms, &answers)).await??;
        if bytes.len() <= limits::LISTING_BYTES_KEPT_MAX {
            document.delta.lock()[place] = Some((until_ms, bytes.clone()));
        }
        Ok((bytes, None))
    }

    /// The instances behind a virtual address; none where there are none.
    pub(super) async fn vip(
        &self,
        desk: &Desk,
        form: Form,
        vip: String,
        is_secure: bool,
    ) -> Result<Option<Made>, Problem> {
        let document = self.document(desk, form.language).await?;
        let (is_long, answers) = (document.is_long(), Arc::clone(&desk.answers));
        let put = move || document.put_vip(form, &vip, is_secure, &answers);
        body::beside(is_long, put).await?
    }

    /// One application; none where it has no instance.
    pub(super) async fn application(
        &self,
        desk: &Desk,
        form: Form,
        service: String,
    ) -> Result<Option<Made>, Problem> {
        let document = self.document(desk, form.language).await?;
        let bytes = document.part(&service).map_or(0, |part| part.bytes());
        let is_long = bytes > limits::DECODE_INLINE_BYTES_MAX;
        let answers = Arc::clone(&desk.answers);
        body::beside(is_long, move || document.put_application(form, &service, &answers)).await?
    }

    /// One instance of whatever application.
    pub(super) async fn instance(
        &self,
        desk: &Desk,
        form: Form,
        instance_id: String,
    ) -> Result<Option<Bytes>, Problem> {
        let document = self.document(desk, form.language).await?;
        body::beside(document.is_long(), move || document.put_instance(form, &instance_id)).await
    }
}
