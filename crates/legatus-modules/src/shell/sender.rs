//! The client half: connects the user's streams, signals and terminal to a call.

mod download;
mod upload;

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::time::Duration;

use legatus_core::{
    Arguments, Caller, Control, ControlSender, Conversation, Fault, Local, Outcome, Terminal,
    UserSignal,
};
use tokio::time::Instant;

use super::arguments::{self, Asked};
use download::download;
use upload::{Upload, upload};

/// The second interrupt within this time cancels the call.
const INSIST: Duration = Duration::from_secs(1);

const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;
const SIGPIPE: u8 = 13;

/// Opens the call that the arguments mean, and drives it.
pub(super) async fn send(
    arguments: Arguments,
    caller: &dyn Caller,
    local: &dyn Local,
) -> Result<Outcome, Fault> {
    let Asked {
        request,
        on_terminal,
    } = arguments::request(&arguments, local)?;
    let script = match arguments.last("script") {
        Some(path) => Some(open_script(local, Path::new(path))?),
        None => None,
    };
    let terminal = local.terminal().filter(|_| on_terminal);
    let Conversation {
        channel,
        controls,
        outcome,
    } = caller.open(request).await?;
    // Restores the terminal when the call has ended, however that happens.
    let _raw = match terminal.map(Terminal::raw) {
        Some(raw) => Some(
            raw.map_err(|error| Fault::new(format!("cannot take over the terminal: {error}")))?,
        ),
        None => None,
    };
    let (sink, source) = channel.split();
    let upload = upload(Upload {
        sink,
        script,
        keys: terminal.is_some(),
        local,
    });
    tokio::select! {
        result = download(source, local) => match result {
            Ok(()) => Ok(outcome.wait().await),
            // Nobody reads on, as behind `| head`: the call ends as a local command would.
            Err(download::Error::NobodyReads) => Ok(Outcome::Signal(SIGPIPE)),
            Err(download::Error::Fault(fault)) => Err(fault),
        },
        left = upload => left.map(|_| {
            controls.send(Control::Cancel);
            Outcome::Cancelled
        }),
        () = pass_signals(local, &controls) => Ok(Outcome::Cancelled),
        never = pass_sizes(terminal, &controls) => match never {},
    }
}

fn open_script(local: &dyn Local, path: &Path) -> Result<std::fs::File, Fault> {
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
    controls: &ControlSender,
) -> Infallible {
    let Some(terminal) = terminal else {
        return std::future::pending().await;
    };
    loop {
        let mut size = terminal.resized().await;
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
