//! What the user gives to the command: a script, then standard input.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use legatus_core::{ChannelClosed, ChannelSender, Fault, Input as LocalInput, Local, limits};
use prost::Message;

use super::screen::Screen;
use crate::shell::escape::{EscapeFilter, HELP, Leave};
use crate::shell::messages::{Empty, Input, input::Part};
use crate::shell::spawn::reason;

/// Bytes that a user has typed or pasted and that wait because the other side is slow.
const WAITING_BYTES: usize = limits::CHUNK_BYTES;

/// How long the other side may take what was typed before the user leaves a session.
const LAST_KEYS: Duration = Duration::from_secs(1);

/// What is to be given to the command.
pub(super) struct Upload<'a> {
    pub(super) sink: ChannelSender,
    pub(super) script: Option<File>,
    /// Whether stdin is a user's keyboard, with escapes in it.
    pub(super) keys: bool,
    /// Where what is typed is to be seen.
    pub(super) screen: Option<&'a Screen>,
    pub(super) local: &'a dyn Local,
}

/// Nothing more can be given to the command.
#[derive(Debug)]
enum Stop {
    /// The call has ended; the messages from there tell how.
    Ended,
    Leave(Leave),
    Fault(Fault),
}

impl From<ChannelClosed> for Stop {
    fn from(_: ChannelClosed) -> Self {
        Self::Ended
    }
}

/// Sends the script and then stdin. Returns only if the user leaves, or the script cannot be read.
pub(super) async fn upload(upload: Upload<'_>) -> Result<Leave, Fault> {
    match try_upload(upload).await {
        Ok(()) | Err(Stop::Ended) => std::future::pending().await,
        Err(Stop::Leave(leave)) => Ok(leave),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

async fn try_upload(upload: Upload<'_>) -> Result<(), Stop> {
    let Upload {
        sink,
        script,
        keys,
        screen,
        local,
    } = upload;
    if let Some(script) = script {
        send_script(script, &sink).await?;
    }
    if let Some(stdin) = local.stdin() {
        if keys {
            // In raw mode even Ctrl-D is a key: the end means that the terminal itself has gone.
            // Told as the end of input it would make the shell there leave in good order, and its
            // jobs stay behind.
            send_keys(stdin, &sink, screen, local).await?;
            return Err(Stop::Leave(Leave::Ending));
        } else {
            send_stream(stdin, &sink, local).await?;
        }
    }
    sink.send(encode(Part::StdinEnd(Empty {}))).await?;
    Ok(())
}

async fn send_script(mut script: File, sink: &ChannelSender) -> Result<(), Stop> {
    loop {
        // It may be a pipe whose writer is slow (`--script <(generate)`).
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = Vec::new();
            let limit = limits::CHUNK_BYTES as u64;
            let read = script.by_ref().take(limit).read_to_end(&mut chunk);
            (script, read.map(|_| chunk))
        });
        let unreadable =
            |reason: String| Stop::Fault(Fault::new(format!("cannot read the script: {reason}")));
        let (again, chunk) = read.await.map_err(|error| unreadable(error.to_string()))?;
        let chunk = chunk.map_err(|error| unreadable(reason(&error)))?;
        if chunk.is_empty() {
            break;
        }
        script = again;
        sink.send(encode(Part::Script(chunk.into()))).await?;
    }
    sink.send(encode(Part::ScriptEnd(Empty {}))).await?;
    Ok(())
}

async fn send_stream(
    mut stdin: Box<dyn LocalInput>,
    sink: &ChannelSender,
    local: &dyn Local,
) -> Result<(), Stop> {
    loop {
        let bytes = read(stdin.as_mut(), local).await;
        if bytes.is_empty() {
            return Ok(());
        }
        sink.send(encode(Part::Stdin(bytes))).await?;
    }
}

/// Sends what a user types. The keyboard is read even while the other side takes nothing, so that
/// a stuck session can be left.
async fn send_keys(
    mut stdin: Box<dyn LocalInput>,
    sink: &ChannelSender,
    screen: Option<&Screen>,
    local: &dyn Local,
) -> Result<(), Stop> {
    let mut filter = EscapeFilter::new();
    let mut waiting = BytesMut::new();
    let mut at_end = false;
    while !at_end || !waiting.is_empty() {
        let send = async {
            let bytes = Bytes::copy_from_slice(&waiting);
            sink.send(encode(Part::Stdin(bytes))).await
        };
        let typed = tokio::select! {
            sent = send, if !waiting.is_empty() => {
                sent?;
                waiting.clear();
                continue;
            }
            typed = read(stdin.as_mut(), local), if !at_end && waiting.len() < WAITING_BYTES => typed,
        };
        if typed.is_empty() {
            at_end = true;
            waiting.extend_from_slice(&filter.rest());
            continue;
        }
        let filtered = filter.filter(&typed);
        waiting.extend_from_slice(&filtered.bytes);
        if let Some(screen) = screen {
            screen.typed(&filtered.bytes);
        }
        if let Some(leave) = filtered.leave {
            if leave == Leave::Detaching && !waiting.is_empty() {
                // What was typed before is meant for the session, unless that takes nothing.
                let last = sink.send(encode(Part::Stdin(waiting.freeze())));
                tokio::time::timeout(LAST_KEYS, last).await.ok();
            }
            return Err(Stop::Leave(leave));
        }
        if filtered.help {
            if let Some(screen) = screen {
                screen.retract().await;
            }
            for line in HELP {
                // The terminal is raw: a line feed alone does not return the carriage.
                local.report(&format!("{line}\r"));
            }
        }
    }
    Ok(())
}

/// The next bytes of stdin. One that cannot be read is reported and counts as ended, as in a local
/// pipeline.
async fn read(stdin: &mut dyn LocalInput, local: &dyn Local) -> Bytes {
    stdin.read().await.unwrap_or_else(|error| {
        let reason = reason(&error);
        local.report(&format!("cannot read standard input: {reason}"));
        Bytes::new()
    })
}

fn encode(part: Part) -> Bytes {
    Input { part: Some(part) }.encode_to_vec().into()
}
