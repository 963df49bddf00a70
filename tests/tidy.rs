//! Keeps the architecture true: modules import downward only, each says what it is, and what the
//! documents list is what the code knows.

use std::fs;
use std::path::Path;

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

#[test]
fn modules_import_downward_only() {
    let mut faults = Vec::new();
    visit(Path::new("src"), &mut |path, text| {
        let module = path.iter().nth(1).and_then(|part| part.to_str()).unwrap_or_default();
        let Some(level) = level(module.trim_end_matches(".rs")) else { return };
        // What stands below this line is a module's own test and may look anywhere.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for name in line.split("crate::").skip(1) {
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                let name = &name[..end.unwrap_or(name.len())];
                let is_own = name == module.trim_end_matches(".rs");
                if !is_own && self::level(name).is_none_or(|other| other >= level) {
                    faults.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    });
    assert!(faults.is_empty(), "imports against the grain:\n{}", faults.join("\n"));
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
    let mut check = |path: &Path, text: &str| {
        if !text.starts_with("//! ") {
            faults.push(format!("{} has no module header", path.display()));
        }
        if let Some(line) = text.lines().find(|line| !line.is_ascii()) {
            faults.push(format!("{} is not ASCII: {line}", path.display()));
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        if code.contains(".unwrap()") && !path.ends_with("tests.rs") {
            faults.push(format!("{} unwraps outside of tests", path.display()));
        }
    };
    for dir in ["src", "protocol/src", "clients/rust/src"] {
        visit(Path::new(dir), &mut check);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_documents_list_every_code() {
    let protocol = fs::read_to_string("docs/protocol.md").expect("the document is there");
    for code in fanfare::wire::refusal::Code::ALL {
        let row = format!("| `{}` |", code.as_str());
        assert_eq!(protocol.matches(&row).count(), 1, "{row}");
    }
    for reason in fanfare::wire::close::Reason::ALL {
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
