//! Responses that list the registry, encoded once per version of the registry and shared by all requests.
//!
//! ```text
//! control: lists of all services --> Part, one a service: text and deflated --+--> all applications
//!          (shared)                  kept while its service does not change  +--> one application
//!                                                                            \--> a virtual address
//! ```
//!
//! # Promises
//!
//! * A response is never older than the registry was when its request arrived.
//! * Of many requests together, one encodes a text and the others wait for it. A long encoding runs
//!   beside the shard's thread.
//! * A change costs the encoding of its service, and copying the other services' parts.
//! * A response over the bound is refused before it is built: its parts are summed first.
//! * Hash code, version and instances of a response describe one state of the registry.
//!
//! Imports its siblings, `http`, `limits` and `state`. Part of `doors::eureka`.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;

use super::gzip::{DeflatedPart, GzipWriter, compress};
use super::model::{EurekaInstance, EurekaStatus, action};
use super::write::{
    Format, close_application, close_applications, open_application, open_applications,
    put_instance, separator,
};
use crate::http::answers::Answers;
use crate::http::budget::Permit;
use crate::http::reply::Problem;
use crate::http::{RequestContext, body};
use crate::limits;
use crate::state::registry::commands::ListInstances;
use crate::state::registry::listing::{
    InstanceListing, ListedInstance, RecentChange, ServiceListing, Step,
};

/// How a response is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    pub(super) format: Format,
    pub(super) is_gzip: bool,
}

impl Encoding {
    const COUNT: usize = 4;

    const fn index(self) -> usize {
        self.format as usize * 2 + self.is_gzip as usize
    }

    /// A text in this encoding.
    pub(super) fn of(self, text: String) -> Bytes {
        if self.is_gzip { compress(text.as_bytes()).into() } else { text.into() }
    }
}

/// The newest responses.
#[derive(Debug, Default)]
pub struct ResponseCache {
    document: RwLock<Option<Arc<Listing>>>,
    /// Held by the request that encodes; the others wait for it.
    building: tokio::sync::Mutex<()>,
}

/// A response's body, and the permit for its bytes. No permit if the cache holds the bytes anyway.
pub(super) type Encoded = (Bytes, Option<Permit>);

/// All instances, as of one version of the registry.
#[derive(Debug)]
pub(super) struct Listing {
    listing_version: u64,
    hash: String,
    /// One a service, by name.
    parts: Vec<Arc<Part>>,
    recent: Vec<RecentChange>,
    complete_from_ms: u64,
    /// The kept responses of each kind.
    kept: RwLock<[Kept; 2]>,
}

/// Responses of one kind by their encodings, each with the moment until which it is valid, in
/// milliseconds since the Unix epoch.
type Kept = [Option<(u64, Bytes)>; Encoding::COUNT];

/// A response that lists the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// All applications.
    Whole,
    /// The recent changes.
    Delta,
}

/// A service's part of a response.
#[derive(Debug)]
struct Part {
    listing: Arc<ServiceListing>,
    keys: Vec<LookupKeys>,
    counts: StatusCounts,
    texts: [OnceLock<ApplicationText>; 2],
    deflated: [OnceLock<DeflatedPart>; 2],
}

/// The fields by which an instance is looked up.
#[derive(Debug)]
struct LookupKeys {
    instance_id: String,
    vip: String,
    secure_vip: String,
    status: EurekaStatus,
}

/// An encoded application, and the span of each instance in it.
#[derive(Debug)]
struct ApplicationText {
    text: String,
    spans: Vec<(usize, usize)>,
}

/// Number of instances in each status.
#[derive(Debug, Clone, Copy, Default)]
struct StatusCounts([usize; 5]);

impl StatusCounts {
    fn add(&mut self, status: EurekaStatus) {
        self.0[status as usize] += 1;
    }

