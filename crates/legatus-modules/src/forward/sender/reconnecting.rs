//! A forwarding whose connection is lost, or whose server is replaced by another process: it goes on
//! over the next connection.

use std::time::Duration;

use legatus_core::{Arguments, Caller, Fault, Local, Outcome, Reconnection};
use tokio::sync::Mutex;

use crate::away::{self, Away, PATIENCE};
use crate::forward::dial::{self, Opened};
use crate::forward::request::What;

/// Looks for a connection when one is lost.
pub(super) struct Reconnecting<'a> {
    caller: &'a dyn Caller,
    local: &'a dyn Local,
    is_quiet: bool,
    /// How long a connection is looked for; zero: not at all.
    patience: Duration,
    /// Held by whoever looks for the next.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many connections there were before this one.
    number: u64,
    /// Since when no call was opened over any.
    away: Option<Away>,
    /// The user was told of that.
    is_told: bool,
}

impl<'a> Reconnecting<'a> {
    pub(super) fn new(
        caller: &'a dyn Caller,
        local: &'a dyn Local,
        arguments: &Arguments,
    ) -> Result<Self, Fault> {
        Ok(Self {
            caller,
            local,
            is_quiet: arguments.is_given("quiet"),
            patience: arguments.duration("reconnect")?.unwrap_or(PATIENCE),
            state: Mutex::default(),
        })
    }

    /// What comes after a call that has ended, which was opened over the connection of number `used`:
    /// the number of one to try.
    ///
    /// # Errors
    /// How the forwarding ends, if there is no use.
    pub(super) async fn after(&self, used: u64, ended: Outcome) -> Result<u64, Outcome> {
        let (Outcome::Lost(fault) | Outcome::Unavailable(fault)) = &ended else {
            return Err(ended);
        };
        if self.patience.is_zero() {
            return Err(ended);
        }
        let mut state = self.state.lock().await;
        if state.number > used {
            return Ok(state.number);
        }
        // The last one was of no use: not at once again.
        let mut pauses = state.away.is_some();
        let mut away = state.away.unwrap_or_else(Away::new);
        let found = loop {
            if pauses {
                if away.is_longer_than(self.patience) {
                    break false;
                }
                away.pause().await;
            }
            pauses = true;
            match self.caller.reconnect().await {
                // A connection that is not lost and takes no more calls is known as lost when one
                // more was tried.
                Reconnection::Done | Reconnection::NotLost => break true,
                Reconnection::Impossible => break false,
                Reconnection::Failed(why) => {
                    if !std::mem::replace(&mut state.is_told, true) {
                        self.report(&away::told(fault.message()));
                    }
                    if away.is_longer_than(self.patience) {
                        self.report(why.message());
                    }
                }
            }
        };
        state.away = Some(away);
        if !found {
            return Err(ended);
        }
        if !std::mem::replace(&mut state.is_told, true) {
            self.report(&away::told(fault.message()));
        }
        state.number += 1;
        Ok(state.number)
    }

    /// A call was opened over the connection.
    pub(super) async fn opened(&self) {
        let mut state = self.state.lock().await;
        state.away = None;
        if std::mem::take(&mut state.is_told) {
            self.report("connected again");
        }
    }

    fn report(&self, line: &str) {
        if !self.is_quiet {
            self.local.report(line);
        }
    }

    /// Has the server say when it goes, which nobody else would tell while no connection is open;
    /// returns how the forwarding ends.
    pub(super) async fn hold(&self, first: Opened) -> Outcome {
        let mut held = first;
        let mut used = 0;
        loop {
            let mut lost = ended(held.end().await);
            held = loop {
                used = match self.after(used, lost).await {
                    Ok(number) => number,
                    Err(outcome) => return outcome,
                };
                match dial::open(self.caller, What::Hold).await {
                    Ok(opened) => break opened,
                    Err(not) => lost = ended(not.outcome),
                }
            };
            self.opened().await;
        }
    }
}

/// What it means that the server has ended a call that the client still wanted.
pub(super) fn ended(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Exit(_) => Outcome::Lost(Fault::new("the server has ended the forwarding")),
        outcome => outcome,
    }
}
