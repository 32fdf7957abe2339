//! What a client half asks of its surroundings, as messages: its code runs where the caller's
//! borrowed objects cannot go.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use legatus_core::{
    Arguments, Caller, ChannelReceiver, ChannelSender, Control, ControlSender, Fault, Input, Local,
    Outcome, Output, PendingOutcome, Request, Spec, Stream, UserSignal, limits,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::log::CallLog;

/// Files of the user that a client half may have open at the same time.
const OPEN_FILES: usize = 16;

/// One thing that a client half asks for, and where the answer goes.
pub(crate) enum Ask {
    Open(Vec<Bytes>, oneshot::Sender<Result<Ends, Fault>>),
    /// It has sent all of its messages.
    Finish,
    Outcome(oneshot::Sender<Outcome>),
    ReadInput(oneshot::Sender<Result<Bytes, String>>),
    Write(Stream, Bytes, oneshot::Sender<Result<(), String>>),
    OpenFile(Bytes, oneshot::Sender<Result<u32, String>>),
    ReadFile(u32, oneshot::Sender<Result<Bytes, String>>),
    CloseFile(u32),
}

/// The ends of an opened call's channel.
pub(crate) type Ends = (ChannelSender, ChannelReceiver);

/// Answers what a client half asks, with the caller's objects.
pub(crate) struct Surroundings<'a> {
    caller: &'a dyn Caller,
    local: &'a dyn Local,
    /// Values of this command line: the only names of files that may be opened.
    names: Vec<Vec<u8>>,
    stdin: Option<Box<dyn Input>>,
    stdout: Option<Box<dyn Output>>,
    stderr: Option<Box<dyn Output>>,
    files: HashMap<u32, File>,
    next_file: u32,
    outcome: Option<PendingOutcome>,
    /// Goes after `outcome` does: a client half that dies has not said all that it had to say.
    open: Option<ChannelSender>,
    steering: Arc<Steering>,
    /// Where it is noted what was denied.
    pub(crate) log: Option<CallLog>,
}

/// Where the user's signals go.
#[derive(Default)]
struct Steering {
    /// The opened call.
    controls: OnceLock<ControlSender>,
    /// Fires when the user wants the client half itself to end.
    cancellation: CancellationToken,
}

impl Steering {
    fn pass_on(&self, signal: UserSignal) {
        let control = match signal {
            UserSignal::Interrupt => Control::Signal(2),
            UserSignal::Quit => Control::Signal(3),
            UserSignal::Terminate | UserSignal::HangUp => {
                self.cancellation.cancel();
                Control::Cancel
            }
        };
        match self.controls.get() {
            // Too many wait already, then this one says nothing new.
            Some(controls) => drop(controls.send(control)),
            None => self.cancellation.cancel(),
        }
    }
}

