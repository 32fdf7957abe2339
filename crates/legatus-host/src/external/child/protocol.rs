//! The contract as frames on a socket: how a host and a module in a process of its own talk.
//!
//! A frame is a length (4 bytes, little endian), a kind (1 byte), three bytes of zero, and that many
//! bytes of payload. The host asks first: `describe`, `execute` or `send`. The module answers with
//! `description` or, at the end, with `done`. In between it takes messages by `pull`, which is its
//! right to get so many, and may ask for what a client half needs; each such question gets one
//! `reply`. Nothing is ever sent to a module that it did not ask for, except `cancel` and `end`, so
//! that neither side can wait for the other for ever.
//!
//! `include/legatus_module.h` has the numbers for other languages; a test keeps them equal.

use std::io::{self, Read, Write};

use bytes::Bytes;
use legatus_core::limits;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::description::Description;

/// Version of the protocol; the first thing that is said.
pub(crate) const PROTOCOL: u32 = 1;

/// Bytes before a payload.
pub(crate) const HEADER_BYTES: usize = 8;

/// Bytes of one payload, at most: a message, or a request and what surrounds it in Base64.
pub(crate) const PAYLOAD_BYTES: usize = 2 * limits::MESSAGE_BYTES;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Host: which program to become, with which limits (JSON). Never reaches a module.
    Start = 1,
    /// Host: describe yourself.
    Describe = 2,
    /// Host: run the server half (JSON).
    Execute = 3,
    /// Host: run the client half (JSON).
    Send = 4,
    /// Both: one message to the other half.
    Message = 5,
    /// Both: no more messages come.
    End = 6,
    /// Host: the call was cancelled.
    Cancel = 7,
    /// Host: the answer to a question; the first byte tells which: 0 here it is, 1 an error as
    /// text, 2 nothing more comes.
    Reply = 8,
    /// Module: a description (JSON, a list of modules).
    Description = 33,
    /// Module: the host may send so many messages more (4 bytes, little endian).
    Pull = 34,
    /// Module: a line for the log; the first byte is its level, 0 trace to 4 error.
    Log = 35,
    /// Module: how it ended (JSON).
    Done = 36,
    /// Module, client half: open the call (JSON, a list of arguments in Base64).
    Open = 37,
    /// Module, client half: how did the call end?
    Outcome = 38,
    /// Module, client half: the next bytes of standard input.
    ReadInput = 39,
    /// Module, client half: write these bytes to standard output.
    WriteOutput = 40,
    /// Module, client half: write these bytes to standard error.
    WriteError = 41,
    /// Module, client half: open the file of this name.
    OpenFile = 42,
    /// Module, client half: the next bytes of this file (4 bytes, little endian).
    ReadFile = 43,
    /// Module, client half: close this file (4 bytes, little endian); there is no reply.
    CloseFile = 44,
}

impl Kind {
    /// All kinds with their names.
    pub(crate) const ALL: [(Self, &'static str); 20] = [
        (Self::Start, "START"),
        (Self::Describe, "DESCRIBE"),
        (Self::Execute, "EXECUTE"),
        (Self::Send, "SEND"),
        (Self::Message, "MESSAGE"),
        (Self::End, "END"),
        (Self::Cancel, "CANCEL"),
        (Self::Reply, "REPLY"),
        (Self::Description, "DESCRIPTION"),
        (Self::Pull, "PULL"),
        (Self::Log, "LOG"),
        (Self::Done, "DONE"),
        (Self::Open, "OPEN"),
        (Self::Outcome, "OUTCOME"),
        (Self::ReadInput, "READ_INPUT"),
        (Self::WriteOutput, "WRITE_OUTPUT"),
        (Self::WriteError, "WRITE_ERROR"),
        (Self::OpenFile, "OPEN_FILE"),
        (Self::ReadFile, "READ_FILE"),
        (Self::CloseFile, "CLOSE_FILE"),
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(kind, _)| *kind as u8 == byte)
            .map(|(kind, _)| kind)
    }
}

/// What came instead of a frame.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    #[error("the other side closed its end")]
    Closed,
    #[error("the socket failed")]
    Socket(#[from] io::Error),
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("a frame of {0} bytes, more than {PAYLOAD_BYTES}")]
    TooLong(usize),
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) payload: Bytes,
}

impl Frame {
    pub(crate) fn new(kind: Kind, payload: impl Into<Bytes>) -> Self {
        Self {
            kind,
            payload: payload.into(),
        }
    }

    pub(crate) fn empty(kind: Kind) -> Self {
        Self::new(kind, Bytes::new())
    }

    /// A frame of JSON.
    pub(crate) fn json(kind: Kind, value: &impl Serialize) -> io::Result<Self> {
        Ok(Self::new(kind, serde_json::to_vec(value)?))
    }

