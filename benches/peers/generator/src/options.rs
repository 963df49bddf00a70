//! The command line.

use std::net::SocketAddr;

/// What a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Spaced,
    Flood,
    Topics,
    Idle,
    Storm,
    Heartbeat,
    Stalled,
}

/// All settings of a run. A mode looks at those it needs.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) mode_name: String,
    pub(crate) server: SocketAddr,
    pub(crate) pid: Option<String>,
    /// Copied into the line of results, for who collects them.
    pub(crate) server_name: String,
    pub(crate) run_name: String,
    /// Per service.
    pub(crate) subscribers: usize,
    pub(crate) services: usize,
    pub(crate) connections: usize,
    pub(crate) events_per_s: f64,
    pub(crate) event_bytes: usize,
    pub(crate) seconds: f64,
    pub(crate) warmup_ms: u64,
    /// Register messages without an answer yet.
    pub(crate) window: u64,
    pub(crate) is_http: bool,
    /// Connections that come up at the same time.
    pub(crate) concurrent: usize,
    /// Keep-alive connections of the heartbeat mode.
    pub(crate) workers: usize,
}

pub(crate) const USAGE: &str = "\
usage: peer-generator MODE --server ADDRESS:PORT [options]
       peer-generator table FILE

modes: spaced flood topics idle storm heartbeat stalled

  --server ADDRESS:PORT  where the measured server listens
  --pid PID              its process, for processor time and memory
  --subscribers N        per service (1000; topics 20; idle and storm 10000; heartbeat 100)
  --services N           topics only (1000)
  --connections N        topics only: what the subscriptions are spread over (10000)
  --events-per-s R       spaced, stalled, heartbeat (50; stalled 40; heartbeat 10)
  --event-bytes N        payload of a pushed frame, the envelope takes 300 (256; stalled 16384)
  --seconds D            measured time, after the warm-up (5)
  --warmup-ms N          the same traffic, not measured (500)
  --window W             flood, topics: events without an answer yet (256)
  --http                 spaced, flood, topics: events by pipelined HTTP instead of frames
  --concurrent C         connections that come up at the same time (128)
  --workers K            heartbeat: keep-alive connections (8)
  --server-name NAME     copied into the result
  --run-name NAME        copied into the result";

impl Options {
    /// Reads the arguments behind the program's name. The error says which one is wrong.
    pub(crate) fn decode(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mode_name = arguments.next().ok_or("no mode given")?;
        let mode = match mode_name.as_str() {
            "spaced" => Mode::Spaced,
            "flood" => Mode::Flood,
            "topics" => Mode::Topics,
            "idle" => Mode::Idle,
            "storm" => Mode::Storm,
            "heartbeat" => Mode::Heartbeat,
            "stalled" => Mode::Stalled,
            other => return Err(format!("{other} is no mode")),
        };
        let mut options = Options {
            mode,
            server: SocketAddr::from(([127, 0, 0, 1], 0)),
            pid: None,
            server_name: String::from("server"),
            run_name: mode_name.clone(),
            subscribers: match mode {
                Mode::Topics => 20,
                Mode::Idle | Mode::Storm => 10_000,
                Mode::Heartbeat => 100,
                _ => 1_000,
            },
            services: if mode == Mode::Topics { 1_000 } else { 1 },
            connections: 10_000,
            events_per_s: match mode {
                Mode::Stalled => 40.0,
                Mode::Heartbeat => 10.0,
                _ => 50.0,
            },
            event_bytes: if mode == Mode::Stalled { 16 * 1024 } else { 256 },
            seconds: 5.0,
            warmup_ms: 500,
            window: 256,
            is_http: false,
            concurrent: 128,
            workers: 8,
            mode_name,
        };
        while let Some(name) = arguments.next() {
            if name == "--http" {
                options.is_http = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--server" => options.server = number(&name, &value)?,
                "--pid" => options.pid = Some(value),
                "--server-name" => options.server_name = value,
                "--run-name" => options.run_name = value,
                "--subscribers" => options.subscribers = number(&name, &value)?,
                "--services" => options.services = number(&name, &value)?,
                "--connections" => options.connections = number(&name, &value)?,
                "--events-per-s" => options.events_per_s = number(&name, &value)?,
                "--event-bytes" => options.event_bytes = number(&name, &value)?,
                "--seconds" => options.seconds = number(&name, &value)?,
                "--warmup-ms" => options.warmup_ms = number(&name, &value)?,
                "--window" => options.window = number(&name, &value)?,
                "--concurrent" => options.concurrent = number(&name, &value)?,
                "--workers" => options.workers = number(&name, &value)?,
                _ => return Err(format!("{name} is no option")),
            }
        }
        options.check()?;
        Ok(options)
    }

    fn check(&mut self) -> Result<(), String> {
        if self.mode != Mode::Topics {
            // Elsewhere each subscriber is a connection of its own on the one service.
            self.services = 1;
            self.connections = self.subscribers;
        }
        if self.server.port() == 0 {
            return Err(String::from("--server is missing"));
        }
        if self.services == 0 || self.services > crate::wire::SERVICES_MAX {
            return Err(format!("--services must be 1 to {}", crate::wire::SERVICES_MAX));
        }
        if self.subscribers == 0 || self.subscribers > self.connections {
            return Err(String::from("--subscribers must be 1 to the number of --connections"));
        }
        if self.events_per_s <= 0.0 || self.seconds <= 0.0 || self.window == 0 {
            return Err(String::from("rate, time and window must be above zero"));
        }
        if self.concurrent == 0 || self.workers == 0 {
            return Err(String::from("--concurrent and --workers must be above zero"));
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} does not take {value}"))
}
