//! The messages of a call in gRPC's framing, without a copy of their bytes.
//!
//! A message travels behind five bytes that tell its length ("Length-Prefixed-Message" of gRPC over
//! HTTP/2). tonic's codecs copy every message into such a buffer at one end and out of one at the
//! other; here the bytes that a module sends are those that TLS encrypts, and those that HTTP/2
//! reads are those that a module receives.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use legatus_core::limits;
use legatus_core::wire::{call_reply, call_request};
use thiserror::Error;

/// The path of `Call`.
pub(crate) const CALL_PATH: &str = "/legatus.v1.Legatus/Call";

/// The media type of gRPC's requests and replies.
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Bytes that tell a message's length: a flag for compression, and four of the length.
const PREFIX_BYTES: usize = 5;

/// Bytes of the prefix, and of a protobuf field's tag and length behind it, at most.
const HEAD_BYTES: usize = PREFIX_BYTES + 1 + 5;

/// What surrounds a module's message on the wire, at most.
pub(crate) const OVERHEAD: usize = 64;

/// Bytes of a message in its framing, at most.
pub(crate) const LARGEST: usize = limits::MESSAGE_BYTES + OVERHEAD;

/// Wire type 2 of protobuf: length-delimited.
const LENGTH_DELIMITED: u32 = 2;

/// A part of a body: a few bytes made up here, and bytes from elsewhere behind them.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    head: [u8; HEAD_BYTES],
    /// How much of the head there is, and how much of it has been taken.
    head_end: usize,
    head_start: usize,
    bytes: Bytes,
}

impl Piece {
    /// A part that is framed already.
    fn plain(bytes: Bytes) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// A framed message whose only field is `bytes`.
    fn field(number: u32, bytes: Bytes) -> Self {
        let mut field = [0; HEAD_BYTES - PREFIX_BYTES];
        let mut room = &mut field[..];
        let whole = room.len();
        // Both fit: numbers here are below 16, and lengths take five bytes at most.
        prost::encoding::encode_varint((number << 3 | LENGTH_DELIMITED).into(), &mut room);
        prost::encoding::encode_varint(bytes.len() as u64, &mut room);
        let used = whole.saturating_sub(room.len());
        Self::behind(field.get(..used).unwrap_or_default(), bytes)
    }

    /// A framed message.
    fn message(message: &impl prost::Message) -> Self {
        Self::behind(&[], message.encode_to_vec().into())
    }

    /// A framed message of two parts.
    fn behind(first: &[u8], bytes: Bytes) -> Self {
        let length = first.len().saturating_add(bytes.len());
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        let mut head = [0; HEAD_BYTES];
        let parts = [0].into_iter().chain(length).chain(first.iter().copied());
        for (place, byte) in head.iter_mut().zip(parts) {
            *place = byte;
        }
        Self {
            head,
            head_end: PREFIX_BYTES + first.len(),
            head_start: 0,
            bytes,
        }
    }

    fn head(&self) -> &[u8] {
        self.head
            .get(self.head_start..self.head_end)
            .unwrap_or_default()
    }
}

impl From<call_reply::Part> for Piece {
    fn from(part: call_reply::Part) -> Self {
        match part {
            call_reply::Part::Message(bytes) => Self::field(1, bytes),
            other => Self::message(&legatus_core::wire::CallReply { part: Some(other) }),
        }
    }
}

