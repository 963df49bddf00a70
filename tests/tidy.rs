//! Keeps the architecture true: modules import downward only, each says what it is, and what the
//! documents list is what the code knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use circles::circles;
use source::{Source, blank, sources, without_tests};

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/source.rs"]
mod source;

/// Bottom first. A module may import rows below its own, never its neighbours or what is above.
const LAYERS: &[&[&str]] = &[
    &["limits", "rng", "address", "private_file", "redacted"],
    &["id", "clock", "storm"],
    &["wheel", "subscribers"],
    &["wire", "auth"],
    &["stats", "ws", "logging"],
    &["state"],
    &["cluster"],
    &["mailbox", "store"],
    &["shard", "control"],
    &["http"],
    &["doors"],
    &["config"],
    &["server"],
];

/// `cargo build --bin websocket_client` works from the root, and `cargo run` is the server all the same.
#[test]
fn programs_are_built_from_the_root() {
    let read = |path: &str| fs::read_to_string(path).expect("a manifest");
    let root = read("Cargo.toml");
    assert!(root.contains("default-members = [\".\", "), "{root}");
    assert!(root.contains("default-run = \"fanfare\""), "{root}");
    for (path, program) in [
        ("terminal/Cargo.toml", "websocket_client"),
        ("loadtest/Cargo.toml", "websocket_stress_test"),
    ] {
        let text = read(path);
        assert!(text.contains(&format!("name = \"{program}\"")), "{path}");
        // With a second one `cargo run` could not tell which is meant.
        assert!(!text.contains("default-run"), "{path}");
    }
}

/// What stands above all layers, and may import any.
const TOP: &[&str] = &["cli", "fuzzing", "internals", "lib", "main"];

