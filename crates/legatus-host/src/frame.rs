//! Frames: what travels on the two sockets between a server and a holder.
//!
//! A frame is a kind (one byte), the length of its payload (four bytes, little endian) and the
//! payload. Every length is checked against its kind's limit before anything is allocated.

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};
use legatus_core::limits;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What travels on the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Data: one message of the conversation.
    Message(Bytes),
    /// Data: one message of the conversation, which lies in a slot of the shared memory.
    Slot { slot: u8, length: u32 },
    /// Data, to the holder: the client's half has no more messages. Without it the end of the
    /// socket means that the server was lost.
    End,
    /// Data, to the server: how the call ended; the last frame.
    Outcome(Bytes),
    /// Control, to the holder, first and with the shared memory's descriptor: the user to become.
    User(Bytes),
    /// Control, to the holder, second: the call.
    Opening(Bytes),
    /// Control, to the holder: cancel, signal or resize.
    Control(Bytes),
    /// Control: these slots are free again, one bit each.
    Release(u8),
    /// Control: the half at this end receives no more; messages to it are discarded.
    Deaf,
    /// To the holder of a kept call, first: what a server wants of it.
    Attach(Bytes),
    /// To the server: what the call is, and how it is.
    Hello(Bytes),
    /// Control, to the holder: so many of the Commander's messages have reached the client.
    Received(u64),
    /// Control, to the server: how far the client's messages have come, and where the Commander's
    /// go on.
    Taken { messages: u64, next: u64 },
    /// Data, to the server: the client has left as it said, the call goes on; nothing follows.
    Left,
}

/// The bytes before a payload.
pub(crate) const HEADER_BYTES: usize = 5;

/// A frame could not be read.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of the kind {kind} with {length} bytes, where {limit} are allowed")]
    Length { kind: u8, length: u32, limit: u32 },
    #[error("the end of the stream inside a frame")]
    Truncated,
    #[error("cannot read from the socket")]
    Read(#[source] io::Error),
}

/// One frame's kind and the length of its payload.
#[derive(Clone, Copy)]
struct Header {
    kind: u8,
    length: u32,
}

impl Header {
    fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [kind, length @ ..] = bytes;
        let length = u32::from_le_bytes(length);
        let (least, limit) = bounds(kind).ok_or(FrameError::UnknownKind(kind))?;
        if (least..=limit).contains(&length) {
            Ok(Self { kind, length })
        } else {
            Err(FrameError::Length {
                kind,
                length,
                limit,
            })
        }
    }

    fn payload_bytes(self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }
}

/// Fewest and most bytes of a kind's payload.
fn bounds(kind: u8) -> Option<(u32, u32)> {
    let most = u32::try_from(limits::MESSAGE_BYTES).unwrap_or(u32::MAX);
    Some(match kind {
        1 | 4 => (0, most),
        2 => (5, 5),
        3 | 9 | 14 => (0, 0),
        // A user's groups, at most 65,536 of them (NGROUPS_MAX), five bytes each.
        5 => (0, 1 << 19),
        // A request (limits::REQUEST_BYTES) and what surrounds its arguments, were they all short.
        6 => (0, 1 << 22),
        7 => (0, 64),
        8 => (1, 1),
        // Ids, names, a line that sums up the request, and a fault.
        10 | 11 => (0, 1 << 16),
        12 => (8, 8),
        13 => (16, 16),
        _ => return None,
    })
}

impl Frame {
    /// The frame with its payload apart, so that a long one is not copied.
    pub(crate) fn encode(self) -> (Vec<u8>, Bytes) {
        let (kind, payload) = match self {
            Self::Message(message) => (1, message),
            Self::Slot { slot, length } => {
                let [a, b, c, d] = length.to_le_bytes();
                (2, Bytes::copy_from_slice(&[slot, a, b, c, d]))
            }
            Self::End => (3, Bytes::new()),
            Self::Outcome(outcome) => (4, outcome),
            Self::User(user) => (5, user),
            Self::Opening(opening) => (6, opening),
            Self::Control(control) => (7, control),
            Self::Release(slots) => (8, Bytes::copy_from_slice(&[slots])),
            Self::Deaf => (9, Bytes::new()),
            Self::Attach(attach) => (10, attach),
            Self::Hello(hello) => (11, hello),
            Self::Received(count) => (12, Bytes::copy_from_slice(&count.to_le_bytes())),
            Self::Taken { messages, next } => {
                let mut both = messages.to_le_bytes().to_vec();
                both.extend(next.to_le_bytes());
                (13, both.into())
            }
            Self::Left => (14, Bytes::new()),
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.push(kind);
        head.extend(length.to_le_bytes());
        (head, payload)
    }

    fn decode(header: Header, mut payload: Bytes) -> Result<Self, FrameError> {
        Ok(match header.kind {
            1 => Self::Message(payload),
            2 => Self::Slot {
                slot: payload.try_get_u8().map_err(|_| FrameError::Truncated)?,
                length: payload
                    .try_get_u32_le()
                    .map_err(|_| FrameError::Truncated)?,
            },
            3 => Self::End,
            4 => Self::Outcome(payload),
            5 => Self::User(payload),
            6 => Self::Opening(payload),
            7 => Self::Control(payload),
            8 => Self::Release(payload.try_get_u8().map_err(|_| FrameError::Truncated)?),
            9 => Self::Deaf,
            10 => Self::Attach(payload),
            11 => Self::Hello(payload),
            12 => Self::Received(number(&mut payload)?),
            13 => Self::Taken {
                messages: number(&mut payload)?,
                next: number(&mut payload)?,
            },
            14 => Self::Left,
            kind => return Err(FrameError::UnknownKind(kind)),
        })
    }
}

fn number(payload: &mut Bytes) -> Result<u64, FrameError> {
    payload.try_get_u64_le().map_err(|_| FrameError::Truncated)
}

/// Writes one frame whole.
pub(crate) async fn write(socket: &mut (impl AsyncWrite + Unpin), frame: Frame) -> io::Result<()> {
    let (head, payload) = frame.encode();
    let mut bytes = Buf::chain(head.as_slice(), payload);
    socket.write_all_buf(&mut bytes).await
}

/// Reads the rest of a frame whose header came apart, and nothing behind it.
pub(crate) fn read_payload(
    socket: &mut impl Read,
    header: [u8; HEADER_BYTES],
) -> Result<Frame, FrameError> {
    let header = Header::decode(header)?;
    let mut payload = vec![0; header.payload_bytes()];
    socket.read_exact(&mut payload).map_err(FrameError::Read)?;
    Frame::decode(header, payload.into())
}

/// The length of the payload behind a header.
pub(crate) fn payload_bytes(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    Ok(Header::decode(header)?.payload_bytes())
}

/// Reads one frame and nothing behind it.
pub(crate) fn read(socket: &mut impl Read) -> Result<Frame, FrameError> {
    let mut header = [0; HEADER_BYTES];
    socket.read_exact(&mut header).map_err(FrameError::Read)?;
    read_payload(socket, header)
}

/// Takes a stream apart into frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    ahead: usize,
}