    /// The payload of a frame of JSON.
    pub(crate) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }

    /// The payload as a number.
    pub(crate) fn number(&self) -> Option<u32> {
        Some(u32::from_le_bytes((*self.payload).try_into().ok()?))
    }

    fn header(kind: Kind, length: usize) -> [u8; HEADER_BYTES] {
        // Longer ones are cut into messages before, so that this never loses anything.
        let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        [a, b, c, d, kind as u8, 0, 0, 0]
    }

    fn taken_apart(header: [u8; HEADER_BYTES]) -> Result<(Kind, usize), FrameError> {
        let [a, b, c, d, kind, ..] = header;
        let length = u32::from_le_bytes([a, b, c, d]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PAYLOAD_BYTES {
            return Err(FrameError::TooLong(length));
        }
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        Ok((kind, length))
    }

    /// Reads a frame. Not cancel safe.
    pub(crate) async fn read(socket: &mut (impl AsyncRead + Unpin)) -> Result<Self, FrameError> {
        let mut header = [0; HEADER_BYTES];
        match socket.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(FrameError::Closed);
            }
            Err(error) => return Err(error.into()),
        }
        let (kind, length) = Self::taken_apart(header)?;
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await?;
        Ok(Self::new(kind, payload))
    }

    /// Writes a frame. Not cancel safe.
    pub(crate) async fn write(&self, socket: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let header = Self::header(self.kind, self.payload.len());
        if self.payload.len() <= 4096 {
            let mut small = Vec::with_capacity(HEADER_BYTES + self.payload.len());
            small.extend_from_slice(&header);
            small.extend_from_slice(&self.payload);
            return socket.write_all(&small).await;
        }
        socket.write_all(&header).await?;
        socket.write_all(&self.payload).await
    }

    /// Reads a frame, waiting for it.
    pub(crate) fn read_blocking(socket: &mut impl Read) -> Result<Self, FrameError> {
        let mut header = [0; HEADER_BYTES];
        match socket.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(FrameError::Closed);
            }
            Err(error) => return Err(error.into()),
        }
        let (kind, length) = Self::taken_apart(header)?;
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload)?;
        Ok(Self::new(kind, payload))
    }

    /// Writes a frame, waiting for room.
    pub(crate) fn write_blocking(
        socket: &mut impl Write,
        kind: Kind,
        payload: &[u8],
    ) -> io::Result<()> {
        let header = Self::header(kind, payload.len());
        let mut parts = [io::IoSlice::new(&header), io::IoSlice::new(payload)];
        let mut parts = &mut parts[..];
        while !parts.is_empty() {
            match socket.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => io::IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if parts.iter().all(|part| part.is_empty()) {
                break;
            }
        }
        Ok(())
    }
}

/// Which module's server half is to run, on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Execute {
    pub(crate) module: String,
    pub(crate) id: String,
    pub(crate) peer: String,
    /// In Base64.
    pub(crate) arguments: Vec<String>,
    pub(crate) milliseconds: Option<u64>,
}

/// Which module's client half is to run, with what a user gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Send {
    pub(crate) module: String,
    pub(crate) arguments: Vec<Given>,
}

/// An argument of a user; a flag has no values.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) name: String,
    /// In Base64.
    pub(crate) values: Vec<String>,
}

/// How a half ended: with an exit status, with an outcome that its call had, or with a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Done {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

/// An outcome in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Told {
    /// exit, signal, timeout, cancelled, denied, unavailable, lost or failed.
    pub(crate) kind: String,
    /// The exit status or the signal.
    pub(crate) status: u8,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// What an artefact describes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Descriptions {
    pub(crate) protocol: u32,
    pub(crate) modules: Vec<Description>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_that_lie_are_refused() {
        for (header, told) in [
            ([255, 255, 255, 255, 5, 0, 0, 0], "4294967295"),
            ([0, 0, 0, 0, 200, 0, 0, 0], "200"),
        ] {
            let error = Frame::read(&mut &header[..]).await.unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        let cut = [4, 0, 0, 0, 5, 0, 0, 0, 1];
        assert!(matches!(
            Frame::read(&mut &cut[..]).await,
            Err(FrameError::Socket(_))
        ));
        assert!(matches!(
            Frame::read(&mut &b""[..]).await,
            Err(FrameError::Closed)
        ));
    }

    #[tokio::test]
    async fn both_ways_of_writing_make_the_same_frames() {
        for length in [0, 1, 5000] {
            let frame = Frame::new(Kind::Message, vec![7; length]);
            let (mut waiting, mut blocking) = (Vec::new(), Vec::new());
            frame.write(&mut waiting).await.unwrap();
            Frame::write_blocking(&mut blocking, Kind::Message, &frame.payload).unwrap();
            assert_eq!(waiting, blocking);
            assert_eq!(Frame::read(&mut &waiting[..]).await.unwrap(), frame);
            assert_eq!(Frame::read_blocking(&mut &waiting[..]).unwrap(), frame);
        }
    }
}
