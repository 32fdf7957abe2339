//! The user's terminal: raw mode that is undone whatever happens, and its size.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::task::Poll;

use legatus_core::{BoxFuture, Terminal, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::signals;

/// The size of a terminal that does not know its own: that of a VT100.
const FALLBACK: TerminalSize = TerminalSize {
    columns: 80,
    rows: 24,
};

/// What restores the terminal, for signal handlers: null unless it is raw. Never freed, since a
/// handler may be looking at it.
static RESTORE: AtomicPtr<Saved> = AtomicPtr::new(std::ptr::null_mut());

struct Saved {
    fd: RawFd,
    mode: Termios,
}

/// The terminal that stdin is connected to.
pub(super) struct ProcessTerminal {
    fd: Arc<OwnedFd>,
    shows_output: bool,
    /// The size that the Sender knows.
    told: Mutex<TerminalSize>,
    listeners: Mutex<Option<[Signal; 2]>>,
}

impl ProcessTerminal {
    /// The terminal of stdin, if it is one.
    pub(super) fn of(stdin: &Arc<OwnedFd>, stdout: &OwnedFd) -> Option<Self> {
        rustix::termios::isatty(stdin).then(|| Self {
            fd: Arc::clone(stdin),
            shows_output: rustix::termios::isatty(stdout),
            told: Mutex::new(measure(stdin)),
            listeners: Mutex::new(None),
        })
    }

    fn poll_resized(&self, context: &mut std::task::Context<'_>) -> Poll<TerminalSize> {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if listeners.is_none() {
            *listeners = listen();
        }
        if let Some([resized, continued]) = listeners.as_mut() {
            while resized.poll_recv(context) == Poll::Ready(Some(())) {}
            while continued.poll_recv(context) == Poll::Ready(Some(())) {
                // The shell that stopped us has set its own mode meanwhile.
                if is_raw() {
                    enter_raw(&self.fd).ok();
                }
            }
        }
        // Compared after the listeners are there, so that no change is missed.
        let size = measure(&self.fd);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == size {
            return Poll::Pending;
        }
        *told = size;
        Poll::Ready(size)
    }
}

fn listen() -> Option<[Signal; 2]> {
    let resized = signal(SignalKind::window_change());
    let continued = signal(SignalKind::from_raw(libc::SIGCONT));
    Some([resized.ok()?, continued.ok()?])
}

impl Terminal for ProcessTerminal {
    fn raw(&self) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(RawMode::enter(Arc::clone(&self.fd))?))
    }

    fn shows_output(&self) -> bool {
        self.shows_output
    }

    fn size(&self) -> TerminalSize {
        let size = measure(&self.fd);
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = size;
        size
    }

    fn resized(&self) -> BoxFuture<'_, TerminalSize> {
        Box::pin(poll_fn(|context| self.poll_resized(context)))
    }
}

fn measure(fd: &OwnedFd) -> TerminalSize {
    match tcgetwinsize(fd) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => TerminalSize {
            columns: size.ws_col,
            rows: size.ws_row,
        },
        _ => FALLBACK,
    }
}

/// Whether a terminal is in raw mode because of us.
pub(super) fn is_raw() -> bool {
    !RESTORE.load(Ordering::Acquire).is_null()
}

/// Restores the terminal's mode if it is raw. Safe in signal handlers.
pub(super) fn restore() {
    let saved = RESTORE.load(Ordering::Acquire);
    #[expect(unsafe_code, reason = "a signal handler can have no lock")]
    // SAFETY: the pointer is null or comes from a box that is never freed.
    let Some(saved) = (unsafe { saved.as_ref() }) else {
        return;
    };
    #[expect(unsafe_code, reason = "an atomic cannot hold an owned descriptor")]
    // SAFETY: the descriptor is open as long as the terminal is raw: its guard holds it.
    let fd = unsafe { BorrowedFd::borrow_raw(saved.fd) };
    tcsetattr(fd, OptionalActions::Now, &saved.mode).ok();
}

/// Keeps the terminal raw until it is dropped.
struct RawMode {
    fd: Arc<OwnedFd>,
    /// Of two guards the one that was made first restores.
    is_outermost: bool,
}

impl RawMode {
    fn enter(fd: Arc<OwnedFd>) -> io::Result<Self> {
        let is_outermost = !is_raw();
        if is_outermost {
            let saved = Box::new(Saved {
                fd: fd.as_raw_fd(),
                mode: tcgetattr(&fd)?,
            });
            RESTORE.store(Box::into_raw(saved), Ordering::Release);
            restore_at_every_end();
        }
        let guard = Self { fd, is_outermost };
        enter_raw(&guard.fd)?;
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if self.is_outermost {
            restore();
            RESTORE.store(std::ptr::null_mut(), Ordering::Release);
        }
    }
}

fn enter_raw(fd: impl AsFd) -> io::Result<()> {
    let mut mode = tcgetattr(&fd)?;
    mode.make_raw();
    // Keys that were typed ahead are kept.
    Ok(tcsetattr(&fd, OptionalActions::Now, &mode)?)
}

/// The guard is enough unless the program ends without dropping it: by a signal, by exit(3), or by
/// a panic whose message would be unreadable.
fn restore_at_every_end() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        signals::watch();
        let told_before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            told_before(info);
        }));
        extern "C" fn at_exit() {
            restore();
        }
        #[expect(unsafe_code, reason = "only atexit(3) sees every way to exit")]
        // SAFETY: the function neither unwinds nor needs anything that may be gone at exit.
        unsafe {
            libc::atexit(at_exit);
        }
    });
}
