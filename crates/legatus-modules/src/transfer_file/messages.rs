//! The messages of `transfer_file.proto`, and what of them needs care when it comes from a peer.

#[expect(
    unreachable_pub,
    reason = "generated; the documentation is in the .proto file"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/legatus.transfer_file.v1.rs"));
}

use bytes::{Buf, Bytes};
pub(super) use generated::*;
use prost::Message;
use rustix::fs::{Mode, Stat, Timespec};
use thiserror::Error;

/// The key of `SourceMessage.events`: field 1, length-delimited.
pub(super) const EVENTS_KEY: u8 = 1 << 3 | 2;
/// The key of `SourceMessage.pieces`: field 2, length-delimited.
pub(super) const PIECES_KEY: u8 = 2 << 3 | 2;
/// The key of `Piece.data`: field 2, length-delimited.
pub(super) const DATA_KEY: u8 = 2 << 3 | 2;

/// The bits of a mode: permissions, setuid, setgid, sticky.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// The other half sent something that the protocol does not allow.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the other side does not keep to the protocol: {0}")]
pub(super) struct Misbehaved(pub(super) &'static str);

impl From<Misbehaved> for legatus_core::Fault {
    fn from(error: Misbehaved) -> Self {
        Self::new(error.to_string())
    }
}

/// Splits the next item off a message of a source, all items of which have this key. Decoding one
/// at a time: all at once would let a message of empty items take many times its size.
fn split_item(message: &mut Bytes, key: u8) -> Result<Bytes, Misbehaved> {
    if message.get_u8() != key {
        return Err(MALFORMED);
    }
    let length = prost::decode_length_delimiter(&mut *message).map_err(|_| MALFORMED)?;
    if length > message.len() {
        return Err(MALFORMED);
    }
    Ok(message.split_to(length))
}

pub(super) const MALFORMED: Misbehaved = Misbehaved("a malformed message");

/// The events of one message.
#[derive(Debug)]
pub(super) struct Events(pub(super) Bytes);

impl Iterator for Events {
    type Item = Result<event::Event, Misbehaved>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.has_remaining().then(|| {
            let event = Event::decode(split_item(&mut self.0, EVENTS_KEY)?);
            let event = event.map_err(|_| MALFORMED)?;
            event.event.ok_or(Misbehaved("an unknown event"))
        })
    }
}

/// The pieces of one message.
#[derive(Debug)]
pub(super) struct Pieces(pub(super) Bytes);

impl Iterator for Pieces {
    type Item = Result<piece::Piece, Misbehaved>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.has_remaining().then(|| {
            let piece = Piece::decode(split_item(&mut self.0, PIECES_KEY)?);
            let piece = piece.map_err(|_| MALFORMED)?;
            piece.piece.ok_or(Misbehaved(
                "an unknown piece; it may be of another version of Legatus",
            ))
        })
    }
}

/// Whether a message of a source has pieces; if not, it has events.
pub(super) fn has_pieces(message: &[u8]) -> bool {
    message.first() == Some(&PIECES_KEY)
}

/// The answer as a message of its own.
pub(super) fn message(answer: answer::Answer) -> Bytes {
    let answers = vec![Answer {
        answer: Some(answer),
    }];
    TargetMessage { answers }.encode_to_vec().into()
}

impl From<&Stat> for Attributes {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: Some(stat.st_mode & PERMISSIONS),
            modified: Some(Time::modified(stat)),
            ..Self::default()
        }
    }
}

impl Time {
    /// When a file was modified.
    pub(super) fn modified(stat: &Stat) -> Self {
        Self {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        }
    }
}

impl Attributes {
    /// The mode to give to a file: without setuid, setgid and sticky, as the owner is not that of the
    /// source, and programs with the rights of another owner are not for a peer to make.
    pub(super) fn file_mode(&self, default: u32) -> Mode {
        Mode::from_raw_mode(self.mode.unwrap_or(default) & 0o777)
    }

    /// The mode to give to a folder.
    pub(super) fn folder_mode(&self, default: u32) -> Mode {
        Mode::from_raw_mode(self.mode.unwrap_or(default) & PERMISSIONS)
    }

    /// Whether the owner is to be kept.
    pub(super) fn has_owner(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }

    /// The time to give to an entry; `None` for now.
    pub(super) fn timestamp(&self) -> Option<Timespec> {
        let time = self.modified.as_ref()?;
        Some(Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds.min(999_999_999).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_that_lie_about_their_lengths_are_refused() {
        for bad in [
            &[EVENTS_KEY, 5, DATA_KEY][..],
            &[
                EVENTS_KEY, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
            &[EVENTS_KEY],
            &[EVENTS_KEY, 2, DATA_KEY, 9],
            &[EVENTS_KEY, 0],
            &[9, 0],
        ] {
            let first = Events(Bytes::copy_from_slice(bad)).next();
            assert!(matches!(first, Some(Err(_))), "{bad:?}");
            let mut bad = bad.to_vec();
            bad[0] = bad[0].saturating_add(PIECES_KEY - EVENTS_KEY);
            let first = Pieces(bad.clone().into()).next();
            assert!(matches!(first, Some(Err(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_keys_are_those_of_the_schema() {
        let data = Piece {
            piece: Some(piece::Piece::Data(Bytes::from_static(b"x"))),
        };
        let end = Event {
            event: Some(event::Event::End(Empty {})),
        };
        let message = |events, pieces| SourceMessage { events, pieces }.encode_to_vec();
        assert_eq!(
            message(vec![], vec![data]),
            [PIECES_KEY, 3, DATA_KEY, 1, b'x']
        );
        assert_eq!(message(vec![end], vec![])[..2], [EVENTS_KEY, 2]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            Events(bytes.clone()).take_while(Result::is_ok).for_each(drop);
            Pieces(bytes).take_while(Result::is_ok).for_each(drop);
        }
    }
}
