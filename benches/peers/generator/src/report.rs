//! One line of JSON per run, and the tables made from many such lines.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::options::Options;

/// A line of results in the making.
#[derive(Debug)]
pub(crate) struct Report {
    line: String,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Report {
        Report::of(&options.server_name, &options.run_name, &options.round_name, &options.mode_name)
    }

    fn of(server: &str, run: &str, round: &str, mode: &str) -> Report {
        let mut report = Report { line: String::from("{") };
        report.text("server", server).text("run", run).text("round", round).text("mode", mode);
        report
    }

    /// A name, most of them from the command line: taken as it is, so no quotes in it.
    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Report {
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
const REGISTER: &[Column] = &[
    ("registrations/s", "events_per_s", 0),
    ("server CPU us", "server_cpu_us_per_delivery", 1),
    ("p50 ms", "p50_ms", 3),
    ("p90 ms", "p90_ms", 3),
    ("p99 ms", "p99_ms", 3),
    ("max ms", "max_ms", 3),
    ("lost", "lost", 0),
    ("refused", "refused", 0),
];
const REQUESTS: &[Column] = &[
    ("requests/s", "requests_per_s", 0),
    ("requests/s and core", "requests_per_s_and_core", 0),
    ("server CPU us", "cpu_us_per_request", 2),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("max ms", "max_ms", 1),
    ("bytes", "bytes_per_answer", 0),
    ("refused", "refused", 0),
    ("server busy", "server_cpu_share", 2),
    ("generator busy", "generator_cpu_share", 2),
];
const LISTING: &[Column] = &[
    ("pings/s", "pings_per_s", 0),
    ("quiet p50 ms", "quiet_p50_ms", 2),
    ("quiet p99 ms", "quiet_p99_ms", 2),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("max ms", "max_ms", 1),
    ("lost", "lost", 0),
    ("listings/s", "listing_requests_per_s", 1),
    ("bytes", "listing_bytes_per_answer", 0),
    ("CPU us", "listing_cpu_us_per_request", 0),
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

/// A ratio of a table: its heading and its field.
type Ratio = (&'static str, &'static str);

const CPU_AND_P99: &[Ratio] = &[("CPU", "server_cpu_us_per_delivery"), ("p99", "p99_ms")];

/// The columns of a mode, and the figures whose ratios count; the ratio to the floor is that of
/// the first.
fn layout(mode: &str) -> (&'static [Column], &'static [Ratio]) {
    match mode {
        "idle" => (IDLE, &[("memory", "kib_per_connection")]),
        "storm" => (STORM, &[("CPU", "server_cpu_us_per_connect"), ("p99", "p99_ms")]),
        "heartbeat" => (
            HEARTBEAT,
            &[
                ("CPU per key", "heartbeat_cpu_us_per_key"),
                ("CPU per register", "register_cpu_us_per_request"),
            ],
        ),
        "stalled" => (STALLED, CPU_AND_P99),
        "register" => (REGISTER, &[("p50", "p50_ms"), ("p99", "p99_ms")]),
        "registrations" | "beats" | "lookup" | "direct" => {
            (REQUESTS, &[("CPU", "cpu_us_per_request"), ("p99", "p99_ms")])
        }
        "listing" => (LISTING, &[("p99", "p99_ms"), ("CPU", "listing_cpu_us_per_request")]),
        _ => (PUSH, CPU_AND_P99),
    }
}

/// Turns lines of results into one Markdown table per run name, with the median of all rounds of
/// each server. The last column is the first ratio of the mode (mostly of CPU) against the better
/// of the floors. With a baseline, a second table has each server's ratios to it.
pub(crate) fn tables(lines: &str, baseline: Option<&str>) -> String {
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
        let (columns, ratios) = layout(mode);
        let ratio_field = ratios[0].1;
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
        let Some(baseline) = baseline else { continue };
        let of = |server| cells.get(&(run, server)).map(Vec::as_slice).unwrap_or_default();
        if !of(baseline).is_empty() {
            let compared: Vec<(&str, &[&str])> =
                servers.iter().map(|server| (*server, of(server))).collect();
            ratio_table(&mut text, baseline, of(baseline), &compared, ratios);
        }
    }
    text
}

/// A table of ratios to the baseline: of each round, and in front the median of these. Machines
/// change from minute to minute, so a round is compared with itself only.
fn ratio_table(
    text: &mut String,
    baseline: &str,
    baseline_lines: &[&str],
    compared: &[(&str, &[&str])],
    ratios: &[Ratio],
) {
    let headings: Vec<String> =
        ratios.iter().map(|(heading, _)| format!("{heading} x {baseline}")).collect();
    let _ = writeln!(text, "\n| server | {} |", headings.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(ratios.len()));
    for (server, lines) in compared {
        if *server == baseline || lines.is_empty() {
            continue;
        }
        let _ = write!(text, "| {server} |");
        for (_, field) in ratios {
            let by_round: Vec<f64> = lines
                .iter()
                .filter_map(|line| {
                    let round = value(line, "round")?;
                    let other =
                        baseline_lines.iter().find(|other| value(other, "round") == Some(round))?;
                    let number = |line| value(line, field)?.parse::<f64>().ok();
                    Some(number(line)? / number(other)?)
                })
                .filter(|ratio| ratio.is_finite())
                .collect();
            let list: Vec<String> = by_round.iter().map(|ratio| format!("{ratio:.2}")).collect();
            let _ = match median(by_round) {
                Some(middle) => write!(text, " {middle:.2} ({}) |", list.join(", ")),
                None => write!(text, " - |"),
            };
        }
        text.push('\n');
    }
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
            let mut report = Report::of(server, "flood 10", "1", "flood");
            report.figure("server_cpu_us_per_delivery", Some(cpu)).count("lost", 1);
            lines += &report.finish();
            lines += "\n";
        }
        let tables = tables(&lines, None);
        assert!(tables.contains("### flood 10"));
        let row = tables.lines().find(|line| line.starts_with("| a |")).expect("a has a row");
        assert!(row.contains("| 4.00 |") && row.ends_with("| 2.00 |"), "{row}");
    }

    #[test]
    fn ratios_compare_rounds_with_themselves() {
        let mut lines = String::new();
        for (server, round, cpu, p99) in [
            ("uws", "1", 1.0, 10.0),
            ("a", "1", 0.5, 20.0),
            ("uws", "2", 4.0, 10.0),
            ("a", "2", 4.0, 30.0),
            ("a", "3", 7.0, 7.0),
            ("uws", "4", 10.0, 1.0),
            ("a", "4", 9.0, 0.5),
        ] {
            let mut report = Report::of(server, "flood 10", round, "flood");
            report.figure("server_cpu_us_per_delivery", Some(cpu)).figure("p99_ms", Some(p99));
            lines += &report.finish();
            lines += "\n";
        }
        let tables = tables(&lines, Some("uws"));
        assert!(tables.contains("| server | CPU x uws | p99 x uws |"), "{tables}");
        // The third round has no baseline.
        let row = "| a | 0.90 (0.50, 1.00, 0.90) | 2.00 (2.00, 3.00, 0.50) |";
        assert!(tables.contains(row), "{tables}");
    }

    #[test]
    fn server_that_cannot_do_a_mode_has_no_ratio() {
        let mut lines = String::new();
        for server in ["uws", "a"] {
            let mut report = Report::of(server, "beats", "1", "beats");
            report.figure("cpu_us_per_request", (server == "a").then_some(3.0));
            lines += &report.finish();
            lines += "\n";
        }
        assert!(tables(&lines, Some("uws")).contains("| a | - | - |"));
    }
}
