//! The client half: connects the user's streams, signals and terminal to a call.

mod download;
mod modes;
mod prediction;
mod screen;
mod upload;

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use legatus_core::{
    Arguments, Attach, Caller, Control, ControlSender, Conversation, Fault, Link, Local, Outcome,
    Stream, Terminal, TerminalSize, UserSignal,
};
use prost::Message;
use tokio::time::Instant;

use super::arguments::{self, Asked};
use super::escape::Leave;
use super::messages::{Empty, Input, Output, input, output::Part};
use download::download;
use screen::Screen;
use upload::{Upload, upload};

/// The second interrupt within this time cancels the call.
const INSIST: Duration = Duration::from_secs(1);

/// How long a full-screen program has another size, so that it is told of both.
const REDRAW_AFTER: Duration = Duration::from_millis(100);

/// How long a terminal may take to be left as it was.
const TIDY_WITHIN: Duration = Duration::from_millis(500);

const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;
const SIGPIPE: u8 = 13;

/// Opens the call that the arguments mean, and drives it.
pub(super) async fn send(
    arguments: Arguments,
    caller: &dyn Caller,
    local: &dyn Local,
) -> Result<Outcome, Fault> {
    if arguments.is_given("detach") && !caller.keeps_calls() {
        let fault =
            Fault::new("what runs here ends with this program, so that it cannot be detached");
        return Err(fault.with_hint("a server keeps detached commands: name its host"));
    }
    let Asked {
        request,
        terminal: size,
    } = arguments::request(&arguments, local)?;
    let script = match arguments.last("script") {
        Some(path) => Some(open_script(local, Path::new(path))?),
        None => None,
    };
    let terminal = local.terminal().filter(|_| size.is_some());
    let screen = screen(local, size, !arguments.is_given("no-prediction"));
    let conversation = caller.open(request).await?;
    if arguments.is_given("detach") {
        return detach(conversation, name(&arguments), size.is_some(), local).await;
    }
    let user = User {
        caller,
        local,
        session: name(&arguments),
        screen,
        terminal,
        script,
        gives_input: true,
        interrupts: true,
    };
    user.drive(conversation).await
}

/// Follows what is shown on the user's terminal, if anything is, which the other side knows to be of that size.
/// `predicts`: whether typed characters may be shown there before they have come back.
fn screen(local: &dyn Local, size: Option<TerminalSize>, predicts: bool) -> Option<Screen> {
    let is_shown = |terminal: &&dyn Terminal| terminal.shows_output();
    local.terminal().filter(is_shown)?;
    let unwanted = local.environment(super::NO_PREDICTION);
    let predicts = predicts && unwanted.is_none_or(|value| value.is_empty());
    Some(Screen::new(size?, predicts))
}

/// The name that the user gives to the session.
fn name(arguments: &Arguments) -> Option<String> {
    let name = arguments.last("name")?;
    Some(name.to_string_lossy().into_owned())
}

/// Drives a session that somebody has opened before.
pub(super) async fn attach(
    attach: Attach,
    caller: &dyn Caller,
    local: &dyn Local,
) -> Result<Outcome, Fault> {
    let watches = attach.read_only;
    let on_terminal = attach.terminal;
    let predicts = attach.predicts;
    let session = attach.session.clone();
    let conversation = caller.attach(attach).await?;
    let terminal = local.terminal().filter(|_| on_terminal);
    let size = terminal.map(Terminal::size);
    let screen = screen(local, size, predicts);
    let terminal = terminal.filter(|_| !watches);
    if let (Some(_), Some(size)) = (terminal, size) {
        conversation.controls.send(Control::Resize(size));
    }
    let user = User {
        caller,
        local,
        session: Some(session),
        screen,
        terminal,
        script: None,
        // Whoever watches, or has no keyboard for a terminal, only looks.
        gives_input: terminal.is_some(),
        interrupts: terminal.is_some(),
    };
    user.drive(conversation).await
}