impl From<call_request::Part> for Piece {
    fn from(part: call_request::Part) -> Self {
        match part {
            call_request::Part::Message(bytes) => Self::field(2, bytes),
            other => Self::message(&legatus_core::wire::CallRequest { part: Some(other) }),
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.head().len() + self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        match self.head() {
            [] => &self.bytes,
            head => head,
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let chunks = [self.head(), &self.bytes];
        let present = chunks.into_iter().filter(|chunk| !chunk.is_empty());
        slices
            .iter_mut()
            .zip(present)
            .map(|(slice, chunk)| *slice = IoSlice::new(chunk))
            .count()
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.head().len());
        self.head_start += of_head;
        self.bytes.advance(count - of_head);
    }
}

/// What tells a call's pieces, one after the other.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, Abandoned>> + Send>>;

/// A call is over for whoever sends its messages, before all of them were sent: the stream is reset
/// instead of ended.
#[derive(Debug, Error)]
#[error("the call was abandoned")]
pub(crate) struct Abandoned(#[source] h2::Error);

impl Default for Abandoned {
    fn default() -> Self {
        Self(h2::Reason::CANCEL.into())
    }
}

/// An error of a body.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or of a reply.
pub(crate) enum Body {
    /// One that tonic has made.
    Service(tonic::body::Body),
    /// A call's messages.
    Call(CallBody),
}

impl Default for Body {
    fn default() -> Self {
        Self::Service(tonic::body::Body::default())
    }
}

/// A call's messages in one direction; a server's end with a status.
pub(crate) struct CallBody {
    pieces: Pieces,
    /// What is said behind the last message; `None` in a request.
    trailers: Option<HeaderMap>,
}

impl Body {
    /// A call's messages to the server.
    pub(crate) fn request(pieces: Pieces) -> Self {
        Self::Call(CallBody {
            pieces,
            trailers: None,
        })
    }

    /// A call's messages to the client.
    pub(crate) fn reply(pieces: Pieces) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Self::Call(CallBody {
            pieces,
            trailers: Some(trailers),
        })
    }
}

impl http_body::Body for Body {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        match &mut *self {
            Self::Service(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                let plain = |frame: Frame<Bytes>| frame.map_data(Piece::plain);
                Poll::Ready(frame.map(|frame| frame.map(plain).map_err(Into::into)))
            }
            Self::Call(call) => {
                let piece = ready!(call.pieces.as_mut().poll_next(context));
                let frame = piece.map(|piece| piece.map(Frame::data).map_err(Into::into));
                let trailers = || call.trailers.take().map(|last| Ok(Frame::trailers(last)));
                Poll::Ready(frame.or_else(trailers))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Service(body) if body.is_end_stream())
    }
}

/// A call's messages cannot be read any more.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    /// A message was announced that is too long.
    #[error("a message of {0} bytes is longer than the limit of {LARGEST}")]
    TooLong(u32),
    /// Nobody has agreed on compression.
    #[error("a message with the compression flag {0}, which was not agreed on")]
    Compressed(u8),
    /// The stream ended inside a message.
    #[error("the stream ended inside a message")]
    Truncated,
    /// The stream was reset.
    #[error("the stream was reset")]
    Reset,
    /// The connection failed.
    #[error("the stream failed")]
    Failed(#[from] hyper::Error),
}

/// Takes a body apart into messages.
#[derive(Debug)]
pub(crate) struct MessageReader {
    body: Incoming,
    messages: Messages,
    trailers: Option<HeaderMap>,
}

impl MessageReader {
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            body,
            messages: Messages::default(),
            trailers: None,
        }
    }

    /// The next message without its framing; `None` at the orderly end. Cancel safe.
    ///
    /// # Errors
    /// See [`ReadError`]; nothing can be read after one.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(message) = self.messages.next()? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return match (self.body.is_end_stream(), self.messages.is_empty()) {
                    (true, true) => Ok(None),
                    (true, false) => Err(ReadError::Truncated),
                    // hyper takes some resets for an end.
                    (false, _) => Err(ReadError::Reset),
                };
            };
            match frame?.into_data() {
                Ok(chunk) => self.messages.put(chunk),
                Err(other) => self.trailers = other.into_trailers().ok(),
            }
        }
    }

    /// What was said behind the last message.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

/// Bytes that have come: messages are cut out of them, and copied only if they came in pieces.
#[derive(Debug, Default)]
struct Messages {
    /// The beginning of a message that is not whole yet; comes before `chunk`.
    begun: BytesMut,
    chunk: Bytes,
}

impl Messages {
    /// Takes what has come; the last chunk must be used up.
    fn put(&mut self, chunk: Bytes) {
        self.begun
            .extend_from_slice(&std::mem::replace(&mut self.chunk, chunk));
    }

    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.chunk.is_empty()
    }

    /// The next message that is whole.
    fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if !self.begun.is_empty() {
            return self.complete();
        }
        let Some(length) = length(&self.chunk)? else {
            return Ok(None);
        };
        if self.chunk.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.chunk.advance(PREFIX_BYTES);
        Ok(Some(self.chunk.split_to(length)))
    }

    /// The message that has begun, if the chunk has the rest of it.
    fn complete(&mut self) -> Result<Option<Bytes>, ReadError> {
        self.gather(PREFIX_BYTES);
        let Some(length) = length(&self.begun)? else {
            return Ok(None);
        };
        self.gather(PREFIX_BYTES + length);
        if self.begun.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let mut message = self.begun.split().freeze();
        message.advance(PREFIX_BYTES);
        Ok(Some(message))
    }

    /// Moves bytes from the chunk until `whole` have begun.
    fn gather(&mut self, whole: usize) {
        let missing = whole.saturating_sub(self.begun.len());
        let more = self.chunk.split_to(missing.min(self.chunk.len()));
        self.begun.extend_from_slice(&more);
    }
}

