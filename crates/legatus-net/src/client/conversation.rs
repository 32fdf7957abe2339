//! One call, as the client drives it.

use futures_util::stream;
use http::{HeaderValue, header};
use legatus_core::wire::{CallReply, ControlRequest, Open, call_reply, call_request};
use legatus_core::{
    Channel, ChannelReceiver, ChannelSender, Control, ControlReceiver, Conversation, Fault,
    Outcome, PendingOutcome, Request, limits,
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::Client;
use super::error::ConnectError;
use super::kept;
use crate::framing::{Abandoned, Body, CALL_PATH, CONTENT_TYPE, MessageReader, Piece, Pieces};

/// Opens a call; what the server says to it comes as the conversation's outcome.
pub(super) fn open(client: &Client, module: &str, request: Request) -> Result<Conversation, Fault> {
    let keeps = request.keeping.is_some();
    let (id, open) = first_message(module, request)?;
    if keeps {
        return Ok(kept::open(client, id, open));
    }
    let (ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);
    let (to_sender, from_sender) = theirs.split();
    let (controls, controlled) = Control::queue();
    let (decide, outcome) = PendingOutcome::new();
    let dropped = outcome.dropped();
    let client = client.clone();
    tokio::spawn(async move {
        let mut decide = decide;
        // Controls find the call from the server's first answer on.
        let taken = CancellationToken::new();
        let outcome = tokio::select! {
            outcome = converse(&client, pieces(open, from_sender, dropped), to_sender, &taken) => outcome,
            // The conversation was dropped: leaving this task resets the stream, which cancels
            // the call.
            () = decide.closed() => return,
            never = pass_on(&client, &id, controlled, &taken) => match never {},
        };
        if matches!(outcome, Outcome::Lost(_)) {
            client.lost(id);
        }
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
    pieces: Pieces,
    to_sender: ChannelSender,
    taken: &CancellationToken,
) -> Outcome {
    match begin(client, pieces).await {
        Ok(replies) => {
            taken.cancel();
            receive(client, replies, to_sender).await
        }
        Err(Refusal::Lost(error)) => Outcome::Unavailable(error.into()),
        Err(Refusal::Refused(outcome)) => outcome,
    }
}

/// Why a call has not begun.
pub(super) enum Refusal {
    /// The connection failed.
    Lost(ConnectError),
    /// The server did not take it.
    Refused(Outcome),
}

/// Sends a call's messages, and waits for the beginning of the answer.
pub(super) async fn begin(client: &Client, pieces: Pieces) -> Result<MessageReader, Refusal> {
    let mut request = http::Request::new(Body::request(pieces));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = client.endpoint.uri(CALL_PATH);
    *request.version_mut() = http::Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let response = match client.http2.clone().send(request).await {
        Ok(response) => response,
        Err(error) => return Err(Refusal::Lost(client.explain(&error).await)),
    };
    match Status::from_header_map(response.headers()) {
        Some(status) => Err(Refusal::Refused(refused(&status))),
        None => Ok(MessageReader::new(response.into_body())),
    }
}

/// Open, then the Sender's messages. They end when the Sender has said all; if the conversation was
/// dropped first, the Commander must not take what it got for everything.
fn pieces(open: Open, from_sender: ChannelReceiver, dropped: CancellationToken) -> Pieces {
    let first = stream::iter([Ok(Piece::from(call_request::Part::Open(open)))]);
    let rest = stream::try_unfold(from_sender, move |mut receiver| {
        let dropped = dropped.clone();
        async move {
            match receiver.receive().await {
                Some(message) => {
                    let piece = Piece::from(call_request::Part::Message(message));
                    Ok(Some((piece, receiver)))
                }
                None if dropped.is_cancelled() => Err(Abandoned::default()),
                None => Ok(None),
            }
        }
    });
    Box::pin(futures_util::StreamExt::chain(first, rest))
}

/// Passes messages to the Sender until the outcome comes.
async fn receive(client: &Client, mut replies: MessageReader, to_sender: ChannelSender) -> Outcome {
    let lost = |fault: &str| Outcome::Lost(Fault::new(fault));
    loop {
        let reply = match replies.next().await {
            Ok(Some(reply)) => CallReply::decode(reply),
            Ok(None) => {
                let status = replies.trailers().and_then(Status::from_header_map);
                return match status.filter(|status| status.code() != Code::Ok) {
                    Some(status) => lost(&format!("the server ended the call: {status}")),
                    None => lost("the server ended the call without an outcome"),
                };
            }
            Err(error) => {
                let cause = client.explain(&error).await;
                return lost(&format!("the connection was lost: {}", cause.chain()));
            }
        };
        match reply.map(|reply| reply.part) {
            Ok(Some(call_reply::Part::Message(message))) => {
                // A Sender that no longer listens still wants to know the outcome.
                to_sender.send(message).await.ok();
            }
            Ok(Some(call_reply::Part::Outcome(outcome))) => return outcome.into(),
            // Only for calls that are kept.
            Ok(Some(call_reply::Part::Taken(_))) => {}
            Ok(None) | Err(_) => {
                return lost("the server sent a message that this client does not know");
            }
        }
    }
}

/// The server did not take the call.
fn refused(status: &Status) -> Outcome {
    let fault = Fault::new(status.message());
    match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange => {
            Outcome::Failed(fault)
        }
        _ => Outcome::Unavailable(fault),
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_conversation_that_is_dropped_resets_its_stream_instead_of_ending_it() {
        for outcome_is_dropped_first in [false, true] {
            let (ours, theirs) = Channel::pair(100);
            let (_decide, outcome) = PendingOutcome::new();
            let dropped = outcome.dropped();
            let mut pieces = pieces(Open::default(), theirs.split().1, dropped);
            let _outcome = Some(outcome).filter(|_| !outcome_is_dropped_first);
            drop(ours);
            assert!(matches!(pieces.next().await, Some(Ok(_))), "Open");
            let last = pieces.next().await;
            assert_eq!(matches!(last, Some(Err(_))), outcome_is_dropped_first);
            assert_eq!(last.is_none(), !outcome_is_dropped_first);
        }
    }
}
