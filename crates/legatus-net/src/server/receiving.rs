//! What a caller sends of a call after its first message.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use legatus_core::limits::{self, KEPT_MESSAGE_BYTES};
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
///
/// Acknowledgements of a kept call come between its messages, and a module may read nothing before its output
/// is acknowledged. So what it does not read yet waits here, and what is behind is read.
pub(super) async fn receive(
    mut messages: MessageReader,
    sender: ChannelSender,
    cancellation: CancellationToken,
    refused: Arc<OnceLock<Fault>>,
    kept: Option<KeptStream>,
) -> std::convert::Infallible {
    let mut sender = Some(sender);
    let mut waiting = Waiting::default();
    let mut ended = false;
    loop {
        if waiting.messages.is_empty() && ended {
            sender = None;
        }
        let next = tokio::select! {
            biased;
            passed = waiting.pass(sender.as_ref()), if !waiting.messages.is_empty() => {
                match passed {
                    Ok(()) => {}
                    Err(ChannelClosed::Gone) => {
                        sender = None;
                        waiting = Waiting::default();
                    }
                    Err(error @ ChannelClosed::TooLong(_)) => {
                        refused.set(Fault::new(error.to_string())).ok();
                        cancellation.cancel();
                        break;
                    }
                }
                continue;
            }
            next = messages.next(), if waiting.has_room(kept.is_some()) => next,
        };
        let part = match next {
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
                ended = true;
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
        if sender.is_some() {
            waiting.push(message);
        }
    }
    // Nobody will acknowledge anything any more.
    drop(kept);
    while !waiting.messages.is_empty() && waiting.pass(sender.as_ref()).await.is_ok() {}
    // Unless it was closed properly, the input stays open until the call has ended.
    let _open = sender;
    std::future::pending().await
}

/// Messages that the module has not read yet.
#[derive(Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

impl Waiting {
    /// Whether the next message can wait here, too. An honest client of a kept call has no more than these on
    /// their way, so that its acknowledgements never have to wait.
    fn has_room(&self, is_kept: bool) -> bool {
        let others = match is_kept {
            true => limits::UNTAKEN_BYTES + limits::MESSAGE_BYTES + KEPT_MESSAGE_BYTES,
            false => 0,
        };
        self.bytes <= others
    }

    fn push(&mut self, message: Bytes) {
        self.bytes += message.len() + KEPT_MESSAGE_BYTES;
        self.messages.push_back(message);
    }

    /// Passes the oldest on. Cancel safe.
    async fn pass(&mut self, sender: Option<&ChannelSender>) -> Result<(), ChannelClosed> {
        let oldest = self.messages.front().cloned().unwrap_or_default();
        let length = oldest.len();
        sender.ok_or(ChannelClosed::Gone)?.send(oldest).await?;
        self.bytes -= length + KEPT_MESSAGE_BYTES;
        self.messages.pop_front();
        Ok(())
    }
}
