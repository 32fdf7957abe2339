//! Lists and ends kept calls, for those who may.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use legatus_core::wire::{EndSessionReply, EndSessionRequest, ListSessionsReply, Session};
use legatus_core::{CallId, Effects, Fault, Peer, SessionInfo, Sessions};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::Status;

use super::State;
use super::connection::Connection;
use crate::audit::{AuditedCall, Usage};
use crate::chain;

impl State {
    /// The sessions that a peer may know of: its own, and those of others where policy says so.
    pub(super) async fn list_sessions(&self, peer: &Peer) -> Result<ListSessionsReply, Status> {
        let Some(sessions) = &self.sessions else {
            return Ok(ListSessionsReply::default());
        };
        // Each asks all holders.
        let in_use = self.usages.listings_by_identity.take(peer.identity());
        let _in_use = in_use.map_err(|limit| Status::resource_exhausted(limit.to_string()))?;
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
        Ok(ListSessionsReply {
            sessions: listed.into_iter().filter(may_see).map(session).collect(),
        })
    }

    /// Ends a session, or signals what it runs. Whoever may not open calls of its module may not
    /// end them either, save their own.
    pub(super) async fn end_session(
        &self,
        connection: &Connection,
        request: EndSessionRequest,
    ) -> Result<EndSessionReply, Status> {
        let peer = &connection.peer;
        let signal = match u8::try_from(request.signal) {
            Ok(0) => None,
            Ok(signal @ 1..=64) => Some(signal),
            _ => return Err(Status::invalid_argument("a signal that does not exist")),
        };
        let Some(sessions) = &self.sessions else {
            return Ok(EndSessionReply { delivered: false });
        };
        let wanted = request.session.as_str();
        let listed = self.list_sessions(peer).await?.sessions;
        let mut fitting = listed.iter().filter(|session| is_wanted(session, wanted));
        let (Some(found), None) = (fitting.next(), fitting.next()) else {
            return Ok(EndSessionReply { delivered: false });
        };
        self.note_wish(connection, found, signal)?;
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

    /// Notes who wants a session to end; without that it does not.
    fn note_wish(
        &self,
        connection: &Connection,
        session: &Session,
        signal: Option<u8>,
    ) -> Result<(), Status> {
        let id = CallId::try_from(session.id.clone())
            .map_err(|error| Status::internal(error.to_string()))?;
        let module = self.registry.load().resolve(&session.module).ok().cloned();
        let wish = AuditedCall {
            id: &id,
            identity: connection.peer.identity(),
            address: Some(&connection.address),
            module: &session.module,
            summary: &match signal {
                None => format!("end {:?}", session.id),
                Some(signal) => format!("end {:?} --signal {signal}", session.id),
            },
            effects: module.map_or(Effects::NONE, |module| module.spec().effects),
            rule: None,
        };
        self.audit.wish(&wish).map_err(|error| {
            tracing::error!(%id, error = %chain(&error), "a session was not told to end");
            Status::unavailable("the server cannot write its audit, so that it ends nothing")
        })
    }
}

/// The sessions that go on without a client of this server, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Unattended {
    identities: Mutex<HashMap<String, String>>,
    /// Those that have ended before their client had gone, and when.
    ended: Mutex<HashMap<(String, String), Instant>>,
    /// Those whose client has gone since they were asked for.
    fresh: Mutex<Vec<String>>,
    noted: Notify,
}

/// For how long a session may not be seen after its end was noted.
const UNSEEN: Duration = Duration::from_secs(60);

impl Unattended {
    /// A call goes on without its client.
    pub(super) fn note(&self, id: &str, identity: &str) {
        self.lock().insert(id.to_owned(), identity.to_owned());
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.push(id.to_owned());
        self.noted.notify_one();
    }

    fn fresh(&self) -> Vec<String> {
        std::mem::take(&mut self.fresh.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The end of a call was noted, whose outcome may wait for somebody who takes it.
    pub(super) fn end_is_noted(&self, id: &str, identity: &str) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|_, at| at.elapsed() < UNSEEN);
        ended.insert((id.to_owned(), identity.to_owned()), Instant::now());
    }

    /// Whether the end of a call was noted; not any more from now on.
    pub(super) fn takes_noted(&self, id: &str, identity: &str) -> bool {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = ended.remove(&(id.to_owned(), identity.to_owned()));
        noted.is_some_and(|at| at.elapsed() < UNSEEN)
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

    pub(super) fn knows(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// Forgets those that are not there any more.
    fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|id, _| is_there(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.identities
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often sessions are looked for whose end nobody else will note.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a session may take to show itself after its client has gone, and how often it is looked for.
const APPEARS_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Notes the end of sessions that go on without the client that opened them, also of those that
/// another server has started.
pub(super) async fn note_ends(state: Arc<State>) {
    let Some(sessions) = state.sessions.clone() else {
        return;
    };
    let mut watched = HashSet::new();
    let mut watching = JoinSet::new();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The next server goes on with it.
            () = state.draining.cancelled() => return,
            Some(ended) = watching.join_next() => {
                match ended {
                    // Its outcome may wait for somebody for long.
                    Ok((_, Some(session))) => state.note_end(&session),
                    Ok((id, None)) => drop(watched.remove(&id)),
                    Err(_) => {}
                }
            }
            // Whoever comes for its outcome may be quick.
            () = state.unattended.noted.notified() => {
                for id in state.unattended.fresh() {
                    if watched.insert(id.clone()) {
                        watching.spawn(watch(Arc::clone(&sessions), id, APPEARS_WITHIN));
                    }
                }
            }
            _ = looks.tick() => {
                let ids = match sessions.ids() {
                    Ok(ids) => ids,
                    Err(error) => {
                        tracing::error!(%error, "the sessions cannot be looked for");
                        continue;
                    }
                };
                let there: HashSet<_> = ids.iter().collect();
                watched.retain(|id| there.contains(id));
                state.count(&*sessions, &ids).await;
                for id in ids {
                    let is_open = state.running.has_opened(&id);
                    if !is_open && watched.insert(id.clone()) {
                        watching.spawn(watch(Arc::clone(&sessions), id, Duration::ZERO));
                    }
                }
            }
        }
    }
}

/// Waits until a session has ended that appears within this time.
async fn watch(
    sessions: Arc<dyn Sessions>,
    id: String,
    within: Duration,
) -> (String, Option<SessionInfo>) {
    let begun = Instant::now();
    loop {
        match sessions.watch(&id).await {
            None if begun.elapsed() < within => tokio::time::sleep(LOOK_AGAIN).await,
            session => return (id, session),
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
        if self.unattended.takes_noted(id.as_str(), &session.identity) {
            return;
        }
        self.unattended.end_is_noted(id.as_str(), &session.identity);
        let module = self.registry.load().resolve(&session.module).ok().cloned();
        let call = AuditedCall {
            id: &id,
            identity: &session.identity,
            address: None,
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

/// By its id, or its name if it has one.
fn is_wanted(session: &Session, wanted: &str) -> bool {
    session.id == wanted || (session.name == wanted && !wanted.is_empty())
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
