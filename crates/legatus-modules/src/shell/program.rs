//! What a request runs: which program, with which arguments, and what it means if it cannot be run.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bytes::Bytes;
use legatus_core::{Fault, Outcome};

use super::account::Account;
use super::messages::{Script, request::Mode};
use super::request::quoted;
use super::script::Content;
use super::spawn::reason;

/// A program and its arguments, exactly as they are passed.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: OsString,
    /// As what the program is started, if not by its path.
    pub(super) called: Option<OsString>,
    pub(super) arguments: Vec<OsString>,
    /// A descriptor that the program inherits under its own number: the script.
    pub(super) inherited: Option<OwnedFd>,
    origin: Origin,
}

/// Whence the program's name comes, and so who is to blame if it cannot be run.
#[derive(Debug)]
enum Origin {
    Caller,
    Passwd(OsString),
    Script { name: Bytes, interpreter: Vec<u8> },
}

/// A program could not be run.
#[derive(Debug)]
pub(super) enum NotRun {
    /// As a POSIX shell tells it: a message at stderr, and the exit status 126 or 127.
    AsShell(String, Outcome),
    /// The module could not do what was asked.
    Failed(Fault),
}

impl Program {
    /// What a request runs. A script's content comes with it.
    pub(super) fn new(
        mode: Option<Mode>,
        script: Option<Content>,
        account: &Account,
    ) -> Result<Self, Fault> {
        match (mode, script) {
            (Some(Mode::Command(command)), _) => {
                let mut words = command.arguments.iter().map(word);
                Ok(Self {
                    path: words.next().unwrap_or_default(),
                    called: None,
                    arguments: words.collect(),
                    inherited: None,
                    origin: Origin::Caller,
                })
            }
            (Some(Mode::Script(script)), Some(content)) => Self::of_script(&script, content),
            (Some(Mode::Line(line)), _) => Ok(Self::of_shell(
                account,
                false,
                vec!["-c".into(), word(&line)],
            )),
            (Some(Mode::Login(_)), _) => Ok(Self::of_shell(account, true, Vec::new())),
            // A server replaces a subsystem by its command (`subsystems::resolve`).
            (Some(Mode::Script(_) | Mode::Subsystem(_)) | None, _) => {
                Err(Fault::new("the request does not say what to run"))
            }
        }
    }

    fn of_shell(account: &Account, login: bool, arguments: Vec<OsString>) -> Self {
        Self {
            path: account.shell.clone().into(),
            called: Some(account.shell_name(login)),
            arguments,
            inherited: None,
            origin: Origin::Passwd(account.name.clone()),
        }
    }

    fn of_script(script: &Script, content: Content) -> Result<Self, Fault> {
        let mut arguments: Vec<OsString> = script.arguments.iter().map(word).collect();
        let (path, interpreter) = if script.interpreter.is_empty() {
            content.check_runnable(script)?;
            let interpreter = content.interpreter().unwrap_or(&script.name);
            (content.path(), interpreter.to_vec())
        } else {
            arguments.insert(0, content.path());
            (word(&script.interpreter), script.interpreter.to_vec())
        };
        Ok(Self {
            path,
            called: None,
            arguments,
            inherited: Some(content.into_file()),
            origin: Origin::Script {
                name: script.name.clone(),
                interpreter,
            },
        })
    }

    /// What it means that the program could not be started.
    pub(super) fn not_run(&self, error: &io::Error) -> NotRun {
        if !is_about_program(error) {
            let reason = reason(error);
            return NotRun::Failed(Fault::new(format!("cannot start a process: {reason}")));
        }
        let why = reason(error);
        match &self.origin {
            Origin::Caller => {
                let status = match error.kind() {
                    io::ErrorKind::NotFound => 127,
                    _ => 126,
                };
                let shown = self.path.as_os_str().display();
                let mut message = format!("legatus: cannot run `{shown}`: {why}");
                let is_line = self.path.as_os_str().as_bytes().contains(&b' ');
                if error.kind() == io::ErrorKind::NotFound && is_line {
                    message.push_str("\nhint: `-c LINE` runs a line by the shell there");
                }
                NotRun::AsShell(message, Outcome::Exit(status))
            }
            Origin::Passwd(user) => {
                let (shell, user) = (shown(&self.path), shown(user));
                let message = format!("cannot run {shell}, the login shell of {user}: {why}");
                let hint = "the passwd database of the server names the shell (chsh changes it)";
                NotRun::Failed(Fault::new(message).with_hint(hint))
            }
            Origin::Script { name, interpreter } => {
                let (name, interpreter) = (quoted(name), quoted(interpreter));
                let message = format!("cannot run the script {name} with {interpreter}: {why}");
                let hint = "the interpreter must be installed on the server";
                NotRun::Failed(Fault::new(message).with_hint(hint))
            }
        }
    }
}

impl From<Fault> for NotRun {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

fn word(bytes: &Bytes) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

fn shown(text: &OsStr) -> String {
    quoted(text.as_bytes())
}

/// Whether the program is the reason, and not that the system has no room for one more process.
fn is_about_program(error: &io::Error) -> bool {
    let scarce = [
        libc::EAGAIN,
        libc::ENOMEM,
        libc::EMFILE,
        libc::ENFILE,
        libc::EPERM,
        libc::EIO,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| !scarce.contains(&code))
}
