//! Lists and ends kept calls, for those who may.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use legatus_core::wire::{EndSessionReply, EndSessionRequest, ListSessionsReply, Session};
use legatus_core::{CallId, Effects, Fault, Peer, SessionInfo, Sessions};
use tokio::task::JoinSet;
use tonic::Status;

use super::State;
use crate::audit::{AuditedCall, Usage};
use crate::chain;

impl State {
    /// The sessions that a peer may know of: its own, and those of others where policy says so.
    pub(super) async fn list_sessions(&self, peer: &Peer) -> ListSessionsReply {
        let Some(sessions) = &self.sessions else {
            return ListSessionsReply::default();
        };
        let policy = self.policy.load_full();
        let may_see = |session: &SessionInfo| {
            session.identity == peer.identity()
                || self
                    .registry
                    .load()
                    .resolve(&session.module)
                    .is_ok_and(|module| policy.reaches_others(peer, module.spec()))
        };
        let listed = sessions.list().await;
        ListSessionsReply {
            sessions: listed.into_iter().filter(may_see).map(session).collect(),
        }
    }

    /// Ends a session, or signals what it runs. Whoever may not open calls of its module may not
    /// end them either, save their own.
    pub(super) async fn end_session(
        &self,
        peer: &Peer,
        request: EndSessionRequest,
    ) -> Result<EndSessionReply, Status> {
        let signal = match u8::try_from(request.signal) {
            Ok(0) => None,
            Ok(signal @ 1..=64) => Some(signal),
            _ => return Err(Status::invalid_argument("a signal that does not exist")),
        };
        let Some(sessions) = &self.sessions else {
            return Ok(EndSessionReply { delivered: false });
        };
        let wanted = request.session.as_str();
        let listed = self.list_sessions(peer).await.sessions;
        let mut fitting = listed
            .iter()
            .filter(|session| session.id == wanted || session.name == wanted);
        let (Some(found), None) = (fitting.next(), fitting.next()) else {
            return Ok(EndSessionReply { delivered: false });
        };
        let others = found.identity != peer.identity();
        let delivered = sessions
            .end(&found.id, peer.identity(), others, signal)
            .await;
        tracing::info!(
            session = found.id,
            identity = %peer,
            signal,
            delivered,
            "a session was told to end"
        );
        Ok(EndSessionReply { delivered })
    }
}

/// The sessions that go on without a client of this server, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Unattended(Mutex<HashMap<String, String>>);

impl Unattended {
    /// A call goes on without its client.
    pub(super) fn note(&self, id: &str, identity: &str) {
        self.lock().insert(id.to_owned(), identity.to_owned());
    }

    /// Whether an identity may leave one more.
    ///
    /// # Errors
    /// When it has as many as it may have.
    pub(super) fn check(&self, identity: &str, limit: usize) -> Result<(), Fault> {
        let count = self.lock().values().filter(|of| *of == identity).count();
        if count < limit {
            return Ok(());
        }
        let text = format!("the limit of {limit} sessions without a client is reached");
        Err(Fault::new(text).with_hint(
            "`legatus sessions HOST` lists them, `legatus end` ends one; --linger 0 asks for none",
        ))
    }

    fn knows(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// Forgets those that are not there any more.
    fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|id, _| is_there(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often sessions are looked for whose end nobody else will note.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Notes the end of sessions that go on without the client that opened them, also of those that
/// another server has started.
pub(super) async fn note_ends(state: Arc<State>) {
    let Some(sessions) = state.sessions.clone() else {
        return;
    };
    let mut watched = HashSet::new();
    let mut watching = JoinSet::new();
    loop {
        tokio::select! {
            // The next server goes on with it.
            () = state.draining.cancelled() => return,
            Some(ended) = watching.join_next() => {
                if let Ok((id, session)) = ended {
                    watched.remove(&id);
                    if let Some(session) = session {
                        state.note_end(&session);
                    }
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                let ids = sessions.ids();
                state.count(&*sessions, &ids).await;
                for id in ids {
                    let is_open = state.running.has_opened(&id);
                    if !is_open && watched.insert(id.clone()) {
                        let sessions = Arc::clone(&sessions);
                        watching.spawn(async move {
                            let session = sessions.watch(&id).await;
                            (id, session)
                        });
                    }
                }
            }
        }
    }
}

impl State {
    /// Learns which sessions there are without a client here, also those of former servers.
    async fn count(&self, sessions: &dyn Sessions, ids: &[String]) {
        let there: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let is_left = |id: &str| there.contains(id) && !self.running.has_opened(id);
        self.unattended.retain(is_left);
        let is_new = |id: &String| !self.unattended.knows(id) && is_left(id);
        if ids.iter().any(is_new) {
            for session in sessions.list().await {
                if is_left(&session.id) {
                    self.unattended.note(&session.id, &session.identity);
                }
            }
        }
    }

    fn note_end(&self, session: &SessionInfo) {
        let (Ok(id), Some(outcome)) = (CallId::try_from(session.id.clone()), &session.outcome)
        else {
            return;
        };
        let module = self.registry.load().resolve(&session.module).ok().cloned();
        let call = AuditedCall {
            id: &id,
            identity: &session.identity,
            address: "",
            module: &session.module,
            summary: &session.summary,
            effects: module.map_or(Effects::NONE, |module| module.spec().effects),
            rule: None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let usage = Usage {
            bytes_received: session.bytes_in,
            bytes_sent: session.bytes_out,
            duration: now.unwrap_or_default().saturating_sub(session.started),
        };
        if let Err(error) = self.audit.end(&call, outcome, usage, false) {
            tracing::error!(%id, error = %chain(&error), "the end of a session is missing in the audit");
        }
    }
}

fn session(session: SessionInfo) -> Session {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Session {
        id: session.id,
        identity: session.identity,
        module: session.module,
        summary: session.summary,
        name: session.name,
        started_milliseconds: milliseconds(session.started),
        clients: session.clients,
        idle_milliseconds: milliseconds(session.idle),
        bytes_in: session.bytes_in,
        bytes_out: session.bytes_out,
        outcome: session.outcome.map(Into::into),
        user: session.user,
        terminal: session.terminal,
    }
}
