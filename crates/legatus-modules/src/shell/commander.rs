//! The server half: starts what is asked for and connects it to the channel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{Call, Channel, ChannelReceiver, ChannelSender, Fault, Outcome, Pattern};
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use super::account::{Account, check_directory};
use super::messages::{
    Empty, Input, Output, Request, Started, Variable, input::Part, output, request::Mode,
};
use super::output::{Field, PumpError, message, pump, unreadable};
use super::process_tree::{CALL_VARIABLE, Mark, ProcessTree, adopt_orphans};
use super::program::{NotRun, Program};
use super::script::Content;
use super::spawn::{Running, Streams, Surroundings, reason, spawn, terminal_kind};
use super::usage::Meter;
use super::{request, signals};

/// The end-of-file character of a terminal: Ctrl-D.
const END_OF_FILE: u8 = 4;

/// How long the message that tells what an ended command took may wait for room: whoever ended the
/// call may not read any more.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why a call ends before its command does.
#[derive(Debug)]
enum Stop {
    /// The caller cancelled, or is gone.
    Cancelled,
    Fault(Fault),
}

/// Runs what the call asks for.
pub(super) async fn execute(mut call: Call, channel: Channel) -> Result<Outcome, Fault> {
    let request = request::decode(&call.request)?;
    let (sink, mut receiver) = channel.split();
    let cancellation = call.cancellation.clone();
    let gone = async {
        tokio::select! {
            () = cancellation.cancelled() => {}
            () = sink.closed() => {}
        }
    };
    tokio::pin!(gone);
    let script = match &request.mode {
        Some(Mode::Script(_)) => tokio::select! {
            content = Content::receive(&mut receiver) => Some(content?),
            () = &mut gone => return Ok(Outcome::Cancelled),
        },
        _ => None,
    };
    let on_terminal = request.terminal.is_some();
    let mark = Mark::new(call.id());
    let others = adopt_orphans();
    let group = call.processes.take();
    let account = std::mem::take(&mut call.account);
    let (running, notice) = match start(request, script, &mark, account) {
        Ok(started) => started,
        Err(not_run) => return tell_not_run(not_run, on_terminal, &sink).await,
    };
    let Running {
        mut child,
        stdin,
        streams,
        terminal,
    } = running;
    let tree = ProcessTree::new(&child, mark, others, group);
    let id = call.id().to_string();
    let meter = Meter::new();
    let result = tokio::select! {
        result = converse(&mut child, &streams, &tree, &meter, (id, notice), &sink) => result,
        fault = feed(stdin, &mut receiver, &meter, on_terminal) => Err(Stop::Fault(fault)),
        () = signals::pass_on(&mut call.controls, tree.command(), terminal.as_ref()) => {
            Err(Stop::Cancelled)
        }
        never = tree.reap_orphans() => match never {},
        () = &mut gone => Err(Stop::Cancelled),
    };
    match result {
        Ok(status) => {
            tree.release();
            // Without a caller there is nobody to tell.
            sink.send(meter.message(tree.group())).await.ok();
            Ok(outcome(status))
        }
        Err(stop) => {
            // The streams stay open meanwhile: a process that tidies up may have something to say,
            // and must not die of that.
            tree.terminate(&mut child, on_terminal).await;
            let told = sink.send(meter.message(tree.group()));
            tokio::time::timeout(LAST_WORDS, told).await.ok();
            match stop {
                Stop::Cancelled => Ok(Outcome::Cancelled),
                Stop::Fault(fault) => Err(fault),
            }
        }
    }
}

/// Starts what is asked for; with it comes what its user should know about its surroundings.
fn start(
    request: Request,
    script: Option<Content>,
    mark: &Mark,
    configured: legatus_core::Account,
) -> Result<(Running, Option<String>), NotRun> {
    let accepted = configured.variables.clone();
    let account = Account::current()?.configured(configured);
    account.expect(&request.user)?;
    let (surroundings, notice) = surroundings(&request, &account, mark, accepted.as_deref())?;
    let program = Program::new(request.mode, script, &account)?;
    match spawn(&program, &surroundings) {
        Ok(running) => Ok((running, notice)),
        Err(error) => Err(program.not_run(&error)),
    }
}

/// Passes on what the command writes, and waits for its end: that of both streams, as sshd does,
/// and its own.
async fn converse(
    child: &mut Child,
    streams: &Streams,
    tree: &ProcessTree,
    meter: &Meter,
    (call_id, notice): (String, Option<String>),
    sink: &ChannelSender,
) -> Result<ExitStatus, Stop> {
    let started = output::Part::Started(Started {
        process_id: child.id().unwrap_or(0),
        call_id,
    });
    let started = Output {
        part: Some(started),
    };
    let notice = notice.map(|text| message(Field::Stderr, &text));
    for message in [Some(started.encode_to_vec().into()), notice]
        .into_iter()
        .flatten()
    {
        sink.send(message).await.map_err(|_| Stop::Cancelled)?;
    }
    let has_ended = CancellationToken::new();
    let exit = async {
        let status = child.wait().await.map_err(|error| {
            let reason = reason(&error);
            Stop::Fault(Fault::new(format!("cannot wait for the command: {reason}")))
        })?;
        tree.command_reaped();
        has_ended.cancel();
        Ok(status)
    };
    let never = CancellationToken::new();
    let stdout_end = if streams.stderr.is_some() {
        &never
    } else {
        &has_ended
    };
    let stdout = pump(&streams.stdout, Field::Stdout, sink, meter, stdout_end);
    let stderr = async {
        match &streams.stderr {
            Some(stderr) => pump(stderr, Field::Stderr, sink, meter, &never).await,
            None => Ok(()),
        }
    };
    let output = async { tokio::try_join!(stdout, stderr).map_err(Stop::from) };
    let (status, _) = tokio::try_join!(exit, output)?;
    Ok(status)
}

