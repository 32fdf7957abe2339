//! How a call ended.

use crate::Fault;

/// How a call ended: exactly one of these, whatever happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It ended by itself with this exit status.
    Exit(u8),
    /// It was ended by this signal (Linux numbering).
    Signal(u8),
    /// Its deadline passed.
    Timeout,
    /// The caller cancelled it.
    Cancelled,
    /// Policy forbids it; it never reached a Commander.
    Denied(Fault),
    /// The server cannot be reached or cannot take the call.
    Unavailable(Fault),
    /// Nobody can say how it ended, as when the connection broke.
    Lost(Fault),
    /// The module could not do what was asked.
    Failed(Fault),
}

impl Outcome {
    /// It did what was asked.
    pub const SUCCESS: Self = Self::Exit(0);

    /// The exit status of a client that reports this outcome (DESIGN.md section 6): the call's
    /// own; 128+n for signal n; 124 timeout (as coreutils `timeout`); 130 cancelled; else 255.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exit(status) => *status,
            Self::Signal(signal) => 128_u8.saturating_add(*signal),
            Self::Timeout => 124,
            Self::Cancelled => 130,
            Self::Denied(_) | Self::Unavailable(_) | Self::Lost(_) | Self::Failed(_) => 255,
        }
    }

    /// The outcome's name in logs, the audit and `--json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exit(_) => "exit",
            Self::Signal(_) => "signal",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Denied(_) => "denied",
            Self::Unavailable(_) => "unavailable",
            Self::Lost(_) => "lost",
            Self::Failed(_) => "failed",
        }
    }

    /// What may be told about an outcome that is not the call's own.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Denied(fault)
            | Self::Unavailable(fault)
            | Self::Lost(fault)
            | Self::Failed(fault) => Some(fault),
            Self::Exit(_) | Self::Signal(_) | Self::Timeout | Self::Cancelled => None,
        }
    }
}

impl From<Result<Self, Fault>> for Outcome {
    fn from(result: Result<Self, Fault>) -> Self {
        result.unwrap_or_else(Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_the_documented_exit_status() {
        let fault = || Fault::new("no");
        let table = [
            (Outcome::Exit(0), 0),
            (Outcome::Exit(255), 255),
            (Outcome::Signal(9), 137),
            (Outcome::Signal(200), 255),
            (Outcome::Timeout, 124),
            (Outcome::Cancelled, 130),
            (Outcome::Denied(fault()), 255),
            (Outcome::Unavailable(fault()), 255),
            (Outcome::Lost(fault()), 255),
            (Outcome::Failed(fault()), 255),
        ];
        for (outcome, status) in table {
            assert_eq!(outcome.exit_status(), status, "{outcome:?}");
        }
    }
}