    fn join(&mut self, other: StatusCounts) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    /// The hash code by which a client checks that its copy is complete: each status in use, in the order
    /// of names, with its number of instances.
    fn hash(self) -> String {
        let names = [
            EurekaStatus::Down,
            EurekaStatus::OutOfService,
            EurekaStatus::Starting,
            EurekaStatus::Unknown,
            EurekaStatus::Up,
        ];
        let mut hash = String::new();
        for name in names.into_iter().filter(|&name| self.0[name as usize] > 0) {
            hash += &format!("{}_{}_", name.as_str(), self.0[name as usize]);
        }
        hash
    }
}

impl ApplicationText {
    fn of(
        listing: &ServiceListing,
        format: Format,
        mut visit: impl FnMut(&EurekaInstance),
    ) -> ApplicationText {
        let mut text = String::with_capacity(listing.instances.len() * 1_400 + 64);
        let mut spans = Vec::with_capacity(listing.instances.len());
        open_application(&mut text, format, &listing.service.as_str().to_ascii_uppercase());
        for (index, entry) in listing.instances.iter().enumerate() {
            if index > 0 {
                text.push_str(separator(format));
            }
            let instance = EurekaInstance::of(entry);
            let start = text.len();
            put_instance(&mut text, format, &instance, action(Step::Added));
            spans.push((start, text.len()));
            visit(&instance);
        }
        close_application(&mut text, format);
        text.shrink_to_fit();
        ApplicationText { text, spans }
    }

    fn instance_text(&self, index: usize) -> &str {
        self.spans.get(index).and_then(|&(start, end)| self.text.get(start..end)).unwrap_or("")
    }
}

impl Part {
    fn new(listing: Arc<ServiceListing>, format: Format) -> Part {
        let (mut keys, mut counts) =
            (Vec::with_capacity(listing.instances.len()), StatusCounts::default());
        let text = ApplicationText::of(&listing, format, |instance| {
            counts.add(instance.status);
            keys.push(LookupKeys {
                instance_id: instance.instance_id.clone(),
                vip: instance.vip_address.clone(),
                secure_vip: instance.secure_vip_address.clone(),
                status: instance.status,
            });
        });
        let texts = [OnceLock::new(), OnceLock::new()];
        // Cannot fail: the cell is new.
        let _ = texts[format as usize].set(text);
        Part { listing, keys, counts, texts, deflated: [OnceLock::new(), OnceLock::new()] }
    }

    fn text(&self, format: Format) -> &ApplicationText {
        self.texts[format as usize]
            .get_or_init(|| ApplicationText::of(&self.listing, format, |_| ()))
    }

    fn deflated(&self, format: Format) -> &DeflatedPart {
        self.deflated[format as usize]
            .get_or_init(|| DeflatedPart::deflate(self.text(format).text.as_bytes()))
    }

    fn bytes(&self) -> usize {
        self.listing.instances.iter().map(|entry| entry.json.len()).sum()
    }
}

impl Listing {
    fn new(all: InstanceListing, before: Option<&Listing>, format: Format) -> Listing {
        let mut counts = StatusCounts::default();
        let parts: Vec<Arc<Part>> = all
            .services
            .into_iter()
            .map(|listing| {
                let same = before.and_then(|before| before.part(listing.service.as_str()));
                match same.filter(|part| Arc::ptr_eq(&part.listing, &listing)) {
                    Some(part) => Arc::clone(part),
                    None => Arc::new(Part::new(listing, format)),
                }
            })
            .collect();
        for part in &parts {
            counts.join(part.counts);
        }
        Listing {
            listing_version: all.listing_version,
            hash: counts.hash(),
            parts,
            recent: all.recent,
            complete_from_ms: all.complete_from_ms,
            kept: RwLock::default(),
        }
    }

    fn part(&self, service: &str) -> Option<&Arc<Part>> {
        let found = self.parts.binary_search_by(|part| part.listing.service.as_str().cmp(service));
        found.ok().and_then(|index| self.parts.get(index))
    }

    /// A kept response that is still valid.
    fn kept(&self, kind: Kind, encoding: Encoding, now_ms: u64) -> Option<Bytes> {
        let kept = self.kept.read();
        let (until_ms, bytes) = kept[kind as usize][encoding.index()].as_ref()?;
        (now_ms < *until_ms).then(|| bytes.clone())
    }

