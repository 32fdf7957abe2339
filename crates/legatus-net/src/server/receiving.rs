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
        if sender.is_some() && !ended {
            waiting.push(message);
        }
    }
    // Nobody will acknowledge anything any more.
    drop(kept);
    while !waiting.messages.is_empty() && waiting.pass(sender.as_ref()).await.is_ok() {}
    if ended {
        sender = None;
    }
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
        // It is a part of the frame that it came in, which may be much larger, and would be kept with it.
        let is_small = message.len() < limits::CHUNK_BYTES;
        let message = match is_small && !self.messages.is_empty() {
            true => Bytes::copy_from_slice(&message),
            false => message,
        };
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
        if self.messages.is_empty() {
            self.messages.shrink_to(limits::CHANNEL_MESSAGES);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_may_have_untaken_leaves_room_for_what_is_behind() {
        let mut waiting = Waiting::default();
        let mut untaken = 0;
        for length in [0, 1, limits::CHUNK_BYTES].into_iter().cycle() {
            if untaken + length + KEPT_MESSAGE_BYTES >= limits::UNTAKEN_BYTES {
                break;
            }
            untaken += length + KEPT_MESSAGE_BYTES;
            waiting.push(Bytes::from(vec![0; length]));
        }
        waiting.push(Bytes::from(vec![0; limits::MESSAGE_BYTES]));
        assert!(waiting.has_room(true));
        waiting.push(Bytes::from(vec![0; limits::MESSAGE_BYTES]));
        assert!(!waiting.has_room(true));
    }

    #[test]
    fn a_call_that_is_not_kept_lets_one_message_wait() {
        let mut waiting = Waiting::default();
        assert!(waiting.has_room(false));
        waiting.push(Bytes::new());
        assert!(!waiting.has_room(false));
    }

    #[test]
    fn a_small_message_that_waits_does_not_keep_the_frame_that_it_came_in() {
        let frame = Bytes::from(vec![0; 1 << 20]);
        let mut waiting = Waiting::default();
        for start in 0..3 {
            waiting.push(frame.slice(start..start + 1));
        }
        let alone = waiting
            .messages
            .iter()
            .filter(|message| message.is_unique());
        assert_eq!(alone.count(), 2);
    }

    #[tokio::test]
    async fn what_waits_is_passed_on_in_its_order() {
        let (ours, theirs) = legatus_core::Channel::pair(limits::CHANNEL_BYTES);
        let (sender, _) = ours.split();
        let (_, mut receiver) = theirs.split();
        let mut waiting = Waiting::default();
        for text in ["a", "b", "c"] {
            waiting.push(Bytes::from_static(text.as_bytes()));
        }
        for text in ["a", "b", "c"] {
            waiting.pass(Some(&sender)).await.unwrap();
            assert_eq!(receiver.receive().await.unwrap(), text);
        }
        assert!(waiting.messages.is_empty() && waiting.bytes == 0);
        drop(receiver);
        waiting.push(Bytes::new());
        assert_eq!(waiting.pass(Some(&sender)).await, Err(ChannelClosed::Gone));
    }
}
