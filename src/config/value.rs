//! The values of the configuration as text: durations, sizes, counts, switches, lists.
//!
//! One module per kind of value, each with the same three names, so that a row of the key table
//! only has to name the kind: `parse` (text to value, with the range it must lie in), `show`
//! (value to JSON) and `PLACEHOLDER` (what the help puts after the flag).
//!
//! # Promises
//!
//! * A message quotes the faulty text, shortened, and names the correct form.
//! * What `show` writes for a duration is what `parse` reads.
//!
//! Imports `limits`. Imported by `config` only.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::limits;

/// Returns `text` in quotation marks, shortened, with control characters escaped.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(limits::QUOTED_SETTING_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Returns `value` if it lies in `range`; `words` writes a bound in the unit of the value.
fn in_range<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    text: &str,
    words: impl Fn(&T) -> String,
) -> Result<T, String> {
    if range.contains(&value) { Ok(value) } else { Err(out_of_range(range, text, words)) }
}

fn out_of_range<T>(range: &RangeInclusive<T>, text: &str, words: impl Fn(&T) -> String) -> String {
    let (low, high) = (words(range.start()), words(range.end()));
    format!("{} is out of range: {low} to {high}", quote(text))
}

/// Splits `20s` into its number and its unit. The number is empty if there is none.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Writes `value` in the largest of `units` that divides it. The last unit must be 1.
fn in_largest_unit(value: u64, units: &[(&str, u64)]) -> String {
    let divides = |size: u64| value >= size && value.is_multiple_of(size);
    let (unit, size) =
        units.iter().find(|(_, size)| divides(*size)).or(units.last()).expect("there is a unit");
    format!("{}{unit}", value / size)
}

/// Times in milliseconds: `500ms`, `20s`, `10m`, `1h`, `30d`.
pub(super) mod duration {
    use super::{RangeInclusive, in_largest_unit, in_range, quote, split_unit};
    use serde_json::Value;

    /// The placeholder after the flag, in the help.
    pub(in crate::config) const PLACEHOLDER: &str = "TIME";

    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

    /// Reads a duration. A bare number is refused, except 0: its unit is unknown.
    pub(in crate::config) fn parse(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
        let wrong = || format!("{} is not a duration like 20s", quote(text));
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let size = match (number, unit) {
            (0, "") => 1,
            (_, "") => {
                return Err(format!("{} has no unit: {number}s or {number}ms?", quote(text)));
            }
            _ => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
        };
        in_range(number.saturating_mul(size), &range, text, |value_ms| words(*value_ms))
    }

    /// Writes a duration as `parse` reads it.
    pub(in crate::config) fn words(value_ms: u64) -> String {
        if value_ms == 0 { "0s".to_owned() } else { in_largest_unit(value_ms, &UNITS) }
    }

    /// Shows a duration as text with its unit.
    pub(in crate::config) fn show(value_ms: u64) -> Value {
        words(value_ms).into()
    }
}

/// Sizes in bytes: `4096`, `64KiB`, `10MB`.
pub(super) mod size {
    use super::{RangeInclusive, in_largest_unit, in_range, quote, split_unit};
    use serde_json::Value;

    /// The placeholder after the flag, in the help.
    pub(in crate::config) const PLACEHOLDER: &str = "SIZE";

    /// The binary units come first: they are how bounds are written in messages.
    const UNITS: [(&str, u64); 7] = [
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
    ];

    /// Reads a size. A bare number is in bytes.
    pub(in crate::config) fn parse(
        text: &str,
        range: RangeInclusive<usize>,
    ) -> Result<usize, String> {
        let wrong = || format!("{} is not a size like 64KiB", quote(text));
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let size = match unit {
            "" => 1,
            _ => {
                UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1
            }
        };
        let value = usize::try_from(number.saturating_mul(size)).unwrap_or(usize::MAX);
        in_range(value, &range, text, |value| words(*value))
    }

    /// Writes a size in the largest binary unit that fits it exactly.
    fn words(value: usize) -> String {
        let [gib, mib, kib, .., byte] = UNITS;
        in_largest_unit(value as u64, &[gib, mib, kib, byte])
    }

    /// Shows a size in bytes.
    pub(in crate::config) fn show(value: usize) -> Value {
        value.into()
    }
}

/// Whole numbers: `1024`.
pub(super) mod count {
    use super::{Display, RangeInclusive, in_range, out_of_range, quote};
    use serde_json::Value;
    use std::str::FromStr;

    /// The placeholder after the flag, in the help.
    pub(in crate::config) const PLACEHOLDER: &str = "N";

