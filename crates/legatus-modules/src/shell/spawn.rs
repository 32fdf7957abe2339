//! Starts a program on three pipes or on a terminal, as a fresh login would.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::messages::Terminal;
use super::program::Program;

/// Where and how a program runs.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) directory: PathBuf,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) terminal: Option<Terminal>,
}

/// A program that has been started, and the ends of its streams.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) stdin: pipe::Sender,
    pub(super) streams: Streams,
    pub(super) terminal: Option<OpenTerminal>,
}

/// What a program writes to.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdout: pipe::Receiver,
    /// Missing on a terminal, where stdout carries both.
    pub(super) stderr: Option<pipe::Receiver>,
}

/// Both sides of a pseudo-terminal. The program's side stays open here while the program runs, so
/// that one which closes its terminal for a while is not taken for one that has ended.
#[derive(Debug)]
pub(super) struct OpenTerminal {
    pub(super) ours: OwnedFd,
    theirs: OwnedFd,
}

/// Starts a program.
pub(super) fn spawn(program: &Program, surroundings: &Surroundings) -> io::Result<Running> {
    let first = First {
        inherited: program.inherited.as_ref().map(AsRawFd::as_raw_fd),
        on_terminal: surroundings.terminal.is_some(),
    };
    let command = command(program, surroundings, first);
    match &surroundings.terminal {
        Some(terminal) => spawn_on_terminal(command, terminal),
        None => spawn_on_pipes(command),
    }
}

/// Why something failed, in the system's words alone.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

fn spawn_on_pipes(mut command: Command) -> io::Result<Running> {
    let (stdin_read, stdin) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout, stdout_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    command
        .stdin(Stdio::from(stdin_read))
        .stdout(Stdio::from(stdout_write))
        .stderr(Stdio::from(stderr_write))
        .process_group(0);
    Ok(Running {
        stdin: pipe::Sender::from_owned_fd(stdin)?,
        streams: Streams {
            stdout: pipe::Receiver::from_owned_fd(stdout)?,
            stderr: Some(pipe::Receiver::from_owned_fd(stderr)?),
        },
        terminal: None,
        // Last, so that nothing runs when something else fails.
        child: command.spawn()?,
    })
}

fn spawn_on_terminal(mut command: Command, terminal: &Terminal) -> io::Result<Running> {
    let open = OpenTerminal::new(terminal)?;
    command
        .stdin(Stdio::from(open.theirs.try_clone()?))
        .stdout(Stdio::from(open.theirs.try_clone()?))
        .stderr(Stdio::from(open.theirs.try_clone()?));
    // Tokio's pipe ends work on whatever can be polled.
    Ok(Running {
        stdin: pipe::Sender::from_file_unchecked(open.ours.try_clone()?.into())?,
        streams: Streams {
            stdout: pipe::Receiver::from_file_unchecked(open.ours.try_clone()?.into())?,
            stderr: None,
        },
        terminal: Some(open),
        child: command.spawn()?,
    })
}

fn command(program: &Program, surroundings: &Surroundings, first: First) -> Command {
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .env_clear()
        .envs(
            surroundings
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .current_dir(&surroundings.directory);
    if let Some(called) = &program.called {
        command.arg0(called);
    }
    prepare_child(&mut command, first);
    command
}

/// What a new process does first. Whoever owns the descriptors outlives the fork.
#[derive(Clone, Copy, Debug)]
struct First {
    /// A descriptor that the program inherits.
    inherited: Option<RawFd>,
    on_terminal: bool,
}

/// Has the new process give up what it inherits from this one, before it becomes the program.
#[expect(unsafe_code, reason = "runs code between fork and exec")]
fn prepare_child(command: &mut Command, first: First) {
    // SAFETY: `become_program` makes only async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(move || become_program(first)) };
}

/// Runs in the new process. It must be async-signal-safe: no allocation, no lock.
fn become_program(first: First) -> io::Result<()> {
    // A server started by `nohup` or in the background of a script ignores signals, and so would
    // the program: Ctrl-C could not interrupt it.
    for signal in 1..32 {
        restore_signal(signal);
    }
    // When the holder is killed, nobody else could end the program.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if first.on_terminal {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    if let Some(descriptor) = first.inherited {
        rustix::io::fcntl_setfd(borrow(descriptor), FdFlags::empty())?;
    }
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "no safe crate sets a disposition to its default"
)]
fn restore_signal(signal: i32) {
    // SAFETY: the default disposition runs no code; signals that have none to set are refused.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[expect(
    unsafe_code,
    reason = "an owned descriptor cannot be moved into the child"
)]
fn borrow(descriptor: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: the `Program` that owns the descriptor outlives the fork, and the new process has a
    // copy of it.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) }
}

impl OpenTerminal {
    fn new(terminal: &Terminal) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        // By the descriptor, not by a name that another mount namespace may lack.
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
        let mut modes = rustix::termios::tcgetattr(&theirs)?;
        // Erasing a character must erase all bytes of it.
        modes.input_modes |= InputModes::IUTF8;
        rustix::termios::tcsetattr(&theirs, OptionalActions::Now, &modes)?;
        let flags = rustix::fs::fcntl_getfl(&ours)?;
        rustix::fs::fcntl_setfl(&ours, flags | rustix::fs::OFlags::NONBLOCK)?;
        let open = Self { ours, theirs };
        let cells = |number: u32, usual: u16| {
            let number = u16::try_from(number).ok();
            number.filter(|number| *number > 0).unwrap_or(usual)
        };
        open.resize(cells(terminal.columns, 80), cells(terminal.rows, 24))?;
        Ok(open)
    }

    /// Sets the size in character cells; the foreground processes get SIGWINCH.
    pub(super) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(rustix::termios::tcsetwinsize(&self.ours, size)?)
    }
}

/// The value of TERM for a terminal.
pub(super) fn terminal_kind(terminal: &Terminal) -> OsString {
    match terminal.kind.as_ref() {
        b"" => "dumb".into(),
        kind => OsStr::from_bytes(kind).to_owned(),
    }
}
