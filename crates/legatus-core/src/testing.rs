//! A kit for authors of modules: runs both halves against each other in memory.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    Arguments, BoxFuture, Call, CallId, Caller, Channel, Control, Conversation, Fault, Input,
    Local, Module, Outcome, Output, Peer, PendingOutcome, Policy, Progress, Request, Stream,
    Terminal, UserSignal,
};

/// Runs both halves of a module against each other, through a channel of a few bytes.
///
/// # Panics
/// When the module lacks one of the halves.
pub async fn run(module: Arc<dyn Module>, arguments: Arguments, local: &MemoryLocal) -> Outcome {
    let caller = MemoryCaller::new(Arc::clone(&module), 7);
    #[expect(clippy::expect_used, reason = "documented")]
    let sender = module.sender().expect("the module has no Sender");
    sender.send(arguments, &caller, local).await.into()
}

/// Opens calls of a module in memory.
pub struct MemoryCaller {
    module: Arc<dyn Module>,
    capacity: usize,
    cancellation: CancellationToken,
}

impl MemoryCaller {
    /// Calls of this module, through channels that hold `capacity` bytes in each direction.
    pub fn new(module: Arc<dyn Module>, capacity: usize) -> Self {
        Self {
            module,
            capacity,
            cancellation: CancellationToken::new(),
        }
    }

    /// Fires when the calls should be cancelled from the server's side.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }
}

impl std::fmt::Debug for MemoryCaller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryCaller").finish_non_exhaustive()
    }
}

/// Makes the call that a server would make of a request, for the identity `tester`.
///
/// # Errors
/// When the Commander does not understand the request.
///
/// # Panics
/// When the module has no Commander.
pub fn call(
    module: &dyn Module,
    request: Request,
    controls: crate::ControlReceiver,
) -> Result<Call, Fault> {
    #[expect(clippy::expect_used, reason = "documented")]
    let commander = module.commander().expect("the module has no Commander");
    let inspection = commander.inspect(&request)?;
    let peer = Peer::assert_verified("tester");
    let permit = Policy::allow_all("test kit")
        .authorise(&peer, module.spec(), inspection.effects)
        .map_err(|denied| Fault::from(&denied))?;
    let request = commander.admit(request)?;
    let id = CallId::try_from("test".to_owned()).map_err(|error| Fault::new(error.to_string()))?;
    Ok(Call::new(id, peer, permit, request, controls))
}

impl Caller for MemoryCaller {
    fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
        Box::pin(async move {
            let (ours, theirs) = Channel::pair(self.capacity);
            let (controls, receiver) = Control::queue();
            let (decide, outcome) = PendingOutcome::new();
            let mut call = match call(self.module.as_ref(), request, receiver) {
                Ok(call) => call,
                Err(fault) => {
                    decide.send(Outcome::Failed(fault)).ok();
                    return Ok(Conversation {
                        channel: ours,
                        controls,
                        outcome,
                    });
                }
            };
            call.cancellation = self.cancellation.child_token();
            let module = Arc::clone(&self.module);
            tokio::spawn(async move {
                let cancelled = call.cancellation.clone();
                let Some(commander) = module.commander() else {
                    return;
                };
                let told = commander.execute(call, theirs).await;
                let outcome = if cancelled.is_cancelled() {
                    Outcome::Cancelled
                } else {
                    told.into()
                };
                decide.send(outcome).ok();
            });
            Ok(Conversation {
                channel: ours,
                controls,
                outcome,
            })
        })
    }
}

/// A user's machine in memory: scripted stdin, captured output; real files.
#[derive(Debug, Default)]
pub struct MemoryLocal {
    stdin: Mutex<Option<Vec<Bytes>>>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    reports: Mutex<Vec<String>>,
    records: Mutex<Vec<String>>,
    environment: HashMap<String, OsString>,
}

impl MemoryLocal {
    /// A machine whose stdin ends at once.
    pub fn new() -> Self {
        Self {
            stdin: Mutex::new(Some(Vec::new())),
            ..Self::default()
        }
    }

    /// The same with these bytes at stdin, in chunks of at most `chunk` bytes.
    #[must_use]
    pub fn with_stdin(self, bytes: &[u8], chunk: usize) -> Self {
        let chunks = bytes
            .chunks(chunk.max(1))
            .map(Bytes::copy_from_slice)
            .collect();
        *lock(&self.stdin) = Some(chunks);
        self
    }

    /// The same with a variable in the environment.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// What was written to stdout so far.
    pub fn stdout(&self) -> Vec<u8> {
        lock(&self.stdout).clone()
    }

    /// What was written to stderr so far.
    pub fn stderr(&self) -> Vec<u8> {
        lock(&self.stderr).clone()
    }

    /// The lines that were reported so far.
    pub fn reports(&self) -> Vec<String> {
        lock(&self.reports).clone()
    }

    /// The JSON objects that were recorded so far.
    pub fn records(&self) -> Vec<String> {
        lock(&self.records).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Local for MemoryLocal {
    fn stdin(&self) -> Option<Box<dyn Input>> {
        let mut chunks = lock(&self.stdin).take()?;
        chunks.reverse();
        Some(Box::new(MemoryInput(chunks)))
    }

    fn output(&self, stream: Stream) -> Box<dyn Output> {
        let buffer = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        Box::new(MemoryOutput(Arc::clone(buffer)))
    }

    fn terminal(&self) -> Option<&dyn Terminal> {
        None
    }

    fn signal(&self) -> BoxFuture<'_, UserSignal> {
        Box::pin(std::future::pending())
    }

    fn open(&self, path: &Path, no_follow: bool) -> io::Result<File> {
        if no_follow && path.is_symlink() {
            return Err(io::Error::other("a symbolic link"));
        }
        File::open(path)
    }

    fn environment(&self, name: &str) -> Option<OsString> {
        self.environment.get(name).cloned()
    }

    fn progress(&self) -> &dyn Progress {
        &NoProgress
    }

    fn report(&self, line: &str) {
        lock(&self.reports).push(line.to_owned());
    }

    fn record(&self, json: &str) {
        lock(&self.records).push(json.to_owned());
    }
}

struct MemoryInput(Vec<Bytes>);

impl Input for MemoryInput {
    fn read(&mut self) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move { Ok(self.0.pop().unwrap_or_default()) })
    }
}

struct MemoryOutput(Arc<Mutex<Vec<u8>>>);

impl Output for MemoryOutput {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        lock(&self.0).extend_from_slice(&bytes);
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Shows no progress.
#[derive(Clone, Copy, Debug)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn total(&self, _bytes: u64, _entries: u64) {}
    fn advance(&self, _bytes: u64, _entries: u64) {}
    fn current(&self, _name: &str) {}
    fn finish(&self) {}
}
