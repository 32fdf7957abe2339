//! Runs what was asked for: a session, forwardings beside it, or a connection.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anyhow::Context as _;
use futures_util::stream::{FuturesUnordered, StreamExt};
use legatus_core::{
    Arguments, BoxFuture, Caller, Connection, Fault, Host, Input, Listener, Local, Outcome, Output,
    Progress, Sender, SocketName, Stream, Terminal, UserSignal,
};
use legatus_modules::{forward, shell};
use tokio::sync::mpsc;

use super::options::{Asked, Session, Tty};
use super::{Context, OUR_ERROR, background};
use crate::config::{Configuration, ResolvedHost};
use crate::local::{ProcessLocal, Streams};
use crate::{logging, verdict};

/// Runs it, and tells how it ended.
pub(super) fn run(
    asked: Asked,
    configuration: &Configuration,
    context: &Context<'_>,
) -> anyhow::Result<ExitCode> {
    let quiet = asked.is_quiet();
    start_logging(&asked, configuration)?;
    for note in &asked.notes {
        tracing::info!("{note} means nothing here");
    }
    let host = resolve(&asked, configuration)?;
    let ready = background::Ready::take(asked.ready_descriptor);
    let local = ProcessLocal::over(streams(&asked)?, false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let outcome = call(&asked, &host, context, &local, ready).await;
        local.finish(outcome).await
    });
    runtime.shutdown_background();
    let nobody_reads = local.stdout_is_broken();
    drop(local);
    if nobody_reads && !matches!(outcome, Outcome::Exit(_)) {
        return Ok(ExitCode::from(verdict::BROKEN_PIPE));
    }
    if outcome == Outcome::Exit(OUR_ERROR) {
        tracing::info!("the remote command itself has ended with status 255");
    }
    if quiet {
        return Ok(ExitCode::from(outcome.exit_status()));
    }
    Ok(verdict::tell(&outcome, false))
}

fn start_logging(asked: &Asked, configuration: &Configuration) -> anyhow::Result<()> {
    let configured = configuration.log_level();
    let level = match asked.verbosity {
        ..0 => "off",
        0 => configured.as_deref().unwrap_or(logging::DEFAULT_LEVEL),
        1 => "info",
        _ => "debug",
    };
    logging::init(level, logging::Format::Text)
}

/// The host to call, and the hosts through which it is reached.
fn resolve(asked: &Asked, configuration: &Configuration) -> anyhow::Result<ResolvedHost> {
    let mut via = None;
    for jump in &asked.jumps {
        let mut hop = configuration.resolve(jump)?;
        hop.via = via.take().map(Box::new);
        via = Some(hop);
    }
    let host = asked.host.as_ref().context("no host is named")?;
    let named = asked.address.as_ref().unwrap_or(host);
    let port = asked.port.or(host.port).or(named.port);
    let mut host = configuration.resolve(&Host {
        name: named.name.clone(),
        port,
    })?;
    host.via = via.map(Box::new);
    Ok(host)
}

fn streams(asked: &Asked) -> std::io::Result<Streams> {
    let mut streams = Streams::of_process()?;
    if asked.no_stdin || asked.session == Session::None {
        streams.stdin = OwnedFd::from(File::open("/dev/null")?);
    }
    Ok(streams)
}

/// Connects, and drives session and forwardings to the session's end.
async fn call(
    asked: &Asked,
    host: &ResolvedHost,
    context: &Context<'_>,
    local: &ProcessLocal,
    ready: Option<background::Ready>,
) -> Outcome {
    let connected = context
        .connector
        .connect_for(host, &[shell::NAME, forward::NAME]);
    let callers = match connected.await {
        Ok(callers) => callers,
        Err(failure) => return failure.into(),
    };
    let [to_shell, to_forward] = callers.as_slice() else {
        return Outcome::Failed(Fault::new("there is no connection"));
    };
    let senders = sender(context, shell::NAME).zip(sender(context, forward::NAME));
    let Some((shell, forward)) = senders else {
        return Outcome::Failed(Fault::new("this program lacks the modules that it needs"));
    };
    if let Session::Stdio(target) = &asked.session {
        let arguments = Arguments::new().with("stdio", target);
        return forward
            .send(arguments, to_forward.as_ref(), local)
            .await
            .into();
    }
    let (listening_tx, mut listening) = mpsc::channel(1);
    let beside = Beside {
        local,
        listening: listening_tx,
    };
    let routes = asked.forwards.len();
    let forwarding = forward_all(asked, forward, to_forward.as_ref(), &beside);
    tokio::pin!(forwarding);
    // What is behind the session may need the forwardings from its beginning on.
    for _ in 0..routes {
        tokio::select! {
            _ = listening.recv() => {}
            outcome = &mut forwarding => return outcome,
        }
    }
    if let Some(ready) = ready {
        if let Err(failure) = context.connector.describe(host).await {
            return failure.into();
        }
        ready.tell();
    }
    if asked.session == Session::None {
        return tokio::select! {
            outcome = forwarding => outcome,
            _ = local.signal() => Outcome::Cancelled,
        };
    }
    let arguments = match session_arguments(asked, local) {
        Ok(arguments) => arguments,
        Err(fault) => return Outcome::Failed(fault),
    };
    let session = shell.send(arguments, to_shell.as_ref(), local);
    tokio::pin!(session);
    tokio::select! {
        biased;
        outcome = &mut session => outcome.into(),
        // The connection is gone, or a forwarding that must not fail has.
        outcome = forwarding, if routes > 0 => outcome,
    }
}

