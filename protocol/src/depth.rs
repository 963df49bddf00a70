//! How deeply a JSON text nests, found without parsing it.
//!
//! Parsers recurse, and each reader gives up at a depth of its own. A text is scanned before it is
//! stored or sent on, so that every later reader can parse it.
//!
//! Imports nothing. Imported by `instance` and the server.

/// Whether the text nests at most this many levels deep. Brackets inside strings do not count.
pub fn is_within(text: &[u8], depth_max: usize) -> bool {
    let mut depth = 0_usize;
    for byte in structure(text) {
        match byte {
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

/// The bytes of a JSON text outside of its strings, without the quotes.
pub fn structure(text: &[u8]) -> impl Iterator<Item = u8> {
    let (mut in_string, mut escaped) = (false, false);
    text.iter().copied().filter(move |byte| {
        if !in_string {
            in_string = *byte == b'"';
            return !in_string;
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = false,
            _ => {}
        }
        false
    })
}