/// Bytes that one read takes at least; idle calls keep no more.
const LEAST_READ: usize = 4 << 10;

/// Bytes that one read takes at least while the peer is sending more than the least.
const BUSY_READ: usize = 64 << 10;

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            ahead: LEAST_READ,
        }
    }

    /// The next frame; `None` at the end of the stream. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let missing = match self.decode()? {
                Ok(frame) => return Ok(Some(frame)),
                Err(missing) => missing,
            };
            self.buffer.reserve(missing.max(self.ahead));
            let read = self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .map_err(FrameError::Read)?;
            match read {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err(FrameError::Truncated),
                _ if read >= LEAST_READ => self.ahead = BUSY_READ,
                _ => self.ahead = LEAST_READ,
            }
        }
    }

    /// A frame that has arrived whole, or how many bytes are missing.
    fn decode(&mut self) -> Result<Result<Frame, usize>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(Err(HEADER_BYTES.saturating_sub(self.buffer.len())));
        };
        let header = Header::decode(*header)?;
        let whole = HEADER_BYTES.saturating_add(header.payload_bytes());
        if self.buffer.len() < whole {
            return Ok(Err(whole.saturating_sub(self.buffer.len())));
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(header.payload_bytes()).freeze();
        Frame::decode(header, payload).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn first(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        FrameReader::new(bytes).next().await
    }

    #[tokio::test]
    async fn a_frame_longer_than_its_kind_allows_is_refused_by_its_header_alone() {
        for kind in 1..=9 {
            let [a, b, c, d] = u32::MAX.to_le_bytes();
            let told = first(&[kind, a, b, c, d]).await;
            assert!(matches!(told, Err(FrameError::Length { .. })), "{kind}");
        }
    }

    #[tokio::test]
    async fn unknown_kinds_and_ends_inside_a_frame_are_errors() {
        for kind in [0, 15, 255] {
            let told = first(&[kind, 0, 0, 0, 0]).await;
            assert!(matches!(told, Err(FrameError::UnknownKind(_))));
        }
        for cut in [&[1, 2][..], &[1, 2, 0, 0, 0, b'x'][..]] {
            assert!(matches!(first(cut).await, Err(FrameError::Truncated)));
        }
        assert!(matches!(first(&[]).await, Ok(None)));
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        prop_oneof![
            bytes(100_000).prop_map(Frame::Message),
            (any::<u8>(), any::<u32>()).prop_map(|(slot, length)| Frame::Slot { slot, length }),
            Just(Frame::End),
            bytes(100).prop_map(Frame::Outcome),
            bytes(100).prop_map(Frame::User),
            bytes(100).prop_map(Frame::Opening),
            bytes(64).prop_map(Frame::Control),
            any::<u8>().prop_map(Frame::Release),
            Just(Frame::Deaf),
            bytes(100).prop_map(Frame::Attach),
            bytes(100).prop_map(Frame::Hello),
            any::<u64>().prop_map(Frame::Received),
            (any::<u64>(), any::<u64>())
                .prop_map(|(messages, next)| Frame::Taken { messages, next }),
            Just(Frame::Left),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_survive_any_fragmentation(
            sent in prop::collection::vec(frames(), 0..8),
            pieces in 1..5000_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let received = runtime.block_on(async {
                let (mut near, far) = tokio::io::duplex(pieces);
                let frames = sent.clone();
                let writing = tokio::spawn(async move {
                    for frame in frames {
                        write(&mut near, frame).await.unwrap();
                    }
                });
                let mut reader = FrameReader::new(far);
                let mut received = Vec::new();
                while let Some(frame) = reader.next().await.unwrap() {
                    received.push(frame);
                }
                writing.await.unwrap();
                received
            });
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn garbage_neither_panics_nor_hangs(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut reader = FrameReader::new(bytes.as_slice());
                while let Ok(Some(_)) = reader.next().await {}
            });
        }
    }
}
