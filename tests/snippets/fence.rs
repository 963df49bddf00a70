//! Markdown, as far as examples are concerned: fences with their language and their marks.

use std::fs;
use std::path::{Path, PathBuf};

/// An example of a document.
#[derive(Debug, Clone)]
pub struct Fence {
    /// The document, from the root of the repository.
    pub file: String,
    /// The line of its first backticks, from 1.
    pub line: usize,
    /// The first word behind the backticks; empty where there is none.
    pub language: String,
    pub text: String,
    /// Why it is not run: `<!-- not run: REASON -->`.
    pub not_run: Option<String>,
    /// What a shell does before it: `<!-- before: COMMANDS -->`.
    pub before: String,
}

impl Fence {
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// Every document of the repository, from its root, in order.
pub fn documents() -> Vec<String> {
    let mut found = Vec::new();
    collect(Path::new("."), &mut found);
    let mut names: Vec<String> = found
        .iter()
        .map(|path| path.strip_prefix(".").unwrap_or(path).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the repository is there") {
        let path = entry.expect("readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_ours = !name.starts_with('.') && name != "target" && name != "node_modules";
        if path.is_dir() && is_ours && !path.is_symlink() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The examples of a document. A fence that does not end reaches to the document's end.
pub fn fences(file: &str, text: &str) -> Vec<Fence> {
    let mut found = Vec::new();
    let mut marks: Vec<String> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let rest = line.trim_start();
        if let Some(info) = rest.strip_prefix("```") {
            let (not_run, before) = read_marks(&marks);
            let inside: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| !line.trim_start().starts_with("```"))
                .map(|line| line.get(indent..).unwrap_or_else(|| line.trim_start()))
                .collect();
            let language = info.split([' ', ',', '{']).next().unwrap_or_default().to_owned();
            let text = format!("{}\n", inside.join("\n"));
            let (file, line) = (file.to_owned(), index + 1);
            found.push(Fence { file, line, language, text, not_run, before });
            marks.clear();
        } else if rest.starts_with("<!--") {
            let mut comment = rest.to_owned();
            while !comment.contains("-->") {
                let Some((_, line)) = lines.next() else { break };
                comment = format!("{comment}\n{}", line.trim_start());
            }
            marks.push(comment);
        } else if !rest.is_empty() {
            marks.clear();
        }
    }
    found
}

fn read_marks(comments: &[String]) -> (Option<String>, String) {
    let (mut not_run, mut before) = (None, String::new());
    for comment in comments {
        let inside = comment.trim_start_matches("<!--").split("-->").next().unwrap_or_default();
        let (name, value) = inside.split_once(':').unwrap_or((inside, ""));
        match name.trim() {
            "not run" => not_run = Some(value.split_whitespace().collect::<Vec<_>>().join(" ")),
            "before" => before = format!("{before}{}\n", value.trim()),
            _ => {}
        }
    }
    (not_run, before)
}

/// The lines outside of fences, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_edge = line.trim_start().starts_with("```");
        is_fenced ^= is_edge;
        (!is_fenced && !is_edge).then_some((index + 1, line))
    })
}

/// What stands between single backticks outside of fences, with its line.
pub fn spans(text: &str) -> Vec<(usize, String)> {
    let in_line = |(number, line): (usize, &str)| -> Vec<(usize, String)> {
        line.split('`').skip(1).step_by(2).map(|span| (number, span.to_owned())).collect()
    };
    prose(text).flat_map(in_line).collect()
}

/// Targets of links within the repository, with their line.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let in_line = |(number, line): (usize, &str)| -> Vec<(usize, String)> {
        let targets = line.split("](").skip(1).filter_map(|part| part.split(')').next());
        let is_here = |target: &&str| !target.contains("://") && !target.contains(' ');
        targets.filter(is_here).map(|target| (number, target.to_owned())).collect()
    };
    prose(text).flat_map(in_line).collect()
}

/// The anchors of a document's headings, as GitHub makes them.
pub fn anchors(text: &str) -> Vec<String> {
    let heading = |(_, line): (usize, &str)| line.starts_with('#').then(|| anchor(line));
    prose(text).filter_map(heading).collect()
}

fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Words of a shell's command line, without its quotes. Comments end it.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
