//! The gRPC service: messages of the wire to calls, and back.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::Stream;
use legatus_core::wire::{
    CallReply, CallRequest, ControlReply, ControlRequest, DescribeReply, DescribeRequest,
    EndSessionReply, EndSessionRequest, Limits, ListSessionsReply, ListSessionsRequest, Open,
    call_reply, call_request,
};
use legatus_core::{
    CallId, Channel, ChannelClosed, ChannelReceiver, ChannelSender, Control, Fault, Outcome,
    Request, limits,
};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::{Code, Request as GrpcRequest, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::State;
use super::connection::Connection;
use super::keeping::{Guard, KeptStream};
use super::limits::InUse;
use super::pipeline::{Arrived, Input};
use crate::service::legatus_server::{Legatus, LegatusServer};

/// What surrounds a module message on the wire, at most.
const OVERHEAD: usize = 64;

/// How long a client may take to tell that an outcome has arrived.
const FETCH_WITHIN: Duration = Duration::from_secs(30);

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
        .max_decoding_message_size(limits::MESSAGE_BYTES + OVERHEAD)
        .max_encoding_message_size(limits::MESSAGE_BYTES + OVERHEAD);
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

type Replies = Pin<Box<dyn Stream<Item = Result<CallReply, Status>> + Send>>;

#[tonic::async_trait]
impl Legatus for Service {
    type CallStream = Replies;

    async fn call(
        &self,
        request: GrpcRequest<Streaming<CallRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let connection = connection(&request)?;
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(self.state.limits.handshake, messages.message());
        let first = first
            .await
            .map_err(|_| Status::deadline_exceeded("no Open came"))??;
        let Some(call_request::Part::Open(open)) = first.and_then(|first| first.part) else {
            return Err(Status::invalid_argument(
                "the first message of a call must be Open",
            ));
        };
        Ok(Response::new(self.start(connection, open, messages)?))
    }

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
        Ok(Response::new(
            self.state.list_sessions(&connection.peer).await,
        ))
    }

    async fn end_session(
        &self,
        request: GrpcRequest<EndSessionRequest>,
    ) -> Result<Response<EndSessionReply>, Status> {
        let connection = connection(&request)?;
        let ended = self
            .state
            .end_session(&connection.peer, request.into_inner());
        Ok(Response::new(ended.await?))
    }

    async fn describe(
        &self,
        request: GrpcRequest<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        let connection = connection(&request)?;
        let limits = &self.state.limits;
        let bounded = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let modules = self.state.registry.modules();
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

impl Service {
    /// Starts a call in a task of its own: its end is noted even when the caller has gone.
    fn start(
        &self,
        connection: Arc<Connection>,
        mut open: Open,
        messages: Streaming<CallRequest>,
    ) -> Result<Replies, Status> {
        let cancellation = CancellationToken::new();
        let (kept, persistence) = KeptStream::new(&mut open, &connection, &cancellation).unzip();
        let attach = persistence.as_ref().and_then(|kept| kept.attach.clone());
        let id = call_id(open.call_id)?;
        let (ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);
        let (sender, receiver) = ours.split();
        let (decide, pending) = oneshot::channel();
        let replies = Replying::stream(receiver, pending, &cancellation, kept.clone());
        let (controls, controlled) = Control::queue();
        let refused = Arc::new(OnceLock::new());
        let arrived = Arrived {
            id,
            peer: connection.peer.clone(),
            address: connection.address.clone(),
            module: shortened(open.module),
            version: shortened(open.version),
            cancellation: cancellation.clone(),
            refused: Arc::clone(&refused),
            kept: kept.as_ref().map(|kept| kept.kept.clone()),
            attach,
        };
        // From here on the caller can control the call.
        let resume = arrived.attach.as_ref().is_some_and(|attach| attach.resume);
        let running = self.state.running.add(
            &arrived.peer,
            &arrived.id,
            controls,
            cancellation.clone(),
            kept.as_ref().map(|kept| (kept.lost.clone(), resume)),
        );
        let in_use = CallInUse::take(&self.state, &connection);
        let taken = match (running, in_use) {
            (Some(running), Ok(in_use)) => (running, in_use),
            (None, _) => {
                let text = format!("a call with the id `{}` is running already", arrived.id);
                let outcome = Outcome::Failed(Fault::new(text));
                decide
                    .send(Some(self.state.refuse(&arrived, None, outcome)))
                    .ok();
                return Ok(replies);
            }
            (_, Err(fault)) => {
                let outcome = Outcome::Unavailable(fault);
                decide
                    .send(Some(self.state.refuse(&arrived, None, outcome)))
                    .ok();
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
        let state = Arc::clone(&self.state);
        self.state.calls.spawn(async move {
            let given_back_at_the_end = taken;
            let receiving = receive(messages, sender, cancellation, refused, kept.clone());
            let mut receiving = Box::pin(receiving);
            let outcome = tokio::select! {
                outcome = state.run_call(arrived, input) => outcome,
                never = &mut receiving => match never {},
                never = let_go(&state, kept.as_ref()) => match never {},
            };
            drop(given_back_at_the_end);
            let Some(kept) = kept else {
                decide.send(Some(outcome)).ok();
                return;
            };
            let goes_on = kept.kept.is_set() && matches!(outcome, Outcome::Lost(_));
            decide.send((!goes_on).then_some(outcome)).ok();
            if !kept.kept.is_set() {
                // That the outcome has arrived is still to come.
                tokio::spawn(tokio::time::timeout(FETCH_WITHIN, receiving));
            }
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

/// Passes the caller's messages on. When the module reads no more, the rest is dropped, so that
/// the caller is not stuck. Only a half-close ends the module's input: when the caller goes away
/// or sends what cannot be taken, the call is cancelled instead. Never returns: the call's end
/// ends it.
async fn receive(
    mut messages: Streaming<CallRequest>,
    sender: ChannelSender,
    cancellation: CancellationToken,
    refused: Arc<OnceLock<Fault>>,
    kept: Option<KeptStream>,
) -> std::convert::Infallible {
    let mut sender = Some(sender);
    loop {
        let part = match messages.message().await {
            Ok(Some(request)) => request.part,
            Ok(None) if kept.is_some() => break,
            Ok(None) => {
                sender = None;
                break;
            }
            // Its stream of replies ends, too, and tells whether that is a goodbye.
            Err(status) if kept.is_some() && !is_misuse(&status) => break,
            Err(status) => {
                if is_misuse(&status) {
                    // The first reason is the one.
                    refused.set(Fault::new(status.message())).ok();
                }
                cancellation.cancel();
                break;
            }
        };
        let message = match (part, &kept) {
            (Some(call_request::Part::Message(message)), _) => Some(message),
            (Some(call_request::Part::Received(count)), Some(kept)) => {
                kept.received(count);
                continue;
            }
            (Some(call_request::Part::Fetched(_)), Some(kept)) => {
                kept.fetched();
                continue;
            }
            (Some(call_request::Part::End(_)), Some(_)) => {
                sender = None;
                continue;
            }
            _ => None,
        };
        let Some(message) = message else {
            let fault = Fault::new("a message of a call that this server does not know");
            refused.set(fault).ok();
            cancellation.cancel();
            break;
        };
        let Some(open) = &sender else { continue };
        match open.send(message).await {
            Ok(()) => {}
            Err(ChannelClosed::Gone) => sender = None,
            Err(error @ ChannelClosed::TooLong(_)) => {
                refused.set(Fault::new(error.to_string())).ok();
                cancellation.cancel();
                break;
            }
        }
    }
    // Unless it was closed properly, the input stays open until the call has ended.
    let _open = sender;
    std::future::pending().await
}

/// Whether a stream ended because of what was in it.
fn is_misuse(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::OutOfRange | Code::Internal | Code::ResourceExhausted
    )
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

/// The server's side of a call's stream: the module's messages, then the outcome. Dropping it
/// cancels the call: the caller has reset the stream, or its connection is lost.
struct Replying {
    receiver: ChannelReceiver,
    drained: bool,
    pending: oneshot::Receiver<Option<Outcome>>,
    told: Option<Option<Outcome>>,
    finished: bool,
    /// Tells how far the client's messages have come, if the call is kept; first of all whether it
    /// is.
    taken: Option<KeptStream>,
    is_kept: bool,
    _at_end: AtEnd,
}

/// What the end of a call's stream means, unless the call has ended before.
enum AtEnd {
    Cancels(#[expect(dead_code, reason = "acts when dropped")] DropGuard),
    MayBeLost(#[expect(dead_code, reason = "acts when dropped")] Guard),
}

impl Replying {
    fn stream(
        receiver: ChannelReceiver,
        pending: oneshot::Receiver<Option<Outcome>>,
        cancellation: &CancellationToken,
        kept: Option<KeptStream>,
    ) -> Replies {
        let at_end = match &kept {
            None => AtEnd::Cancels(cancellation.clone().drop_guard()),
            Some(kept) => AtEnd::MayBeLost(Guard(Some(kept.clone()))),
        };
        let replying = Self {
            receiver,
            drained: false,
            pending,
            told: None,
            finished: false,
            taken: kept,
            is_kept: false,
            _at_end: at_end,
        };
        Box::pin(futures_util::stream::unfold(
            replying,
            |mut replying| async move {
                let part = replying.next().await?;
                let reply = part.map(|part| CallReply { part: Some(part) });
                Some((reply, replying))
            },
        ))
    }

    async fn next(&mut self) -> Option<Result<call_reply::Part, Status>> {
        while !self.drained || self.told.is_none() {
            // Nothing is sent before the client knows where that belongs.
            let knows = self.is_kept || self.taken.is_none() || self.told.is_some();
            tokio::select! {
                biased;
                taken = next_taken(&mut self.taken) => match taken {
                    Some(taken) => {
                        self.is_kept = true;
                        return Some(Ok(taken));
                    }
                    None => self.taken = None,
                },
                message = self.receiver.receive(), if !self.drained && knows => match message {
                    Some(message) => {
                        return Some(Ok(call_reply::Part::Message(message)));
                    }
                    None => self.drained = true,
                },
                told = &mut self.pending, if self.told.is_none() => {
                    let vanished = |_| Some(Outcome::Lost(Fault::new("the server lost the call")));
                    self.told = Some(told.unwrap_or_else(vanished));
                    // A Commander may leave someone behind who still holds its channel: nothing
                    // more is waited for, but what was sent before the outcome is passed on.
                    self.receiver.close();
                }
            }
        }
        let told = self.told.take().filter(|_| !self.finished)?;
        self.finished = true;
        // Keeps the loop above from waiting if the stream is asked once more.
        self.told = Some(Some(Outcome::SUCCESS));
        Some(match told {
            Some(outcome) => Ok(call_reply::Part::Outcome(outcome.into())),
            None => Err(Status::unavailable(
                "the call goes on without this connection",
            )),
        })
    }
}

/// What is to be told next of the client's messages, waiting for ever where nothing ever is.
async fn next_taken(kept: &mut Option<KeptStream>) -> Option<call_reply::Part> {
    match kept {
        Some(kept) => kept.taken().await,
        None => std::future::pending().await,
    }
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
