//! Signals of the user: a Sender gets them once it asks for them; until then, and when it does not
//! take them any more, they end the program as they would have without us.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::task::{Context, Poll};

use legatus_core::UserSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::terminal;

/// Signals that may wait for the Sender. One more ends the program: whoever presses Ctrl-C so
/// often wants out.
const WAITING: usize = 3;

/// The signals, with what they mean. Those that were ignored at the start (as under nohup(1))
/// stay so.
const KINDS: [(libc::c_int, UserSignal); 4] = [
    (libc::SIGINT, UserSignal::Interrupt),
    (libc::SIGQUIT, UserSignal::Quit),
    (libc::SIGTERM, UserSignal::Terminate),
    (libc::SIGHUP, UserSignal::HangUp),
];

/// Whether a Sender has asked for signals.
static WANTED: AtomicBool = AtomicBool::new(false);
/// Signals that came and were not taken yet.
static UNTAKEN: AtomicUsize = AtomicUsize::new(0);

/// The signals of the user, for the Sender.
#[derive(Default)]
pub(super) struct Signals {
    listeners: Mutex<Option<Vec<(UserSignal, Signal)>>>,
}

impl Signals {
    /// Waits for the next one. Cancel safe.
    pub(super) async fn next(&self) -> UserSignal {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<UserSignal> {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let listeners = listeners.get_or_insert_with(listen);
        for (meaning, listener) in listeners {
            if let Poll::Ready(Some(())) = listener.poll_recv(context) {
                UNTAKEN.store(0, Ordering::Release);
                return Poll::Ready(*meaning);
            }
        }
        Poll::Pending
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let listeners = self
            .listeners
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if listeners.is_some() {
            WANTED.store(false, Ordering::Release);
        }
    }
}

fn listen() -> Vec<(UserSignal, Signal)> {
    // Before the handlers of tokio, which make a signal harmless.
    watch();
    let not_ignored = KINDS.iter().filter(|(number, _)| !is_ignored(*number));
    let listener = |(number, meaning): &(libc::c_int, UserSignal)| {
        let listener = signal(SignalKind::from_raw(*number));
        listener.map(|listener| (*meaning, listener))
    };
    let listeners: io::Result<Vec<_>> = not_ignored.map(listener).collect();
    match listeners {
        Ok(listeners) => {
            UNTAKEN.store(0, Ordering::Release);
            WANTED.store(true, Ordering::Release);
            listeners
        }
        // Then they end the program.
        Err(error) => {
            tracing::warn!("cannot listen for signals: {error}");
            Vec::new()
        }
    }
}

/// Installs handlers that end the program by the signal, with the terminal restored, unless a
/// Sender takes it.
pub(super) fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        for (number, _) in KINDS.iter().filter(|(number, _)| !is_ignored(*number)) {
            #[expect(unsafe_code, reason = "handlers of signals are unsafe to install")]
            // SAFETY: `on_signal` does only what signal-safety(7) allows: atomics, tcsetattr,
            // signal and raise.
            let watched = unsafe { signal_hook_registry::register(*number, || on_signal(*number)) };
            if let Err(error) = watched {
                tracing::warn!("cannot handle signal {number}: {error}");
            }
        }
    });
}

fn on_signal(number: libc::c_int) {
    let is_taken =
        WANTED.load(Ordering::Acquire) && UNTAKEN.fetch_add(1, Ordering::AcqRel) < WAITING;
    if !is_taken {
        terminal::restore();
        end_by(number);
    }
}

/// Ends the program by a signal when its handler returns.
fn end_by(number: libc::c_int) {
    #[expect(unsafe_code, reason = "dying by a signal needs its default action")]
    // SAFETY: signal(2) with a default action changes no memory of ours.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
    }
    #[expect(unsafe_code, reason = "dying by a signal needs to send it")]
    // SAFETY: raise(3) only sends the signal, which waits until its handler returns.
    unsafe {
        libc::raise(number);
    }
}

fn is_ignored(number: libc::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    #[expect(unsafe_code, reason = "only sigaction(2) tells a signal's action")]
    // SAFETY: with no new action it only fills the old one, which has room for it.
    let told = unsafe { libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) };
    if told != 0 {
        return false;
    }
    #[expect(unsafe_code, reason = "filled by the call above")]
    // SAFETY: sigaction(2) succeeded, so it has filled the action.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN
}
