//! The module host itself: takes its rules, gives up the rest, and becomes the module.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::io::{FdFlags, fcntl_setfd};

#[cfg(feature = "wasm")]
use super::guest;
use super::native;
use super::process::{Form, Start};
use super::protocol::{Done, Frame, Kind, PROTOCOL};
use crate::fork_server::{self, Newborn};
use crate::messages::Variable;

/// Where programs are looked for by a module host.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Forks a process for each module that the program at the other end of standard input asks for;
/// each of them becomes it. The process must have a single thread yet. What is wrong is told to the
/// other end, or logged.
pub fn module_host_main() -> ExitCode {
    // Nor is the terminal ours. It fails if somebody has seen to that already.
    rustix::process::setsid().ok();
    let socket = match fork_server::serve() {
        Ok(Some(newborn)) => take_descriptors(newborn),
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => Err(error),
    };
    let mut socket = match socket {
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
    // What was not read yet would be an error at the other end, instead of the fault.
    match told.and_then(|()| io::copy(&mut socket, &mut io::sink())) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Takes the socket of the call, which becomes standard input and output as well, and standard
/// error; the process leads a group of its own from here.
fn take_descriptors(newborn: Newborn) -> io::Result<UnixStream> {
    // Others of its kind must not be able to join its group, which is killed with it.
    rustix::process::setsid()?;
    rustix::thread::set_name(c"legatus-module")?;
    rustix::process::chdir("/")?;
    let [socket, errors] =
        <[OwnedFd; 2]>::try_from(newborn.descriptors).map_err(|_| io::ErrorKind::InvalidData)?;
    rustix::stdio::dup2_stdin(&socket)?;
    rustix::stdio::dup2_stdout(&socket)?;
    rustix::stdio::dup2_stderr(&errors)?;
    Ok(socket.into())
}

/// The environment of a module host, with what is granted to its module.
fn environment(start: &Start) -> Vec<Variable> {
    let protocol = PROTOCOL.to_string();
    let own = [
        ("PATH", SEARCH_PATH),
        ("LANG", "C.UTF-8"),
        ("LEGATUS_MODULE_PROTOCOL", &protocol),
    ];
    let own = own.map(|(name, value)| Variable::new(name, value));
    let granted = start.environment.iter();
    let granted = granted.map(|(name, value)| Variable::new(name, value));
    let folder = start.rules.folder.as_ref();
    let folder = folder.map(|folder| Variable::new("LEGATUS_MODULE_DIR", folder));
    own.into_iter().chain(granted).chain(folder).collect()
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
    fork_server::set_environment(&environment(&start));
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
