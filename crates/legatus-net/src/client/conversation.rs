//! One call, as the client drives it.

use bytes::Bytes;
use futures_util::{Stream, stream};
use legatus_core::wire::{CallReply, CallRequest, ControlRequest, Open, call_reply, call_request};
use legatus_core::{
    Channel, ChannelReceiver, ChannelSender, Control, ControlReceiver, Conversation, Fault,
    Outcome, PendingOutcome, Request, limits,
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::Client;
use super::error::ConnectError;
use super::kept;

/// Opens a call; what the server says to it comes as the conversation's outcome.
pub(super) fn open(client: &Client, module: &str, request: Request) -> Result<Conversation, Fault> {
    if request.keeping.is_some() {
        let (id, open) = first_message(module, request)?;
        return Ok(kept::open(client, id, open));
    }
    let (id, open) = first_message(module, request)?;
    let (ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);
    let (to_sender, from_sender) = theirs.split();
    let (controls, controlled) = Control::queue();
    let (decide, outcome) = PendingOutcome::new();
    let client = client.clone();
    tokio::spawn(async move {
        let mut decide = decide;
        // Controls find the call from the server's first answer on.
        let taken = CancellationToken::new();
        let outcome = tokio::select! {
            outcome = converse(&client, open, from_sender, to_sender, &taken) => outcome,
            // The conversation was dropped: leaving this task resets the stream, which cancels
            // the call.
            () = decide.closed() => return,
            never = pass_on(&client, &id, controlled, &taken) => match never {},
        };
        decide.send(outcome).ok();
    });
    Ok(Conversation {
        channel: ours,
        controls,
        outcome,
    })
}

/// The call's id, and its first message.
pub(super) fn first_message(module: &str, request: Request) -> Result<(String, Open), Fault> {
    if request.size() > limits::REQUEST_BYTES {
        let (size, limit) = (request.size(), limits::REQUEST_BYTES);
        return Err(Fault::new(format!(
            "the request of {size} bytes is longer than the limit of {limit}"
        )));
    }
    let id = random_id()?;
    let timeout = request.timeout.map_or(0, |timeout| {
        // Zero would mean no deadline at all.
        u64::try_from(timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    });
    let open = Open {
        call_id: id.clone(),
        module: module.to_owned(),
        version: String::new(),
        arguments: request.arguments,
        request: request.body,
        timeout_milliseconds: timeout,
        keeping: request.keeping.map(Into::into),
        attach: None,
    };
    Ok((id, open))
}

/// Drives a call from Open to its outcome.
async fn converse(
    client: &Client,
    open: Open,
    from_sender: ChannelReceiver,
    to_sender: ChannelSender,
    taken: &CancellationToken,
) -> Outcome {
    let mut grpc = client.grpc.clone();
    match grpc.call(requests(open, from_sender)).await {
        Ok(response) => {
            taken.cancel();
            receive(client, response.into_inner(), to_sender).await
        }
        Err(status) => refused(client, &status).await,
    }
}

/// Open, then the Sender's messages.
fn requests(open: Open, from_sender: ChannelReceiver) -> impl Stream<Item = CallRequest> {
    let part = |part| CallRequest { part: Some(part) };
    let first = stream::iter([part(call_request::Part::Open(open))]);
    let rest = stream::unfold(from_sender, move |mut receiver| async move {
        let message: Bytes = receiver.receive().await?;
        Some((part(call_request::Part::Message(message)), receiver))
    });
    futures_util::StreamExt::chain(first, rest)
}

/// Passes messages to the Sender until the outcome comes.
async fn receive(
    client: &Client,
    mut replies: Streaming<CallReply>,
    to_sender: ChannelSender,
) -> Outcome {
    let lost = |fault: String| Outcome::Lost(Fault::new(fault));
    loop {
        match replies.message().await {
            Ok(Some(CallReply {
                part: Some(call_reply::Part::Message(message)),
            })) => {
                // A Sender that no longer listens still wants to know the outcome.
                to_sender.send(message).await.ok();
            }
            Ok(Some(CallReply {
                part: Some(call_reply::Part::Outcome(outcome)),
            })) => return outcome.into(),
            // Only for calls that are kept.
            Ok(Some(CallReply {
                part: Some(call_reply::Part::Taken(_)),
            })) => {}
            Ok(Some(CallReply { part: None })) => {
                return lost("the server sent a message that this client does not know".to_owned());
            }
            Ok(None) => return lost("the server ended the call without an outcome".to_owned()),
            Err(status) => {
                let cause = client.explain(&status).await;
                return lost(format!("the connection was lost: {}", cause.chain()));
            }
        }
    }
}

/// The server did not take the call.
pub(super) async fn refused(client: &Client, status: &Status) -> Outcome {
    match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::ResourceExhausted | tonic::Code::OutOfRange => {
            Outcome::Failed(Fault::new(status.message()))
        }
        _ => Outcome::Unavailable(ConnectError::into(client.explain(status).await)),
    }
}

/// Passes controls on, each in a request of its own beside the call's stream. Never returns: the
/// call's end ends it.
async fn pass_on(
    client: &Client,
    id: &str,
    mut controlled: ControlReceiver,
    taken: &CancellationToken,
) -> std::convert::Infallible {
    taken.cancelled().await;
    while let Some(control) = controlled.receive().await {
        let request = ControlRequest {
            call_id: id.to_owned(),
            control: Some(control.into()),
        };
        if let Err(status) = client.grpc.clone().control(request).await {
            tracing::debug!(%status, "a control was not delivered");
        }
    }
    std::future::pending().await
}

/// 128 random bits in hexadecimal digits.
fn random_id() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Fault::new(format!("no randomness: {error}")))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
