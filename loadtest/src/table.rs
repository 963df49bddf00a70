//! The table: the figures of one test for the terminal.
//!
//! Imports `outcome`. Imported by `main`.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::outcome::{Outcome, Percentiles};

/// Draws the table of one test, with its notes and its verdict below.
pub(crate) fn render(outcome: &Outcome) -> String {
    if outcome.connections_made == 0 {
        return format!("{}\n  FAILED: {}", heading(outcome), outcome.faults.join("; "));
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([heading(outcome), String::new()]);
    for (name, value) in rows(outcome) {
        table.add_row([name, value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut lines = vec![table.to_string(), format!("  {}", outcome.cost.busy_side)];
    lines.extend(outcome.notes.iter().map(|note| format!("  note: {note}")));
    lines.push(match outcome.faults.as_slice() {
        [] => "  passed".to_owned(),
        faults => format!("  FAILED: {}", faults.join("; ")),
    });
    lines.join("\n")
}

fn heading(outcome: &Outcome) -> String {
    let rate = outcome.rate.map_or_else(String::new, |rate| format!(", {rate} events/s"));
    let services = match (outcome.services, outcome.subscriptions) {
        (1, _) => String::new(),
        (services, each) => format!(", {services} services, {each} each"),
    };
    format!("{}: {} connections{services}{rate}", outcome.test, outcome.connections)
}

fn rows(outcome: &Outcome) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut add = |name: &str, value: String| rows.push((name.to_owned(), value));
    add(
        "connections made / failed",
        format!("{} / {}", grouped(outcome.connections_made), grouped(outcome.connections_failed)),
    );
    add("connect p50 / p99", pair(&outcome.connect_us));
    add("connect + subscribe p50 / p99", pair(&outcome.subscribe_us));
    if !outcome.publish_by.is_empty() {
        let connections = if outcome.publishers == 1 { "connection" } else { "connections" };
        let many = grouped(outcome.publishers as u64);
        add("published by", format!("{} over {many} {connections}", outcome.publish_by));
    }
    add(
        "events sent / accepted",
        format!("{} / {}", grouped(outcome.events_sent), grouped(outcome.events_accepted)),
    );
    add("deliveries expected", grouped(outcome.expected));
    add("deliveries received", grouped(outcome.received));
    add("lost", grouped(outcome.lost));
    add("duplicated", grouped(outcome.duplicated));
    add("out of order", grouped(outcome.out_of_order));
    if outcome.collapsed > 0 {
        add("collapsed into snapshots", grouped(outcome.collapsed));
    }
    add("deliveries/s", grouped(outcome.deliveries_per_s.round() as u64));
    add("bytes per delivery", format!("{:.0}", outcome.bytes_per_delivery));
    add("latency p50 / p90 / p99", triple(&outcome.latency_us));
    add(
        "latency p99.9 / max",
        format!("{} / {}", time(outcome.latency_us.p999), time(outcome.latency_us.max)),
    );
    if let Some(lateness) = &outcome.lateness_us {
        add("sent later than due p50 / p99", pair(lateness));
    }
    add_cost(outcome, &mut add);
    for extra in &outcome.extras {
        add(&extra.name, format!("{} {}", number(extra.value), extra.unit).trim().to_owned());
    }
    for (code, count) in &outcome.closed_by_server {
        add(&format!("closed by the server with {code}"), grouped(*count));
    }
    for (code, count) in &outcome.errors {
        add(&format!("errors answered: {code}"), grouped(*count));
    }
    rows
}

fn add_cost(outcome: &Outcome, add: &mut impl FnMut(&str, String)) {
    let cost = &outcome.cost;
    let share = |share: f64| format!("{:.0} %", share * 100.0);
    let server = match (cost.server_us_per_delivery, cost.server_cpu_s) {
        (Some(each), _) => format!("{each:.3} us"),
        (None, Some(_)) => "too little to measure".to_owned(),
        (None, None) => "not local".to_owned(),
    };
    add("server CPU per delivery", server);
    add("own CPU per delivery", format!("{:.3} us", cost.own_us_per_delivery));
    if let (Some(total), Some(busiest)) = (cost.server_cpu_s, cost.server_busiest_share) {
        add("server CPU, busiest thread", format!("{total:.2} s, {}", share(busiest)));
    }
    let own = share(cost.own_busiest_share);
    add("own CPU, busiest thread", format!("{:.2} s, {own}", cost.own_cpu_s));
    if let Some(longest) = cost.longest_hold {
        let or_none = |us: Option<f64>| us.map_or("none".to_owned(), time);
        let both = [longest.shard_us, longest.timekeeper_us].map(or_none).join(" / ");
        add("longest hold, shard / timekeeper", both);
    }
    if let Some(bytes) = cost.server_rss_bytes {
        add("server memory", format!("{:.1} MiB", bytes as f64 / 1_048_576.0));
    }
}

fn pair(times: &Percentiles) -> String {
    format!("{} / {}", time(times.p50), time(times.p99))
}

fn triple(times: &Percentiles) -> String {
    format!("{} / {} / {}", time(times.p50), time(times.p90), time(times.p99))
}

/// Microseconds in the unit that reads best.
fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 1_000.0 {
        return grouped(value.round() as u64);
    }
    format!("{value:.2}")
}

/// A number with its thousands set apart.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LongestHold;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn a_table_names_the_way_and_the_longest_hold() {
        let mut outcome = Outcome { connections_made: 1, ..Outcome::default() };
        assert!(!render(&outcome).contains("published by"));
        outcome.publish_by = "http".to_owned();
        outcome.publishers = 64;
        let longest = LongestHold { shard_us: Some(912.4), timekeeper_us: None };
        outcome.cost.longest_hold = Some(longest);
        let text = render(&outcome);
        assert!(text.contains("http over 64 connections"), "{text}");
        assert!(text.contains("912 us / none"), "{text}");
    }

    #[test]
    fn a_table_names_the_faults() {
        let faults = vec!["3 lost".to_owned()];
        let outcome = Outcome { connections_made: 1, lost: 3, faults, ..Outcome::default() };
        let text = render(&outcome);
        assert!(text.contains("FAILED: 3 lost"), "{text}");
    }
}
