//! TOML files whose errors name the line, and for an unknown key the nearest known one.

use std::path::Path;

use legatus_core::line_of;
use serde::de::DeserializeOwned;

use super::ConfigError;

/// Reads a TOML document; `path` is for messages only.
///
/// # Errors
/// [`ConfigError::Invalid`] with the line of what cannot be understood.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        ConfigError::Invalid {
            path: path.to_owned(),
            line: line_of(text, start),
            message: describe(error.message()),
        }
    })
}

/// Serde words an unknown key as "unknown field `x`, expected one of `a`, `b`"; a person wants to
/// know the nearest.
fn describe(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (true, Some(unknown)) = (message.starts_with("unknown field"), quoted.next()) else {
        return message.trim_end().replace('\n', ": ");
    };
    let distance = |known: &&str| strsim::damerau_levenshtein(known, unknown);
    let known: Vec<_> = quoted.collect();
    let nearest = known.iter().copied().min_by_key(distance);
    match nearest.filter(|nearest| distance(nearest) <= nearest.len().div_ceil(2)) {
        Some(nearest) => format!("unknown key `{unknown}`, did you mean `{nearest}`?"),
        None => format!("unknown key `{unknown}`; known are {}", known.join(", ")),
    }
}
