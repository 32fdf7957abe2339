//! A user in the hands of a test, and a server that does nothing for them.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use legatus_core::{
    BoxFuture, Caller, Channel, Control, Conversation, Fault, Input, Local, Module, Output,
    PendingOutcome, Progress, Request as CoreRequest, Stream, Terminal, TerminalSize, UserSignal,
};
use tokio::sync::{Notify, mpsc};

use super::wire::caller;
use super::*;

/// A user with a keyboard, and with a terminal if there `is_terminal`.
pub(super) struct User {
    is_terminal: bool,
    raw: Arc<AtomicBool>,
    pub(super) nobody_reads: bool,
    /// Whether the user's environment says so.
    pub(super) wants_no_prediction: bool,
    keys: Mutex<Option<mpsc::Receiver<Bytes>>>,
    signals: tokio::sync::Mutex<mpsc::Receiver<UserSignal>>,
    sizes: tokio::sync::Mutex<mpsc::Receiver<TerminalSize>>,
    pub(super) screen: Arc<Screen>,
    pub(super) reports: Mutex<Vec<String>>,
}

/// What makes the user do things.
pub(super) struct Hands {
    pub(super) keys: mpsc::Sender<Bytes>,
    pub(super) signals: mpsc::Sender<UserSignal>,
    pub(super) sizes: mpsc::Sender<TerminalSize>,
    pub(super) screen: Arc<Screen>,
}

#[derive(Default)]
pub(super) struct Screen {
    pub(super) shown: Mutex<Vec<u8>>,
    changed: Notify,
}

impl User {
    pub(super) fn new(is_terminal: bool) -> (Self, Hands) {
        let (keys_tx, keys) = mpsc::channel(100);
        let (signals_tx, signals) = mpsc::channel(100);
        let (sizes_tx, sizes) = mpsc::channel(100);
        let screen = Arc::new(Screen::default());
        let user = Self {
            is_terminal,
            raw: Arc::default(),
            nobody_reads: false,
            wants_no_prediction: false,
            keys: Mutex::new(Some(keys)),
            signals: signals.into(),
            sizes: sizes.into(),
            screen: Arc::clone(&screen),
            reports: Mutex::default(),
        };
        let hands = Hands {
            keys: keys_tx,
            signals: signals_tx,
            sizes: sizes_tx,
            screen,
        };
        (user, hands)
    }

    pub(super) async fn run(&self, arguments: Arguments) -> Outcome {
        let caller = caller();
        self.run_with(arguments, &caller).await
    }

    pub(super) async fn run_with(&self, arguments: Arguments, caller: &dyn Caller) -> Outcome {
        let module = module();
        let outcome = module.sender().unwrap().send(arguments, caller, self).await;
        assert!(
            !self.raw.load(Ordering::SeqCst),
            "the terminal was left raw"
        );
        outcome.into()
    }
}

impl Hands {
    pub(super) async fn press(&self, keys: &'static str) {
        self.keys.send(keys.into()).await.unwrap();
    }

    pub(super) async fn see(&self, text: &str) {
        loop {
            let changed = self.screen.changed.notified();
            let shown = String::from_utf8_lossy(&self.screen.shown.lock().unwrap()).into_owned();
            if shown.contains(text) {
                return;
            }
            changed.await;
        }
    }
}

impl Local for User {
    fn stdin(&self) -> Option<Box<dyn Input>> {
        Some(Box::new(Keyboard(self.keys.lock().unwrap().take()?)))
    }

    fn output(&self, _: Stream) -> Box<dyn Output> {
        Box::new(View {
            screen: Arc::clone(&self.screen),
            nobody_reads: self.nobody_reads,
        })
    }

    fn terminal(&self) -> Option<&dyn Terminal> {
        self.is_terminal.then_some(self as &dyn Terminal)
    }

    fn signal(&self) -> BoxFuture<'_, UserSignal> {
        Box::pin(async {
            match self.signals.lock().await.recv().await {
                Some(signal) => signal,
                None => std::future::pending().await,
            }
        })
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<File> {
        File::open(path)
    }

    fn environment(&self, name: &str) -> Option<OsString> {
        match name {
            "TERM" => Some("vt100".into()),
            "LEGATUS_NO_PREDICTION" if self.wants_no_prediction => Some("1".into()),
            _ => None,
        }
    }

    fn progress(&self) -> &dyn Progress {
        &testing::NoProgress
    }

    fn report(&self, line: &str) {
        self.reports.lock().unwrap().push(line.to_owned());
        let mut shown = self.screen.shown.lock().unwrap();
        shown.extend_from_slice(line.as_bytes());
        self.screen.changed.notify_one();
    }

    fn record(&self, _: &str) {}
}

impl Terminal for User {
    fn raw(&self) -> io::Result<Box<dyn Send + Sync>> {
        struct Guard(Arc<AtomicBool>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        self.raw.store(true, Ordering::SeqCst);
        Ok(Box::new(Guard(Arc::clone(&self.raw))))
    }

    fn size(&self) -> TerminalSize {
        TerminalSize {
            columns: 91,
            rows: 31,
        }
    }

    fn resized(&self) -> BoxFuture<'_, TerminalSize> {
        Box::pin(async {
            match self.sizes.lock().await.recv().await {
                Some(size) => size,
                None => std::future::pending().await,
            }
        })
    }
}

struct Keyboard(mpsc::Receiver<Bytes>);

impl Input for Keyboard {
    fn read(&mut self) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async { Ok(self.0.recv().await.unwrap_or_default()) })
    }
}

struct View {
    pub(super) screen: Arc<Screen>,
    nobody_reads: bool,
}

impl Output for View {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            if self.nobody_reads {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.screen.shown.lock().unwrap().extend_from_slice(&bytes);
            self.screen.changed.notify_one();
            Ok(())
        })
    }

    fn flush(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A server that takes calls and does nothing.
#[derive(Default)]
pub(super) struct Stuck {
    /// The server's ends of its calls, kept so that they do not end.
    pub(super) calls: Mutex<Vec<(Channel, tokio::sync::oneshot::Sender<Outcome>)>>,
    controls: Mutex<Option<legatus_core::ControlReceiver>>,
    pub(super) request: Mutex<Option<CoreRequest>>,
}

impl Caller for Stuck {
    fn open(&self, request: CoreRequest) -> BoxFuture<'_, Result<Conversation, Fault>> {
        let (channel, theirs) = Channel::pair(7);
        let (controls, receiver) = Control::queue();
        let (decide, outcome) = PendingOutcome::new();
        self.calls.lock().unwrap().push((theirs, decide));
        *self.controls.lock().unwrap() = Some(receiver);
        *self.request.lock().unwrap() = Some(request);
        Box::pin(std::future::ready(Ok(Conversation {
            channel,
            controls,
            outcome,
        })))
    }
}

impl Stuck {
    pub(super) async fn next_control(&self) -> Option<Control> {
        let mut receiver = self.controls.lock().unwrap().take()?;
        let control = receiver.receive().await;
        *self.controls.lock().unwrap() = Some(receiver);
        control
    }
}
