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
    /// How many connections there were before this one; held by whoever looks for the next.
    current: Mutex<u64>,
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
            current: Mutex::new(0),
        })
    }

    /// What comes after a call that has ended, which was opened over the connection of number `used`:
    /// the number of another one.
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
        let mut current = self.current.lock().await;
        if *current > used {
            return Ok(*current);
        }
        let mut is_told = false;
        let mut away = Away::new();
        loop {
            let tried = self.caller.reconnect().await;
            if matches!(tried, Reconnection::Done | Reconnection::Failed(_)) && !is_told {
                self.report(&away::told(fault.message()));
                is_told = true;
            }
            match tried {
                Reconnection::Done => {
                    self.report("connected again");
                    *current += 1;
                    return Ok(*current);
                }
                Reconnection::Failed(_) if !away.is_longer_than(self.patience) => {
                    away.pause().await;
                }
                _ => return Err(ended),
            }
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
                    Err(not) => lost = not.outcome,
                }
            };
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
