//! An errand is a module of the program itself, for its own commands: with a server half only, named
//! in policies like any other.

use bytes::Bytes;
use legatus_core::{Effects, Fault, Placement, Spec};
use serde::{Deserialize, Serialize};

use super::catalogue::{Listed, State};

/// The spec of an errand.
pub(super) fn spec(name: &'static str, summary: &'static str, effects: Effects) -> Spec {
    Spec {
        name: name.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: summary.into(),
        effects,
        placement: Placement::Server,
        ..Spec::default()
    }
}

/// One external module as a server lists it: one JSON object a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToldModule {
    /// `VENDOR/NAME`.
    pub name: String,
    /// Its version; empty if it is not known.
    pub version: String,
    /// What runs it; empty if it is not known.
    pub kind: String,
    /// Whether it has a server half.
    pub server: bool,
    /// Whether it has a client half of its own.
    pub client: bool,
    /// Where it lies on the server.
    pub source: String,
    /// ready, off or broken.
    pub state: String,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// What it does, in one line.
    pub summary: String,
    /// SHA-256 of the artefact, in hexadecimal.
    pub digest: String,
}

impl ToldModule {
    /// What a message tells.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(message: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(message)
            .map_err(|error| Fault::new(format!("the server tells of no module: {error}")))
    }

    pub(super) fn message(&self) -> Result<Bytes, Fault> {
        let text = serde_json::to_vec(self);
        text.map(Bytes::from)
            .map_err(|error| Fault::new(error.to_string()))
    }
}

impl From<&Listed> for ToldModule {
    fn from(listed: &Listed) -> Self {
        let (state, reason) = match &listed.state {
            State::Ready => ("ready", None),
            State::Off(reason) => ("off", Some(reason.clone())),
            State::Broken(reason) => ("broken", Some(reason.clone())),
        };
        Self {
            name: listed.qualified.clone(),
            version: listed.version.clone(),
            kind: listed
                .kind
                .map(|kind| kind.name().to_owned())
                .unwrap_or_default(),
            server: listed.halves.0,
            client: listed.halves.1,
            source: listed.source.display().to_string(),
            state: state.to_owned(),
            reason,
            summary: listed.summary.clone(),
            digest: listed.digest.clone(),
        }
    }
}
