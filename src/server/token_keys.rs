//! The keys that tokens are checked with: where the configuration says they are, and their reading again.
//!
//! ```text
//! jwt-secret, jwt-other-secrets, secret in the data directory --+
//! jwt-public-key ------------------------------------------------+--> KeySet --> Authenticator
//! jwt-jwks-file, jwt-jwks-url --> key reader --------------------+
//!                                    ^
//!       time, SIGHUP, a token that no key has signed
//! ```
//!
//! # Promises
//!
//! * A set that cannot be read or is wrong changes nothing: the last good keys stay in use.
//! * The last good set of a URL is kept in the data directory, so that the server starts while its issuer is down.
//! * Tokens of unknown keys do not have a set read more often than each [`limits::JWKS_REFRESH_MS_MIN`].
//!
//! Imports `auth`, `config`, `limits`, `private_file`, `redacted` and `stats`. Part of `server`.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fanfare_client::Api;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::StartError;
use crate::auth::{self, Audience, Authenticator, KeySet};
use crate::config::Config;
use crate::limits;
use crate::private_file;
use crate::redacted;
use crate::stats::Stats;

/// The file in the data directory that keeps the last good set of a URL.
const KEPT_FILE: &str = "jwks.json";

/// The authenticator: it checks tokens, and signs them if the secret is here.
///
/// # Errors
///
/// If the keys or the data directory cannot be used.
pub(crate) fn authenticator(config: &Config) -> Result<Authenticator, StartError> {
    let audience =
        Audience { issuer: config.jwt_issuer.clone(), audiences: config.jwt_audience.clone() };
    Ok(Authenticator::new(keys(config)?).with_audience(audience))
}

fn keys(config: &Config) -> Result<KeySet, StartError> {
    if let Some(path) = &config.jwt_public_key {
        let fault = |fault: String| StartError::Key(path.clone(), fault);
        let pem = fs::read(path).map_err(|unread| fault(unread.to_string()))?;
        return KeySet::of_pem(&pem).map_err(|wrong| fault(wrong.to_owned()));
    }
    if let Some(source) = JwksSource::of(config) {
        return source.read_or_kept();
    }
    let secret = match &config.jwt_secret {
        Some(secret) => secret.clone().into_bytes(),
        None => auth::secret_from_data_dir(&config.data_dir).map_err(|fault| {
            // The content of the file is a setting; whether it can be read is a fact of the machine.
            if fault.kind() == io::ErrorKind::InvalidData {
                StartError::Secret(fault)
            } else {
                StartError::DataDir(config.data_dir.clone(), fault)
            }
        })?,
    };
    Ok(KeySet::of_secrets(&secret, &config.jwt_other_secrets))
}

/// What the nodes of a cluster compare of their keys.
pub(super) struct Fingerprints {
    /// Of the key that signs tokens, or of the issuer's. None where nothing can be compared.
    pub(super) key: Option<String>,
    /// Of the other keys that are accepted.
    pub(super) others: Vec<String>,
}

/// Makes the fingerprints of a configuration's keys.
///
/// # Errors
///
/// If the public key cannot be read.
pub(super) fn fingerprints(config: &Config) -> Result<Fingerprints, StartError> {
    let key = if let Some(path) = &config.jwt_public_key {
        let unread = |fault: io::Error| StartError::Key(path.clone(), fault.to_string());
        Some(auth::fingerprint::of_public_key(&fs::read(path).map_err(unread)?))
    } else if let Some(url) = &config.jwt_jwks_url {
        // The keys themselves change at each node in its own time.
        Some(auth::fingerprint::of_public_key(url.as_bytes()))
    } else {
        // A generated secret is a single node's.
        config
            .jwt_secret
            .as_ref()
            .and_then(|secret| auth::fingerprint::of_secret(secret.as_bytes()))
    };
    let others = config.jwt_other_secrets.iter();
    let others = others.filter_map(|secret| auth::fingerprint::of_secret(secret.as_bytes()));
    Ok(Fingerprints { key, others: others.collect() })
}

/// Where a set of public keys comes from.
#[derive(Debug, Clone)]
enum JwksSource {
    File(PathBuf),
    Url { url: String, data_dir: PathBuf },
}

impl JwksSource {
    fn of(config: &Config) -> Option<JwksSource> {
        if let Some(path) = &config.jwt_jwks_file {
            return Some(JwksSource::File(path.clone()));
        }
        let url = config.jwt_jwks_url.clone()?;
        Some(JwksSource::Url { url, data_dir: config.data_dir.clone() })
    }

    /// The setting that names it, and its value, for people.
    fn shown(&self) -> String {
        match self {
            JwksSource::File(path) => format!("jwt-jwks-file: {}", path.display()),
            JwksSource::Url { url, .. } => format!("jwt-jwks-url: {}", redacted::url(url)),
        }
    }

    /// Reads the set, and keeps it if it is a URL's.
    async fn read(&self) -> Result<KeySet, String> {
        match self {
            JwksSource::File(path) => {
                let text = read_bounded(path).map_err(|fault| fault.to_string())?;
                let set = serde_json::from_slice(&text).map_err(|_| "not a JSON document")?;
                KeySet::of_jwks(&set)
            }
            JwksSource::Url { url, data_dir } => {
                let set = fetch(url).await?;
                let keys = KeySet::of_jwks(&set)?;
                if let Err(fault) = keep(data_dir, url, &set) {
                    tracing::warn!(%fault, "the set of token keys is not kept in {KEPT_FILE}");
                }
                Ok(keys)
            }
        }
    }

