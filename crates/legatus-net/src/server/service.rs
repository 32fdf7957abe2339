//! The gRPC service: messages of the wire to calls, and back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Incoming;
use legatus_core::wire::{
    CallRequest, ControlReply, ControlRequest, DescribeReply, DescribeRequest, EndSessionReply,
    EndSessionRequest, Limits, ListSessionsReply, ListSessionsRequest, Open, call_request,
};
use legatus_core::{CallId, Channel, Control, Fault, Outcome, Request, limits};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request as GrpcRequest, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::State;
use super::beginning::remember;
use super::connection::Connection;
use super::keeping::KeptStream;
use super::limits::InUse;
use super::pipeline::{Arrived, Input};
use super::receiving::receive;
use super::replies;
use crate::framing::{Body, CONTENT_TYPE, LARGEST, MessageReader, Pieces};
use crate::service::legatus_server::{Legatus, LegatusServer};

/// Tells who asks for the server's health.
pub(super) struct Health(HealthReporter);

impl Health {
    /// From now on other servers should be called.
    pub(super) async fn set_not_serving(&self) {
        self.0.set_not_serving::<LegatusServer<Service>>().await;
        let status = ServingStatus::NotServing;
        self.0.set_service_status("", status).await;
    }
}

/// The services of a server: Legatus, health and reflection.
pub(super) async fn routes(state: Arc<State>) -> (Routes, Health) {
    let legatus = LegatusServer::new(Service { state })
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<LegatusServer<Service>>().await;
    let mut routes = Routes::new(legatus).add_service(health);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(crate::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Many tools still speak the older version.
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(current), Ok(older)) => routes = routes.add_service(current).add_service(older),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection is not offered");
        }
    }
    (routes, Health(reporter))
}

pub(super) struct Service {
    state: Arc<State>,
}

#[tonic::async_trait]
impl Legatus for Service {
    async fn control(
        &self,
        request: GrpcRequest<ControlRequest>,
    ) -> Result<Response<ControlReply>, Status> {
        let connection = connection(&request)?;
        let request = request.into_inner();
        let id = call_id(request.call_id)?;
        let control = Control::try_from(request.control)
            .map_err(|_| Status::invalid_argument("a control that makes no sense"))?;
        let delivered = self.state.running.control(&connection.peer, id, control);
        Ok(Response::new(ControlReply { delivered }))
    }

