//! Lists and ends kept calls, for those who may.

use legatus_core::wire::{EndSessionReply, EndSessionRequest, ListSessionsReply, Session};
use legatus_core::{Peer, SessionInfo};
use tonic::Status;

use super::State;

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

fn session(session: SessionInfo) -> Session {
    let milliseconds =
        |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
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
