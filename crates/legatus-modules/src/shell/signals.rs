//! Signals and sizes on their way to what a call runs.

use legatus_core::{Control, ControlReceiver};
use rustix::process::{Pid, Signal, kill_process_group};

use super::spawn::OpenTerminal;

/// Passes controls on until the caller cancels. Never returns otherwise.
pub(super) async fn pass_on(
    controls: &mut ControlReceiver,
    command: Option<Pid>,
    terminal: Option<&OpenTerminal>,
) {
    while let Some(control) = controls.receive().await {
        match control {
            Control::Cancel => return,
            // Whoever keeps the call sees to that.
            Control::Detach => {}
            Control::Signal(number) => send(number, command, terminal),
            Control::Resize(size) => {
                let resized = terminal.map(|open| open.resize(size.columns, size.rows));
                if let Some(Err(error)) = resized {
                    tracing::debug!(%error, "cannot resize the terminal");
                }
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Sends a signal to the foreground process group of a terminal, or else to the command's.
fn send(number: u8, command: Option<Pid>, terminal: Option<&OpenTerminal>) {
    let foreground = terminal.and_then(|open| rustix::termios::tcgetpgrp(&open.ours).ok());
    let group = foreground.or(command);
    let signal = Signal::from_named_raw(number.into());
    let (Some(group), Some(signal)) = (group, signal) else {
        tracing::debug!(number, "cannot send this signal");
        return;
    };
    if let Err(error) = kill_process_group(group, signal) {
        // Most likely the command has ended meanwhile.
        tracing::debug!(number, %error, "cannot send the signal");
    }
}
