//! Packs the pages of `web/` into the binary: each file plain, with gzip and with Brotli, and an entity
//! tag made of its bytes.
//!
//! What only the server's own pages load (`web/assets/`) leaves its indentation and its comments here.
//! The pages link to each other and to their files by relative references, so that they work below any
//! prefix; `/demo/` is therefore a page of its own, whose references go one level up.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Brotli's highest quality and its window of 4 MiB: it runs once, at build time.
const BROTLI_QUALITY: u32 = 11;
const BROTLI_WINDOW: u32 = 22;

/// Packs everything.
#[allow(clippy::disallowed_methods, reason = "that is how cargo speaks to build scripts")]
pub(crate) fn pack() -> io::Result<()> {
    println!("cargo::rerun-if-changed=web");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=build.rs");
    for (name, variable) in [("TARGET", "FANFARE_TARGET"), ("PROFILE", "FANFARE_PROFILE")] {
        println!("cargo::rustc-env={variable}={}", env::var(name).unwrap_or_default());
    }
    println!("cargo::rustc-env=FANFARE_RUSTC={}", compiler());
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut files = Vec::new();
    collect(Path::new("web"), &mut files)?;
    files.sort();
    let mut table = String::from("&[\n");
    let mut pages = Vec::new();
    for file in &files {
        let (Some(path), Some(kind)) = (path_of(file), kind_of(file)) else { continue };
        let plain = condensed(file, fs::read(file)?);
        if kind.starts_with("text/html") && path != "/" {
            pages.push((format!("{path}/"), kind, one_level_up(&plain)));
        }
        pages.push((path, kind, plain));
    }
    for (index, (path, kind, plain)) in pages.into_iter().enumerate() {
        let names = ["plain", "gzip", "br"].map(|form| out.join(format!("page-{index}.{form}")));
        fs::write(&names[0], &plain)?;
        fs::write(&names[1], gzip(&plain)?)?;
        fs::write(&names[2], brotli(&plain)?)?;
        let [plain_file, gzip_file, br_file] = names.map(|name| quoted(&name));
        let tag = tag(&plain);
        writeln!(
            table,
            "Page {{ path: {path:?}, kind: {kind:?}, tag: \"\\\"{tag:016x}\\\"\", plain: \
             include_bytes!({plain_file}), gzip: include_bytes!({gzip_file}), brotli: \
             include_bytes!({br_file}) }},"
        )
        .map_err(io::Error::other)?;
    }
    table.push(']');
    fs::write(out.join("pages.rs"), table)
}

/// A path as a literal of the language.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().escape_default())
}

/// The compiler's own word for itself.
#[allow(clippy::disallowed_methods, reason = "that is how cargo speaks to build scripts")]
fn compiler() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = std::process::Command::new(rustc).arg("--version").output();
    said.map_or_else(
        |_| String::from("unknown"),
        |said| String::from_utf8_lossy(&said.stdout).trim().to_owned(),
    )
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

/// Where a file is served: pages without their ending, the first of them at the root.
fn path_of(file: &Path) -> Option<String> {
    let path = file.strip_prefix("web").ok()?.to_str()?.replace('\\', "/");
    Some(match path.strip_suffix(".html") {
        Some("index") => String::from("/"),
        Some(page) => format!("/{page}"),
        None => format!("/{path}"),
    })
}

/// A file of `web/assets/` without indentation, empty lines and lines of comment. Any other file, and one
/// in which a template literal goes over several lines, stays as it is.
fn condensed(file: &Path, plain: Vec<u8>) -> Vec<u8> {
    let is_script = file.extension().is_some_and(|extension| extension == "js");
    let is_style = file.extension().is_some_and(|extension| extension == "css");
    let Ok(text) = std::str::from_utf8(&plain) else { return plain };
    let is_one_line = |line: &str| line.matches('`').count().is_multiple_of(2);
    let is_asset = file.starts_with("web/assets") && (is_script || is_style);
    if !is_asset || !text.lines().all(is_one_line) {
        return plain;
    }
    let (mut kept, mut in_comment) = (String::with_capacity(text.len()), false);
    for line in text.lines().map(str::trim) {
        let ends = line.ends_with("*/");
        let begins = line.starts_with("/*") && (ends || !line.contains("*/"));
        let is_inside = in_comment || begins;
        let is_comment = is_inside || (is_script && line.starts_with("//"));
        in_comment = is_inside && !ends;
        if !is_comment && !line.is_empty() {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept.into_bytes()
}

/// A page whose relative references start one level higher.
fn one_level_up(page: &[u8]) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(page).into_owned();
    for name in ["href", "src"] {
        text = text.replace(&format!(" {name}=\""), &format!(" {name}=\"../"));
        text = text.replace(&format!(" {name}=\"../#"), &format!(" {name}=\"#"));
    }
    text.into_bytes()
}

/// The media type; none for files that are not served.
fn kind_of(file: &Path) -> Option<&'static str> {
    let name = file.file_name()?.to_str()?;
    Some(match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "ico" => "image/x-icon",
        "ts" => "text/plain; charset=utf-8",
        _ => return None,
    })
}

fn gzip(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain)?;
    encoder.finish()
}

fn brotli(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    let mut encoder =
        brotli::CompressorWriter::new(&mut packed, 4_096, BROTLI_QUALITY, BROTLI_WINDOW);
    encoder.write_all(plain)?;
    drop(encoder);
    Ok(packed)
}

/// FNV-1a over the bytes: another content, another tag, and the same from build to build.
fn tag(plain: &[u8]) -> u64 {
    plain.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
