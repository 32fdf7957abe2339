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
/// The key of `Event.data`: field 5, length-delimited.
pub(super) const DATA_KEY: u8 = 5 << 3 | 2;

/// The bits of a mode: permissions, setuid, setgid, sticky.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// The other half sent something that the protocol does not allow.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the other side does not keep to the protocol: {0}")]
pub(super) struct Misbehaved(pub(super) &'static str);

impl From<Misbehaved> for legatus_core::Fault {
    fn from(error: Misbehaved) -> Self {
        Self::new(error.to_string())
    }
}

/// The events of one message, decoded one at a time: decoding all at once would let a message of
/// empty events take many times its size.
#[derive(Debug)]
pub(super) struct Events(pub(super) Bytes);

impl Iterator for Events {
    type Item = Result<event::Event, Misbehaved>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.has_remaining().then(|| self.decode())
    }
}

impl Events {
    fn decode(&mut self) -> Result<event::Event, Misbehaved> {
        const MALFORMED: Misbehaved = Misbehaved("a malformed message");
        if self.0.get_u8() != EVENTS_KEY {
            return Err(MALFORMED);
        }
        let length = prost::decode_length_delimiter(&mut self.0).map_err(|_| MALFORMED)?;
        if length > self.0.len() {
            return Err(MALFORMED);
        }
        let event = Event::decode(self.0.split_to(length)).map_err(|_| MALFORMED)?;
        event.event.ok_or(Misbehaved("an unknown event"))
    }
}

impl From<&Stat> for Attributes {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: Some(stat.st_mode & PERMISSIONS),
            modified: Some(Time {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            }),
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
        }
    }

    #[test]
    fn the_keys_are_those_of_the_schema() {
        let data = Event {
            event: Some(event::Event::Data(Bytes::from_static(b"x"))),
        };
        let message = SourceMessage { events: vec![data] }.encode_to_vec();
        assert_eq!(message, [EVENTS_KEY, 3, DATA_KEY, 1, b'x']);
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            for event in Events(bytes.into()) {
                if event.is_err() {
                    break;
                }
            }
        }
    }
}