#[test]
fn modules_import_downward_only() {
    let mut faults = Vec::new();
    for source in sources("src") {
        let room = source.room();
        let Some(level) = level(room) else {
            if !TOP.contains(&room) {
                faults.push(format!("{}: {room} is in no layer", source.path.display()));
            }
            continue;
        };
        for (line, name) in source.imports() {
            if name != room && self::level(&name).is_none_or(|other| other >= level) {
                faults.push(format!("{}:{line}: {room} imports {name}", source.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "imports against the grain:\n{}", faults.join("\n"));
}

/// The table of imports in ARCHITECTURE.md, from the sources.
fn table_of_imports() -> String {
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources("src") {
        let imports = source.imports().into_iter().map(|(_, name)| name);
        let imports = imports.filter(|name| level(name).is_some() && name != source.room());
        rooms.entry(source.room().to_owned()).or_default().extend(imports);
    }
    let names = |names: &mut dyn Iterator<Item = &str>| {
        let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
        if names.is_empty() { String::from("nothing") } else { names.join(", ") }
    };
    let mut table = String::from("| module | imports | imported by |\n|---|---|---|\n");
    for room in LAYERS.iter().copied().flatten() {
        let Some(imports) = rooms.get(*room) else { continue };
        let importers = rooms.iter().filter(|(_, imports)| imports.contains(*room));
        let importers = names(&mut importers.map(|(name, _)| &**name));
        let imports = names(&mut imports.iter().map(String::as_str));
        table.push_str(&format!("| `{room}` | {imports} | {importers} |\n"));
    }
    table
}

/// Whether the checks are to mend what they can: `TIDY_UPDATE=1 cargo test --test tidy`.
fn is_update() -> bool {
    std::env::var_os("TIDY_UPDATE").is_some()
}

#[test]
fn the_table_of_imports_is_true() {
    const BEGIN: &str = "<!-- written by TIDY_UPDATE=1 cargo test --test tidy -->\n";
    const END: &str = "<!-- end of what is written -->";
    let text = fs::read_to_string("ARCHITECTURE.md").expect("the document is there");
    let (before, rest) = text.split_once(BEGIN).expect("the table begins");
    let (there, after) = rest.split_once(END).expect("the table ends");
    let table = table_of_imports();
    if is_update() {
        fs::write("ARCHITECTURE.md", format!("{before}{BEGIN}{table}{END}{after}"))
            .expect("written");
    } else {
        assert!(there == table, "TIDY_UPDATE=1 cargo test --test tidy writes:\n{table}");
    }
}

/// The checks read whole files: code behind a module of tests is code.
#[test]
fn only_what_is_for_tests_is_left_out() {
    let text = r##"
        use crate::state::{self, Thing}; // crate::comment
        #[cfg(test)]
        mod tests { use crate::server; fn f() { let _ = "}"; let _ = '{'; } }
        /* crate::block */ #[cfg(test)] #[allow(dead_code)] mod model;
        struct S<'a> { #[cfg(test)] seen: crate::seen::Seen, kept: &'a crate::kept::Kept }
        const R: &str = r#"crate::"raw"#;
        #[cfg(all(test, unix))] pub(crate) fn only(a: u8, b: u8) -> [u8; 2] { [a, b] }
        #[cfg(not(test))] use crate::{http::x, wire};
        fn after() -> u8 { b'}' + super::config::N }
    "##;
    let (code, modules) = without_tests(&blank(text));
    assert_eq!(modules, ["model"]);
    assert_eq!(code.lines().count(), text.lines().count());
    let source = Source { path: "src/here/mod.rs".into(), code };
    let imports: Vec<_> = source.imports().into_iter().map(|(_, name)| name).collect();
    assert_eq!(imports, ["state", "kept", "http", "wire", "config"]);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut faults = Vec::new();
    for dir in ["src", "protocol/src", "clients/rust/src", "loadtest/src", "terminal/src"] {
        faults.extend(circles(dir).iter().map(|circle| format!("{dir}: {}", circle.join(", "))));
    }
    assert!(faults.is_empty(), "circles of imports:\n{}", faults.join("\n"));
}

/// The client is built without the server: it depends on what both share, and on nothing above that.
#[test]
fn the_client_knows_only_what_both_sides_share() {
    for path in ["clients/rust/Cargo.toml", "protocol/Cargo.toml"] {
        let text = fs::read_to_string(path).expect("a manifest");
        let manifest: toml::Table = toml::from_str(&text).expect("TOML");
        let ours = manifest["dependencies"].as_table().expect("dependencies").keys();
        let ours: Vec<_> = ours.filter(|name| name.starts_with("fanfare")).collect();
        assert!(ours.iter().all(|name| *name == "fanfare-protocol"), "{path}: {ours:?}");
    }
}

#[test]
fn every_module_says_what_it_is_in_ascii() {
    let mut faults = Vec::new();
    let dirs = [
        "src",
        "protocol/src",
        "clients/rust/src",
        "loadtest/src",
        "terminal/src",
        "test-support/src",
    ];
    for dir in dirs {
        visit(Path::new(dir), &mut |path: &Path, text: &str| {
            if !text.starts_with("//! ") {
                faults.push(format!("{} has no module header", path.display()));
            }
            if let Some(line) = text.lines().find(|line| !line.is_ascii()) {
                faults.push(format!("{} is not ASCII: {line}", path.display()));
            }
        });
    }
    for source in ["src", "protocol/src", "clients/rust/src"].into_iter().flat_map(sources) {
        if let Some(line) = source.code.lines().position(|line| line.contains(".unwrap()")) {
            faults.push(format!("{}:{} unwraps outside of tests", source.path.display(), line + 1));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What `cargo publish` shows of a package. `repository` waits for a public address.
#[test]
fn published_packages_say_what_they_are() {
    for package in [".", "protocol", "clients/rust"] {
        let read =
            |name: &str| fs::read_to_string(Path::new(package).join(name)).expect("it is there");
        let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).expect("TOML");
        let fields = manifest["package"].as_table().expect("a package");
        for field in ["description", "keywords", "categories", "license", "readme", "rust-version"]
        {
            assert!(fields.contains_key(field), "{package}: {field}");
        }
        assert!(!read(fields["readme"].as_str().expect("a name")).is_empty(), "{package}");
    }
}

/// The newest section of the changelog is the version that is built, or one that comes after it.
#[test]
fn versions_agree() {
    let read = |path: &str| fs::read_to_string(path).expect("it is there");
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).expect("TOML");
    let version = manifest["workspace"]["package"]["version"].as_str().expect("a text");
    let numbers = |version: &str| -> Vec<u32> {
        version.split('.').map(|number| number.parse().expect("a number")).collect()
    };
    let changelog = read("CHANGELOG.md");
    let newest = changelog.lines().find_map(|line| line.strip_prefix("## ")).expect("a section");
    if let Some(next) = newest.strip_suffix(" (unreleased)") {
        assert!(numbers(next) > numbers(version), "{next} comes after {version}");
    } else {
        let (released, date) = newest.split_once(" - ").expect("a version and a date");
        let shape: String =
            date.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert_eq!((released, &*shape), (version, "9999-99-99"));
    }
    for (path, said) in [
        ("deploy/compose.common.yaml", format!("image: fanfare:{version}\n")),
        ("deploy/kubernetes/kustomization.yaml", format!("newTag: {version}\n")),
        ("README.md", format!(r#""version":"{version}""#)),
        ("docs/protocol.md", format!(r#""version":"{version}""#)),
    ] {
        assert!(read(path).contains(&said), "{path} says {said}");
    }
    for path in
        ["Cargo.toml", "clients/rust/Cargo.toml", "loadtest/Cargo.toml", "terminal/Cargo.toml"]
    {
        let manifest: toml::Table = toml::from_str(&read(path)).expect("TOML");
        for (name, dependency) in manifest["dependencies"].as_table().expect("a table") {
            let wanted = dependency.get("version").filter(|_| name.starts_with("fanfare"));
            assert!(wanted.is_none_or(|wanted| wanted.as_str() == Some(version)), "{path}: {name}");
        }
    }
}

/// A test that returns early because something is missing counts as skipped, not as passed.
#[test]
fn skipped_tests_do_not_count_as_passed() {
    let dir = std::env::temp_dir().join(format!("fanfare-results-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    let log = "test a ... ok\ntest result: ok. 12 passed; 0 failed; 1 ignored; 0 measured\n\
               test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured\n\
               # pass 7\n# fail 1\n# skipped 2\nSKIPPED: Autobahn (no Python)\n";
    let reported =
        "whole\ta\tno database\nwhole\tb::a\tno database\npart\tc\tno disk\npart\tc\tno disk\n";
    let count = |log: &str, reported: &str| {
        fs::write(dir.join("log"), log).expect("written");
        fs::write(dir.join("reported"), reported).expect("written");
        let output = Command::new("scripts/count_results.sh")
            .args([dir.join("log"), dir.join("reported")])
            .output()
            .expect("bash runs it");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(
        count(log, reported),
        "20 3 7\n3 tests that are marked as ignored\nAutobahn (no Python)\na: no database\n\
         b::a: no database\nc: no disk (a part of it)\n"
    );
    assert_eq!(count("", ""), "0 0 0\n");
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn the_documents_list_every_code() {
    let protocol = fs::read_to_string("docs/protocol.md").expect("the document is there");
    for code in fanfare_protocol::refusal::Code::ALL {
        let row = format!("| `{}` |", code.as_str());
        assert_eq!(protocol.matches(&row).count(), 1, "{row}");
    }
    for reason in fanfare_protocol::close::Reason::ALL {
        let row = format!("\n| {} |", reason.code());
        assert_eq!(protocol.matches(&row).count(), 1, "{row}");
    }
}

#[test]
fn the_documents_list_every_setting() {
    let operations = fs::read_to_string("docs/operations.md").expect("the document is there");
    for arg in fanfare::config::Config::command().get_arguments() {
        let Some(flag) = arg.get_long() else { continue };
        assert!(operations.contains(&format!("| `--{flag}` |")), "--{flag}");
    }
}

fn level(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

fn visit(dir: &Path, each: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(dir).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path, &fs::read_to_string(&path).expect("UTF-8"));
        }
    }
}
