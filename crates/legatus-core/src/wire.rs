//! The messages of `proto/legatus/v1/legatus.proto`, and how the contract's types travel in them.

#[expect(
    missing_docs,
    clippy::doc_markdown,
    reason = "generated; the documentation is in the .proto file"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/legatus.v1.rs"));
}

use std::time::Duration;

pub use generated::*;

use crate::ArgumentKind;

impl From<crate::Fault> for Fault {
    fn from(fault: crate::Fault) -> Self {
        Self {
            message: fault.message().to_owned(),
            hint: fault.hint().unwrap_or_default().to_owned(),
        }
    }
}

impl From<Fault> for crate::Fault {
    fn from(fault: Fault) -> Self {
        let told = Self::new(fault.message);
        if fault.hint.is_empty() {
            told
        } else {
            told.with_hint(fault.hint)
        }
    }
}

impl From<crate::Outcome> for Outcome {
    fn from(outcome: crate::Outcome) -> Self {
        use crate::Outcome as Told;
        use outcome::Kind;
        let kind = match outcome {
            Told::Exit(status) => Kind::Exit(status.into()),
            Told::Signal(signal) => Kind::Signal(signal.into()),
            Told::Timeout => Kind::Timeout(Empty {}),
            Told::Cancelled => Kind::Cancelled(Empty {}),
            Told::Denied(fault) => Kind::Denied(fault.into()),
            Told::Unavailable(fault) => Kind::Unavailable(fault.into()),
            Told::Lost(fault) => Kind::Lost(fault.into()),
            Told::Failed(fault) => Kind::Failed(fault.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Outcome> for crate::Outcome {
    /// An outcome that this program does not know counts as lost: nobody can say how the call
    /// ended.
    fn from(outcome: Outcome) -> Self {
        use outcome::Kind;
        let unknown = || Self::Lost(crate::Fault::new("the other side told an unknown outcome"));
        match outcome.kind {
            Some(Kind::Exit(status)) => u8::try_from(status).map_or_else(|_| unknown(), Self::Exit),
            Some(Kind::Signal(signal)) => {
                u8::try_from(signal).map_or_else(|_| unknown(), Self::Signal)
            }
            Some(Kind::Timeout(Empty {})) => Self::Timeout,
            Some(Kind::Cancelled(Empty {})) => Self::Cancelled,
            Some(Kind::Denied(fault)) => Self::Denied(fault.into()),
            Some(Kind::Unavailable(fault)) => Self::Unavailable(fault.into()),
            Some(Kind::Lost(fault)) => Self::Lost(fault.into()),
            Some(Kind::Failed(fault)) => Self::Failed(fault.into()),
            None => unknown(),
        }
    }
}

impl From<crate::Control> for control_request::Control {
    fn from(control: crate::Control) -> Self {
        match control {
            crate::Control::Cancel => Self::Cancel(Empty {}),
            crate::Control::Detach => Self::Detach(Empty {}),
            crate::Control::Signal(signal) => Self::Signal(signal.into()),
            crate::Control::Resize(size) => Self::Resize(TerminalSize {
                columns: size.columns.into(),
                rows: size.rows.into(),
            }),
        }
    }
}

/// A control that makes no sense: a signal beyond 64, a size of 0 or beyond 65535, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidControl;

impl TryFrom<Option<control_request::Control>> for crate::Control {
    type Error = InvalidControl;

    fn try_from(control: Option<control_request::Control>) -> Result<Self, InvalidControl> {
        use control_request::Control;
        let cells = |number: u32| u16::try_from(number).ok().filter(|cells| *cells > 0);
        match control {
            Some(Control::Cancel(Empty {})) => Ok(Self::Cancel),
            Some(Control::Detach(Empty {})) => Ok(Self::Detach),
            Some(Control::Signal(signal @ 1..=64)) => u8::try_from(signal)
                .map(Self::Signal)
                .map_err(|_| InvalidControl),
            Some(Control::Resize(size)) => {
                let columns = cells(size.columns).ok_or(InvalidControl)?;
                let rows = cells(size.rows).ok_or(InvalidControl)?;
                Ok(Self::Resize(crate::TerminalSize { columns, rows }))
            }
            Some(Control::Signal(_)) | None => Err(InvalidControl),
        }
    }
}

impl From<crate::Keeping> for Keeping {
    fn from(keeping: crate::Keeping) -> Self {
        Self {
            linger_milliseconds: milliseconds(keeping.linger),
            keep_milliseconds: milliseconds(keeping.keep),
            name: keeping.name,
            replay_bytes: keeping.replay_bytes as u64,
            terminal: keeping.terminal,
            detached: keeping.detached,
        }
    }
}

impl From<Keeping> for crate::Keeping {
    /// Whatever a peer says is brought within the limits.
    fn from(keeping: Keeping) -> Self {
        let mut name = keeping.name;
        name.truncate(name.floor_char_boundary(crate::limits::SESSION_NAME_BYTES));
        let keep = match keeping.keep_milliseconds {
            0 => Self::default().keep,
            given => Duration::from_millis(given)
                .clamp(crate::limits::OUTCOME_KEPT, crate::limits::SESSION_TIME),
        };
        Self {
            linger: Duration::from_millis(keeping.linger_milliseconds)
                .min(crate::limits::SESSION_TIME),
            keep,
            name,
            replay_bytes: usize::try_from(keeping.replay_bytes)
                .unwrap_or(usize::MAX)
                .min(crate::limits::SESSION_BYTES),
            terminal: keeping.terminal,
            detached: keeping.detached,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    // Zero would mean something else.
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl From<crate::Attach> for Attach {
    fn from(attach: crate::Attach) -> Self {
        Self {
            session: attach.session,
            resume: attach.resume,
            received: attach.received,
            read_only: attach.read_only,
            own_size: attach.own_size,
            or_open: attach.or_open,
        }
    }
}

impl From<Attach> for crate::Attach {
    fn from(attach: Attach) -> Self {
        Self {
            session: attach.session,
            resume: attach.resume,
            received: attach.received,
            read_only: attach.read_only,
            terminal: false,
            predicts: false,
            own_size: attach.own_size,
            or_open: attach.or_open,
        }
    }
}

impl From<&dyn crate::Module> for Spec {
    fn from(module: &dyn crate::Module) -> Self {
        let spec = module.spec();
        let origin = module.origin();
        Self {
            kind: origin.kind.to_owned(),
            travelling: origin.travelling.unwrap_or_default(),
            name: spec.name.to_string(),
            aliases: spec
                .aliases
                .iter()
                .map(|alias| alias.name.to_string())
                .collect(),
            version: spec.version.to_string(),
            summary: spec.summary.to_string(),
            description: spec.description.to_string(),
            effects: spec
                .effects
                .iter()
                .map(|effect| Effect::from(effect).into())
                .collect(),
            arguments: spec.arguments.iter().map(Argument::from).collect(),
            examples: spec
                .examples
                .iter()
                .map(|example| Example {
                    command: example.command.to_string(),
                    explanation: example.explanation.to_string(),
                })
                .collect(),
            has_commander: module.commander().is_some(),
            has_sender: module.sender().is_some(),
        }
    }
}

impl From<crate::Effect> for Effect {
    fn from(effect: crate::Effect) -> Self {
        match effect {
            crate::Effect::Read => Self::Read,
            crate::Effect::Write => Self::Write,
            crate::Effect::Exec => Self::Exec,
        }
    }
}

impl From<&crate::Argument> for Argument {
    fn from(argument: &crate::Argument) -> Self {
        let kind = match argument.kind {
            ArgumentKind::Positional => "positional",
            ArgumentKind::Option => "option",
            ArgumentKind::Flag => "flag",
            ArgumentKind::Trailing => "trailing",
        };
        Self {
            name: argument.name.to_string(),
            help: argument.help.to_string(),
            kind: kind.to_owned(),
            value_name: argument.value_name.to_string(),
            required: argument.required,
            repeated: argument.repeated,
            short: argument.short.map(String::from).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_survives_the_wire() {
        let fault = || crate::Fault::new("no").with_hint("try again");
        for outcome in [
            crate::Outcome::Exit(7),
            crate::Outcome::Signal(9),
            crate::Outcome::Timeout,
            crate::Outcome::Cancelled,
            crate::Outcome::Denied(fault()),
            crate::Outcome::Unavailable(fault()),
            crate::Outcome::Lost(fault()),
            crate::Outcome::Failed(crate::Fault::new("no")),
        ] {
            assert_eq!(
                crate::Outcome::from(Outcome::from(outcome.clone())),
                outcome
            );
        }
    }

    #[test]
    fn outcomes_that_lie_count_as_lost() {
        use outcome::Kind;
        for kind in [None, Some(Kind::Exit(256)), Some(Kind::Signal(u32::MAX))] {
            let told = crate::Outcome::from(Outcome { kind });
            assert!(matches!(told, crate::Outcome::Lost(_)));
        }
    }

    #[test]
    fn controls_that_make_no_sense_are_refused() {
        use control_request::Control;
        let size = |columns, rows| Some(Control::Resize(TerminalSize { columns, rows }));
        for bad in [
            None,
            Some(Control::Signal(0)),
            Some(Control::Signal(65)),
            size(0, 1),
            size(1, 70000),
        ] {
            assert_eq!(crate::Control::try_from(bad), Err(InvalidControl));
        }
    }
}