/// Waits until what was asked for runs, tells its id, and lets it go on alone.
async fn detach(
    conversation: Conversation,
    name: Option<String>,
    on_terminal: bool,
    local: &dyn Local,
) -> Result<Outcome, Fault> {
    let Conversation {
        mut channel,
        controls,
        outcome,
    } = conversation;
    let mut has_begun = false;
    while let Some(message) = channel.receive().await {
        let started = match Output::decode(message).ok().and_then(|it| it.part) {
            Some(Part::Started(started)) => started,
            // Why it does not begin.
            Some(Part::Stderr(text)) => {
                local.output(Stream::Stderr).write(text).await.ok();
                continue;
            }
            _ => continue,
        };
        has_begun = true;
        let mut stdout = local.output(Stream::Stdout);
        let told = name.unwrap_or(started.call_id);
        stdout.write(format!("{told}\n").into()).await.ok(); // it runs, whoever reads that
        stdout.flush().await.ok();
        if !on_terminal {
            // Nobody will type anything.
            let end = Input {
                part: Some(input::Part::StdinEnd(Empty {})),
            };
            channel.send(end.encode_to_vec().into()).await.ok();
        }
        controls.send(Control::Detach);
        break;
    }
    Ok(match outcome.wait().await {
        // Whoever attaches learns how it ended.
        Outcome::Exit(_) | Outcome::Signal(_) if has_begun => Outcome::SUCCESS,
        outcome => outcome,
    })
}

/// A user who is connected to a session.
struct User<'a> {
    caller: &'a dyn Caller,
    local: &'a dyn Local,
    /// By what one can attach to the session, if that is known.
    session: Option<String>,
    /// The user's terminal, if the session's output goes there.
    screen: Option<Screen>,
    terminal: Option<&'a dyn Terminal>,
    script: Option<File>,
    /// Whether standard input goes to what is run.
    gives_input: bool,
    /// Whether signals are passed on; if not, an interrupt leaves the session.
    interrupts: bool,
}

impl User<'_> {
    async fn drive(self, conversation: Conversation) -> Result<Outcome, Fault> {
        let Conversation {
            channel,
            controls,
            outcome: pending,
        } = conversation;
        let (sink, source) = channel.split();
        let mut stdout = self.local.output(Stream::Stdout);
        let screen = self.screen.as_ref();
        let mut session = self.session;
        // Whoever leaves does not end the input: that would be Ctrl-D for the program there. So it
        // ends after the call does, which ends when `outcome` is dropped.
        let _open = sink.clone();
        let outcome = pending;
        let Self {
            caller,
            local,
            terminal,
            ..
        } = self;
        // Restores the terminal when the call has ended, however that happens.
        let _raw =
            match terminal.map(Terminal::raw) {
                Some(raw) => Some(raw.map_err(|error| {
                    Fault::new(format!("cannot take over the terminal: {error}"))
                })?),
                None => None,
            };
        let input = async {
            if self.gives_input {
                let keys = terminal.is_some();
                upload(Upload {
                    sink,
                    script: self.script,
                    keys,
                    screen,
                    local,
                })
                .await
            } else {
                let _open = sink;
                std::future::pending().await
            }
        };
        let signals = async {
            if self.interrupts {
                pass_signals(local, &controls).await;
                Leave::Ending
            } else {
                local.signal().await;
                Leave::Detaching
            }
        };
        let left = tokio::select! {
            result = download(source, stdout.as_mut(), local, screen, &mut session) => return match result {
                Ok(()) => {
                    let outcome = outcome.wait().await;
                    if !matches!(outcome, Outcome::Exit(_)) {
                        tidy(stdout.as_mut(), screen).await;
                    }
                    Ok(outcome)
                }
                // Nobody reads on, as behind `| head`: the call ends as a local command would.
                Err(download::Error::NobodyReads) => Ok(Outcome::Signal(SIGPIPE)),
                Err(download::Error::Fault(fault)) => Err(fault),
            },
            left = input => left?,
            left = signals => left,
            never = pass_sizes(terminal, screen, &controls) => match never {},
            never = tell_links(caller, local, terminal, screen, &controls) => match never {},
        };
        tidy(stdout.as_mut(), screen).await;
        match left {
            Leave::Ending => {
                controls.send(Control::Cancel);
                Ok(Outcome::Cancelled)
            }
            Leave::Detaching => {
                controls.send(Control::Detach);
                let outcome = outcome.wait().await;
                if let (&Outcome::SUCCESS, Some(session)) = (&outcome, &session) {
                    local.report(&format!(
                        "detached; `legatus attach HOST {session}` returns to the session"
                    ));
                }
                Ok(outcome)
            }
        }
    }
}

