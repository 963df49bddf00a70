//! The command line.

use std::net::SocketAddr;

use crate::wire;

/// What a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Spaced,
    Flood,
    Topics,
    Register,
    Idle,
    Storm,
    Heartbeat,
    Stalled,
    Registrations,
    Beats,
    Lookup,
    Listing,
    Direct,
}

/// How events reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishBy {
    /// As messages on sockets.
    Frames,
    /// As requests on keep-alive connections, each without an answer to wait for but its own.
    Http,
    /// As requests that follow each other without waiting for answers.
    HttpPipelined,
}

impl PublishBy {
    /// As the command line and the results write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            PublishBy::Frames => "frames",
            PublishBy::Http => "http",
            PublishBy::HttpPipelined => "http-pipelined",
        }
    }
}

/// What the server understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The subset of fanfare's protocol that the peers of this folder speak.
    Fanfare,
    /// The bidirectional JSON protocol of Centrifugo, and its HTTP API.
    Centrifugo,
}

/// All settings of a run. A mode looks at those it needs.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) mode_name: String,
    pub(crate) server: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) pid: Option<String>,
    /// Copied into the line of results, for who collects them.
    pub(crate) server_name: String,
    pub(crate) run_name: String,
    pub(crate) round_name: String,
    /// Per service.
    pub(crate) subscribers: usize,
    pub(crate) services: usize,
    pub(crate) connections: usize,
    /// Per service, where a mode registers instances before it measures.
    pub(crate) instances: usize,
    pub(crate) events_per_s: f64,
    pub(crate) event_bytes: usize,
    pub(crate) seconds: f64,
    pub(crate) warmup_ms: u64,
    pub(crate) publish_by: PublishBy,
    /// Connections that publish.
    pub(crate) publishers: usize,
    /// Events without an answer yet, of all publishers together.
    pub(crate) window: u64,
    /// Connections that come up at the same time.
    pub(crate) concurrent: usize,
    /// Keep-alive connections that send requests.
    pub(crate) workers: usize,
    /// Requests without an answer on each of these connections.
    pub(crate) pipeline: usize,
    /// Whether each registration is of an instance that the server has not seen.
    pub(crate) is_new: bool,
    /// The file with users and their tokens.
    pub(crate) tokens: Option<String>,
}

pub(crate) const USAGE: &str = "\
usage: peer-generator MODE --server ADDRESS:PORT [options]
       peer-generator table FILE [--baseline NAME]

modes of events:   spaced flood topics register stalled
modes of sockets:  idle storm
modes of requests: heartbeat registrations beats lookup listing direct

  --server ADDRESS:PORT  where the measured server listens
  --protocol NAME        fanfare, or centrifugo for the modes of events and sockets (fanfare)
  --pid PID              its process, for processor time and memory
  --subscribers N        per service (1000; topics 20; idle and storm 10000; heartbeat 100;
                         register 1); listing: sockets that ping (1000)
  --services N           topics, listing (1000), registrations, beats, lookup (100)
  --instances N          of each service: registrations, beats, listing (100), lookup (20)
  --connections N        topics only: what the subscriptions are spread over (10000)
  --events-per-s R       spaced, stalled, heartbeat, register (50; stalled 40; heartbeat 10;
                         register 200); listing: pings of all sockets together (1000)
  --event-bytes N        payload of a pushed frame, the envelope takes 300 (256; stalled 16384);
                         direct: a message (256)
  --seconds D            measured time, after the warm-up (5)
  --warmup-ms N          the same traffic, not measured (500)
  --publish-by WAY       frames, http (one request at a time on each connection), or
                         http-pipelined (frames)
  --http                 the same as --publish-by http-pipelined
  --publishers N         connections that publish (1)
  --window W             flood, topics: events without an answer yet, of all publishers (256)
  --concurrent C         connections that come up at the same time (128)
  --workers K            modes of requests: keep-alive connections (8; listing 1; direct 64)
  --pipeline D           registrations, beats, lookup: requests without an answer on each of
                         them (1)
  --new                  registrations: each of an instance that was not there before
  --tokens FILE          direct: a user id, a space and a token in each line
  --server-name NAME     copied into the result
  --run-name NAME        copied into the result
  --round NAME           copied into the result; ratios compare runs of one round";