    async fn list_sessions(
        &self,
        request: GrpcRequest<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsReply>, Status> {
        let connection = connection(&request)?;
        let listed = self.state.list_sessions(&connection.peer).await?;
        Ok(Response::new(listed))
    }

    async fn end_session(
        &self,
        request: GrpcRequest<EndSessionRequest>,
    ) -> Result<Response<EndSessionReply>, Status> {
        let connection = connection(&request)?;
        let request = request.into_inner();
        let ended = self.state.end_session(&connection, request).await?;
        Ok(Response::new(ended))
    }

    async fn describe(
        &self,
        request: GrpcRequest<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        let connection = connection(&request)?;
        let limits = &self.state.limits;
        let bounded = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let registry = self.state.registry.load_full();
        let modules = registry.modules();
        Ok(Response::new(DescribeReply {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: connection.peer.identity().to_owned(),
            protocol: 1,
            limits: Some(Limits {
                message_bytes: limits::MESSAGE_BYTES as u64,
                calls_per_connection: bounded(limits.calls_per_connection),
                calls_per_identity: bounded(limits.calls_per_identity),
            }),
            modules: modules.map(|module| (&**module).into()).collect(),
        }))
    }
}

/// Answers a request for `Call`.
pub(super) async fn call(
    state: &Arc<State>,
    connection: Arc<Connection>,
    request: hyper::Request<Incoming>,
) -> hyper::Response<Body> {
    let is_grpc = |kind: &http::HeaderValue| kind.as_bytes().starts_with(CONTENT_TYPE.as_bytes());
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    if request.method() != http::Method::POST || !kind.is_some_and(is_grpc) {
        return Status::invalid_argument("this is no request of gRPC").into_http();
    }
    let mut messages = MessageReader::new(request.into_body());
    let started = match opening(&mut messages, state.limits.handshake).await {
        Ok(open) => {
            if open.attach.as_ref().is_some_and(|attach| attach.or_open) {
                state.outlast_predecessor().await;
            }
            state.start(connection, open, messages)
        }
        Err(status) => Err(status),
    };
    match started {
        Ok(replies) => {
            let mut response = hyper::Response::new(Body::reply(replies));
            let headers = response.headers_mut();
            headers.insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
            response
        }
        Err(status) => status.into_http(),
    }
}

/// The first message of a call.
async fn opening(messages: &mut MessageReader, within: Duration) -> Result<Open, Status> {
    let first = tokio::time::timeout(within, messages.next())
        .await
        .map_err(|_| Status::deadline_exceeded("no Open came"))?
        .map_err(|error| Status::invalid_argument(crate::chain(&error)))?;
    match first.map(CallRequest::decode) {
        Some(Ok(CallRequest {
            part: Some(call_request::Part::Open(open)),
        })) => Ok(open),
        _ => Err(Status::invalid_argument(
            "the first message of a call must be Open",
        )),
    }
}

impl State {
    /// Starts a call in a task of its own: its end is noted even when the caller has gone.
    fn start(
        self: &Arc<Self>,
        connection: Arc<Connection>,
        mut open: Open,
        messages: MessageReader,
    ) -> Result<Pieces, Status> {
        let cancellation = CancellationToken::new();
        let (kept, mut persistence) =
            KeptStream::new(&mut open, &connection, &cancellation).unzip();
        let id = call_id(open.call_id)?;
        let (ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);
        let (sender, receiver) = ours.split();
        let (decide, pending) = oneshot::channel();
        let replies = replies::stream(receiver, pending, &cancellation, kept.clone());
        let (controls, controlled) = Control::queue();
        let refused = Arc::new(OnceLock::new());
        // From here on the caller can control the call.
        let attach = persistence.as_ref().and_then(|kept| kept.attach.as_ref());
        let added = self.running.add(
            &connection.peer,
            &id,
            controls,
            cancellation.clone(),
            kept.as_ref().map(|kept| kept.lost.clone()),
            self.coming(&id, &open.module, attach),
        );
        let (running, begun) = added.unzip();
        let begun = begun.flatten();
        let opens_session = begun.is_some();
        if let (Some(kept), true) = (&mut persistence, opens_session) {
            kept.attach = None;
        }
        let arrived = Arrived {
            id,
            peer: connection.peer.clone(),
            address: connection.address.clone(),
            module: shortened(open.module),
            version: shortened(open.version),
            cancellation: cancellation.clone(),
            refused: Arc::clone(&refused),
            kept: kept.as_ref().map(|kept| kept.kept.clone()),
            attach: persistence.as_ref().and_then(|kept| kept.attach.clone()),
        };
        let in_use = CallInUse::take(self, &connection).and_then(|in_use| {
            let identity = connection.peer.identity();
            if opens_session {
                let limit = self.limits.sessions_per_identity;
                self.unattended.check(identity, limit)?;
            }
            Ok(in_use)
        });
        // What goes on without a client here keeps its id, so that its end is noted.
        let running =
            running.filter(|_| !opens_session || !self.unattended.knows(arrived.id.as_str()));
        let taken = match (running, in_use) {
            (Some(running), Ok(in_use)) => (running, in_use),
            (None, _) => {
                let text = format!("a call with the id `{}` is running already", arrived.id);
                let outcome = Outcome::Failed(Fault::new(text));
                decide.send(Some(self.refuse(&arrived, None, outcome))).ok();
                return Ok(replies);
            }
            (_, Err(fault)) => {
                let outcome = Outcome::Unavailable(fault);
                decide.send(Some(self.refuse(&arrived, None, outcome))).ok();
                return Ok(replies);
            }
        };
        let timeout = Duration::from_millis(open.timeout_milliseconds);
        let input = Input {
            request: Request {
                arguments: open.arguments,
                body: open.request,
                timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
                keeping: None,
            },
            channel: theirs,
            controls: controlled,
            persistence,
        };
        let state = Arc::clone(self);
        let session = opens_session.then(|| (arrived.id.clone(), arrived.peer.clone()));
        self.calls.spawn(async move {
            let given_back_at_the_end = taken;
            let receiving = receive(messages, sender, cancellation, refused, kept.clone());
            let mut receiving = Box::pin(receiving);
            let mut begun = begun;
            let outcome = tokio::select! {
                outcome = state.run_call(arrived, input, &mut begun) => outcome,
                never = &mut receiving => match never {},
                never = let_go(&state, kept.as_ref()) => match never {},
            };
            drop(given_back_at_the_end);
            let Some(kept) = kept else {
                decide.send(Some(outcome)).ok();
                return;
            };
            if let Some((id, peer)) = &session {
                match kept.kept.is_set() {
                    true => state.unattended.note(id.as_str(), peer.identity()),
                    false if begun.is_some() => {
                        state.unattended.end_is_noted(id.as_str(), peer.identity());
                    }
                    // It was refused.
                    false => {}
                }
            }
            let goes_on = kept.kept.is_set();
            let is_told = !(goes_on && matches!(outcome, Outcome::Lost(_)));
            decide.send(is_told.then_some(outcome)).ok();
            // That the outcome has arrived is still to come.
            let fetched = kept.until_fetched();
            let until_known = async move {
                if goes_on {
                    return false;
                }
                tokio::select! {
                    is_fetched = fetched => is_fetched,
                    never = receiving => match never {},
                }
            };
            tokio::spawn(async move {
                let knows = until_known.await;
                if let (true, Some((id, peer))) = (knows, &session) {
                    state.unattended.takes_noted(id.as_str(), peer.identity());
                }
                remember(begun, knows).await;
            });
        });
        Ok(replies)
    }
}

/// A name that a peer has made up, cut to what a module's name may have.
fn shortened(name: String) -> String {
    const LONGEST: usize = 64;
    match name.get(..name.floor_char_boundary(LONGEST)) {
        Some(beginning) if beginning.len() < name.len() => format!("{beginning}..."),
        _ => name,
    }
}

/// Lets a kept call go when a draining server has waited long enough for it: another one goes on
/// with it. Never returns.
async fn let_go(state: &State, kept: Option<&KeptStream>) -> std::convert::Infallible {
    if let Some(kept) = kept {
        state.stopping.cancelled().await;
        kept.lost.cancel();
    }
    std::future::pending().await
}

/// A call's share of the limits; given back when dropped.
struct CallInUse {
    connection: Arc<Connection>,
    _of_identity: InUse,
}

impl CallInUse {
    fn take(state: &State, connection: &Arc<Connection>) -> Result<Self, Fault> {
        let by_identity = state
            .usages
            .calls_by_identity
            .take(connection.peer.identity());
        let of_identity = by_identity.map_err(|limit| Fault::new(limit.to_string()))?;
        let limit = state.limits.calls_per_connection;
        if connection.calls.fetch_add(1, Ordering::Relaxed) >= limit {
            connection.calls.fetch_sub(1, Ordering::Relaxed);
            return Err(Fault::new(format!(
                "the limit of {limit} calls of one connection is reached"
            )));
        }
        connection.touch();
        Ok(Self {
            connection: Arc::clone(connection),
            _of_identity: of_identity,
        })
    }
}

impl Drop for CallInUse {
    fn drop(&mut self) {
        self.connection.touch();
        self.connection.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

fn connection<T>(request: &GrpcRequest<T>) -> Result<Arc<Connection>, Status> {
    let connection = request.extensions().get::<Arc<Connection>>();
    connection
        .cloned()
        .ok_or_else(|| Status::internal("a request without a connection"))
}

fn call_id(text: String) -> Result<CallId, Status> {
    CallId::try_from(text).map_err(|error| Status::invalid_argument(error.to_string()))
}