/// Writes what the Sender sends to the command's stdin. Returns only if a message makes no sense.
async fn feed(
    stdin: pipe::Sender,
    receiver: &mut ChannelReceiver,
    meter: &Meter,
    on_terminal: bool,
) -> Fault {
    let mut stdin = Some(stdin);
    let mut in_line = false;
    loop {
        let part = match receiver.receive().await.map(Input::decode) {
            None => Some(Part::StdinEnd(Empty {})),
            Some(Ok(input)) => input.part,
            Some(Err(_)) => return Fault::new("a message is no `legatus.shell.v1.Input`"),
        };
        match part {
            Some(Part::Stdin(bytes)) => {
                in_line = bytes.last().map_or(in_line, |last| *last != b'\n');
                // Whoever closes its stdin early does not want the rest.
                if let Some(open) = &mut stdin {
                    match open.write_all(&bytes).await {
                        Ok(()) => meter.gave(bytes.len()),
                        Err(_) => stdin = None,
                    }
                }
            }
            Some(Part::StdinEnd(_)) => {
                if let Some(mut open) = stdin.filter(|_| on_terminal) {
                    // Inside a line, the first one only hands over what has been typed so far.
                    let marks: &[u8] = if in_line {
                        &[END_OF_FILE; 2]
                    } else {
                        &[END_OF_FILE]
                    };
                    open.write_all(marks).await.ok();
                }
                break;
            }
            Some(Part::Script(_) | Part::ScriptEnd(_)) => {
                return Fault::new("a part of a script came where none was expected");
            }
            // A part that this version does not know.
            None => {}
        }
    }
    std::future::pending().await
}

/// Where and how the command runs, and what its user should know about that.
fn surroundings(
    request: &Request,
    account: &Account,
    mark: &Mark,
    accepted: Option<&[Pattern]>,
) -> Result<(Surroundings, Option<String>), Fault> {
    let is_accepted = |variable: &&Variable| {
        let name = String::from_utf8_lossy(&variable.name);
        accepted.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(&name)))
    };
    let mut notice = None;
    let directory = if request.directory.is_empty() {
        match check_directory(&account.home) {
            Ok(()) => account.home.clone(),
            // As login(1) does: whoever has lost their home can still repair it.
            Err(fault) => {
                notice = Some(format!("legatus: {fault}; running in / instead\n"));
                "/".into()
            }
        }
    } else {
        let directory = account.home.join(OsStr::from_bytes(&request.directory));
        check_directory(&directory)?;
        directory
    };
    let mut environment: Vec<_> = account.environment().into();
    environment.push((CALL_VARIABLE, mark.value()));
    if let Some(terminal) = &request.terminal {
        environment.push(("TERM", terminal_kind(terminal)));
    }
    let fresh = environment
        .into_iter()
        .map(|(name, value)| (name.into(), value));
    let asked = request
        .environment
        .iter()
        .filter(is_accepted)
        .map(|variable| {
            let text = |bytes: &Bytes| OsStr::from_bytes(bytes).to_owned();
            (text(&variable.name), text(&variable.value))
        });
    let surroundings = Surroundings {
        directory,
        environment: fresh.chain(asked).collect(),
        terminal: request.terminal.clone(),
    };
    Ok((surroundings, notice))
}

/// Tells that a program could not be started, in the way that its kind of request asks for.
async fn tell_not_run(
    not_run: NotRun,
    on_terminal: bool,
    sink: &ChannelSender,
) -> Result<Outcome, Fault> {
    match not_run {
        NotRun::AsShell(text, outcome) => {
            let line_end = if on_terminal { "\r\n" } else { "\n" };
            let message = message(Field::Stderr, &format!("{text}{line_end}"));
            // Without a caller there is nobody to tell.
            sink.send(message).await.ok();
            Ok(outcome)
        }
        NotRun::Failed(fault) => Err(fault),
    }
}

fn outcome(status: ExitStatus) -> Outcome {
    let number = |status: i32| u8::try_from(status).unwrap_or(u8::MAX);
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exit(number(code)),
        (None, Some(signal)) => Outcome::Signal(number(signal)),
        (None, None) => Outcome::Lost(Fault::new("the command has neither ended nor been killed")),
    }
}

impl From<PumpError> for Stop {
    fn from(error: PumpError) -> Self {
        match error {
            PumpError::Gone => Self::Cancelled,
            PumpError::Read(error) => Self::Fault(unreadable(&error)),
        }
    }
}
