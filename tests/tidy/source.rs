//! Rust sources as the checks read them: without comments, texts and what is compiled for tests alone.
//!
//! A small scanner, no parser: it knows comments, literals and brackets, which is enough to say where an
//! item ends.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file that is compiled into the program.
pub struct Source {
    pub path: PathBuf,
    /// Its text with each comment, literal and item under `#[cfg(test)]` as blanks, line by line.
    pub code: String,
}

impl Source {
    /// The module right below the crate's root that the file belongs to: `state` for `src/state/effect.rs`.
    pub fn room(&self) -> &str {
        let first = self.path.iter().nth(1).and_then(|part| part.to_str()).unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// The path of its module below the crate's root: `["state", "call"]`.
    fn module(&self) -> Vec<String> {
        let path = self.path.with_extension("");
        let parts = path.iter().skip(1).map(|part| part.to_string_lossy().into_owned());
        parts.filter(|part| part != "mod" && part != "lib" && part != "main").collect()
    }

    /// The modules right below the crate's root that the code names, by `crate::` or by `super::`, each with
    /// the number of its line.
    pub fn imports(&self) -> Vec<(usize, String)> {
        let module = self.module();
        let mut found = Vec::new();
        for (index, line) in self.code.lines().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                if !line[..at].ends_with(is_in_name) {
                    let rest = self.rest_from(index, at + "crate::".len());
                    found.extend(heads(&rest).into_iter().map(|name| (index + 1, name)));
                }
            }
            let mut at = 0;
            while let Some(start) = line[at..].find("super::").map(|found| at + found) {
                let mut up = 0;
                at = start;
                while line[at..].starts_with("super::") {
                    (up, at) = (up + 1, at + "super::".len());
                }
                // A module within the file begins deeper, and its `super` may be the file. Only a path that
                // leaves the room for certain counts.
                if up == module.len() {
                    let rest = self.rest_from(index, at);
                    found.extend(heads(&rest).into_iter().map(|name| (index + 1, name)));
                }
            }
        }
        found
    }

    fn rest_from(&self, line: usize, column: usize) -> String {
        let mut lines = self.code.lines().skip(line);
        let first = lines.next().map(|line| &line[column..]).unwrap_or_default();
        std::iter::once(first).chain(lines).collect::<Vec<_>>().join("\n")
    }
}

/// The first names of a path: one, or each of a group in braces.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| -> String { text.chars().take_while(|&c| is_in_name(c)).collect() };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut all, mut is_start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            c if is_start && is_in_name(c) => {
                all.push(name(&group[at..]));
                is_start = false;
            }
            _ => {}
        }
    }
    all
}

fn is_in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All files below a folder that are compiled into the program, in order.
pub fn sources(dir: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    collect(Path::new(dir), &mut paths);
    paths.sort();
    let mut for_tests = BTreeSet::new();
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let (code, modules) = without_tests(&blank(&text));
        // Where the files of the modules are that this one declares.
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folder = path.parent().expect("it is in a folder");
        let folder = match stem {
            "mod" | "lib" | "main" => folder.to_owned(),
            stem => folder.join(stem),
        };
        for_tests.extend(modules.iter().map(|module| folder.join(module)));
        all.push(Source { path, code });
    }
    all.retain(|source| {
        let mut path = source.path.with_extension("");
        if path.ends_with("mod") {
            path.pop();
        }
        !path.ancestors().any(|part| for_tests.contains(part))
    });
    all
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Comments and literals as blanks. Lines keep their numbers and columns.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment(bytes, at);
        if end > at {
            out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
            at = end;
        } else {
            at += 1;
            // The whole of a name, so that its last letter begins no raw string.
            while at < bytes.len() && is_word(bytes[at - 1]) && is_word(bytes[at]) {
                at += 1;
            }
        }
    }
    String::from_utf8(out).expect("blanked by whole characters")
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where the comment or literal ends that begins here; `at` where none does.
fn literal_or_comment(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let until = |needle: &[u8], from: usize| {
        let found = bytes[from..].windows(needle.len()).position(|part| part == needle);
        found.map_or(bytes.len(), |found| from + found + needle.len())
    };
    if rest.starts_with(b"//") {
        return until(b"\n", at) - 1;
    }
    if rest.starts_with(b"/*") {
        let (mut depth, mut end) = (0, at);
        while end < bytes.len() {
            match &bytes[end..bytes.len().min(end + 2)] {
                b"/*" => (depth, end) = (depth + 1, end + 2),
                b"*/" => (depth, end) = (depth - 1, end + 2),
                _ => end += 1,
            }
            if depth == 0 {
                break;
            }
        }
        return end;
    }
    // Prefixes of byte, C and raw literals.
    let prefix = rest.iter().take(2).take_while(|byte| b"brc".contains(byte)).count();
    let after = &rest[prefix..];
    let hashes = after.iter().take_while(|&&byte| byte == b'#').count();
    if rest[..prefix].ends_with(b"r") && after.get(hashes) == Some(&b'"') {
        let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
        return until(&close, at + prefix + hashes + 1);
    }
    let Some(&quote @ (b'"' | b'\'')) = after.first() else { return at };
    let start = at + prefix + 1;
    // A lifetime is no literal: 'a is not followed by a quote.
    if quote == b'\'' && bytes.get(start) != Some(&b'\\') {
        let width =
            bytes[start..].iter().skip(1).take_while(|byte| **byte & 0xC0 == 0x80).count() + 1;
        return if bytes.get(start + width) == Some(&b'\'') { start + width + 1 } else { at };
    }
    let mut end = start;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// Items under `#[cfg(test)]` as blanks as well, and the modules among them that are files.
pub fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut out = code.as_bytes().to_vec();
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find("#[cfg(").map(|found| from + found) {
        let end = closing(code, start + 1);
        from = end;
        let condition = &code[start + "#[cfg(".len()..end];
        let is_for_tests = condition.starts_with("test)") || condition.starts_with("all(test,");
        if !is_for_tests {
            continue;
        }
        let (item, end) = item_after(code, end);
        from = end;
        let words: Vec<&str> = code[item..end].split_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "mod")
            && let Some(name) = words.get(at + 1).and_then(|word| word.strip_suffix(';'))
        {
            modules.push(name.to_owned());
        }
        out[start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    (String::from_utf8(out).expect("blanked by whole characters"), modules)
}

/// Where the item begins and ends that follows an attribute.
fn item_after(code: &str, mut at: usize) -> (usize, usize) {
    let bytes = code.as_bytes();
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        if !code[at..].starts_with("#[") {
            break;
        }
        at = closing(code, at + 1);
    }
    let start = at;
    let first: String = code[at..].chars().take_while(|&c| is_in_name(c)).collect();
    // A field, a variant or an arm ends with a comma; an item does not.
    let is_item = [
        "async",
        "const",
        "enum",
        "extern",
        "fn",
        "impl",
        "let",
        "macro_rules",
        "mod",
        "static",
        "struct",
        "trait",
        "type",
        "union",
        "unsafe",
        "use",
    ]
    .contains(&first.as_str())
        || (first == "pub" && !code[at..].lines().next().unwrap_or_default().ends_with(','));
    while at < bytes.len() {
        match bytes[at] {
            b';' => return (start, at + 1),
            b',' if !is_item => return (start, at + 1),
            b'{' => return (start, closing(code, at)),
            b'(' | b'[' => at = closing(code, at),
            b'}' => return (start, at),
            _ => at += 1,
        }
    }
    (start, bytes.len())
}

/// Just behind the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}