fn sender<'a>(context: &Context<'a>, name: &str) -> Option<&'a dyn Sender> {
    context.registry.resolve(name).ok()?.sender()
}

/// Drives every forwarding. Returns when one that must not fail has failed, or the connection is
/// lost.
async fn forward_all(
    asked: &Asked,
    forward: &dyn Sender,
    caller: &dyn Caller,
    local: &Beside<'_>,
) -> Outcome {
    let one = |(kind, value): &(&'static str, std::ffi::OsString)| {
        let arguments = Arguments::new().with_flag("quiet").with(kind, value);
        forward.send(arguments, caller, local)
    };
    let mut running: FuturesUnordered<_> = asked.forwards.iter().map(one).collect();
    if asked.forwards.is_empty() {
        let arguments = Arguments::new().with_flag("quiet").with_flag("hold");
        running.push(forward.send(arguments, caller, local));
    }
    while let Some(ended) = running.next().await {
        match ended {
            // As ssh has it, the session goes on without.
            Err(fault) if !asked.forward_or_fail && asked.session != Session::None => {
                local.report(&format!("cannot forward: {fault}"));
                local.listening.try_send(()).ok();
            }
            ended => return ended.into(),
        }
    }
    std::future::pending().await
}

/// What the shell is asked for.
fn session_arguments(asked: &Asked, local: &ProcessLocal) -> Result<Arguments, Fault> {
    let mut arguments = Arguments::new();
    if let Some(user) = &asked.user {
        arguments.extend("user", [user]);
    }
    for pair in sent_environment(asked) {
        arguments.extend("env", [pair]);
    }
    let on_terminal = match asked.tty {
        Tty::Force => true,
        Tty::Yes if local.terminal().is_none() => {
            local.report("there is no terminal at standard input, and so there is none there");
            false
        }
        Tty::Yes => true,
        Tty::Auto | Tty::Never => false,
    };
    if on_terminal {
        arguments = arguments.with_flag("tty");
    } else if asked.tty == Tty::Never {
        arguments = arguments.with_flag("no-tty");
    }
    match (&asked.command, &asked.session) {
        (Some(name), Session::Subsystem) => arguments.extend("subsystem", [name]),
        (Some(line), _) => arguments.extend("command", [line]),
        (None, _) => {}
    }
    Ok(arguments)
}

/// Variables that `SendEnv` and `SetEnv` pass on, as `NAME=VALUE`.
fn sent_environment(asked: &Asked) -> Vec<std::ffi::OsString> {
    let patterns = asked.send_environment.iter();
    let patterns: Vec<_> = patterns
        .map(|text| legatus_core::Pattern::new(text))
        .collect();
    let matching = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        patterns.iter().any(|pattern| pattern.matches(&name))
    });
    let sent = matching.map(|(name, value)| {
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        pair
    });
    sent.chain(asked.environment.iter().cloned()).collect()
}

/// The user's machine for forwardings beside a session: signals and streams are the session's.
struct Beside<'a> {
    local: &'a ProcessLocal,
    /// Is told of every listener that listens.
    listening: mpsc::Sender<()>,
}

impl Local for Beside<'_> {
    fn stdin(&self) -> Option<Box<dyn Input>> {
        None
    }

    fn output(&self, stream: Stream) -> Box<dyn Output> {
        self.local.output(stream)
    }

    fn terminal(&self) -> Option<&dyn Terminal> {
        None
    }

    fn signal(&self) -> BoxFuture<'_, UserSignal> {
        Box::pin(std::future::pending())
    }

    fn open(&self, path: &std::path::Path, no_follow: bool) -> std::io::Result<File> {
        self.local.open(path, no_follow)
    }

    fn listen<'a>(
        &'a self,
        at: &'a SocketName,
    ) -> BoxFuture<'a, std::io::Result<Box<dyn Listener>>> {
        self.local.listen(at)
    }

    fn connect<'a>(
        &'a self,
        to: &'a SocketName,
    ) -> BoxFuture<'a, std::io::Result<Box<dyn Connection>>> {
        self.local.connect(to)
    }

    fn environment(&self, name: &str) -> Option<std::ffi::OsString> {
        self.local.environment(name)
    }

    fn progress(&self) -> &dyn Progress {
        self.local.progress()
    }

    fn report(&self, line: &str) {
        self.local.report(line);
    }

    /// The one record of a forwarding says that it listens.
    fn record(&self, _json: &str) {
        // Full: the one that waits counts for both, and is asked for again.
        self.listening.try_send(()).ok();
    }
}
