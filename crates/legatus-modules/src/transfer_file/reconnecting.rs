//! A copy whose connection is lost: it is looked for, and the copy goes on from what is there already.
//!
//! The copy is opened again and not kept by the server (as a shell is): so it goes on even when a process
//! was killed, at whichever end, and when the user runs it again instead of waiting nobody is in the way.

use std::time::Duration;

use legatus_core::{Caller, Fault, Local, Outcome, Reconnection};

use super::sender::Client;
use super::tally::Tally;
use crate::away::{self, Away};

/// Looks for connections that are lost.
pub(super) struct Reconnecting<'a> {
    caller: &'a dyn Caller,
    local: &'a dyn Local,
    /// How long a connection is looked for; zero: not at all.
    patience: Duration,
    /// How far the attempt at the copy is that is being made.
    tally: &'a Tally<'a>,
    /// How far any has come, in bytes and entries.
    reached: (u64, u64),
    /// The server has been reached already.
    has_begun: bool,
    /// Since when no connection has brought the copy further.
    away: Option<Away>,
}

impl<'a> Reconnecting<'a> {
    /// For a copy of which the first attempt begins now; `has_begun` if others have made shares of it.
    pub(super) fn new(client: &'a Client<'_>, has_begun: bool) -> Self {
        Self {
            caller: client.caller,
            local: client.local,
            patience: client.patience,
            tally: client.tally,
            reached: (0, 0),
            has_begun,
            away: None,
        }
    }

    /// What comes after an attempt: `None`, now that there is another connection, the next one; or
    /// the end. `may_go_on` says whether another attempt could, `interrupted` waits until the user no
    /// longer wants it.
    pub(super) async fn after(
        &mut self,
        ended: Result<Outcome, Fault>,
        may_go_on: bool,
        interrupted: impl Future<Output = ()>,
    ) -> Option<Result<Outcome, Fault>> {
        let reason = match &ended {
            Ok(Outcome::Lost(fault)) => fault.message(),
            // It was lost after the last attempt, or the new one is lost already.
            Ok(Outcome::Unavailable(fault)) if self.has_begun => fault.message(),
            _ => return Some(ended),
        };
        if self.patience.is_zero() || !may_go_on {
            return Some(ended);
        }
        let told = away::told(reason);
        let (bytes, entries) = self.tally.reached();
        let advanced = bytes > self.reached.0 || entries > self.reached.1;
        self.reached = (bytes.max(self.reached.0), entries.max(self.reached.1));
        let again = self.away.filter(|_| !advanced);
        let mut away = again.unwrap_or_else(Away::new);
        let found = tokio::select! {
            found = self.reconnect(&mut away, again.is_some(), &told) => found,
            () = interrupted => return Some(Ok(Outcome::Cancelled)),
        };
        self.away = Some(away);
        self.has_begun = true;
        if found { None } else { Some(ended) }
    }

    /// Connects again; false if there is no use. `again` if the last connection was of none: then not at
    /// once.
    async fn reconnect(&self, away: &mut Away, again: bool, told: &str) -> bool {
        let mut is_told = false;
        if again {
            if away.is_longer_than(self.patience) {
                return false;
            }
            away.pause().await;
        }
        loop {
            let tried = self.caller.reconnect().await;
            if matches!(tried, Reconnection::Done | Reconnection::Failed(_)) && !is_told {
                self.local.report(told);
                is_told = true;
            }
            match tried {
                Reconnection::Done => {
                    self.local.report("connected again");
                    return true;
                }
                Reconnection::NotLost | Reconnection::Impossible => return false,
                Reconnection::Failed(fault) if away.is_longer_than(self.patience) => {
                    self.local.report(fault.message());
                    return false;
                }
                Reconnection::Failed(fault) => tracing::info!(%fault, "cannot connect again yet"),
            }
            away.pause().await;
        }
    }
}
