//! Usernames: their normal form, the keys by which two names are compared, and the refused ones.
//!
//! A name is stored and shown in Unicode's compatibility form (NFKC, UAX #15). Two names are the
//! same if their [`key`]s are, and look the same if their [`skeleton`]s are (UTS #39, section 4):
//! neither kind of pair may exist twice. No name looks like a user id: a caller that names a user
//! by id means the id.
//!
//! # Promises
//!
//! * `normal`, `key` and `skeleton` of a name give the same text again when applied to their result.
//! * A name that `new_name` accepts shows each of its characters.
//!
//! # Not here
//!
//! Whether a name is taken: the database decides (`store::people`).
//!
//! Imports `limits` and its siblings. Imported by `auth::accounts`, `state`, `store`, `http` and
//! `config`.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::mixed_script::AugmentedScriptSet;
use unicode_security::{RestrictionLevel, RestrictionLevelDetection};
use uuid::Uuid;

use crate::limits;

/// The prefix of a name in place of a user id: `name:bob`. No user id begins so.
pub const PREFIX: &str = "name:";

/// A user id is part of frames, paths and rows: it is short and has no control character.
pub fn is_user_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= limits::USER_BYTES_MAX && !text.chars().any(char::is_control)
}

/// The name in `name:bob`; none in a text without the prefix.
#[must_use]
pub fn named(text: &str) -> Option<&str> {
    text.strip_prefix(PREFIX)
}

/// Characters that are not drawn, or that change the direction or the drawing of others:
/// `Default_Ignorable_Code_Point` (Unicode 17), the remaining format characters (Cf), separators of
/// lines, blanks that are not spaces, and characters without an agreed form (private use,
/// noncharacters).
const UNSEEN: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{1680}', '\u{1680}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{e000}', '\u{f8ff}'),
    ('\u{fdd0}', '\u{fdef}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{ffff}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d159}', '\u{1d159}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
    ('\u{f0000}', '\u{10ffff}'),
];

/// Whether a character is invisible, or changes how others look.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    c.is_control() || UNSEEN.iter().any(|&(first, last)| (first..=last).contains(&c))
}

/// Whether a text from elsewhere, such as the `username` of a token, may be shown as a name.
#[must_use]
pub fn is_showable(text: &str) -> bool {
    is_user_id(text) && !text.chars().any(is_unseen) && text.chars().any(|c| !c.is_whitespace())
}

/// The form in which a name is stored and shown.
#[must_use]
pub fn normal(name: &str) -> String {
    name.nfkc().collect()
}

/// The key by which names are compared: without case and compatibility variants.
///
/// Case goes the way of Unicode's full case folding: up, then down, character by character, so that
/// a capital sharp s, a final sigma and a ligature all meet their plain forms.
#[must_use]
pub fn key(name: &str) -> String {
    fold(&fold(name))
}

fn fold(text: &str) -> String {
    let folded: String =
        text.nfkc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
    folded.nfkc().collect()
}

/// The look of a name: a reader cannot tell two names with one skeleton apart.
#[must_use]
pub fn skeleton(name: &str) -> String {
    let normal = normal(name);
    let drawn: String = unicode_security::skeleton(&normal).collect();
    key(&drawn)
}

/// Whether a text has the form of a user id made here: a UUID in any of its spellings.
#[must_use]
pub fn looks_like_id(text: &str) -> bool {
    Uuid::try_parse(text).is_ok()
}

/// The skeleton of a user id other than a UUID, with which a name's skeleton is compared. A UUID
/// needs none, because no name looks like one.
#[must_use]
pub fn id_skeleton(user_id: &str) -> String {
    if looks_like_id(user_id) { String::new() } else { skeleton(user_id) }
}

/// Checks a new name to sign in with, and gives it in its normal form.
///
/// # Errors
///
/// The fault.
pub fn new_name(name: &str) -> Result<String, &'static str> {
    // Before normalising, which may make a text eighteen times as long.
    if !is_user_id(name) {
        return Err("username is empty, longer than 255 bytes, or holds a control character");
    }
    let normal = normal(name);
    if normal.trim() != normal || name.trim() != name {
        return Err("username begins or ends with a space");
    }
    if normal.is_empty() || normal.len() > limits::USER_BYTES_MAX {
        return Err("username is longer than 255 bytes in Unicode's form NFKC");
    }
    if name.chars().chain(normal.chars()).any(is_unseen) {
        return Err("username holds an invisible character, or one that changes the direction");
    }
    if normal.chars().any(|c| c.is_whitespace() && c != ' ') || normal.contains("  ") {
        return Err("username holds white space other than single spaces");
    }
    check_marks(&normal)?;
    if looks_like_id(&normal) || looks_like_id(&key(&normal)) {
        return Err("username has the form of a user id");
    }
    if named(&key(&normal)).is_some() {
        return Err("username begins with name:, which stands before a name");
    }
    let letters: String = normal.chars().filter(|c| c.is_alphabetic()).collect();
    let is_mixed = AugmentedScriptSet::for_str(&letters).is_empty();
    if is_mixed && !letters.check_restriction_level(RestrictionLevel::ModeratelyRestrictive) {
        return Err("username mixes scripts whose letters look alike");
    }
    Ok(normal)
}

