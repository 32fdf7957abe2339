//! A script on its way from the caller to its interpreter: in memory, in no file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::Bytes;
use legatus_core::{ChannelReceiver, Fault};
use prost::Message;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use super::messages::{Input, Script, input::Part};
use super::request::quoted;

/// Bytes of a script, at most. It is held in memory, and 64 MiB is far more than anyone writes;
/// larger programs are copied first.
const SCRIPT_BYTES: u64 = 64 << 20;

/// A script whose content is complete, held by an anonymous file in memory: nothing is left behind
/// however its processes end.
#[derive(Debug)]
pub(super) struct Content {
    file: OwnedFd,
    /// The beginning of the script, as much as the kernel looks at (`BINPRM_BUF_SIZE`).
    head: Vec<u8>,
}

impl Content {
    /// Receives a script's content.
    pub(super) async fn receive(receiver: &mut ChannelReceiver) -> Result<Self, Fault> {
        let mut file = File::from(memory_file().map_err(unholdable)?);
        let mut length = 0;
        loop {
            match next_part(receiver).await? {
                Some(Part::Script(bytes)) => {
                    length += bytes.len() as u64;
                    if length > SCRIPT_BYTES {
                        let mebibytes = SCRIPT_BYTES >> 20;
                        return Err(Fault::new(format!(
                            "the script is longer than the limit of {mebibytes} MiB"
                        ))
                        .with_hint("copy it with `legatus transfer-file`, then run it"));
                    }
                    file.write_all(&bytes).map_err(unholdable)?;
                }
                Some(Part::ScriptEnd(_)) => break,
                // A part that this version does not know.
                None => {}
                Some(Part::Stdin(_) | Part::StdinEnd(_)) => {
                    return Err(Fault::new("standard input came before the script's end"));
                }
            }
        }
        let mut head = Vec::new();
        file.rewind().map_err(unholdable)?;
        (&file)
            .take(256)
            .read_to_end(&mut head)
            .map_err(unholdable)?;
        // What runs is what the caller sent, whatever the script does.
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(|error| unholdable(error.into()))?;
        // The kernel executes nothing that is open for writing.
        let file = rustix::fs::open(path(&file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| unholdable(error.into()))?;
        Ok(Self { file, head })
    }

    /// Whether the kernel knows how to run it: by an interpreter that it names, or as a program.
    pub(super) fn check_runnable(&self, script: &Script) -> Result<(), Fault> {
        let names_interpreter = self.interpreter().is_some_and(|name| !name.is_empty());
        if names_interpreter || self.head.starts_with(b"\x7fELF") {
            return Ok(());
        }
        let name = quoted(&script.name);
        Err(Fault::new(format!(
            "cannot run the script {name}: it names no interpreter"
        ))
        .with_hint("add a #! line, or use --interpreter"))
    }

    /// The interpreter in the script's first line.
    pub(super) fn interpreter(&self) -> Option<&[u8]> {
        let line = self.head.strip_prefix(b"#!")?;
        let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
        line.split(u8::is_ascii_whitespace).next()
    }

    /// The path by which the script's own processes, which inherit the descriptor, open it.
    pub(super) fn path(&self) -> OsString {
        path(&self.file)
    }

    /// The descriptor, to be inherited.
    pub(super) fn into_file(self) -> OwnedFd {
        self.file
    }
}

fn path(file: &impl AsRawFd) -> OsString {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn memory_file() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create("script", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know EXEC and need no such word.
        Err(Errno::INVAL) => Ok(rustix::fs::memfd_create("script", flags)?),
        result => Ok(result?),
    }
}

/// The next part of the Sender's messages; a [`Fault`] if they end before a script does.
async fn next_part(receiver: &mut ChannelReceiver) -> Result<Option<Part>, Fault> {
    let message: Bytes = receiver
        .receive()
        .await
        .ok_or_else(|| Fault::new("the script did not arrive whole"))?;
    Input::decode(message)
        .map(|input| input.part)
        .map_err(|_| Fault::new("a message is no `legatus.shell.v1.Input`"))
}

fn unholdable(error: io::Error) -> Fault {
    let reason = super::spawn::reason(&error);
    Fault::new(format!("cannot hold the script in memory: {reason}"))
}
