//! Records of TLS 1.3 (RFC 8446, section 5) after the handshake, one at a time.
//!
//! rustls seals and opens each one; what is here keeps the count of them, which its keys need.

use std::io;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundChunks, OutboundPlainMessage,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, ProtocolVersion, Tls13CipherSuite,
};

/// Bytes of a record's header: its type, its version, and the length behind them.
pub(super) const HEADER_BYTES: usize = 5;

/// Bytes that one record carries, at most (RFC 8446, 5.1).
pub(super) const CONTENT_BYTES: usize = 1 << 14;

/// Bytes behind a record's header, at most (RFC 8446, 5.2).
const SEALED_BYTES: usize = CONTENT_BYTES + 256;

/// Every record after the handshake looks like one of TLS 1.2 that carries data (RFC 8446, 5.2).
const OUTER_TYPE: u8 = 23;

/// The keys of one direction, and the number of the record that comes next.
pub(super) type Secrets = (u64, ConnectionTrafficSecrets);

/// Seals records.
pub(super) struct Sealer {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Sealer {
    pub(super) fn new(suite: &Tls13CipherSuite, secrets: Secrets) -> Result<Self, Error> {
        let (sequence, secrets) = secrets;
        let (key, iv) = key_of(secrets)?;
        Ok(Self {
            encrypter: suite.aead_alg.encrypter(key, iv),
            sequence,
        })
    }

    /// A record with this content, which is no longer than [`CONTENT_BYTES`].
    pub(super) fn seal(
        &mut self,
        content: ContentType,
        payload: OutboundChunks<'_>,
    ) -> Result<Vec<u8>, Error> {
        let message = OutboundPlainMessage {
            typ: content,
            version: ProtocolVersion::TLSv1_2,
            payload,
        };
        let sealed = self.encrypter.encrypt(message, self.sequence)?;
        self.sequence = next(self.sequence)?;
        Ok(sealed.encode())
    }

    /// How many records these keys have sealed.
    pub(super) fn sealed(&self) -> u64 {
        self.sequence
    }
}

/// Opens records.
pub(super) struct Opener {
    decrypter: Box<dyn MessageDecrypter>,
    sequence: u64,
}

impl Opener {
    pub(super) fn new(suite: &Tls13CipherSuite, secrets: Secrets) -> Result<Self, Error> {
        let (sequence, secrets) = secrets;
        let (key, iv) = key_of(secrets)?;
        Ok(Self {
            decrypter: suite.aead_alg.decrypter(key, iv),
            sequence,
        })
    }

    /// What was sealed in `record`, which is what comes behind a header. It stands at the front of
    /// `record` then.
    pub(super) fn open<'a>(
        &mut self,
        record: &'a mut [u8],
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let message = InboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            record,
        );
        let opened = self.decrypter.decrypt(message, self.sequence)?;
        self.sequence = next(self.sequence)?;
        Ok(opened)
    }
}

/// A number is used once (RFC 8446, 5.3); 2^64 records are never sent.
fn next(sequence: u64) -> Result<u64, Error> {
    sequence.checked_add(1).ok_or(Error::EncryptError)
}

fn key_of(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("keys of an unknown cipher".into())),
    }
}

/// An error of TLS as one of its stream, in which [`super::explain()`] finds it.
pub(super) fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Where the record at the front ends, of whatever type, if its header is whole.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = bytes.first_chunk::<HEADER_BYTES>()?;
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low])))
}

/// How many bytes the record at the front has behind its header, if the header is whole.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some([outer, _, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    if *outer != OUTER_TYPE {
        return Err(Error::InappropriateMessage {
            expect_types: vec![ContentType::ApplicationData],
            got_type: ContentType::from(*outer),
        });
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > SEALED_BYTES {
        return Err(Error::InvalidMessage(InvalidMessage::MessageTooLarge));
    }
    Ok(Some(length))
}
