//! How a call ended, told to people and to machines.

use std::process::ExitCode;

use legatus_core::{Fault, Outcome};
use legatus_net::pki::PkiError;
use legatus_net::tls::TlsError;
use serde::Serialize;

use crate::config::ConfigError;
use crate::console::{self, ADVICE, ALARM, printable, styled};

/// The exit status of a program that was ended by SIGPIPE, as a shell tells it.
pub(crate) const BROKEN_PIPE: u8 = 141;

/// Tells how a call ended on standard error (if it did not just exit), with `json` on standard
/// output too; the exit status is the outcome's.
pub fn tell(outcome: &Outcome, json: bool) -> ExitCode {
    if let Some(text) = text(outcome, console::stderr_has_colours()) {
        console::complain(&text);
    }
    conclude(outcome, json)
}

/// Tells an error with its causes in one line, and what could be done about it.
pub(crate) fn tell_error(error: &anyhow::Error, json: bool) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::from(BROKEN_PIPE);
    }
    let message = format!("{error:#}");
    let hint = hint(error);
    let colours = console::stderr_has_colours();
    console::complain(&lines(&printable(&message), hint.as_deref(), colours));
    let fault = Fault::new(message);
    let outcome = Outcome::Failed(match hint {
        Some(hint) => fault.with_hint(hint),
        None => fault,
    });
    conclude(&outcome, json)
}

/// The outcome on standard output if machines are to read it, and as an exit status.
fn conclude(outcome: &Outcome, json: bool) -> ExitCode {
    if json {
        let printed = record(outcome)
            .map_err(std::io::Error::from)
            .and_then(|line| console::print(format!("{line}\n").as_bytes()));
        if printed.is_err() {
            return ExitCode::from(BROKEN_PIPE);
        }
    }
    ExitCode::from(outcome.exit_status())
}

