//! Packs the pages of `web/` into the binary: each file as it is, with gzip and with Brotli, and an
//! entity tag made of its bytes. Scripts and styles of the pages go without the comments that fill whole
//! lines; `fanfare.js` is what other programs read, and keeps them.

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
    for (index, file) in files.iter().enumerate() {
        let (Some(path), Some(kind)) = (path_of(file), kind_of(file)) else { continue };
        let plain = match file.extension().and_then(|extension| extension.to_str()) {
            Some("js" | "css") if file.starts_with("web/assets") => {
                without_comments(&fs::read_to_string(file)?).into_bytes()
            }
            _ => fs::read(file)?,
        };
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

/// The text without lines that are comments and nothing else. A line within a template literal that
/// looks like one would go as well; the pages have none.
fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut is_inside = false;
    for line in text.lines() {
        let trimmed = line.trim();
        let ends = trimmed.ends_with("*/");
        let begins = trimmed.starts_with("/*") && (ends || !trimmed.contains("*/"));
        if is_inside || begins {
            is_inside = !ends;
        } else if !trimmed.starts_with("//") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
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

/// The media type; none for files that are not served.
fn kind_of(file: &Path) -> Option<&'static str> {
    let name = file.file_name()?.to_str()?;
    Some(match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
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
