//! A connection after its handshake: bytes over records of TLS 1.3.
//!
//! The handshake is rustls's, and so is the sealing and opening of each record; the bytes between
//! are moved here, for rustls copies what it receives three times before anyone sees it (decision
//! 0010).

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::crypto::cipher::OutboundChunks;
use rustls::{
    AlertDescription, ContentType, Error, ExtractedSecrets, HandshakeType, InvalidMessage,
    PeerMisbehaved,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::incoming::{Incoming, Opened};
use super::keys::KeySchedule;
use super::outgoing::Outgoing;
use super::record::{CONTENT_BYTES, Opener, Sealer, invalid};

/// Slices of one write, at most: more are left for the next.
const SLICES: usize = 16;

/// Bytes of a handshake message that may be gathered, at most: that of a ticket (RFC 8446, 4.6.1).
const HANDSHAKE_BYTES: usize = 128 << 10;

/// Records one after the other that carry no data, at most; rustls takes 32 new keys.
const FRUITLESS_RECORDS: u32 = 32;

/// TLS 1.3 over a stream, both sides verified. One task reads and writes it, as HTTP/2 does.
///
/// Dropping it without a shutdown leaves the peer without the news that nothing is missing.
pub struct TlsStream<S> {
    stream: S,
    schedule: KeySchedule,
    /// Records that one key may seal.
    limit: u64,
    opener: Opener,
    incoming: Incoming,
    /// A handshake message that has come in part.
    handshake: Vec<u8>,
    /// Records without data since the last that had some.
    fruitless: u32,
    /// Whether the peer has said that nothing follows.
    ended: bool,
    /// Why nothing can be read any more.
    failure: Option<Error>,
    sealer: Sealer,
    outgoing: Outgoing,
    /// Whether the peer asked for new keys of ours, before the next data.
    owes_keys: bool,
    /// Whether the peer knows that nothing follows.
    closed: bool,
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl<S> TlsStream<S> {
    /// Goes on where a handshake ended; `incoming` has what came behind it.
    pub(super) fn new(
        stream: S,
        schedule: KeySchedule,
        secrets: ExtractedSecrets,
        incoming: Incoming,
    ) -> Result<Self, Error> {
        let suite = schedule.suite()?;
        Ok(Self {
            stream,
            limit: suite.common.confidentiality_limit,
            schedule,
            opener: Opener::new(suite, secrets.rx)?,
            incoming,
            handshake: Vec::new(),
            fruitless: 0,
            ended: false,
            failure: None,
            sealer: Sealer::new(suite, secrets.tx)?,
            outgoing: Outgoing::default(),
            owes_keys: false,
            closed: false,
        })
    }

    /// Opens records until there is data; false if the next record has not come whole.
    fn open(&mut self) -> Result<bool, Error> {
        while !self.ended {
            let Some(opened) = self.incoming.open(&mut self.opener)? else {
                return Ok(false);
            };
            let is_handshake = matches!(opened, Opened::Other(ContentType::Handshake, _));
            if !self.handshake.is_empty() && !is_handshake {
                return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
            }
            match opened {
                Opened::Data(length) if length > 0 => {
                    self.fruitless = 0;
                    return Ok(true);
                }
                Opened::Data(_) => {}
                Opened::Other(ContentType::Alert, alert) => self.hear(&alert)?,
                Opened::Other(ContentType::Handshake, part) => self.gather(&part)?,
                Opened::Other(other, _) => return Err(unexpected(other)),
            }
            // Each costs its sender little and may cost us new keys.
            self.fruitless += 1;
            if self.fruitless > FRUITLESS_RECORDS {
                return Err(PeerMisbehaved::TooManyEmptyFragments.into());
            }
        }
        Ok(false)
    }

    /// An alert (RFC 8446, 6): the end, or an error.
    fn hear(&mut self, alert: &[u8]) -> Result<(), Error> {
        let [_level, description] = alert else {
            return Err(Error::InvalidMessage(InvalidMessage::TrailingData("alert")));
        };
        match AlertDescription::from(*description) {
            AlertDescription::CloseNotify => self.ended = true,
            // "I leave of my own will": the end comes behind it (RFC 8446, 6.1).
            AlertDescription::UserCanceled => {}
            fatal => return Err(Error::AlertReceived(fatal)),
        }
        Ok(())
    }

    /// A part of the handshake messages that may come after the handshake.
    fn gather(&mut self, part: &[u8]) -> Result<(), Error> {
        if part.is_empty() {
            return Err(unexpected(ContentType::Handshake));
        }
        self.handshake.extend_from_slice(part);
        while let Some([kind, high, middle, low]) = self.handshake.first_chunk() {
            let kind = HandshakeType::from(*kind);
            let length = u32::from_be_bytes([0, *high, *middle, *low]);
            let whole = usize::try_from(length).map_or(usize::MAX, |length| length + 4);
            if whole > HANDSHAKE_BYTES {
                return Err(Error::InvalidMessage(
                    InvalidMessage::HandshakePayloadTooLarge,
                ));
            }
            if self.handshake.len() < whole {
                return Ok(());
            }
            let rest = self.handshake.split_off(whole);
            let message = std::mem::replace(&mut self.handshake, rest);
            match (kind, &self.schedule) {
                (HandshakeType::KeyUpdate, _) => {
                    self.update_keys(message.get(4..).unwrap_or_default())?;
                }
                // Sessions are not resumed.
                (HandshakeType::NewSessionTicket, KeySchedule::Client(_)) => {}
                _ => return Err(unexpected(ContentType::Handshake)),
            }
        }
        Ok(())
    }

    /// The peer has new keys, and may ask for ours (RFC 8446, 4.6.3).
    fn update_keys(&mut self, message: &[u8]) -> Result<(), Error> {
        if !self.handshake.is_empty() {
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        match message {
            [0] => {}
            [1] => self.owes_keys = true,
            [_] => return Err(Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate)),
            _ => {
                return Err(Error::InvalidMessage(InvalidMessage::TrailingData(
                    "key update",
                )));
            }
        }
        self.opener = self.schedule.next_opener()?;
        Ok(())
    }

    /// Seals data, behind new keys where they are due.
    fn seal_data(&mut self, mut data: OutboundChunks<'_>) -> Result<(), Error> {
        while !data.is_empty() {
            let (content, rest) = data.split_at(CONTENT_BYTES);
            // The message that tells of new keys is sealed with the old ones.
            if self.owes_keys || self.sealer.sealed().saturating_add(1) >= self.limit {
                self.renew_keys()?;
            }
            self.outgoing
                .push(self.sealer.seal(ContentType::ApplicationData, content)?);
            data = rest;
        }
        Ok(())
    }

    fn renew_keys(&mut self) -> Result<(), Error> {
        let not_requested = [HandshakeType::KeyUpdate.into(), 0, 0, 1, 0];
        let message = OutboundChunks::Single(&not_requested);
        self.outgoing
            .push(self.sealer.seal(ContentType::Handshake, message)?);
        self.sealer = self.schedule.next_sealer()?;
        self.owes_keys = false;
        Ok(())
    }

    /// Seals the last record that the peer gets.
    fn seal_alert(&mut self, level: u8, description: AlertDescription) -> Result<(), Error> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let alert = [level, description.into()];
        let record = self
            .sealer
            .seal(ContentType::Alert, OutboundChunks::Single(&alert))?;
        self.outgoing.push(record);
        Ok(())
    }
}

#[cfg(test)]
impl<S> TlsStream<S> {
    /// Has one key seal so many records.
    pub(super) fn renew_after(&mut self, records: u64) {
        self.limit = records;
    }

    /// Bytes of memory for what has come.
    pub(super) fn buffered(&self) -> usize {
        self.incoming.capacity()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Notes why nothing can be read or written any more, and tells the peer. Who reads sends that,
    /// which is why reading and writing belong to one task.
    fn fail(&mut self, error: Error, context: &mut Context<'_>) -> io::Error {
        if let Some(alert) = alert_for(&error)
            && self.seal_alert(FATAL, alert).is_ok()
        {
            // As well as it goes: the peer may be gone, and the error is what counts.
            let _ = self.outgoing.poll_send(&mut self.stream, context);
        }
        self.closed = true;
        self.failure = Some(error.clone());
        invalid(error)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // First of all: what was opened as it failed is nobody's.
        if let Some(error) = &this.failure {
            return Poll::Ready(Err(invalid(error.clone())));
        }
        let before = target.filled().len();
        loop {
            this.incoming.take(target);
            if target.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let opened = this.open();
            match opened {
                Ok(true) => continue,
                // What was read before it comes first.
                Err(error) if target.filled().len() > before => {
                    this.fail(error, context);
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(this.fail(error, context))),
                Ok(false) => {}
            }
            if this.ended || target.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if ready!(this.incoming.poll_fill(&mut this.stream, context))? == 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was closed without a farewell of TLS",
                )));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        while this.outgoing.room() == 0 {
            ready!(this.outgoing.poll_send_some(&mut this.stream, context))?;
        }
        let mut chunks: [&[u8]; SLICES] = [&[]; SLICES];
        let filled = slices.iter().filter(|slice| !slice.is_empty());
        for (chunk, slice) in chunks.iter_mut().zip(filled) {
            *chunk = slice;
        }
        let (data, _) = OutboundChunks::new(&chunks).split_at(this.outgoing.room());
        let count = data.len();
        if let Err(error) = this.seal_data(data) {
            // Some of it may have been sealed, and nobody can tell how much.
            this.closed = true;
            return Poll::Ready(Err(invalid(error)));
        }
        match this.outgoing.poll_send(&mut this.stream, context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What was sealed is taken, and sent as the socket has room.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.outgoing.poll_send(&mut this.stream, context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.seal_alert(WARNING, AlertDescription::CloseNotify)
            .map_err(invalid)?;
        ready!(this.outgoing.poll_send(&mut this.stream, context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

/// Levels of alerts (RFC 8446, 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What the peer is told of an error, unless it said it itself (RFC 8446, 6.2).
fn alert_for(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            AlertDescription::RecordOverflow
        }
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::InappropriateMessage { .. } | Error::PeerMisbehaved(_) => {
            AlertDescription::UnexpectedMessage
        }
        _ => AlertDescription::InternalError,
    })
}

fn unexpected(content: ContentType) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type: content,
    }
}