impl<'a> Surroundings<'a> {
    pub(crate) fn new(
        spec: &Spec,
        arguments: &Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> Self {
        let values = spec.arguments.iter();
        let values = values.flat_map(|argument| arguments.all(&argument.name));
        Self {
            caller,
            local,
            names: values.map(|value| value.as_bytes().to_vec()).collect(),
            stdin: None,
            stdout: None,
            stderr: None,
            files: HashMap::new(),
            next_file: 1,
            outcome: None,
            open: None,
            steering: Arc::default(),
            log: None,
        }
    }

    pub(crate) fn cancellation(&self) -> CancellationToken {
        self.steering.cancellation.clone()
    }

    /// Answers until the client half has gone, and passes the user's signals on to the call.
    pub(crate) async fn serve(&mut self, mut asks: mpsc::Receiver<Ask>) {
        let (local, steering) = (self.local, Arc::clone(&self.steering));
        let signals = async {
            loop {
                steering.pass_on(local.signal().await);
            }
        };
        let answers = async {
            while let Some(ask) = asks.recv().await {
                self.answer(ask).await;
            }
            self.flush().await;
        };
        tokio::select! {
            () = answers => {}
            () = signals => {}
        }
    }

    /// A client half that has gone does not wait for its answer.
    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Open(arguments, to) => drop(to.send(self.open(arguments).await)),
            Ask::Finish => self.open = None,
            Ask::Outcome(to) => {
                self.open = None;
                let outcome = match self.outcome.take() {
                    Some(pending) => pending.wait().await,
                    None => Outcome::Failed(Fault::new(
                        "the client half asked how a call ended that it did not open",
                    )),
                };
                drop(to.send(outcome));
            }
            Ask::ReadInput(to) => drop(to.send(self.read_input().await)),
            Ask::Write(stream, bytes, to) => drop(to.send(self.write(stream, bytes).await)),
            Ask::OpenFile(name, to) => drop(to.send(self.open_file(&name))),
            Ask::ReadFile(file, to) => drop(to.send(self.read_file(file))),
            Ask::CloseFile(file) => drop(self.files.remove(&file)),
        }
    }

    async fn open(&mut self, arguments: Vec<Bytes>) -> Result<Ends, Fault> {
        if self.outcome.is_some() {
            return Err(Fault::new("the client half opened a second call"));
        }
        let conversation = self.caller.open(Request::from_arguments(arguments)).await?;
        self.outcome = Some(conversation.outcome);
        self.steering.controls.set(conversation.controls).ok();
        let (sender, receiver) = conversation.channel.split();
        self.open = Some(sender.clone());
        Ok((sender, receiver))
    }

    async fn read_input(&mut self) -> Result<Bytes, String> {
        if self.stdin.is_none() {
            self.stdin = self.local.stdin();
        }
        match &mut self.stdin {
            Some(stdin) => stdin.read().await.map_err(|error| error.to_string()),
            None => Ok(Bytes::new()),
        }
    }

    async fn write(&mut self, stream: Stream, bytes: Bytes) -> Result<(), String> {
        let output = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let output = output.get_or_insert_with(|| self.local.output(stream));
        output.write(bytes).await.map_err(|error| error.to_string())
    }

    /// Only what the user named on this command line, and through its own folder's links never
    /// elsewhere: the last part of the name must be no symbolic link.
    fn open_file(&mut self, name: &[u8]) -> Result<u32, String> {
        let shown = String::from_utf8_lossy(name).into_owned();
        if !self.names.iter().any(|known| known == name) {
            if let Some(log) = &self.log {
                let line =
                    format!("denied: it may not open `{shown}`: it is not on the command line");
                log.line(Level::WARN, &line);
            }
            return Err(format!(
                "`{shown}` may not be opened: it is not on the command line"
            ));
        }
        if self.files.len() >= OPEN_FILES {
            return Err(format!("more than {OPEN_FILES} files are open"));
        }
        let path = Path::new(OsStr::from_bytes(name));
        let file = self.local.open(path, false);
        let file = file.map_err(|error| format!("cannot open `{shown}`: {error}"))?;
        if !file.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(format!("`{shown}` is a folder"));
        }
        let id = self.next_file;
        self.next_file = id.wrapping_add(1);
        self.files.insert(id, file);
        Ok(id)
    }

    fn read_file(&mut self, file: u32) -> Result<Bytes, String> {
        let Some(file) = self.files.get_mut(&file) else {
            return Err("no such file is open".to_owned());
        };
        let mut bytes = Vec::with_capacity(limits::CHUNK_BYTES);
        let limited = file
            .take(limits::CHUNK_BYTES as u64)
            .read_to_end(&mut bytes);
        limited.map_err(|error| error.to_string())?;
        Ok(bytes.into())
    }

    async fn flush(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            // Whoever reads it has gone; the outcome tells more.
            output.flush().await.ok();
        }
    }
}

/// Asks and waits for the answer; `None` when nobody answers any more.
pub(crate) async fn ask<T>(
    asks: &mpsc::Sender<Ask>,
    make: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Option<T> {
    let (to, answer) = oneshot::channel();
    asks.send(make(to)).await.ok()?;
    answer.await.ok()
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::sync::Mutex;
    use std::task::Poll;

    use legatus_core::testing::MemoryLocal;
    use legatus_core::{BoxFuture, Channel, Conversation};

    use super::*;

    /// Opens one call, whose other end is left with the test.
    struct OneCall(Mutex<Option<Conversation>>);

    impl Caller for OneCall {
        fn open(&self, _: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
            let conversation = self.0.lock().unwrap().take();
            let opened = conversation.ok_or_else(|| Fault::new("a second call"));
            Box::pin(std::future::ready(opened))
        }
    }

    /// Whether the Commander is told that a client half has sent all, which does so much and is gone.
    async fn end_is_told(finishes: bool) -> bool {
        let (ours, theirs) = Channel::pair(100);
        let (controls, _controlled) = Control::queue();
        let (_decide, outcome) = PendingOutcome::new();
        let caller = OneCall(Mutex::new(Some(Conversation {
            outcome,
            channel: ours,
            controls,
        })));
        let local = MemoryLocal::new();
        let (arguments, spec) = (Arguments::default(), Spec::default());
        let mut surroundings = Surroundings::new(&spec, &arguments, &caller, &local);
        let (asks, asked) = mpsc::channel(1);
        let half = async move {
            let opened = ask(&asks, |to| Ask::Open(Vec::new(), to)).await.unwrap();
            let (sender, _) = opened.unwrap();
            sender
                .send(Bytes::from_static(b"half of it"))
                .await
                .unwrap();
            drop(sender);
            if finishes {
                asks.send(Ask::Finish).await.ok().unwrap();
            }
        };
        let ((), ()) = tokio::join!(half, surroundings.serve(asked));
        let (_, mut receiver) = theirs.split();
        assert!(receiver.receive().await.is_some());
        let mut more = std::pin::pin!(receiver.receive());
        std::future::poll_fn(|context| Poll::Ready(more.as_mut().poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn a_client_half_that_dies_has_not_sent_all_that_it_had_to_send() {
        assert!(!end_is_told(false).await);
        assert!(end_is_told(true).await);
    }
}
