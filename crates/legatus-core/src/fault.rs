//! What the other side may be told of an error.

use std::fmt;

/// An error as it may be shown to the other side: a sentence, and perhaps a hint.
///
/// Causes that tell about the inside of the server (paths of its own, backtraces) do not belong
/// here; they go to the log, under the same call id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    message: String,
    hint: Option<String>,
}

impl Fault {
    /// A fault that says what was tried, on what, and why it failed; lower case, no full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what the user could do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What was tried, on what, and why it failed.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the user could do next, if anything is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
