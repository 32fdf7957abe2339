//! How an external module fails: in words that name the module and the rule.

use legatus_core::Fault;
use thiserror::Error;

/// Why a module cannot be used, or why a call of it failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is not what the contract asks for.
    #[error("{0}")]
    Unfit(String),
    /// It took more than its limit.
    #[error("it took more than its limit of {0}")]
    Limit(String),
    /// It trapped: an instruction that cannot go on.
    #[error("it crashed: {0}")]
    Crashed(String),
    /// It broke the rules of the protocol.
    #[error("it broke the protocol: {0}")]
    Protocol(String),
    /// The host could not do its part.
    #[error("the host cannot run it: {0}")]
    Host(String),
    /// The call was cancelled, and it did not end by itself.
    #[error("it was ended, as the call was cancelled")]
    Cancelled,
    /// It said so itself.
    #[error("{message}")]
    Told {
        /// What.
        message: String,
        /// What the user could do.
        hint: Option<String>,
    },
}

impl Failure {
    /// What the other side is told: a module's own words as they are, everything else with the
    /// module's name.
    pub(crate) fn fault(self, module: &str) -> Fault {
        match self {
            Self::Told {
                message,
                hint: Some(hint),
            } => Fault::new(message).with_hint(hint),
            Self::Told {
                message,
                hint: None,
            } => Fault::new(message),
            other => Fault::new(format!("the module `{module}` failed: {other}")),
        }
    }
}
