//! A server of our own: started on a free port with an empty data directory, stopped at the end.
//!
//! Imports `process`. Imported by `main`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::{env, fmt};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Process;

/// How long the server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the server may take to end after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);

/// How often to check whether it has ended.
const STOP_INTERVAL: Duration = Duration::from_millis(20);

/// The text before the address in the server's first line.
const READY_PREFIX: &str = "fanfare listening on http://";

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    directory: PathBuf,
    /// Host and port, as the server printed them.
    pub(crate) authority: String,
    /// The secret of its tokens.
    pub(crate) secret: String,
}

/// Why no server could be started.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// No `fanfare` beside us, in `FANFARE_BIN` or on the path.
    NotFound(PathBuf),
    /// The temporary directory cannot be written, or the program not run.
    Io(PathBuf, io::Error),
    /// It ended or printed nothing; its last log lines.
    NotReady(String),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::NotFound(path) => write!(
                f,
                "--spawn: cannot run '{}': build the server first, or name it in FANFARE_BIN",
                path.display()
            ),
            SpawnError::Io(path, error) => write!(f, "--spawn: {}: {error}", path.display()),
            SpawnError::NotReady(log) => write!(f, "--spawn: the server did not start: {log}"),
        }
    }
}

impl std::error::Error for SpawnError {}

impl Server {
    /// Starts the server and waits until it listens.
    pub(crate) fn start() -> Result<Server, SpawnError> {
        let program = program();
        let directory = env::temp_dir().join(format!("fanfare-loadtest-{}", std::process::id()));
        let io_error = |error| SpawnError::Io(directory.clone(), error);
        fs::create_dir_all(&directory).map_err(io_error)?;
        let log = File::create(directory.join("server.log")).map_err(io_error)?;
        // For a server that only this machine reaches, and that is gone after the test.
        let secret = format!("the secret of load test {:032}", std::process::id());
        let child = Command::new(&program)
            .env("JWT_SECRET", &secret)
            .args(["--bind", "127.0.0.1:0", "--auth", "open"])
            .args(["--client-messages-per-s-max", "0", "--data-dir"])
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn();
        let child = child.map_err(|error| {
            let _ = fs::remove_dir_all(&directory);
            match error.kind() {
                io::ErrorKind::NotFound => SpawnError::NotFound(program.clone()),
                _ => SpawnError::Io(program.clone(), error),
            }
        })?;
        let mut server = Server { child, directory, authority: String::new(), secret };
        server.authority = server.wait_ready()?;
        Ok(server)
    }

    /// The process, to be watched.
    pub(crate) fn process(&self) -> Process {
        Process { pid: self.child.id() }
    }

    /// Waits for the line that names the address.
    fn wait_ready(&mut self) -> Result<String, SpawnError> {
        let (sender, receiver) = mpsc::channel();
        if let Some(stdout) = self.child.stdout.take() {
            // The thread reads on, so that the server never writes into a full pipe.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        let line = receiver.recv_timeout(START_TIMEOUT).unwrap_or_default();
        line.strip_prefix(READY_PREFIX).map(|rest| rest.trim().to_owned()).ok_or_else(|| {
            let log = last_lines(&self.directory.join("server.log"));
            SpawnError::NotReady(if line.is_empty() { log } else { line })
        })
    }

    /// Sends the server a SIGTERM, and waits. Returns whether it ended in time by itself.
    fn stop(&mut self) -> bool {
        if let Ok(Some(_)) = self.child.try_wait() {
            return true;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // A process that is gone already needs no signal.
            let _ = kill_process(pid, Signal::TERM);
        }
        let rounds = STOP_TIMEOUT.as_millis() / STOP_INTERVAL.as_millis();
        for _ in 0..rounds {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(STOP_INTERVAL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.stop() {
            eprintln!("the server did not end within {} s and was killed", STOP_TIMEOUT.as_secs());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// `FANFARE_BIN`, else the binary beside ours, else one on the path.
fn program() -> PathBuf {
    if let Some(given) = env::var_os("FANFARE_BIN") {
        return given.into();
    }
    let beside = env::current_exe().ok().map(|own| own.with_file_name("fanfare"));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| "fanfare".into())
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(5)..];
    if tail.is_empty() { "it printed nothing".to_owned() } else { tail.join("\n") }
}
