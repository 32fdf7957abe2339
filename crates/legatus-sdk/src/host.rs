//! What a module may ask of its host, whichever way it is asked.

use std::fmt;

/// One invocation, as the server half sees it.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Names the call in the log.
    pub id: String,
    /// The identity of the caller, verified.
    pub peer: String,
    /// As the client half passed them. The generic one passes `--name value`, `--flag`, then
    /// positional arguments, then `--` and what trailed.
    pub arguments: Vec<Vec<u8>>,
    /// What is left until the call will be ended.
    pub milliseconds: Option<u64>,
}

/// An argument of a user's command line, as the client half sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The argument's name.
    pub name: String,
    /// Its values; a flag that was given has none.
    pub values: Vec<Vec<u8>>,
}

/// What the caller may be told of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// What was tried, on what, and why it failed. Empty in a library where the host knows it.
    pub message: String,
    /// What the user could do.
    pub hint: String,
}

impl Fault {
    /// A fault without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: String::new(),
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an exit status.
    Exit(u8),
    /// By a signal.
    Signal(u8),
    /// Its time was up.
    Timeout,
    /// Somebody cancelled it.
    Cancelled,
    /// Policy forbade it.
    Denied(Fault),
    /// It could not be begun.
    Unavailable(Fault),
    /// The connection was lost.
    Lost(Fault),
    /// It failed.
    Failed(Fault),
}

/// A message could not be sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The other half no longer receives, or there is no call yet.
    Gone,
    /// The call was cancelled.
    Cancelled,
    /// The message is longer than 1 MiB + 64 KiB.
    TooLong,
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the other half has gone",
            Self::Cancelled => "the call was cancelled",
            Self::TooLong => "the message is too long",
        })
    }
}

impl std::error::Error for ChannelError {}

impl From<ChannelError> for Fault {
    fn from(error: ChannelError) -> Self {
        Self::new(error.to_string())
    }
}

/// A line's weight in the log.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// Every step.
    Trace,
    /// For whoever looks for an error.
    Debug,
    /// Good to know.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

/// The functions that both halves may call, as each kind of module calls them.
pub(crate) trait Talk {
    fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError>;
    fn send(&mut self, message: &[u8]) -> Result<(), ChannelError>;
    fn finish(&mut self);
    fn wait(&mut self, milliseconds: Option<u64>) -> (bool, bool);
    fn log(&mut self, level: Level, text: &str);
}

/// Those of client halves. A component without one must not even name them.
pub(crate) trait Local {
    fn open(&mut self, arguments: &[&[u8]]) -> Result<(), Fault>;
    fn outcome(&mut self) -> Result<Outcome, Fault>;
    fn read_input(&mut self) -> Result<Option<Vec<u8>>, Fault>;
    fn write_output(&mut self, bytes: &[u8]) -> Result<(), Fault>;
    fn write_error(&mut self, bytes: &[u8]) -> Result<(), Fault>;
    fn open_file(&mut self, name: &[u8]) -> Result<u32, Fault>;
    fn read_file(&mut self, file: u32) -> Result<Option<Vec<u8>>, Fault>;
    fn close_file(&mut self, file: u32);
}

/// What either half may ask of its host.
pub struct Host {
    functions: Box<dyn Talk>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    pub(crate) fn new(functions: impl Talk + 'static) -> Self {
        Self {
            functions: Box::new(functions),
        }
    }

    /// Waits for the next message; `None` when no more come.
    ///
    /// # Errors
    /// When the call was cancelled.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        self.functions.receive()
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    /// When nobody listens, or the call was cancelled.
    pub fn send(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        self.functions.send(message)
    }

    /// Tells the other half that no more messages come.
    pub fn finish(&mut self) {
        self.functions.finish();
    }

    /// Waits until a message can be received, the call is cancelled, or the time is up; whether
    /// there is a message, and whether the call was cancelled. `None` waits for ever. The end of the
    /// messages counts as one until [`Host::receive`] has told of it.
    pub fn wait(&mut self, milliseconds: Option<u64>) -> (bool, bool) {
        self.functions.wait(milliseconds)
    }

    /// Writes a line to the host's log, under the call's id.
    pub fn log(&mut self, level: Level, text: &str) {
        self.functions.log(level, text);
    }
}

/// What a client half may ask of its host: the call, and what the user passed.
pub struct Client {
    host: Host,
    local: Box<dyn Local>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(functions: impl Talk + Local + Copy + 'static) -> Self {
        Self {
            host: Host::new(functions),
            local: Box::new(functions),
        }
    }

    /// Opens the call with arguments for the server half.
    ///
    /// # Errors
    /// When it was denied, or the server cannot be reached.
    pub fn open(&mut self, arguments: &[&[u8]]) -> Result<(), Fault> {
        self.local.open(arguments)
    }

    /// The channel to the server half, once the call was opened, and the log.
    pub fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    /// Waits for the call's end, after all messages were received.
    ///
    /// # Errors
    /// When no call was opened.
    pub fn outcome(&mut self) -> Result<Outcome, Fault> {
        self.local.outcome()
    }

    /// The next bytes of standard input; `None` at its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_input(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        self.local.read_input()
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// When it was closed.
    pub fn write_output(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.local.write_output(bytes)
    }

    /// Writes to standard error.
    ///
    /// # Errors
    /// When it was closed.
    pub fn write_error(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.local.write_error(bytes)
    }

    /// Opens a file of the user, whose name must be a value on this command line.
    ///
    /// # Errors
    /// When it is not, or the file cannot be read.
    pub fn open_file(&mut self, name: &[u8]) -> Result<File<'_>, Fault> {
        let id = self.local.open_file(name)?;
        Ok(File { client: self, id })
    }
}

/// An open file of the user. It is closed when this is dropped.
#[derive(Debug)]
pub struct File<'a> {
    client: &'a mut Client,
    id: u32,
}

impl File<'_> {
    /// The file's next bytes; `None` at its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        self.client.local.read_file(self.id)
    }

    /// The client half's other functions, while the file is open.
    pub fn client(&mut self) -> &mut Client {
        self.client
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        self.client.local.close_file(self.id);
    }
}