    /// Whether the encoding of a response takes long.
    fn is_long(&self, kind: Kind, now_ms: u64) -> bool {
        let changed = || self.recent.iter().map(|one| one.instance.json.len()).sum::<usize>();
        match kind {
            Kind::Delta if now_ms >= self.complete_from_ms => {
                changed() > limits::DECODE_INLINE_BYTES_MAX
            }
            Kind::Delta => changed() > limits::DECODE_INLINE_BYTES_MAX || self.is_large(),
            Kind::Whole => self.is_large(),
        }
    }

    /// A response, and the moment until which it is valid.
    fn encode(
        &self,
        kind: Kind,
        encoding: Encoding,
        now_ms: u64,
        answers: &Answers,
    ) -> Result<(u64, Bytes), Problem> {
        match kind {
            Kind::Whole => Ok((u64::MAX, self.encode_whole(encoding, answers)?)),
            Kind::Delta => self.encode_delta(encoding, now_ms, answers),
        }
    }

    fn is_large(&self) -> bool {
        let mut bytes = 0;
        self.parts.iter().any(|part| {
            bytes += part.bytes();
            bytes > limits::DECODE_INLINE_BYTES_MAX
        })
    }

    /// All applications.
    fn encode_whole(&self, encoding: Encoding, answers: &Answers) -> Result<Bytes, Problem> {
        let format = encoding.format;
        let (mut head, mut tail) = (String::new(), String::new());
        open_applications(&mut head, format, self.listing_version, &self.hash);
        close_applications(&mut tail, format);
        if encoding.is_gzip {
            let bytes = self.parts.iter().map(|part| part.deflated(format).bytes() + 16).sum();
            answers.check(bytes)?;
            let mut writer = GzipWriter::with_capacity(bytes);
            writer.text(&head);
            for (index, part) in self.parts.iter().enumerate() {
                if index > 0 {
                    writer.text(separator(format));
                }
                writer.part(part.deflated(format));
            }
            writer.text(&tail);
            return Ok(writer.finish().into());
        }
        let bytes: usize = self.parts.iter().map(|part| part.text(format).text.len() + 1).sum();
        answers.check(bytes)?;
        let mut out = head;
        out.reserve_exact(bytes + tail.len());
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                out.push_str(separator(format));
            }
            out.push_str(&part.text(format).text);
        }
        out.push_str(&tail);
        Ok(out.into())
    }

    /// The changes within the delta window, and the moment until which they are valid.
    ///
    /// If the window is not known completely, every instance is listed as modified. A client that holds an
    /// instance which left unseen then has more instances than the server; the hash code tells it to
    /// fetch everything.
    fn encode_delta(
        &self,
        encoding: Encoding,
        now_ms: u64,
        answers: &Answers,
    ) -> Result<(u64, Bytes), Problem> {
        let format = encoding.format;
        let is_complete = now_ms >= self.complete_from_ms;
        let since_ms = now_ms.saturating_sub(limits::EUREKA_DELTA_MS);
        let recent: Vec<&RecentChange> = self
            .recent
            .iter()
            .filter(|one| one.at_ms >= since_ms)
            .filter(|one| is_complete || one.step == Step::Deleted)
            .collect();
        let oldest_ms = recent.iter().map(|one| one.at_ms).min();
        let mut named: Vec<(&str, &ListedInstance, Step)> =
            recent.iter().map(|one| (one.service.as_str(), &one.instance, one.step)).collect();
        if !is_complete {
            for part in &self.parts {
                let name = part.listing.service.as_str();
                let instances = part.listing.instances.iter();
                named.extend(instances.map(|entry| (name, entry, Step::Modified)));
            }
        }
        // A stable sort: within an application the order of the changes stays.
        named.sort_by_key(|(name, ..)| *name);
        let mut out = String::new();
        open_applications(&mut out, format, self.listing_version, &self.hash);
        let mut applications = Applications::default();
        for (name, entry, step) in named {
            applications.begin(&mut out, format, name);
            put_instance(&mut out, format, &EurekaInstance::of(entry), action(step));
            // The size is known once it is written, so the bound is checked after each instance.
            answers.check(out.len())?;
        }
        applications.end(&mut out, format);
        close_applications(&mut out, format);
        let until_ms = match oldest_ms {
            _ if !is_complete => self.complete_from_ms,
            Some(ms) => ms + limits::EUREKA_DELTA_MS,
            None => u64::MAX,
        };
        Ok((until_ms.max(now_ms + limits::EUREKA_DELTA_KEPT_MS), encoding.of(out)))
    }

    /// The instances behind a virtual address.
    fn encode_vip(
        &self,
        encoding: Encoding,
        vip: &str,
        is_secure: bool,
        answers: &Answers,
    ) -> Result<Option<Encoded>, Problem> {
        let format = encoding.format;
        let mut counts = StatusCounts::default();
        let mut found: Vec<(&str, &str)> = Vec::new();
        for part in &self.parts {
            for (index, keys) in part.keys.iter().enumerate() {
                let vips = if is_secure { &keys.secure_vip } else { &keys.vip };
                if vips.split(',').any(|one| one.trim().eq_ignore_ascii_case(vip)) {
                    counts.add(keys.status);
                    let text = part.text(format).instance_text(index);
                    found.push((part.listing.service.as_str(), text));
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
        open_applications(&mut out, format, self.listing_version, &counts.hash());
        let mut applications = Applications::default();
        for (name, text) in found {
            applications.begin(&mut out, format, name);
            out.push_str(text);
        }
        applications.end(&mut out, format);
        close_applications(&mut out, format);
        Ok(Some((encoding.of(out), Some(permit))))
    }

    /// One application.
    fn encode_application(
        &self,
        encoding: Encoding,
        service: &str,
        answers: &Answers,
    ) -> Result<Option<Encoded>, Problem> {
        let Some(part) = self.part(service) else { return Ok(None) };
        let format = encoding.format;
        let (head, tail) = match format {
            Format::Json => ("{\"application\":", "}"),
            Format::Xml => ("", ""),
        };
        if encoding.is_gzip {
            let deflated = part.deflated(format);
            let permit = answers.reserve(deflated.bytes() + 64)?;
            let mut writer = GzipWriter::with_capacity(deflated.bytes() + 64);
            writer.text(head);
            writer.part(deflated);
            writer.text(tail);
            return Ok(Some((writer.finish().into(), Some(permit))));
        }
        let text = &part.text(format).text;
        let permit = answers.reserve(head.len() + text.len() + tail.len())?;
        Ok(Some(([head, text, tail].concat().into(), Some(permit))))
    }

    /// One instance of any application.
    fn encode_instance(&self, encoding: Encoding, instance_id: &str) -> Option<Bytes> {
        self.parts.iter().find_map(|part| {
            let is_it = |keys: &LookupKeys| keys.instance_id.eq_ignore_ascii_case(instance_id);
            let index = part.keys.iter().position(is_it)?;
            let text = part.text(encoding.format).instance_text(index);
            Some(encoding.of(wrap_instance(encoding.format, text)))
        })
    }
}

/// An instance as a response of its own.
pub(super) fn wrap_instance(format: Format, instance: &str) -> String {
    match format {
        Format::Json => format!("{{\"instance\":{instance}}}"),
        Format::Xml => instance.to_owned(),
    }
}

/// Writes `application` elements around instances that come grouped by service.
#[derive(Debug, Default)]
struct Applications<'a> {
    open: Option<&'a str>,
}

impl<'a> Applications<'a> {
    /// Writes the separator and tags before the next instance.
    fn begin(&mut self, out: &mut String, format: Format, service: &'a str) {
        if self.open == Some(service) {
            return out.push_str(separator(format));
        }
        if self.open.is_some() {
            close_application(out, format);
            out.push_str(separator(format));
        }
        open_application(out, format, &service.to_ascii_uppercase());
        self.open = Some(service);
    }

    /// Writes the tags after the last instance.
    fn end(&self, out: &mut String, format: Format) {
        if self.open.is_some() {
            close_application(out, format);
        }
    }
}

impl ResponseCache {
    /// All instances, as of this moment or later.
    async fn document(
        &self,
        context: &RequestContext,
        format: Format,
    ) -> Result<Arc<Listing>, Problem> {
        let listing_version = context.app.view_cache.listing_version();
        let newest = || {
            let document = self.document.read();
            document
                .as_ref()
                .filter(|document| document.listing_version >= listing_version)
                .cloned()
        };
        if let Some(document) = newest() {
            return Ok(document);
        }
        let _guard = self.building.lock().await;
        if let Some(document) = newest() {
            return Ok(document);
        }
        let all = context.ask(ListInstances).await?;
        let before = self.document.read().clone();
        let is_old = |listing: &ServiceListing| {
            before.as_ref().is_some_and(|it| it.listing_version >= listing.listing_version)
        };
        let fresh = all.services.iter().filter(|listing| !is_old(listing));
        let bytes: usize =
            fresh.flat_map(|listing| listing.instances.iter().map(|entry| entry.json.len())).sum();
        let document = body::beside(bytes > limits::DECODE_INLINE_BYTES_MAX, move || {
            Arc::new(Listing::new(all, before.as_deref(), format))
        })
        .await?;
        *self.document.write() = Some(Arc::clone(&document));
        Ok(document)
    }

    /// A response that lists the registry. One request encodes it, and the others wait for it.
    pub(super) async fn listed(
        &self,
        context: &RequestContext,
        kind: Kind,
        encoding: Encoding,
    ) -> Result<Encoded, Problem> {
        let document = self.document(context, encoding.format).await?;
        let now_ms = context.clock.now().unix_ms;
        if let Some(bytes) = document.kept(kind, encoding, now_ms) {
            return Ok((bytes, None));
        }
        let _guard = self.building.lock().await;
        if let Some(bytes) = document.kept(kind, encoding, now_ms) {
            return Ok((bytes, None));
        }
        let (shared, answers) = (Arc::clone(&document), Arc::clone(&context.answers));
        let encode = move || shared.encode(kind, encoding, now_ms, &answers);
        let (until_ms, bytes) = body::beside(document.is_long(kind, now_ms), encode).await??;
        if bytes.len() <= limits::LISTING_BYTES_KEPT_MAX {
            document.kept.write()[kind as usize][encoding.index()] =
                Some((until_ms, bytes.clone()));
        }
        Ok((bytes, None))
    }

    /// The instances behind a virtual address. None if there are none.
    pub(super) async fn vip(
        &self,
        context: &RequestContext,
        encoding: Encoding,
        vip: String,
        is_secure: bool,
    ) -> Result<Option<Encoded>, Problem> {
        let document = self.document(context, encoding.format).await?;
        let (is_long, answers) = (document.is_large(), Arc::clone(&context.answers));
        let put = move || document.encode_vip(encoding, &vip, is_secure, &answers);
        body::beside(is_long, put).await?
    }

    /// One application. None if it has no instance.
    pub(super) async fn application(
        &self,
        context: &RequestContext,
        encoding: Encoding,
        service: String,
    ) -> Result<Option<Encoded>, Problem> {
        let document = self.document(context, encoding.format).await?;
        let bytes = document.part(&service).map_or(0, |part| part.bytes());
        let is_long = bytes > limits::DECODE_INLINE_BYTES_MAX;
        let answers = Arc::clone(&context.answers);
        body::beside(is_long, move || document.encode_application(encoding, &service, &answers))
            .await?
    }

    /// One instance of any application.
    pub(super) async fn instance(
        &self,
        context: &RequestContext,
        encoding: Encoding,
        instance_id: String,
    ) -> Result<Option<Bytes>, Problem> {
        let document = self.document(context, encoding.format).await?;
        body::beside(document.is_large(), move || document.encode_instance(encoding, &instance_id))
            .await
    }
}