/// Leaves the terminal as a program would that had ended: the one there has not.
async fn tidy(stdout: &mut dyn legatus_core::Output, screen: Option<&Screen>) {
    let Some(screen) = screen else {
        return;
    };
    let mut undo = screen.undo();
    undo.extend_from_slice(b"\r\n");
    let write = async {
        stdout.write(undo.into()).await?;
        stdout.flush().await
    };
    // A terminal that takes nothing must not keep its user.
    tokio::time::timeout(TIDY_WITHIN, write).await.ok();
}

/// Tells the user what becomes of the connection. Afterwards the terminal may have another size.
async fn tell_links(
    caller: &dyn Caller,
    local: &dyn Local,
    terminal: Option<&dyn Terminal>,
    screen: Option<&Screen>,
    controls: &ControlSender,
) -> Infallible {
    loop {
        let link = caller.link().await;
        if let Some(screen) = screen {
            screen.retract().await;
        }
        match link {
            Link::Lost(reason) => {
                local.report(&format!("connection lost ({reason}); reconnecting"));
            }
            Link::Back => {
                local.report("connected again");
                let Some(terminal) = terminal else {
                    continue;
                };
                if screen.is_some_and(Screen::is_full_screen) {
                    // What was told stands in its picture. It draws that anew when the size changes.
                    let mut other = terminal.size();
                    other.rows = other.rows.saturating_sub(1).max(1);
                    controls.send(Control::Resize(other));
                    tokio::time::sleep(REDRAW_AFTER).await;
                }
                controls.send(Control::Resize(terminal.size()));
            }
        }
    }
}

fn open_script(local: &dyn Local, path: &Path) -> Result<File, Fault> {
    let opened = local.open(path, false).and_then(|file| {
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(file)
    });
    opened.map_err(|error| {
        let path = path.display();
        let reason = super::spawn::reason(&error);
        Fault::new(format!("cannot read the script `{path}`: {reason}"))
    })
}

/// Passes the user's signals on. Returns when the user wants to end the call at once.
async fn pass_signals(local: &dyn Local, controls: &ControlSender) {
    let mut last: Option<Instant> = None;
    let mut cancelled = false;
    loop {
        match local.signal().await {
            UserSignal::Interrupt if cancelled => return,
            UserSignal::Interrupt => {
                let now = Instant::now();
                cancelled = last.is_some_and(|last| now.duration_since(last) <= INSIST);
                last = Some(now);
                if !cancelled {
                    controls.send(Control::Signal(SIGINT));
                } else if !controls.send(Control::Cancel) {
                    // That the conversation ends cancels it, too.
                    return;
                }
            }
            UserSignal::Quit => {
                controls.send(Control::Signal(SIGQUIT));
            }
            UserSignal::Terminate | UserSignal::HangUp => {
                controls.send(Control::Cancel);
                return;
            }
        }
    }
}

/// Passes the terminal's new sizes on: not every one, but always the last.
pub(super) async fn pass_sizes(
    terminal: Option<&dyn Terminal>,
    screen: Option<&Screen>,
    controls: &ControlSender,
) -> Infallible {
    let Some(terminal) = terminal else {
        return std::future::pending().await;
    };
    loop {
        let mut size = terminal.resized().await;
        if let Some(screen) = screen {
            screen.resized(size);
        }
        loop {
            tokio::select! {
                biased;
                newer = terminal.resized() => size = newer,
                has_room = controls.has_room() => {
                    if !has_room {
                        return std::future::pending().await;
                    }
                    if controls.send(Control::Resize(size)) {
                        break;
                    }
                }
            }
        }
    }
}
