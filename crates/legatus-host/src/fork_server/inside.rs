//! The process that is forked.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Pid;

use super::{ANSWER_BYTES, IN_GROUP};
use crate::descriptors;
use crate::messages::Variable;

/// A flag of clone3(2), of `linux/sched.h`: it does not fit into the type that others have.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process that has just been forked.
#[derive(Debug)]
pub struct Newborn {
    /// What it was given: a holder the sockets for data and for controls.
    pub descriptors: Vec<OwnedFd>,
    /// The folder of the control group that it is in, if it is in one.
    pub(crate) group: Option<OwnedFd>,
}

/// Forks as often as the process at the other end of standard input asks for it. This returns once
/// in each new process, and in the first one (`None`) when nobody asks any more. The process must
/// have a single thread.
///
/// # Errors
/// When standard input is no socket of one that asks, or the process has several threads.
pub fn serve() -> io::Result<Option<Newborn>> {
    // Another one could hold a lock, which nobody would ever open in the copies.
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(io::Error::other("this process has several threads"));
    }
    let mut socket = take_socket()?;
    // What tells it from its children, to people and to checks; they take names of their own.
    rustix::thread::set_name(c"legatus-forks").ok();
    loop {
        let mut request = [0];
        let descriptors = descriptors::receive_bytes(&socket, &mut request)?;
        let Some(mut descriptors) = descriptors else {
            return Ok(None);
        };
        let group = match request {
            [IN_GROUP] => descriptors.pop(),
            _ => None,
        };
        match fork(group.as_ref().map(AsFd::as_fd)) {
            Ok(Side::Child { grouped }) => {
                return Ok(Some(Newborn {
                    descriptors,
                    group: group.filter(|_| grouped),
                }));
            }
            Ok(Side::Parent(process)) => answer(&mut socket, process.as_raw_nonzero().get())?,
            Err(error) => answer(&mut socket, -error.raw_os_error().unwrap_or(libc::EIO))?,
        }
    }
}

fn answer(socket: &mut UnixStream, number: i32) -> io::Result<()> {
    let bytes: [u8; ANSWER_BYTES] = number.to_ne_bytes();
    socket.write_all(&bytes)
}

/// Moves the socket away from standard input, so that no child has it there, and gives up what was
/// inherited beside the standard descriptors.
fn take_socket() -> io::Result<UnixStream> {
    rustix::net::getsockname(rustix::stdio::stdin())?;
    close_strays();
    let socket = UnixStream::from(fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(socket)
}

/// Closes all descriptors but the standard ones: whatever the server was started with is none of
/// the business of what runs here.
#[expect(unsafe_code, reason = "no safe crate has close_range(2)")]
fn close_strays() {
    // SAFETY: nothing here has opened a descriptor yet. Before Linux 5.9 it fails, and strays are
    // inherited as they always were.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

enum Side {
    Parent(Pid),
    Child { grouped: bool },
}

/// Forks a sibling of this process; into a group, if the kernel does that and lets us.
fn fork(group: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    if let Some(group) = group
        && let Ok(process) = clone_into(group)
    {
        return Ok(match Pid::from_raw(process) {
            Some(process) => Side::Parent(process),
            None => Side::Child { grouped: true },
        });
    }
    Ok(match Pid::from_raw(clone_plain()?) {
        Some(process) => Side::Parent(process),
        None => Side::Child { grouped: false },
    })
}

/// Born in its group: to move a process there later waits for all processors to pass through the
/// scheduler, some 20 ms (the write lock `cgroup_threadgroup_rwsem` of Linux).
#[expect(
    unsafe_code,
    reason = "no safe crate has clone3(2) without a new memory"
)]
fn clone_into(group: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: a structure of plain integers, of which zero is one.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP | u64::from(libc::CLONE_PARENT.cast_unsigned());
    arguments.cgroup = u64::try_from(group.as_raw_fd()).map_err(io::Error::other)?;
    let size = size_of::<libc::clone_args>();
    // SAFETY: without CLONE_VM this is a fork. The process has a single thread, so that no lock is
    // held by another one in the copy; the arguments live until the call returns. The C library
    // goes on to take the first thread for that of the fork server (its `pthread_self()->tid`),
    // which matters only to who changes the scheduling of the first thread by that name.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) };
    returned(result)
}

/// The same for kernels without that call (before Linux 5.7), and where there is no group.
#[expect(unsafe_code, reason = "no safe crate has clone(2) with CLONE_PARENT")]
fn clone_plain() -> io::Result<i32> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: without CLONE_VM this is a fork, and a stack of zero means that the child uses its
    // copy of this one. The process has a single thread, see above.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    returned(result)
}

fn returned(result: libc::c_long) -> io::Result<i32> {
    match i32::try_from(result) {
        Ok(process) if process >= 0 => Ok(process),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives this process its environment: a fork server has none, and a single thread.
#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "a process of one thread has its environment to itself"
)]
pub(crate) fn set_environment(variables: &[Variable]) {
    for Variable { name, value } in variables {
        let (name, value) = (OsStr::from_bytes(name), OsStr::from_bytes(value));
        // SAFETY: no other thread can read the environment, because there is none.
        unsafe { std::env::set_var(name, value) };
    }
}
