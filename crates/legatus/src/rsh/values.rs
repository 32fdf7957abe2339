//! Values of options: words, ports, yes and no.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use legatus_core::Fault;

/// A value as text.
pub(super) fn readable(value: &OsStr) -> Result<&str, Fault> {
    value
        .to_str()
        .ok_or_else(|| Fault::new(format!("{value:?} is no text in UTF-8")))
}

/// A TCP port, not 0.
pub(super) fn port(value: &OsStr) -> Result<u16, Fault> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|port| *port != 0)
        .ok_or_else(|| Fault::new(format!("`{}` is no port", value.display())))
}

/// Whether a value is this word, in any case.
pub(super) fn is_word(value: &OsStr, word: &str) -> bool {
    value.as_bytes().eq_ignore_ascii_case(word.as_bytes())
        || word == "yes" && value.as_bytes().eq_ignore_ascii_case(b"true")
}

/// `LocalForward`'s two words as `-L` has them.
pub(super) fn forward(raw: &[u8]) -> OsString {
    let words = words(raw);
    words.join(OsStr::new(":"))
}

/// The first word of a value, without quotes.
pub(super) fn unquoted(raw: &[u8]) -> OsString {
    words(raw).into_iter().next().unwrap_or_default()
}

/// Words between blanks; double quotes hold one together.
pub(super) fn words(raw: &[u8]) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    for byte in raw {
        match byte {
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            byte if byte.is_ascii_whitespace() && !quoted => words.extend(word.take()),
            byte => word.get_or_insert_default().push(*byte),
        }
    }
    words.extend(word);
    words.into_iter().map(OsString::from_vec).collect()
}
