//! The source of lines: a person at the prompt, or a pipe.
//!
//! Reading blocks, so it has a thread of its own, which ends with the input.
//!
//! Imports `command` and `screen`. Imported by `main`.

use std::io::{self, BufRead as _};
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, ExternalPrinter as _, Helper};
use tokio::sync::mpsc;

use crate::command::{COMMANDS, Command, parse};
use crate::screen::Printer;

const PROMPT: &str = "websocket> ";

/// Lines that wait for the connection.
const LINES_MAX: usize = 64;

/// Lines that are remembered.
const HISTORY_MAX: usize = 1_000;

/// Completes the words of commands.
struct Words;

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..pos).unwrap_or(line);
        let begin = |(words, rest, _): &(&str, &str, &str)| {
            let space = if rest.is_empty() { "" } else { " " };
            words.starts_with(typed).then(|| format!("{words}{space}"))
        };
        Ok((0, COMMANDS.iter().filter_map(begin).collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

/// Reads from a terminal. Returns the lines and the way to print between them.
pub(crate) fn terminal(
    history: Option<PathBuf>,
) -> rustyline::Result<(mpsc::Receiver<String>, Printer)> {
    let config = Config::builder().max_history_size(HISTORY_MAX)?.auto_add_history(true).build();
    let mut editor: Editor<Words, FileHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Words));
    if let Some(history) = &history {
        // There is none before the first time.
        let _ = editor.load_history(history);
    }
    let mut printer = editor.create_external_printer()?;
    let (lines, taken) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        read_terminal(&mut editor, &lines);
        if let Some(history) = &history {
            // A history that cannot be written is no reason to complain at the end.
            let _ = editor.save_history(history);
        }
    });
    let print = move |line: String| printer.print(line + "\n").map_err(io::Error::other);
    Ok((taken, Box::new(print)))
}

fn read_terminal(editor: &mut Editor<Words, FileHistory>, lines: &mpsc::Sender<String>) {
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => {
                let is_over = parse(&line) == Ok(Command::Quit);
                if is_over || lines.blocking_send(line).is_err() {
                    return;
                }
            }
            // Ctrl-C drops the line that is being typed, as in a shell.
            Err(ReadlineError::Interrupted) => {}
            Err(_) => return,
        }
    }
}

/// Reads from a pipe or a file.
pub(crate) fn pipe() -> mpsc::Receiver<String> {
    let (lines, taken) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            let is_over = parse(&line) == Ok(Command::Quit);
            if is_over || lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    taken
}
