//! On which side a half runs, and so who is told of what it does.

use legatus_core::Local;

use super::change;
use super::messages::{Change, Failure};
use super::report::{Gauge, Shown};
use super::tally::Tally;

/// On which side an engine runs, and so who is told of what it does.
#[derive(Clone, Copy)]
pub(super) enum Side<'a> {
    /// In the client: the user, about the entries here and on this host.
    Client {
        local: &'a dyn Local,
        host: &'a str,
        /// Who prints changes.
        changes: &'a change::Printer,
        /// Who shows how far it is.
        tally: &'a Tally<'a>,
    },
    /// In the server: the other half.
    Server,
}

impl<'a> Side<'a> {
    /// Tells the user of a failure on this side; false if it is the other half that must be told.
    pub(super) fn report_here(self, failure: &Failure) -> bool {
        if let Self::Client { local, .. } = self {
            failure.tell(local, None);
        }
        matches!(self, Self::Client { .. })
    }

    /// Tells the user of a failure on the other side.
    pub(super) fn report_there(self, failure: &Failure) {
        if let Self::Client { local, host, .. } = self {
            failure.tell(local, Some(host));
        }
    }

    /// Tells the user something that is no failure; false if it is the other half that must be told.
    pub(super) fn note(self, text: &str) -> bool {
        if let Self::Client { local, .. } = self {
            local.report(&text.replace(char::is_control, "?"));
        }
        matches!(self, Self::Client { .. })
    }

    /// Shows the user a change of the target; false if it is the other half that must be told.
    pub(super) fn show_change(self, change: &Change) -> bool {
        if let Self::Client { local, changes, .. } = self {
            changes.take(local, change);
        }
        matches!(self, Self::Client { .. })
    }

    pub(super) fn show(self, gauge: &'a Gauge) -> Option<Shown<'a>> {
        match self {
            Self::Client { tally, .. } => Some(Shown::new(gauge, tally)),
            Self::Server => None,
        }
    }
}
