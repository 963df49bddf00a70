//! How deeply a JSON text nests, found without parsing it.
//!
//! Parsers recurse, and each reader gives up at a depth of its own. A text is scanned before it is
//! stored or sent on, so that whoever reads it later can.
//!
//! Imports nothing. Imported by `wire::instance`, `wire::json` and `wire::talk`; a client is built
//! with it, too.

/// Whether no point of the text lies deeper than so many levels. Brackets inside strings do not
/// count.
pub fn is_within(text: &[u8], depth_max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}
