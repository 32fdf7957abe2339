//! What a caller sends of a call after its first message.

use std::sync::{Arc, OnceLock};

use legatus_core::wire::{CallRequest, call_request};
use legatus_core::{ChannelClosed, ChannelSender, Fault};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::keeping::KeptStream;
use crate::framing::{MessageReader, ReadError};

/// Passes the caller's messages on. When the module reads no more, the rest is dropped, so that
/// the caller is not stuck. Only a half-close ends the module's input: when the caller goes away
/// or sends what cannot be taken, the call is cancelled instead. Never returns: the call's end
/// ends it.
pub(super) async fn receive(
    mut messages: MessageReader,
    sender: ChannelSender,
    cancellation: CancellationToken,
    refused: Arc<OnceLock<Fault>>,
    kept: Option<KeptStream>,
) -> std::convert::Infallible {
    let mut sender = Some(sender);
    loop {
        let part = match messages.next().await {
            Ok(Some(message)) => CallRequest::decode(message).ok().and_then(|call| call.part),
            // Its stream of replies ends, too, and tells whether that is a goodbye.
            Ok(None) | Err(ReadError::Reset | ReadError::Failed(_)) if kept.is_some() => break,
            Ok(None) => {
                sender = None;
                break;
            }
            Err(error) => {
                if !matches!(error, ReadError::Reset | ReadError::Failed(_)) {
                    refused.set(Fault::new(error.to_string())).ok(); // the first reason is the one
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
    // Nobody will acknowledge anything any more.
    drop(kept);
    // Unless it was closed properly, the input stays open until the call has ended.
    let _open = sender;
    std::future::pending().await
}
