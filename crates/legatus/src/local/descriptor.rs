//! Blocking reads and writes of descriptors that are shared with other processes, and so stay as
//! they are: no O_NONBLOCK is set on them, and one that somebody else set is borne.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bytes::{Buf, Bytes};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

/// What a pipe holds if it may be enlarged: as much as an unprivileged user can have by default
/// (`/proc/sys/fs/pipe-max-size`), so that both ends are woken seldom.
const PIPE_BYTES: usize = 1 << 20;

/// Reads into `buffer`, waiting for data; returns how many bytes were added, 0 at the end.
pub(super) fn read(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Ok((read, _)) => return Ok(read.len()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, PollFlags::IN)?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes all of `bytes`, waiting for whoever reads.
pub(super) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, PollFlags::OUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes out of `bytes` what a descriptor that does not block takes now; EAGAIN if some is left.
pub(super) fn write_available(fd: BorrowedFd<'_>, bytes: &mut Bytes) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes.advance(written.min(bytes.len())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes text to a descriptor that does not block, as long as whoever reads takes some of it
/// within each second.
pub(crate) fn write_patiently(fd: BorrowedFd<'_>, text: &str) {
    let mut rest = Bytes::copy_from_slice(text.as_bytes());
    let second = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    while write_available(fd, &mut rest) == Err(Errno::AGAIN) {
        let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
        if !matches!(poll(&mut fds, Some(&second)), Ok(1)) {
            return;
        }
    }
}

/// Opens a pipe or terminal once more for writing, without blocking: O_NONBLOCK belongs to an open
/// file, and the given one is shared with other processes.
pub(crate) fn reopen_unblocked(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let is_pipe = file_type(fd) == Some(FileType::Fifo);
    if !is_pipe && !is_terminal(fd) {
        return None;
    }
    reopen(fd, OFlags::WRONLY)
}

/// Opens a terminal once more for reading, without blocking.
pub(super) fn reopen_keyboard(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    is_terminal(fd).then(|| reopen(fd, OFlags::RDONLY))?
}

/// Whether it is a terminal that can be opened once more: to open the master of a pseudoterminal
/// would make another one.
fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    rustix::termios::isatty(fd) && rustix::pty::ptsname(fd, Vec::new()).is_err()
}

fn reopen(fd: BorrowedFd<'_>, mode: OFlags) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = mode | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

/// Whether a write of PIPE_BUF bytes does not wait when `poll(2)` says that one does not.
pub(super) fn tells_room_exactly(fd: BorrowedFd<'_>) -> bool {
    file_type(fd) != Some(FileType::Socket) && !rustix::termios::isatty(fd)
}

fn file_type(fd: BorrowedFd<'_>) -> Option<FileType> {
    let status = rustix::fs::fstat(fd).ok()?;
    Some(FileType::from_raw_mode(status.st_mode))
}

/// Whether a write of a few bytes would not wait.
pub(super) fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    let now = Timespec::default();
    matches!(poll(&mut fds, Some(&now)), Ok(1))
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> Result<(), Errno> {
    let mut fds = [PollFd::new(&fd, flags)];
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets a pipe hold more, if the descriptor is one.
pub(super) fn enlarge_pipe(fd: impl AsFd) {
    if matches!(rustix::pipe::fcntl_getpipe_size(&fd), Ok(size) if size < PIPE_BYTES) {
        // A user who has many pipes may not enlarge more of them; a small one works too.
        rustix::pipe::fcntl_setpipe_size(&fd, PIPE_BYTES).ok();
    }
}