/// Marks belong to a letter, and only so many fit on one (UTS #39, section 5.4, asks for four).
fn check_marks(normal: &str) -> Result<(), &'static str> {
    let (mut marks, mut has_letter) = (0, false);
    for c in normal.nfd() {
        if is_combining_mark(c) {
            marks += 1;
            if !has_letter || marks > limits::NAME_MARKS_MAX {
                return Err("username has combining marks without a letter, or too many on one");
            }
        } else {
            (marks, has_letter) = (0, c != ' ');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_one_form() {
        for (written, name) in [
            ("Ann", "Ann"),
            ("Ann B. O'Neil", "Ann B. O'Neil"),
            ("\u{fb01}sh", "fish"),
            ("\u{ff22}\u{ff4f}\u{ff42}", "Bob"),
            ("e\u{301}", "\u{e9}"),
            ("a\u{a0}b", "a b"),
            ("\u{5c71}\u{7530}Taro", "\u{5c71}\u{7530}Taro"),
            ("\u{418}\u{432}\u{430}\u{43d} 2", "\u{418}\u{432}\u{430}\u{43d} 2"),
            ("\u{905}\u{928}\u{941}", "\u{905}\u{928}\u{941}"),
        ] {
            assert_eq!(new_name(written).as_deref(), Ok(name), "{written:?}");
            assert_eq!(new_name(name).as_deref(), Ok(name), "{name:?} again");
        }
    }

    #[test]
    fn names_are_compared_without_case_and_width() {
        for (one, other) in [
            ("Ann", "aNN"),
            ("\u{df}", "SS"),
            ("\u{1e9e}", "ss"),
            ("\u{3a3}\u{3a3}", "\u{3c3}\u{3c2}"),
            ("\u{fb01}sh", "FISH"),
            ("\u{ff21}nn", "ann"),
            ("\u{212a}im", "kim"),
            ("E\u{301}", "\u{e9}"),
            ("\u{2160}", "i"),
        ] {
            assert_eq!(key(one), key(other), "{one:?} {other:?}");
        }
        assert_ne!(key("ann"), key("anne"));
    }

    #[test]
    fn names_that_look_alike_share_a_skeleton() {
        for (one, other) in [
            ("paypal", "paypa1"),
            ("paypal", "paypaI"),
            ("modern", "rnodern"),
            ("b0b", "Bob"),
            ("scope", "\u{455}\u{441}\u{43e}\u{440}\u{435}"),
            ("\u{3a1}", "P"),
        ] {
            assert_eq!(skeleton(one), skeleton(other), "{one:?} {other:?}");
        }
        assert_ne!(skeleton("ann"), skeleton("bob"));
    }

    #[test]
    fn each_form_is_final() {
        // All scripts with case, and a sample of the rest.
        let dense = '\0'..='\u{2fff}';
        let sparse = ('\u{3000}'..='\u{1ffff}').step_by(13);
        for c in dense.chain(sparse).chain('\u{ff00}'..='\u{ffef}').filter(|c| !is_unseen(*c)) {
            let text = format!("a{c}b");
            let (normal, key) = (normal(&text), key(&text));
            assert_eq!(super::normal(&normal), normal, "{c:?}");
            assert_eq!(super::key(&key), key, "{c:?}");
            assert_eq!(super::key(&normal), key, "{c:?}");
        }
    }

    #[test]
    fn what_a_reader_cannot_see_is_refused() {
        for name in [
            "",
            " ann",
            "ann ",
            "ann\u{a0}",
            "ann\u{2003}",
            "a  b",
            "ann\n",
            "a\u{0}b",
            "a\u{7f}b",
            "a\u{85}b",
            "a\u{ad}nn",
            "a\u{200b}nn",
            "a\u{200c}nn",
            "a\u{200d}nn",
            "a\u{2060}nn",
            "\u{feff}ann",
            "\u{202e}nna",
            "a\u{2066}b\u{2069}",
            "a\u{61c}b",
            "ann\u{fe0f}",
            "ann\u{e0041}",
            "\u{3164}",
            "\u{ffa0}",
            "\u{2800}",
            "\u{115f}",
            "a\u{180e}b",
            "a\u{2028}b",
            "a\u{1680}b",
            "\u{301}a",
            "a \u{301}b",
            "z\u{301}\u{302}\u{303}\u{304}\u{305}",
            "a\u{e000}",
            "a\u{10ffff}",
            &"x".repeat(256),
            // Eighteen characters for each in the form NFKC.
            &"\u{fdfa}".repeat(40),
        ] {
            assert!(new_name(name).is_err(), "{name:?}");
            assert!(!is_showable(name) || !name.chars().any(is_unseen), "{name:?}");
        }
    }

    #[test]
    fn what_looks_like_an_id_or_like_another_script_is_refused() {
        for name in [
            "0b7e6c1e-3c5a-4a0e-9d57-6d9d1f4f3c11",
            "0B7E6C1E-3C5A-4A0E-9D57-6D9D1F4F3C11",
            "0b7e6c1e3c5a4a0e9d576d9d1f4f3c11",
            "{0b7e6c1e-3c5a-4a0e-9d57-6d9d1f4f3c11}",
            "urn:uuid:0b7e6c1e-3c5a-4a0e-9d57-6d9d1f4f3c11",
            "\u{ff10}b7e6c1e-3c5a-4a0e-9d57-6d9d1f4f3c11",
            "name:bob",
            "NAME:bob",
            "\u{ff4e}ame:bob",
            "p\u{430}ypal",
            "\u{391}nn",
        ] {
            assert!(new_name(name).is_err(), "{name:?}");
        }
        assert_eq!((named("name:bob"), named("bob")), (Some("bob"), None));
        assert_eq!(id_skeleton("0b7e6c1e-3c5a-4a0e-9d57-6d9d1f4f3c11"), "");
        assert_eq!(id_skeleton("Ann"), skeleton("ann"));
    }
}
