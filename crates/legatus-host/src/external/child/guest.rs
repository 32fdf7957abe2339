//! A WebAssembly guest in a module host: its sandbox is the same as in the server, but its files are
//! touched in the rights of the user that its call runs as.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use legatus_core::{
    Call, CallId, Channel, ChannelReceiver, ChannelSender, Control, Effects, Peer, Policy, Request,
    Spec,
};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::process::Start;
use super::protocol::{Done, Execute, Frame, Kind};
use crate::external::fault::Failure;
use crate::external::log::CallLog;
use crate::external::manifest::Limits;
use crate::external::runner::Runner as _;
use crate::external::store::EMPTY;
use crate::external::wasm::WasmModule;
use crate::messages::RunAs;

/// Bytes of messages that wait in each direction.
const CAPACITY: usize = 1 << 20;

/// Messages that the host may send ahead.
const AHEAD: u32 = 4;

/// Lines that wait for the host to log them.
const LINES: usize = 1024;

/// Runs the guest that `start` names, for the one call that the host asks for.
pub(super) fn run(socket: &StdUnixStream, start: Start) -> Result<ExitCode, String> {
    let mut module = prepare(&start)?;
    module.limits = Limits {
        memory: start.rules.memory,
        cpu: Duration::from_millis(start.cpu_milliseconds),
        log_lines: start.log_lines,
        calls: 1,
    };
    module.grants = start.rules.grants.clone();
    module.denied = start.denied.into();
    module.environment = start.environment;
    let text = |error: std::io::Error| error.to_string();
    let socket = socket.try_clone().map_err(text)?;
    socket.set_nonblocking(true).map_err(text)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(text)?;
    runtime.block_on(async {
        let socket = UnixStream::from_std(socket).map_err(text)?;
        serve(&module, &start.qualified, start.log_lines, socket).await
    })?;
    // A blocking thread that hangs on a file must not hold the process.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Loads the code, which only the server's user can read, then becomes the call's user.
fn prepare(start: &Start) -> Result<WasmModule, String> {
    let nothing = start.artefact.with_file_name(EMPTY);
    let nothing = File::open(&nothing).map_err(|error| error.to_string())?;
    let there = format!("/proc/self/fd/{}", nothing.as_raw_fd());
    let module = WasmModule::compiled_elsewhere(&start.artefact, there.into());
    let module = module.map_err(|error| error.to_string())?;
    if let Some(user) = &start.user {
        // The guest's memory has its limit; addresses are reserved in gigabytes.
        let user = RunAs {
            memory_bytes: None,
            ..user.clone()
        };
        user.assume().map_err(|error| error.to_string())?;
    }
    let applied = start.rules.apply(Some(nothing.as_fd()), false);
    applied.map_err(|error| format!("cannot give up rights: {error}"))?;
    // The folder has to stay open for as long as the process lives.
    std::mem::forget(nothing);
    Ok(module)
}

/// Answers the host's one question.
async fn serve(
    module: &WasmModule,
    qualified: &str,
    log_lines: u32,
    socket: UnixStream,
) -> Result<(), String> {
    let (mut read, write) = socket.into_split();
    let first = Frame::read(&mut read).await;
    let first = first.map_err(|error| error.to_string())?;
    let asked: Execute = match first.kind {
        Kind::Execute => first.parse().map_err(|error| error.to_string())?,
        _ => return Err("the module host was asked for nothing".to_owned()),
    };
    let cancellation = CancellationToken::new();
    let call = call(&asked, &cancellation).map_err(|error| error.to_string())?;
    let (ours, theirs) = Channel::pair(CAPACITY);
    let (sender, receiver) = ours.split();
    let (lines, to_log) = mpsc::channel(LINES);
    let log = CallLog::kept_elsewhere(log_lines, lines);
    let (frames, to_write) = mpsc::channel(1);
    let running = async {
        let ended = module.execute(&asked.module, call, theirs, log).await;
        match ended.map_err(|failure| match failure {
            // Its own words are the module's, all others ours.
            Failure::Told { message, hint } => (message, hint),
            other => (other.fault(qualified).to_string(), None),
        }) {
            Ok(outcome) => Done {
                outcome: Some(outcome.into()),
                ..Done::default()
            },
            Err((message, hint)) => Done {
                fault: Some(message),
                hint,
                ..Done::default()
            },
        }
    };
    let taking = take(&mut read, sender, frames.clone(), &cancellation);
    let giving = give(receiver, to_log, frames.clone());
    let talk = async move {
        // The host's end of the socket decides: without it nobody wants an answer.
        tokio::select! {
            done = async { tokio::join!(running, giving).0 } => {
                let done = Frame::json(Kind::Done, &done).map_err(|error| error.to_string())?;
                frames.send(done).await.ok();
                Ok(())
            }
            () = taking => Err("the host has gone".to_owned()),
        }
    };
    tokio::join!(talk, write_all(write, to_write)).0
}

/// The call as the server has permitted it.
fn call(asked: &Execute, cancellation: &CancellationToken) -> Result<Call, legatus_core::Fault> {
    let fault = |text: String| legatus_core::Fault::new(text);
    let spec = Spec {
        name: asked.module.clone().into(),
        ..Spec::default()
    };
    let peer = Peer::assert_verified(asked.peer.clone());
    let permit = Policy::allow_all("the server has permitted it")
        .authorise(&peer, &spec, Effects::NONE)
        .map_err(|denied| legatus_core::Fault::from(&denied))?;
    let arguments = asked.arguments.iter().map(|one| BASE64.decode(one));
    let arguments: Result<Vec<_>, _> = arguments.collect();
    let request = Request::from_arguments(arguments.map_err(|error| fault(error.to_string()))?);
    let id = CallId::try_from(asked.id.clone()).map_err(|error| fault(error.to_string()))?;
    let mut call = Call::new(id, peer, permit, request, Control::queue().1);
    call.deadline = asked
        .milliseconds
        .and_then(|left| Instant::now().checked_add(Duration::from_millis(left)));
    call.cancellation = cancellation.clone();
    Ok(call)
}

/// Takes what the host sends; returns when the host has gone.
async fn take(
    socket: &mut OwnedReadHalf,
    sender: ChannelSender,
    frames: mpsc::Sender<Frame>,
    cancellation: &CancellationToken,
) {
    let pull = |more: u32| Frame::new(Kind::Pull, Bytes::copy_from_slice(&more.to_le_bytes()));
    let mut sender = Some(sender);
    frames.send(pull(AHEAD)).await.ok();
    while let Ok(frame) = Frame::read(socket).await {
        match (frame.kind, &sender) {
            (Kind::Message, Some(to)) => {
                let sent = tokio::select! {
                    sent = to.send(frame.payload) => sent.is_ok(),
                    () = cancellation.cancelled() => false,
                };
                if sent {
                    frames.send(pull(1)).await.ok();
                }
            }
            (Kind::End, _) => sender = None,
            (Kind::Cancel, _) => cancellation.cancel(),
            _ => {}
        }
    }
}

/// Gives the host what the guest says, until it says no more.
async fn give(
    mut receiver: ChannelReceiver,
    mut lines: mpsc::Receiver<(Level, String)>,
    frames: mpsc::Sender<Frame>,
) {
    let (mut talks, mut logs) = (true, true);
    while talks || logs {
        let frame = tokio::select! {
            line = lines.recv(), if logs => match line {
                Some((level, text)) => line_frame(level, &text),
                None => {
                    logs = false;
                    continue;
                }
            },
            message = receiver.receive(), if talks => match message {
                Some(message) => Frame::new(Kind::Message, message),
                None => {
                    talks = false;
                    Frame::empty(Kind::End)
                }
            },
        };
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

fn line_frame(level: Level, text: &str) -> Frame {
    let number = match level {
        Level::TRACE => 0,
        Level::DEBUG => 1,
        Level::INFO => 2,
        Level::WARN => 3,
        Level::ERROR => 4,
    };
    let mut line = vec![number];
    line.extend_from_slice(text.as_bytes());
    Frame::new(Kind::Log, line)
}

async fn write_all(mut socket: OwnedWriteHalf, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        // A host that has gone ends this process.
        if frame.write(&mut socket).await.is_err() {
            return;
        }
    }
}
