//! Whether a kept call has begun, when its client cannot know: it begins once, however often that client asks.

use std::sync::Arc;
use std::time::Duration;

use legatus_core::{Attach, CallId, Placement};

use super::State;
use super::running::{Begun, Coming};

/// For how long it is known that a kept call has begun whose client may not know it: longer than
/// a client looks for a server that tells.
const REMEMBERED: Duration = Duration::from_secs(120);

/// A call that has begun shows itself among the sessions within this time.
const SEEN_WITHIN: Duration = Duration::from_millis(250);

impl State {
    /// Waits for as long as a server that ran here before may have a call whose session is not to be
    /// seen yet.
    pub(super) async fn outlast_predecessor(&self) {
        if self.started.0.elapsed() < REMEMBERED {
            tokio::time::sleep(SEEN_WITHIN).await;
        }
    }

    /// What a client wants with its stream.
    pub(super) fn coming(&self, id: &CallId, module: &str, attach: Option<&Attach>) -> Coming {
        // What runs inside the server leaves nothing that could tell whether it has begun.
        let leaves_a_session = || {
            let module = self.registry.load().resolve(module).map(Arc::clone);
            module.is_ok_and(|module| module.spec().placement == Placement::Child)
        };
        let is_there = || {
            // What cannot be read may be there.
            let ids = self.sessions.as_ref().and_then(|all| all.ids().ok());
            ids.is_none_or(|ids| ids.iter().any(|there| there == id.as_str()))
        };
        match attach {
            None => Coming::Opens,
            Some(attach) if !attach.resume => Coming::Attaches,
            Some(attach) if attach.or_open && leaves_a_session() && !is_there() => {
                Coming::ResumesOrOpens
            }
            Some(_) => Coming::Resumes,
        }
    }
}

/// Remembers that a call has begun for as long as its client may ask, which `knows` how it ended or does
/// not; one that was in doubt may have said so over another connection, too.
pub(super) async fn remember(begun: Option<Begun>, knows: bool) {
    if begun
        .as_ref()
        .is_some_and(|begun| begun.was_in_doubt || !knows)
    {
        tokio::time::sleep(REMEMBERED).await;
    }
    drop(begun);
}