    /// The same for a start, on a thread of its own: the caller may be inside a runtime. Where a URL does not
    /// answer well, the kept set does.
    fn read_or_kept(&self) -> Result<KeySet, StartError> {
        let read = std::thread::scope(|scope| {
            let read = scope.spawn(|| {
                let runtime = runtime().map_err(|fault| fault.to_string())?;
                runtime.block_on(self.read())
            });
            read.join().unwrap_or_else(|_| Err(String::from("its reader has panicked")))
        });
        let fault = match read {
            Ok(keys) => return Ok(keys),
            Err(fault) => fault,
        };
        if let Some(keys) = self.kept() {
            let from = self.shown();
            tracing::error!(
                from,
                fault,
                "the token keys cannot be read: the last good ones are used"
            );
            return Ok(keys);
        }
        Err(StartError::KeySet(self.shown(), fault))
    }

    /// The set that an earlier server has kept of the same URL.
    fn kept(&self) -> Option<KeySet> {
        let JwksSource::Url { url, data_dir } = self else { return None };
        let text = read_bounded(&data_dir.join(KEPT_FILE)).ok()?;
        let kept: Value = serde_json::from_slice(&text).ok()?;
        if kept["url"] != url.as_str() {
            return None;
        }
        KeySet::of_jwks(&kept["set"]).ok()
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Reads a file that may be too large to be one of ours.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // A kept set has its URL besides.
    let most = 2 * limits::JWKS_BYTES_MAX;
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut text)?;
    if text.len() > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {most} bytes")));
    }
    Ok(text)
}

/// Fetches the document at a URL, within ten seconds.
async fn fetch(url: &str) -> Result<Value, String> {
    // The client adds paths to the address of a server, and this is a whole URL.
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?']).map_or(url.len(), |at| host + at);
    let (server, path) = url.split_at(end);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let api = Api::new(server).map_err(|fault| fault.to_string())?;
    let api = api.with_answer_bytes_max(limits::JWKS_BYTES_MAX);
    api.call("GET", &path, None).await.map_err(|fault| fault.to_string())
}

/// Keeps a set beside its URL. Either the old or the new one is there after a crash.
fn keep(data_dir: &Path, url: &str, set: &Value) -> io::Result<()> {
    let path = data_dir.join(KEPT_FILE);
    let text = json!({"url": url, "set": set}).to_string();
    if read_bounded(&path).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    let draft = private_file::with_suffix(&path, ".new");
    // One that a crash has left is worth nothing.
    let _ = fs::remove_file(&draft);
    let mut file = private_file::create_new(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, &path)
}

/// The thread that reads a set of public keys again.
#[derive(Debug)]
pub(super) struct KeyReader {
    signals: Arc<Signals>,
    pub(super) thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Signals {
    /// Asks for a reading now.
    asked: Notify,
    stop: Notify,
}

impl KeyReader {
    /// Starts it, if the configuration has such a set. The authenticator has the keys of the start.
    pub(super) fn start(
        config: &Config,
        authenticator: Arc<Authenticator>,
        stats: Arc<Stats>,
    ) -> io::Result<Option<KeyReader>> {
        stats.token_keys.keys.set(authenticator.key_count() as u64);
        let Some(source) = JwksSource::of(config) else { return Ok(None) };
        let (signals, refresh_ms) = (Arc::new(Signals::default()), config.jwt_jwks_refresh_ms);
        let runtime = runtime()?;
        let reader = Reader { source, refresh_ms, authenticator, stats, fault: None };
        let of_thread = Arc::clone(&signals);
        let thread = std::thread::Builder::new()
            .name(String::from("token-keys"))
            .spawn(move || runtime.block_on(reader.run(&of_thread)))?;
        Ok(Some(KeyReader { signals, thread }))
    }

    /// Has the set read now.
    pub(super) fn read_now(&self) {
        self.signals.asked.notify_one();
    }

    /// Ends the thread, also while it waits for an answer.
    pub(super) fn stop(&self) {
        self.signals.stop.notify_one();
    }
}

struct Reader {
    source: JwksSource,
    refresh_ms: u64,
    authenticator: Arc<Authenticator>,
    stats: Arc<Stats>,
    /// Why the last reading failed.
    fault: Option<String>,
}

impl Reader {
    async fn run(mut self, signals: &Signals) {
        let work = async {
            let mut read_at = Instant::now();
            loop {
                let pause_ms = match self.fault {
                    None => self.refresh_ms,
                    Some(_) => self.refresh_ms.min(limits::JWKS_RETRY_MS),
                };
                let after = |ms| read_at + Duration::from_millis(ms);
                let unknown_key = async {
                    sleep_until(after(limits::JWKS_REFRESH_MS_MIN)).await;
                    self.authenticator.unknown_key().await;
                };
                tokio::select! {
                    () = sleep_until(after(pause_ms)) => {}
                    () = unknown_key => {}
                    () = signals.asked.notified() => {}
                }
                self.read().await;
                read_at = Instant::now();
            }
        };
        tokio::select! {
            () = work => {}
            () = signals.stop.notified() => {}
        }
    }

    async fn read(&mut self) {
        let (from, stats) = (self.source.shown(), &self.stats.token_keys);
        match self.source.read().await {
            Ok(keys) => {
                tracing::debug!(from, ?keys, "the token keys are read again");
                if self.fault.take().is_some() {
                    tracing::info!(from, ?keys, "the token keys can be read again");
                }
                say_what_is_left_out(&from, &keys);
                stats.keys.set(keys.count() as u64);
                self.authenticator.replace_keys(keys);
            }
            Err(fault) => {
                stats.failures.add(1);
                if self.fault.as_ref() != Some(&fault) {
                    tracing::error!(from, fault, "the token keys stay as they were");
                }
                self.fault = Some(fault);
            }
        }
    }
}

fn say_what_is_left_out(from: &str, keys: &KeySet) {
    for fault in keys.skipped() {
        tracing::debug!(from, fault, "a token key is left out");
    }
}
