//! The audit: one JSON line when a call begins, one when it ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use legatus_core::{CallId, Effects, Outcome};
use serde::Serialize;
use thiserror::Error;

/// Where the audit is written.
#[derive(Debug)]
pub struct Audit {
    file: Option<AuditFile>,
}

#[derive(Debug)]
struct AuditFile {
    path: PathBuf,
    file: Mutex<File>,
}

/// The audit could not be written, so that the call must not run.
#[derive(Debug, Error)]
#[error("cannot write the audit `{}`", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// What is known of a call before it runs.
#[derive(Debug)]
pub(crate) struct AuditedCall<'a> {
    pub(crate) id: &'a CallId,
    pub(crate) identity: &'a str,
    /// Of the client; `None` when none is there any more.
    pub(crate) address: Option<&'a str>,
    pub(crate) module: &'a str,
    pub(crate) summary: &'a str,
    pub(crate) effects: Effects,
    /// The rule that permitted it; `None` when it was denied.
    pub(crate) rule: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    call: &'a str,
    identity: &'a str,
    address: Option<&'a str>,
    module: &'a str,
    arguments: &'a str,
    effects: String,
    rule: Option<&'a str>,
    #[serde(flatten)]
    end: Option<End<'a>>,
}

#[derive(Serialize)]
struct End<'a> {
    outcome: &'static str,
    status: Option<u8>,
    fault: Option<&'a str>,
    bytes_received: u64,
    bytes_sent: u64,
    seconds: f64,
}

/// What a call has moved and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) duration: Duration,
}

impl Audit {
    /// Keeps no audit; for servers that live inside the client that calls them.
    pub fn none() -> Self {
        Self { file: None }
    }

    /// Appends to `audit.jsonl` in that folder, which is made if it is missing; readable by the
    /// server's user only.
    ///
    /// # Errors
    /// When the folder or the file cannot be made or opened.
    pub fn open(state: &Path) -> Result<Self, AuditError> {
        let path = state.join("audit.jsonl");
        let file = std::fs::create_dir_all(state).and_then(|()| open(&path));
        match file {
            Ok(file) => Ok(Self {
                file: Some(AuditFile {
                    path,
                    file: Mutex::new(file),
                }),
            }),
            Err(source) => Err(AuditError { path, source }),
        }
    }

    /// Opens the file again, after it was rotated away.
    ///
    /// # Errors
    /// When it cannot be opened; the old file stays in use.
    pub fn reopen(&self) -> Result<(), AuditError> {
        let Some(audit) = &self.file else {
            return Ok(());
        };
        let file = open(&audit.path).map_err(|source| audit.error(source))?;
        *audit.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    /// Notes that a call begins, or that somebody `attaches` to a kept one.
    pub(crate) fn begin(&self, call: &AuditedCall<'_>, attaches: bool) -> Result<(), AuditError> {
        self.write(if attaches { "attach" } else { "begin" }, call, None)
    }

    /// Notes that somebody wants a kept call to end, or to get a signal.
    pub(crate) fn wish(&self, call: &AuditedCall<'_>) -> Result<(), AuditError> {
        self.write("wish", call, None)
    }

    /// Notes that a call has ended, or was refused; or that only its client has gone and it
    /// `goes_on`.
    pub(crate) fn end(
        &self,
        call: &AuditedCall<'_>,
        outcome: &Outcome,
        usage: Usage,
        goes_on: bool,
    ) -> Result<(), AuditError> {
        let status = match outcome {
            Outcome::Exit(status) | Outcome::Signal(status) => Some(*status),
            _ => None,
        };
        let end = End {
            outcome: outcome.kind(),
            status,
            fault: outcome.fault().map(legatus_core::Fault::message),
            bytes_received: usage.bytes_received,
            bytes_sent: usage.bytes_sent,
            seconds: (usage.duration.as_secs_f64() * 1e6).round() / 1e6,
        };
        self.write(if goes_on { "leave" } else { "end" }, call, Some(end))
    }

    fn write(
        &self,
        event: &'static str,
        call: &AuditedCall<'_>,
        end: Option<End<'_>>,
    ) -> Result<(), AuditError> {
        let Some(audit) = &self.file else {
            return Ok(());
        };
        let line = Line {
            time: Timestamp::now().to_string(),
            event,
            call: call.id.as_str(),
            identity: call.identity,
            address: call.address,
            module: call.module,
            arguments: call.summary,
            effects: call.effects.to_string(),
            rule: call.rule,
            end,
        };
        audit.append(&line).map_err(|source| audit.error(source))
    }
}

impl AuditFile {
    /// Appends a line with one write, so that lines of several processes do not mix.
    fn append(&self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&text)
    }

    fn error(&self, source: io::Error) -> AuditError {
        AuditError {
            path: self.path.clone(),
            source,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call<'a>(id: &'a CallId, identity: &'a str) -> AuditedCall<'a> {
        AuditedCall {
            id,
            identity,
            address: Some("127.0.0.1:1"),
            module: "shell",
            summary: "argv [\"uname\"]",
            effects: Effects::EXEC,
            rule: Some("ops"),
        }
    }

    #[test]
    fn an_audit_that_cannot_be_written_is_an_error() {
        let full = Audit {
            file: Some(AuditFile {
                path: "/dev/full".into(),
                file: Mutex::new(open(Path::new("/dev/full")).unwrap()),
            }),
        };
        let id = CallId::try_from("a".to_owned()).unwrap();
        let peer = "ann";
        let error = full.begin(&call(&id, peer), false).unwrap_err();
        assert!(error.to_string().contains("/dev/full"), "{error}");
    }

    #[test]
    fn a_call_leaves_a_line_at_its_begin_and_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(&folder.path().join("state")).unwrap();
        let id = CallId::try_from("a".to_owned()).unwrap();
        let peer = "ann\n\"forged\"";
        audit.begin(&call(&id, peer), false).unwrap();
        let outcome = Outcome::Exit(7);
        audit
            .end(&call(&id, peer), &outcome, Usage::default(), false)
            .unwrap();
        let text = std::fs::read_to_string(folder.path().join("state/audit.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["event"], "begin");
        assert_eq!(lines[0]["identity"], "ann\n\"forged\"");
        assert_eq!(lines[1]["outcome"], "exit");
        assert_eq!(lines[1]["status"], 7);
    }
}