fn lines(message: &str, hint: Option<&str>, colours: bool) -> String {
    let mut text = format!("legatus: {message}\n");
    if let Some(hint) = hint {
        let label = styled("hint", ADVICE, colours);
        text.push_str(&format!("{label}: {}\n", printable(hint)));
    }
    text
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let of_fault = cause
            .downcast_ref::<Fault>()
            .and_then(Fault::hint)
            .map(str::to_owned);
        let of_certificates = || {
            let of_tls = cause.downcast_ref::<TlsError>().and_then(TlsError::hint);
            let of_pki = || cause.downcast_ref::<PkiError>()?.hint();
            of_tls.or_else(of_pki).map(str::to_owned)
        };
        of_fault
            .or_else(|| cause.downcast_ref::<ConfigError>()?.hint())
            .or_else(of_certificates)
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What to say on standard error; `None` if the exit status says it all.
fn text(outcome: &Outcome, colours: bool) -> Option<String> {
    let message = match outcome {
        Outcome::Exit(_) => return None,
        Outcome::Signal(number) => format!("ended by {}", signal_name(*number)),
        Outcome::Timeout => "the call took longer than it may".to_owned(),
        Outcome::Cancelled => "the call was cancelled".to_owned(),
        Outcome::Denied(fault)
        | Outcome::Unavailable(fault)
        | Outcome::Lost(fault)
        | Outcome::Failed(fault) => printable(fault.message()).into_owned(),
    };
    let kind = styled(outcome.kind(), ALARM, colours);
    let hint = outcome.fault().and_then(Fault::hint);
    Some(lines(&format!("{kind}: {message}"), hint, colours))
}

/// An outcome as a JSON object.
#[derive(Serialize)]
struct Record<'a> {
    outcome: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    kind: &'static str,
    /// The exit status of the program.
    status: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

fn record(outcome: &Outcome) -> serde_json::Result<String> {
    let fault = outcome.fault();
    let outcome = Told {
        kind: outcome.kind(),
        status: outcome.exit_status(),
        signal: match outcome {
            Outcome::Signal(number) => Some(*number),
            _ => None,
        },
        message: fault.map(Fault::message),
        hint: fault.and_then(Fault::hint),
    };
    serde_json::to_string(&Record { outcome })
}

/// A signal's number, with its name where that is the same on all architectures of Linux.
fn signal_name(number: u8) -> String {
    let name = match number {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        4 => "ILL",
        5 => "TRAP",
        6 => "ABRT",
        8 => "FPE",
        9 => "KILL",
        11 => "SEGV",
        13 => "PIPE",
        14 => "ALRM",
        15 => "TERM",
        _ => return format!("signal {number}"),
    };
    format!("signal {number} (SIG{name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(outcome: &Outcome) -> (Option<String>, String) {
        (text(outcome, false), record(outcome).unwrap())
    }

    #[test]
    fn an_exit_is_told_by_the_status_alone() {
        let (text, json) = told(&Outcome::Exit(7));
        assert_eq!(text, None);
        assert_eq!(json, r#"{"outcome":{"kind":"exit","status":7}}"#);
    }

    #[test]
    fn faults_are_told_with_kind_and_hint() {
        let outcome = Outcome::Denied(Fault::new("no").with_hint("ask"));
        let (text, json) = told(&outcome);
        assert_eq!(text.unwrap(), "legatus: denied: no\nhint: ask\n");
        let expected = r#"{"outcome":{"kind":"denied","status":255,"message":"no","hint":"ask"}}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn timeouts_cancellations_and_signals_are_told_in_one_line() {
        for (outcome, expected) in [
            (
                Outcome::Timeout,
                "legatus: timeout: the call took longer than it may\n",
            ),
            (
                Outcome::Cancelled,
                "legatus: cancelled: the call was cancelled\n",
            ),
            (
                Outcome::Signal(9),
                "legatus: signal: ended by signal 9 (SIGKILL)\n",
            ),
            (Outcome::Signal(40), "legatus: signal: ended by signal 40\n"),
        ] {
            assert_eq!(text(&outcome, false).unwrap(), expected);
        }
        let json = record(&Outcome::Signal(15)).unwrap();
        assert_eq!(
            json,
            r#"{"outcome":{"kind":"signal","status":143,"signal":15}}"#
        );
    }

    #[test]
    fn what_a_server_says_cannot_steer_the_terminal() {
        let outcome = Outcome::Failed(Fault::new("a\x1b[2Jb\nc").with_hint("\u{9b}1m"));
        let text = text(&outcome, false).unwrap();
        assert_eq!(text, "legatus: failed: a\\u{1b}[2Jb\\nc\nhint: \\u{9b}1m\n");
    }

    #[test]
    fn colours_are_only_there_when_asked_for() {
        let outcome = Outcome::Failed(Fault::new("no"));
        assert!(text(&outcome, true).unwrap().contains("\x1b["));
        assert!(!text(&outcome, false).unwrap().contains('\x1b'));
    }

    #[test]
    fn an_error_is_told_with_its_causes_and_the_hint_of_one() {
        let error = anyhow::Error::new(ConfigError::NoHome("key")).context("cannot call `a`");
        assert!(hint(&error).unwrap().contains("pki quickstart"));
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(
            &anyhow::Error::new(pipe).context("cannot print")
        ));
    }

    #[test]
    fn an_error_of_certificates_keeps_its_hint() {
        let error = anyhow::Error::new(PkiError::NoAuthority("d".into())).context("cannot do it");
        assert_eq!(
            format!("{error:#}"),
            "cannot do it: there is no certificate authority in `d`"
        );
        assert!(hint(&error).unwrap().contains("legatus pki init"));
        let of_tls = anyhow::Error::new(TlsError::NoPairs);
        assert!(hint(&of_tls).unwrap().contains("pki quickstart"));
        assert!(hint(&anyhow::anyhow!("something else")).is_none());
    }
}
