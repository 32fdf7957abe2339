//! The module host itself: takes its rules, gives up the rest, and becomes the module.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

#[cfg(feature = "wasm")]
use super::guest;
use super::native;
use super::process::{Form, Start};
use super::protocol::{Done, Frame, Kind, PROTOCOL};
use crate::holder::close_descriptors;

/// Becomes the module that the program at the other end of standard input asks for. The process must
/// have a single thread yet. What is wrong is told to the other end, or logged.
pub fn module_host_main() -> ExitCode {
    close_descriptors();
    let mut socket = match take_socket() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "this is started by Legatus only: standard input is no socket");
            return ExitCode::FAILURE;
        }
    };
    let fault = match become_module(&mut socket) {
        Ok(status) => return status,
        Err(fault) => fault,
    };
    let done = Done {
        fault: Some(fault),
        ..Done::default()
    };
    let told = serde_json::to_vec(&done).map_err(io::Error::other);
    let told = told.and_then(|done| Frame::write_blocking(&mut socket, Kind::Done, &done));
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn take_socket() -> io::Result<UnixStream> {
    let stdin = rustix::stdio::stdin();
    rustix::net::getsockname(stdin)?;
    Ok(fcntl_dupfd_cloexec(stdin, 3)?.into())
}

fn become_module(socket: &mut UnixStream) -> Result<ExitCode, String> {
    let frame = Frame::read_blocking(socket).map_err(|error| error.to_string())?;
    let start: Start = match frame.kind {
        Kind::Start => frame.parse().map_err(|error| error.to_string())?,
        _ => return Err("the module host was not told what to run".to_owned()),
    };
    if start.protocol != PROTOCOL {
        return Err("the module host is of another version".to_owned());
    }
    #[cfg(feature = "wasm")]
    if start.form == Form::Component {
        return guest::run(socket, start);
    }
    let unreadable = |error| format!("cannot open the artefact: {error}");
    let artefact = File::open(&start.artefact).map_err(unreadable)?;
    if let Some(user) = start.user {
        user.assume().map_err(|error| error.to_string())?;
    }
    let name = format!("/proc/self/fd/{}", artefact.as_raw_fd());
    let rules = &start.rules;
    let applied = rules.apply(Some(artefact.as_fd()), start.form == Form::Executable);
    let guarded = applied.map_err(|error| format!("cannot give up rights: {error}"))?;
    if !guarded {
        tracing::warn!("this kernel has no Landlock: the module can read what its user can");
    }
    if start.form == Form::Library {
        // What a library prints must not come between frames.
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| error.to_string())?;
        let replaced =
            rustix::stdio::dup2_stdin(&null).and_then(|()| rustix::stdio::dup2_stdout(&null));
        replaced.map_err(|error| error.to_string())?;
        drop(null);
        return native::run(socket, &name);
    }
    // The name leads to the descriptor, which an interpreter has to find open.
    fcntl_setfd(&artefact, FdFlags::empty()).map_err(|error| error.to_string())?;
    let error = Command::new(name).arg0("legatus-module").exec();
    Err(format!("cannot execute it: {error}"))
}
