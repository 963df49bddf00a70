//! The known services in a file, for the next start without a server.
//!
//! The file is written beside its place and then moved there, so that a reader finds the old one or
//! the new one and never half of either. A file that cannot be read counts as missing: it is only a
//! help.
//!
//! Imports `shared` and `state::service`. Imported by `driver` and `handle::builder`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::shared::Shared;
use crate::state::service::Saved;

/// The form of the file. Another one is not read.
const VERSION: u32 = 1;

/// How often the cache checks for changes.
const EVERY: Duration = Duration::from_secs(1);

/// After so many checks the file is written all the same, for the time of its confirmation.
const CONFIRM_AFTER: u32 = 60;

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    services: Vec<Saved>,
}

/// Reads a file; empty if there is none or it is not one of ours.
pub(crate) fn load(path: &Path) -> Vec<Saved> {
    let contents = fs::read(path).ok();
    let contents: Option<Contents> = contents.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    contents.filter(|it| it.version == VERSION).map_or_else(Vec::new, |it| it.services)
}

/// Writes the file after each change, until the client ends.
pub(crate) async fn keep(shared: &Arc<Shared>, path: &Path) {
    debug_assert_eq!(shared.settings.cache_file.as_deref(), Some(path));
    let mut passed = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        passed += 1;
        if shared.state.lock().services.is_unsaved || passed >= CONFIRM_AFTER {
            passed = 0;
            save(shared).await;
        }
    }
}

/// Writes the file now. A fault is no reason to stop: the next change is the next attempt.
pub(crate) async fn save(shared: &Arc<Shared>) {
    let Some(path) = shared.settings.cache_file.clone() else { return };
    let services = shared.state.lock().services.save();
    let written = tokio::task::spawn_blocking(move || write(&path, services)).await;
    if !matches!(written, Ok(Ok(()))) {
        shared.state.lock().services.is_unsaved = true;
    }
}

fn write(path: &Path, services: Vec<Saved>) -> io::Result<()> {
    let text = serde_json::to_vec(&Contents { version: VERSION, services })?;
    let mut beside = path.as_os_str().to_owned();
    // Two programs may share a file by mistake: each then writes beside it on its own.
    beside.push(format!(".{}.new", uuid::Uuid::new_v4().simple()));
    let result = write_beside(Path::new(&beside), &text).and_then(|()| fs::rename(&beside, path));
    if result.is_err() {
        // The removal is only an attempt.
        let _ = fs::remove_file(&beside);
    }
    result
}

fn write_beside(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}
