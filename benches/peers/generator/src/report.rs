//! One line of JSON per run, and the tables made from many such lines.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A line of results in the making.
#[derive(Debug)]
pub(crate) struct Report {
    line: String,
}

impl Report {
    pub(crate) fn new(server: &str, run: &str, mode: &str) -> Report {
        let mut report = Report { line: String::from("{") };
        report.text("server", server).text("run", run).text("mode", mode);
        report
    }

    /// The names given on the command line; they are taken as they are, so no quotes in them.
    fn text(&mut self, name: &str, value: &str) -> &mut Report {
        self.field(name, &format!("\"{value}\""))
    }

    pub(crate) fn count(&mut self, name: &str, value: u64) -> &mut Report {
        self.field(name, &value.to_string())
    }

    /// A figure with three decimals, or null where there is none.
    pub(crate) fn figure(&mut self, name: &str, value: Option<f64>) -> &mut Report {
        match value.filter(|value| value.is_finite()) {
            Some(value) => self.field(name, &format!("{value:.3}")),
            None => self.field(name, "null"),
        }
    }

    fn field(&mut self, name: &str, value: &str) -> &mut Report {
        let comma = if self.line.len() > 1 { "," } else { "" };
        write!(self.line, "{comma}\"{name}\":{value}").expect("a string takes all that is written");
        self
    }

    pub(crate) fn finish(&self) -> String {
        format!("{}}}", self.line)
    }
}

/// A column of a table: its heading, its field, its decimals.
type Column = (&'static str, &'static str, usize);

const PUSH: &[Column] = &[
    ("deliveries/s", "deliveries_per_s", 0),
    ("server CPU us", "server_cpu_us_per_delivery", 2),
    ("p50 ms", "p50_ms", 1),
    ("p99 ms", "p99_ms", 1),
    ("max ms", "max_ms", 1),
    ("lost", "lost", 0),
    ("doubled", "duplicated", 0),
    ("misordered", "misordered", 0),
    ("refused", "refused", 0),
    ("server busy", "server_cpu_share", 2),
    ("generator busy", "generator_cpu_share", 2),
];
const IDLE: &[Column] = &[
    ("KiB per connection", "kib_per_connection", 2),
    ("RSS before KiB", "rss_before_kib", 0),
    ("with all KiB", "rss_open_kib", 0),
    ("after they left KiB", "rss_closed_kib", 0),
];
const STORM: &[Column] = &[
    ("connects/s", "connects_per_s", 0),
    ("server CPU us", "server_cpu_us_per_connect", 1),
    ("p50 ms", "p50_ms", 1),
    ("p99 ms", "p99_ms", 1),
    ("server busy", "server_cpu_share", 2),
    ("generator busy", "generator_cpu_share", 2),
];
const HEARTBEAT: &[Column] = &[
    ("keys/s", "heartbeat_keys_per_s", 0),
    ("CPU us per key", "heartbeat_cpu_us_per_key", 2),
    ("batch p99 ms", "heartbeat_p99_ms", 1),
    ("registers/s", "register_requests_per_s", 0),
    ("CPU us per register", "register_cpu_us_per_request", 1),
    ("register p99 ms", "register_p99_ms", 1),
    ("push p99 ms", "p99_ms", 1),
    ("lost", "lost", 0),
    ("refused", "refused", 0),
];
const STALLED: &[Column] = &[
    ("deliveries/s", "deliveries_per_s", 0),
    ("server CPU us", "server_cpu_us_per_delivery", 2),
    ("p99 ms", "p99_ms", 1),
    ("lost", "lost", 0),
    ("RSS before KiB", "rss_before_kib", 0),
    ("while stalled KiB", "rss_stalled_kib", 0),
    ("at the end KiB", "server_rss_kib", 0),
    ("stalled: closed", "stalled_closed", 0),
    ("snapshots", "stalled_snapshots", 0),
    ("skipped", "stalled_skipped", 0),
    ("silently lost", "stalled_lost", 0),
];

/// The figure that a mode's ratio to the floor is taken of.
fn layout(mode: &str) -> (&'static [Column], &'static str) {
    match mode {
        "idle" => (IDLE, "kib_per_connection"),
        "storm" => (STORM, "server_cpu_us_per_connect"),
        "heartbeat" => (HEARTBEAT, "heartbeat_cpu_us_per_key"),
        "stalled" => (STALLED, "server_cpu_us_per_delivery"),
        _ => (PUSH, "server_cpu_us_per_delivery"),
    }
}

/// Turns lines of results into one Markdown table per run name, with the median of all rounds of
/// each server. The last column is CPU (or memory) against the better of the floors.
pub(crate) fn tables(lines: &str) -> String {
    // In the order in which they first came, which is the order asked for on the command line.
    let mut runs: Vec<(&str, &str)> = Vec::new();
    let mut servers: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for line in lines.lines() {
        let (Some(server), Some(run)) = (value(line, "server"), value(line, "run")) else {
            continue;
        };
        let run = (run, value(line, "mode").unwrap_or_default());
        if !runs.contains(&run) {
            runs.push(run);
        }
        if !servers.contains(&server) {
            servers.push(server);
        }
        cells.entry((run.0, server)).or_default().push(line);
    }
    let mut text = String::new();
    for (run, mode) in runs {
        let (columns, ratio_field) = layout(mode);
        let cell = |server, field| {
            let lines = cells.get(&(run, server))?;
            median(lines.iter().filter_map(|line| value(line, field)?.parse().ok()).collect())
        };
        let floor = servers
            .iter()
            .filter(|server| server.starts_with("floor"))
            .filter_map(|server| cell(server, ratio_field))
            .fold(f64::INFINITY, f64::min);
        let headings: Vec<&str> = columns.iter().map(|column| column.0).collect();
        let _ = writeln!(text, "\n### {run}\n\n| server | {} | x floor |", headings.join(" | "));
        let _ = writeln!(text, "|---|{}---|", "---|".repeat(columns.len()));
        for server in &servers {
            if !cells.contains_key(&(run, *server)) {
                continue;
            }
            let _ = write!(text, "| {server} |");
            for (_, field, decimals) in columns {
                let _ = match cell(server, field) {
                    Some(value) => write!(text, " {value:.decimals$} |"),
                    None => write!(text, " - |"),
                };
            }
            let _ = match cell(server, ratio_field) {
                Some(value) if floor.is_finite() && floor > 0.0 => {
                    writeln!(text, " {:.2} |", value / floor)
                }
                _ => writeln!(text, " - |"),
            };
        }
    }
    text
}

/// The value of a field in one of our own lines: they are flat, and no string holds a quote.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let key = format!("\"{name}\":");
    let rest = &line[line.find(&key)? + key.len()..];
    match rest.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => rest.split([',', '}']).next(),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_the_median_and_the_ratio_to_the_better_floor() {
        let mut lines = String::new();
        for (server, cpu) in [("floor-send", 8.0), ("floor-coalesce", 2.0), ("a", 3.0), ("a", 5.0)]
        {
            let mut report = Report::new(server, "flood 10", "flood");
            report.figure("server_cpu_us_per_delivery", Some(cpu)).count("lost", 1);
            lines += &report.finish();
            lines += "\n";
        }
        let tables = tables(&lines);
        assert!(tables.contains("### flood 10"));
        let row = tables.lines().find(|line| line.starts_with("| a |")).expect("a has a row");
        assert!(row.contains("| 4.00 |") && row.ends_with("| 2.00 |"), "{row}");
    }
}