impl Options {
    /// Reads the arguments behind the program's name. The error says which one is wrong.
    pub(crate) fn decode(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options::of_mode(arguments.next().ok_or("no mode given")?)?;
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--http" => {
                    options.publish_by = PublishBy::HttpPipelined;
                    continue;
                }
                "--new" => {
                    options.is_new = true;
                    continue;
                }
                _ => {}
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--server" => options.server = number(&name, &value)?,
                "--protocol" => {
                    options.protocol = match value.as_str() {
                        "fanfare" => Protocol::Fanfare,
                        "centrifugo" => Protocol::Centrifugo,
                        _ => return Err(format!("{name} does not take {value}")),
                    }
                }
                "--publish-by" => {
                    options.publish_by =
                        [PublishBy::Frames, PublishBy::Http, PublishBy::HttpPipelined]
                            .into_iter()
                            .find(|way| way.name() == value)
                            .ok_or_else(|| format!("{name} does not take {value}"))?;
                }
                "--pid" => options.pid = Some(value),
                "--server-name" => options.server_name = value,
                "--run-name" => options.run_name = value,
                "--round" => options.round_name = value,
                "--tokens" => options.tokens = Some(value),
                "--subscribers" => options.subscribers = number(&name, &value)?,
                "--services" => options.services = number(&name, &value)?,
                "--instances" => options.instances = number(&name, &value)?,
                "--connections" => options.connections = number(&name, &value)?,
                "--events-per-s" => options.events_per_s = number(&name, &value)?,
                "--event-bytes" => options.event_bytes = number(&name, &value)?,
                "--seconds" => options.seconds = number(&name, &value)?,
                "--warmup-ms" => options.warmup_ms = number(&name, &value)?,
                "--publishers" => options.publishers = number(&name, &value)?,
                "--window" => options.window = number(&name, &value)?,
                "--concurrent" => options.concurrent = number(&name, &value)?,
                "--workers" => options.workers = number(&name, &value)?,
                "--pipeline" => options.pipeline = number(&name, &value)?,
                _ => return Err(format!("{name} is no option")),
            }
        }
        options.check()?;
        Ok(options)
    }

    /// A mode with its defaults.
    fn of_mode(mode_name: String) -> Result<Options, String> {
        let mode = match mode_name.as_str() {
            "spaced" => Mode::Spaced,
            "flood" => Mode::Flood,
            "topics" => Mode::Topics,
            "register" => Mode::Register,
            "idle" => Mode::Idle,
            "storm" => Mode::Storm,
            "heartbeat" => Mode::Heartbeat,
            "stalled" => Mode::Stalled,
            "registrations" => Mode::Registrations,
            "beats" => Mode::Beats,
            "lookup" => Mode::Lookup,
            "listing" => Mode::Listing,
            "direct" => Mode::Direct,
            other => return Err(format!("{other} is no mode")),
        };
        Ok(Options {
            mode,
            server: SocketAddr::from(([127, 0, 0, 1], 0)),
            protocol: Protocol::Fanfare,
            pid: None,
            server_name: String::from("server"),
            run_name: mode_name.clone(),
            round_name: String::from("1"),
            subscribers: match mode {
                Mode::Topics => 20,
                Mode::Idle | Mode::Storm => 10_000,
                Mode::Heartbeat => 100,
                Mode::Register => 1,
                _ => 1_000,
            },
            services: match mode {
                Mode::Topics | Mode::Listing => 1_000,
                Mode::Registrations | Mode::Beats | Mode::Lookup => 100,
                _ => 1,
            },
            connections: 10_000,
            instances: if mode == Mode::Lookup { 20 } else { 100 },
            events_per_s: match mode {
                Mode::Stalled => 40.0,
                Mode::Heartbeat => 10.0,
                Mode::Register => 200.0,
                Mode::Listing => 1_000.0,
                _ => 50.0,
            },
            event_bytes: if mode == Mode::Stalled { 16 * 1024 } else { 256 },
            seconds: 5.0,
            warmup_ms: 500,
            publish_by: PublishBy::Frames,
            publishers: 1,
            window: 256,
            concurrent: 128,
            workers: match mode {
                Mode::Listing => 1,
                Mode::Direct => 64,
                _ => 8,
            },
            pipeline: 1,
            is_new: false,
            tokens: None,
            mode_name,
        })
    }

    /// Whether events go to subscribers in this mode.
    fn has_subscribers(&self) -> bool {
        !matches!(
            self.mode,
            Mode::Registrations | Mode::Beats | Mode::Lookup | Mode::Listing | Mode::Direct
        )
    }

    fn check(&mut self) -> Result<(), String> {
        let is_topics = self.mode == Mode::Topics;
        if self.has_subscribers() && !is_topics {
            // Each subscriber is a connection of its own on the one service.
            self.services = 1;
        }
        if !is_topics {
            self.connections = self.subscribers;
        }
        if self.server.port() == 0 {
            return Err(String::from("--server is missing"));
        }
        if self.services == 0 || self.services > wire::SERVICES_MAX {
            return Err(format!("--services must be 1 to {}", wire::SERVICES_MAX));
        }
        if self.instances == 0 {
            return Err(String::from("--instances must be above zero"));
        }
        if self.subscribers == 0 || self.subscribers > self.connections {
            return Err(String::from("--subscribers must be 1 to the number of --connections"));
        }
        if self.events_per_s <= 0.0 || self.seconds <= 0.0 || self.window == 0 {
            return Err(String::from("rate, time and window must be above zero"));
        }
        if [self.concurrent, self.workers, self.publishers, self.pipeline].contains(&0) {
            return Err(String::from(
                "--concurrent, --workers, --publishers and --pipeline must be above zero",
            ));
        }
        if self.publishers > 1 && self.mode == Mode::Register {
            return Err(String::from("register has one publisher: one registration at a time"));
        }
        if self.is_new && self.mode != Mode::Registrations {
            return Err(String::from("--new is for registrations only"));
        }
        let takes_pipeline = matches!(self.mode, Mode::Registrations | Mode::Beats | Mode::Lookup);
        if self.pipeline > 1 && !takes_pipeline {
            return Err(format!("--pipeline is not for {}", self.mode_name));
        }
        if self.tokens.is_none() && self.mode == Mode::Direct {
            return Err(String::from("direct needs --tokens"));
        }
        if self.protocol == Protocol::Centrifugo {
            if !self.has_subscribers() || self.mode == Mode::Heartbeat {
                return Err(format!("{} needs a registry", self.mode_name));
            }
            // Events carry their number, so those of one channel must keep their order.
            if self.publishers > self.services {
                return Err(String::from(
                    "--publishers: more than channels, which have one publisher each",
                ));
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} does not take {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(line: &str) -> Result<Options, String> {
        let line = format!("{line} --server 127.0.0.1:1");
        Options::decode(line.split_ascii_whitespace().map(String::from))
    }

    #[test]
    fn ways_to_publish_have_names() {
        let way = |line| decode(line).map(|options| options.publish_by);
        assert_eq!(way("flood"), Ok(PublishBy::Frames));
        assert_eq!(way("flood --http"), Ok(PublishBy::HttpPipelined));
        assert_eq!(way("flood --publish-by http-pipelined"), Ok(PublishBy::HttpPipelined));
        assert_eq!(way("topics --publish-by http --publishers 64"), Ok(PublishBy::Http));
        assert!(way("flood --publish-by post").is_err());
    }

    #[test]
    fn options_that_contradict_a_mode_are_named() {
        for (line, named) in [
            ("flood --publishers 0", "--publishers"),
            ("flood --pipeline 2", "--pipeline"),
            ("register --publishers 2", "register"),
            ("flood --new", "--new"),
            ("direct", "--tokens"),
            ("lookup --protocol centrifugo", "lookup"),
            ("flood --protocol centrifugo --publishers 2", "--publishers"),
            ("topics --services 0", "--services"),
        ] {
            let fault = decode(line).expect_err(line);
            assert!(fault.contains(named), "{line}: {fault}");
        }
    }
}
