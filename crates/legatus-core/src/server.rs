//! What a Commander may ask of the server that runs it.

use std::fmt;
use std::sync::Arc;

use crate::{BoxFuture, Effect, Effects, Fault};

/// What a server tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// The version of the server's program.
    pub version: String,
    /// The modules with a Commander, by name and version.
    pub modules: Vec<(String, String)>,
    /// Open connections.
    pub connections: u64,
    /// Running calls.
    pub calls: u64,
    /// Since when the server runs.
    pub started: Option<std::time::SystemTime>,
}

/// What a server offers to Commanders that policy lets have it.
pub trait ServerControl: Send + Sync {
    /// What the server tells about itself.
    fn facts(&self) -> ServerFacts;

    /// Takes no more calls, finishes the running ones (bounded in time), then leaves.
    fn drain(&self);

    /// Starts a new process of the server's executable that takes over the listening sockets,
    /// then drains. Returns the new process's id.
    ///
    /// # Errors
    /// When the new process does not come up; the old one then goes on as before.
    fn restart(&self) -> BoxFuture<'_, Result<u32, Fault>>;
}

/// Access to a server's [`ServerControl`], as far as a call's permit reaches: telling needs the
/// effect read, draining and restarting need exec.
#[derive(Clone)]
pub struct ServerAccess {
    control: Arc<dyn ServerControl>,
    effects: Effects,
}

impl ServerAccess {
    pub(crate) fn new(control: Arc<dyn ServerControl>, effects: Effects) -> Self {
        Self { control, effects }
    }

    /// What the server tells about itself.
    ///
    /// # Errors
    /// When the permit does not reach so far.
    pub fn facts(&self) -> Result<ServerFacts, Fault> {
        self.need(Effect::Read)?;
        Ok(self.control.facts())
    }

    /// See [`ServerControl::drain`].
    ///
    /// # Errors
    /// When the permit does not reach so far.
    pub fn drain(&self) -> Result<(), Fault> {
        self.need(Effect::Exec)?;
        self.control.drain();
        Ok(())
    }

    /// See [`ServerControl::restart`].
    ///
    /// # Errors
    /// When the permit does not reach so far, or the new process does not come up.
    pub async fn restart(&self) -> Result<u32, Fault> {
        self.need(Effect::Exec)?;
        self.control.restart().await
    }

    fn need(&self, effect: Effect) -> Result<(), Fault> {
        if self.effects.contains(effect) {
            return Ok(());
        }
        Err(Fault::new(format!(
            "this call was permitted without the effect `{effect}`"
        )))
    }
}

impl fmt::Debug for ServerAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerAccess")
            .field("effects", &self.effects)
            .finish_non_exhaustive()
    }
}
