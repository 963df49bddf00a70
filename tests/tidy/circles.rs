//! Circles of imports between the files of a package.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, sources};

/// What each file of a package imports, by the paths of their modules.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The circles among the files below a folder: each a list of modules that reach each other.
pub fn circles(dir: &str) -> Vec<Vec<String>> {
    let files: Vec<(String, Source)> =
        sources(dir).into_iter().map(|source| (module(dir, &source), source)).collect();
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| &**name).collect();
    let mut graph = Graph::new();
    for (name, source) in &files {
        let parent = name.rsplit_once("::").map_or("", |(parent, _)| parent);
        let mut imports = BTreeSet::new();
        for (prefix, base) in [("crate::", ""), ("super::", parent), ("self::", name)] {
            for path in paths_after(&source.code, prefix) {
                let full = if base.is_empty() { path } else { format!("{base}::{path}") };
                imports.extend(longest_module(&full, &names).map(str::to_owned));
            }
        }
        imports.remove(name);
        graph.insert(name.clone(), imports);
    }
    circles_of(&graph)
}

/// The path of a file's module below the package's root; the root itself is empty.
fn module(dir: &str, source: &Source) -> String {
    let path = source.path.strip_prefix(dir).expect("it is below the folder").with_extension("");
    let parts = path.iter().map(|part| part.to_string_lossy());
    let parts = parts.filter(|part| !["lib", "main", "mod"].contains(&&**part));
    parts.collect::<Vec<_>>().join("::")
}

/// Every path that the code names after a prefix; of a group in braces, each of its paths.
fn paths_after(code: &str, prefix: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            expand("", &code[at + prefix.len()..], &mut paths);
        }
    }
    paths
}

/// Adds what a path stands for, and returns what is behind it.
fn expand<'a>(base: &str, text: &'a str, paths: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            if rest.is_empty() || rest.starts_with('}') {
                return rest.get(1..).unwrap_or_default();
            }
            let before = rest.len();
            rest = expand(base, rest, paths);
            // `as other` and the like.
            rest = rest.trim_start_matches(|c: char| !matches!(c, ',' | '}'));
            assert!(rest.len() < before, "a group of imports: {text:.60}");
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = if base.is_empty() { name.to_owned() } else { format!("{base}::{name}") };
    match rest.strip_prefix("::") {
        Some(more) if !name.is_empty() => expand(&path, more, paths),
        _ => {
            paths.push(path);
            rest.strip_prefix('*').unwrap_or(rest)
        }
    }
}

/// The module that a path is in: itself or the nearest above. The root counts where nothing else does.
fn longest_module<'a>(path: &str, names: &BTreeSet<&'a str>) -> Option<&'a str> {
    let mut part = path;
    loop {
        if let Some(name) = names.get(part) {
            return Some(name);
        }
        part = part.rsplit_once("::").map_or("", |(before, _)| before);
        if part.is_empty() {
            return names.get("").copied();
        }
    }
}

/// Modules that reach each other, each circle once.
fn circles_of(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|name| (&**name, reached_from(name, graph))).collect();
    let mut circles: Vec<Vec<String>> = Vec::new();
    for (name, reachable) in &reached {
        let is_in = |other: &&&str| reached.get(**other).is_some_and(|back| back.contains(name));
        let circle: Vec<String> =
            reachable.iter().filter(is_in).map(|&other| other.to_owned()).collect();
        if circle.len() > 1 && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

fn reached_from<'a>(name: &str, graph: &'a Graph) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = graph[name].iter().map(|one| &**one).collect();
    while let Some(one) = next.pop() {
        if reached.insert(one) {
            next.extend(graph[one].iter().map(|one| &**one));
        }
    }
    reached
}

#[test]
fn a_circle_is_found() {
    let names = BTreeSet::from(["", "a", "b", "b::c"]);
    let paths =
        paths_after("use crate::{a::X as Y, b::{self, c::Z}};\nfn f(_: crate::W) {}", "crate::");
    assert_eq!(paths, ["a::X", "b::self", "b::c::Z", "W"]);
    let modules: Vec<_> = paths.iter().filter_map(|path| longest_module(path, &names)).collect();
    assert_eq!(modules, ["a", "b", "b::c", ""]);
    let edge = |from: &str, to: &[&str]| {
        (from.to_owned(), to.iter().map(|&one| one.to_owned()).collect::<BTreeSet<_>>())
    };
    let graph = Graph::from([
        edge("a", &["b"]),
        edge("b", &["b::c"]),
        edge("b::c", &["a"]),
        edge("d", &["a"]),
    ]);
    assert_eq!(circles_of(&graph), [["a", "b", "b::c"]]);
}
