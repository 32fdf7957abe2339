//! The user's machine as a Sender sees it: standard streams, terminal, signals and files of this
//! process.

pub(crate) mod descriptor;
mod input;
mod json;
mod output;
mod progress;
mod signals;
mod terminal;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use legatus_core::{
    BoxFuture, Connection, Fault, Input, Listener, Local, Outcome, Output, Progress, SocketName,
    Stream, Terminal, UserSignal,
};
use legatus_modules::forward::sockets;
use rustix::fs::{Mode, OFlags};

use crate::console::{self, printable};
use input::DescriptorInput;
use json::JsonOutput;
use output::{DescriptorOutput, Sink};
use progress::Display;
use signals::Signals;
use terminal::ProcessTerminal;

/// The standard streams of a user, as descriptors that are this object's own.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

impl Streams {
    /// Those of the process.
    ///
    /// # Errors
    /// When there are no more descriptors to be had.
    pub fn of_process() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// The user's machine: standard streams, terminal, signals and files of this process.
///
/// With `json`, standard output carries JSON objects only, one a line: what goes to either stream
/// as `{"stream":"stdout","data":"..."}` (`base64` instead of `data` for what is not UTF-8), and
/// the records of modules.
pub struct ProcessLocal {
    stdin: Arc<OwnedFd>,
    stdin_taken: AtomicBool,
    stdout: Arc<Sink>,
    stderr: Arc<Sink>,
    terminal: Option<ProcessTerminal>,
    signals: Signals,
    progress: Display,
    json: bool,
}

impl ProcessLocal {
    /// That of this process.
    ///
    /// # Errors
    /// When there are no more descriptors to be had.
    pub fn new(json: bool) -> io::Result<Self> {
        Ok(Self::over(Streams::of_process()?, json))
    }

    /// The same with other standard streams.
    pub fn over(streams: Streams, json: bool) -> Self {
        let stdin = Arc::new(streams.stdin);
        let terminal = (!json)
            .then(|| ProcessTerminal::of(&stdin, &streams.stdout))
            .flatten();
        let is_terminal = rustix::termios::isatty(&streams.stderr);
        Self {
            stdin,
            stdin_taken: AtomicBool::new(false),
            progress: Display::new(is_terminal && !json),
            stdout: Arc::new(if json {
                Sink::with_lines(streams.stdout)
            } else {
                Sink::new(streams.stdout)
            }),
            stderr: Arc::new(Sink::new(streams.stderr)),
            terminal,
            signals: Signals::default(),
            json,
        }
    }

    /// Whether nobody reads standard output any more.
    pub fn stdout_is_broken(&self) -> bool {
        self.stdout.is_broken()
    }

    /// Ends the display of progress and waits until everything has been written; if the user
    /// loses patience with a slow reader, the outcome is that the call was cancelled.
    pub(crate) async fn finish(&self, outcome: Outcome) -> Outcome {
        self.progress.finish();
        if matches!(outcome, Outcome::Cancelled) {
            return outcome;
        }
        let written = async {
            self.stdout.settle().await?;
            self.stderr.settle().await
        };
        tokio::select! {
            biased;
            written = written => match (written, &outcome) {
                (Err(error), Outcome::Exit(_)) => {
                    Outcome::Failed(Fault::new(format!("cannot write all output: {error}")))
                }
                _ => outcome,
            },
            _ = self.signal() => Outcome::Cancelled,
        }
    }
}

impl fmt::Debug for ProcessLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessLocal")
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

impl Local for ProcessLocal {
    fn stdin(&self) -> Option<Box<dyn Input>> {
        if self.stdin_taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(Box::new(DescriptorInput::new(Arc::clone(&self.stdin))))
    }

    fn output(&self, stream: Stream) -> Box<dyn Output> {
        if self.json {
            let lines = DescriptorOutput::new(Arc::clone(&self.stdout));
            return Box::new(JsonOutput::new(stream, lines));
        }
        let sink = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        Box::new(DescriptorOutput::new(Arc::clone(sink)))
    }

    fn terminal(&self) -> Option<&dyn Terminal> {
        self.terminal
            .as_ref()
            .map(|terminal| terminal as &dyn Terminal)
    }

    fn signal(&self) -> BoxFuture<'_, UserSignal> {
        Box::pin(self.signals.next())
    }

    fn open(&self, path: &Path, no_follow: bool) -> io::Result<File> {
        let no_follow = if no_follow {
            OFlags::NOFOLLOW
        } else {
            OFlags::empty()
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | no_follow;
        // Opening a FIFO must not wait for a writer, but reading it may.
        let file = rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::empty())?;
        rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        Ok(file.into())
    }

    fn listen<'a>(&'a self, at: &'a SocketName) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(sockets::listen(at))
    }

    fn connect<'a>(&'a self, to: &'a SocketName) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(sockets::connect(to))
    }

    fn environment(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    fn report(&self, line: &str) {
        // In raw mode the terminal does not return the carriage by itself.
        let end = if terminal::is_raw() { "\r\n" } else { "\n" };
        let line = format!("legatus: {}{end}", printable(line.trim_end()));
        self.progress.beside(|| console::complain(&line));
    }

    fn record(&self, json: &str) {
        if self.json {
            self.stdout.write_line(json);
        }
    }

    fn shows_records(&self) -> bool {
        self.json
    }
}

#[cfg(test)]
mod tests;
