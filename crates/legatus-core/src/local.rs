//! A Sender's only access to the user's machine; supplied by whoever calls.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::{BoxFuture, Connection, Listener, SocketName, TerminalSize};

/// One of a Sender's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A Sender's only access to stdin, stdout, stderr, the terminal and the user's files.
pub trait Local: Send + Sync {
    /// Standard input; `None` if it was taken already.
    fn stdin(&self) -> Option<Box<dyn Input>>;

    /// Standard output or standard error; each may be taken once.
    fn output(&self, stream: Stream) -> Box<dyn Output>;

    /// The terminal that stdin is connected to, if it is.
    fn terminal(&self) -> Option<&dyn Terminal>;

    /// Waits for the user's next wish to interrupt or end the call.
    fn signal(&self) -> BoxFuture<'_, UserSignal>;

    /// Opens one of the user's files or folders (without following a final symbolic link if
    /// `no_follow`), read-only; entries below a folder are reached through its descriptor.
    ///
    /// # Errors
    /// Those of `open(2)`, and permission denied where the caller does not offer files.
    fn open(&self, path: &Path, no_follow: bool) -> io::Result<File>;

    /// Listens on a socket of the user's machine.
    ///
    /// # Errors
    /// Those of `bind(2)`, and unsupported where the caller does not offer sockets.
    fn listen<'a>(&'a self, _at: &'a SocketName) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    /// Connects from the user's machine.
    ///
    /// # Errors
    /// Those of `connect(2)`, and unsupported where the caller does not offer sockets.
    fn connect<'a>(
        &'a self,
        _to: &'a SocketName,
    ) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    /// A variable of the user's environment, such as `TERM` or `LANG`.
    fn environment(&self, name: &str) -> Option<OsString>;

    /// Where progress of long work is shown.
    fn progress(&self) -> &dyn Progress;

    /// Tells the user something in one line: an entry that failed, a warning.
    fn report(&self, line: &str);

    /// Passes machine-readable facts of a call to the caller, one JSON object without a line
    /// break; shown with `--json` only.
    fn record(&self, json: &str);

    /// Whether records are shown. Then a module need not say the same to a person, too.
    fn shows_records(&self) -> bool {
        false
    }
}

/// Standard input.
pub trait Input: Send {
    /// The next bytes, at most [`limits::CHUNK_BYTES`](crate::limits::CHUNK_BYTES); empty at the
    /// end. Cancel safe: bytes that were read are returned by the next call.
    fn read(&mut self) -> BoxFuture<'_, io::Result<Bytes>>;
}

/// Standard output or standard error.
pub trait Output: Send {
    /// Writes all bytes. Waits as long as the reader of the stream is slow.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>>;

    /// Waits until everything written has left the process.
    fn flush(&mut self) -> BoxFuture<'_, io::Result<()>>;
}

/// A terminal in the user's hands.
pub trait Terminal: Send + Sync {
    /// Passes every key through from now on, until the guard is dropped; the terminal's mode is
    /// restored then, and also when the program panics or is ended by a signal.
    ///
    /// # Errors
    /// Those of `tcsetattr(3)`.
    fn raw(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// Whether stdout is connected to a terminal, too.
    fn shows_output(&self) -> bool {
        true
    }

    /// The size now.
    fn size(&self) -> TerminalSize;

    /// Waits until the size changes, and returns the new one.
    fn resized(&self) -> BoxFuture<'_, TerminalSize>;
}

/// A wish of the user that reaches the client as a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserSignal {
    /// Ctrl-C (SIGINT): passed on to what the call runs; the second within a second cancels.
    Interrupt,
    /// Ctrl-\ (SIGQUIT): passed on to what the call runs.
    Quit,
    /// SIGTERM: the call is cancelled.
    Terminate,
    /// SIGHUP: the call is cancelled.
    HangUp,
}

/// Where progress of long work is shown: a bar on a terminal, nothing otherwise.
pub trait Progress: Send + Sync {
    /// Work begins, or its known size has changed. Zero: unknown.
    fn total(&self, bytes: u64, entries: u64);

    /// So many more bytes and entries are done.
    fn advance(&self, bytes: u64, entries: u64);

    /// What is being worked on now.
    fn current(&self, name: &str);

    /// Work has ended; the display is removed.
    fn finish(&self);
}