    /// Reads a whole number.
    pub(in crate::config) fn parse<T: FromStr + PartialOrd + Display>(
        text: &str,
        range: RangeInclusive<T>,
    ) -> Result<T, String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        match text.parse() {
            Ok(value) => in_range(value, &range, text, ToString::to_string),
            // Too large for the type, or negative.
            Err(_) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(out_of_range(&range, text, ToString::to_string))
            }
            Err(_) => Err(format!("{} is not a whole number", quote(text))),
        }
    }

    /// Shows a number.
    pub(in crate::config) fn show(value: impl Into<Value>) -> Value {
        value.into()
    }
}

/// Reads `on` or `off`; also `true` and `false`, the booleans of a TOML file.
pub(super) fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(format!("{} is neither on nor off", quote(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        let parse = |text| duration::parse(text, 0..=u64::MAX);
        assert_eq!(parse("500ms"), Ok(500));
        assert_eq!(parse("20s"), Ok(20_000));
        assert_eq!(parse("10m"), Ok(600_000));
        assert_eq!(parse("1h"), Ok(3_600_000));
        assert_eq!(parse("30d"), Ok(30 * 86_400_000));
        assert_eq!(parse("2 s"), Ok(2_000));
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("20"), Err(r#""20" has no unit: 20s or 20ms?"#.into()));
        for wrong in ["", "s", "abc", "1.5s", "-1s", "20S", "1h30m", "99999999999999999999s"] {
            let message = format!("{wrong:?} is not a duration like 20s");
            assert_eq!(parse(wrong), Err(message));
        }
    }

    #[test]
    fn shown_durations_are_read_back() {
        for (value_ms, words) in
            [(0, "0s"), (1, "1ms"), (1_500, "1500ms"), (90_000, "90s"), (3_600_000, "1h")]
        {
            assert_eq!(duration::words(value_ms), words);
            assert_eq!(duration::parse(words, 0..=u64::MAX), Ok(value_ms));
        }
    }

    #[test]
    fn ranges_are_named_in_the_unit_of_the_value() {
        assert_eq!(
            duration::parse("0s", 1_000..=3_600_000),
            Err(r#""0s" is out of range: 1s to 1h"#.into())
        );
        assert_eq!(
            duration::parse("18446744073709551615d", 0..=1_000),
            Err(r#""18446744073709551615d" is out of range: 0s to 1s"#.into())
        );
        assert_eq!(
            size::parse("1000", 1024..=1 << 20),
            Err(r#""1000" is out of range: 1KiB to 1MiB"#.into())
        );
        for wrong in ["0", "257", "-1", "99999999999999999999"] {
            let message = format!("{wrong:?} is out of range: 1 to 256");
            assert_eq!(count::parse::<usize>(wrong, 1..=256), Err(message));
        }
    }

    #[test]
    fn sizes_are_read_in_both_systems() {
        let parse = |text| size::parse(text, 0..=usize::MAX);
        assert_eq!(parse("4096"), Ok(4_096));
        assert_eq!(parse("4096B"), Ok(4_096));
        assert_eq!(parse("64KiB"), Ok(65_536));
        assert_eq!(parse("64 kib"), Ok(65_536));
        assert_eq!(parse("1MiB"), Ok(1 << 20));
        assert_eq!(parse("10MB"), Ok(10_000_000));
        assert_eq!(parse("99999999999GiB"), Ok(usize::MAX));
        for wrong in ["", "KiB", "64K", "1.5MiB", "-1", "1 2"] {
            let message = format!("{wrong:?} is not a size like 64KiB");
            assert_eq!(parse(wrong), Err(message));
        }
    }

    #[test]
    fn counts_are_whole_numbers() {
        assert_eq!(count::parse::<u32>("100", 0..=100), Ok(100));
        for wrong in ["", "-", "1.0", "1e3", "many", "1 000"] {
            let message = format!("{wrong:?} is not a whole number");
            assert_eq!(count::parse::<u32>(wrong, 0..=100), Err(message));
        }
    }

    #[test]
    fn switches_are_on_or_off() {
        assert_eq!((parse_switch("on"), parse_switch("true")), (Ok(true), Ok(true)));
        assert_eq!((parse_switch("off"), parse_switch("false")), (Ok(false), Ok(false)));
        assert!(parse_switch("On").is_err() && parse_switch("").is_err());
    }

    #[test]
    fn quotes_are_short_and_printable() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        let long = "\u{e9}".repeat(1_000);
        assert_eq!(quote(&long).chars().count(), limits::QUOTED_SETTING_CHARS_MAX + 5);
    }
}