/// The length that a message's prefix tells, if the prefix is whole.
fn length(bytes: &[u8]) -> Result<Option<usize>, ReadError> {
    let Some([flag, length @ ..]) = bytes.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    if *flag != 0 {
        return Err(ReadError::Compressed(*flag));
    }
    let told = u32::from_be_bytes(*length);
    match usize::try_from(told) {
        Ok(length) if length <= LARGEST => Ok(Some(length)),
        _ => Err(ReadError::TooLong(told)),
    }
}

#[cfg(test)]
mod tests {
    use legatus_core::wire::{CallReply, CallRequest, Outcome};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn bytes_of(mut piece: Piece) -> Bytes {
        piece.copy_to_bytes(piece.remaining())
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_by_its_prefix_alone() {
        let mut messages = Messages::default();
        messages.put(Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff]));
        assert!(matches!(
            messages.next(),
            Err(ReadError::TooLong(0x7fff_ffff))
        ));
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut messages = Messages::default();
        messages.put(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert!(matches!(messages.next(), Err(ReadError::Compressed(1))));
    }

    #[test]
    fn the_beginning_of_a_message_is_not_nothing() {
        let mut messages = Messages::default();
        messages.put(Bytes::from_static(&[0, 0]));
        assert!(messages.next().unwrap().is_none());
        assert!(!messages.is_empty());
    }

    #[test]
    fn a_message_that_came_whole_is_not_copied() {
        let sent = Bytes::from(vec![7; 1000]);
        let mut framed = vec![0, 0, 0, 3, 0xe8];
        framed.extend_from_slice(&sent);
        let framed = Bytes::from(framed);
        let mut messages = Messages::default();
        messages.put(framed.clone());
        let message = messages.next().unwrap().unwrap();
        assert_eq!(message.as_ptr(), framed.slice(PREFIX_BYTES..).as_ptr());
    }

    #[test]
    fn pieces_are_what_any_grpc_client_expects() {
        let parts = [
            call_reply::Part::Message(Bytes::new()),
            call_reply::Part::Message(Bytes::from_static(b"x")),
            call_reply::Part::Message(Bytes::from(vec![1; 300_000])),
            call_reply::Part::Outcome(Outcome::from(legatus_core::Outcome::Exit(7))),
        ];
        for part in parts {
            let reply = CallReply {
                part: Some(part.clone()),
            };
            let framed = bytes_of(part.into());
            let (prefix, message) = framed.split_at(PREFIX_BYTES);
            assert_eq!(message, reply.encode_to_vec());
            let length = u32::try_from(message.len()).unwrap();
            assert_eq!(prefix, [&[0][..], &length.to_be_bytes()].concat());
        }
    }

    proptest! {
        #[test]
        fn messages_survive_any_fragmentation(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..8),
            cuts in prop::collection::vec(1..2000_usize, 1..20),
        ) {
            let part = |bytes: &Vec<u8>| call_request::Part::Message(Bytes::from(bytes.clone()));
            let mut stream = BytesMut::new();
            for message in &sent {
                stream.extend_from_slice(&bytes_of(part(message).into()));
            }
            let mut stream = stream.freeze();
            let mut messages = Messages::default();
            let mut received = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !stream.is_empty() {
                let cut = cuts.next().unwrap_or(1).min(stream.len());
                messages.put(stream.split_to(cut));
                while let Some(message) = messages.next().unwrap() {
                    match CallRequest::decode(message).unwrap().part {
                        Some(call_request::Part::Message(bytes)) => received.push(bytes.to_vec()),
                        other => panic!("{other:?}"),
                    }
                }
            }
            prop_assert!(messages.is_empty());
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn a_piece_is_the_same_by_slices_and_by_chunks(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            taken in 0..120_usize,
        ) {
            let piece = |bytes: &[u8]| Piece::field(1, Bytes::copy_from_slice(bytes));
            let whole = bytes_of(piece(&bytes));
            let mut rest = piece(&bytes);
            let taken = taken.min(rest.remaining());
            rest.advance(taken);
            let mut slices = [IoSlice::new(&[]); 4];
            let count = rest.chunks_vectored(&mut slices);
            let sliced: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
            prop_assert_eq!(sliced, whole.slice(taken..).to_vec());
            prop_assert_eq!(bytes_of(rest), whole.slice(taken..));
        }

        #[test]
        fn garbage_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut messages = Messages::default();
            messages.put(bytes.into());
            while let Ok(Some(_)) = messages.next() {}
        }
    }
}
