//! How halves end, in the JSON of the protocol and in ours.

use legatus_core::{Fault, Outcome};

use super::protocol::{Done, Told};
use crate::external::fault::Failure;

impl Done {
    pub(super) fn outcome(self) -> Result<Outcome, Failure> {
        match (self.exit, self.outcome, self.fault) {
            (_, _, Some(message)) => Err(Failure::Told {
                message,
                hint: self.hint,
            }),
            (_, Some(told), None) => told.outcome(),
            (Some(status), None, None) => Ok(Outcome::Exit(status)),
            (None, None, None) => Err(Failure::Protocol("it did not tell how it ended".to_owned())),
        }
    }
}

impl Told {
    pub(super) fn outcome(self) -> Result<Outcome, Failure> {
        let fault = match self.hint {
            Some(hint) => Fault::new(self.message).with_hint(hint),
            None => Fault::new(self.message),
        };
        Ok(match self.kind.as_str() {
            "exit" => Outcome::Exit(self.status),
            "signal" => Outcome::Signal(self.status),
            "timeout" => Outcome::Timeout,
            "cancelled" => Outcome::Cancelled,
            "denied" => Outcome::Denied(fault),
            "unavailable" => Outcome::Unavailable(fault),
            "lost" => Outcome::Lost(fault),
            "failed" => Outcome::Failed(fault),
            other => return Err(Failure::Protocol(format!("an unknown outcome `{other}`"))),
        })
    }

    /// The outcome's number in the C contract.
    pub(super) fn number(&self) -> u32 {
        let kinds = [
            "exit",
            "signal",
            "timeout",
            "cancelled",
            "denied",
            "unavailable",
            "lost",
        ];
        let place = kinds.iter().position(|kind| *kind == self.kind);
        place
            .and_then(|place| u32::try_from(place).ok())
            .unwrap_or(7)
    }
}

impl From<Outcome> for Told {
    fn from(outcome: Outcome) -> Self {
        let fault = outcome.fault().cloned();
        Self {
            kind: outcome.kind().to_owned(),
            status: match outcome {
                Outcome::Exit(status) | Outcome::Signal(status) => status,
                _ => 0,
            },
            message: fault.as_ref().map(Fault::to_string).unwrap_or_default(),
            hint: fault.and_then(|fault| fault.hint().map(str::to_owned)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_their_json() {
        let fault = || Fault::new("no").with_hint("later");
        for outcome in [
            Outcome::Exit(3),
            Outcome::Signal(9),
            Outcome::Timeout,
            Outcome::Cancelled,
            Outcome::Denied(fault()),
            Outcome::Unavailable(fault()),
            Outcome::Lost(fault()),
            Outcome::Failed(fault()),
        ] {
            assert_eq!(Told::from(outcome.clone()).outcome(), Ok(outcome));
        }
        let odd = Told {
            kind: "odd".into(),
            ..Told::default()
        };
        assert!(odd.outcome().is_err());
    }

    #[test]
    fn an_end_that_says_nothing_breaks_the_protocol() {
        assert!(matches!(
            Done::default().outcome(),
            Err(Failure::Protocol(_))
        ));
    }
}
