//! Compression of contents with zstd, where it is worth it.

use std::io;

use legatus_core::Fault;
use legatus_core::limits::CHUNK_BYTES;

use super::messages::compression::Method;
use super::messages::{Compression, Misbehaved, Packed};
use super::packer::Packer;

/// The level of `auto`: the fastest that zstd calls a level, some 400 MB/s on one core.
const AUTO_LEVEL: i32 = 1;
/// The level of `zstd` without one.
const DEFAULT_LEVEL: i32 = 3;
/// The highest level: those above need much memory at the other side.
const MAX_LEVEL: u32 = 19;
/// Shorter contents are not compressed: a frame has 13 bytes of its own.
const LEAST_BYTES: usize = 256;
/// Chunks that are sent as they are after one that did not shrink; the next one is a sample again.
const PAUSE: u32 = 15;

/// Compresses contents of a source.
pub(super) struct Compressor {
    method: Method,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// Chunks until the next is tried.
    pause: u32,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    /// Compresses as a client asks for.
    ///
    /// # Errors
    /// When the level is none.
    pub(super) fn new(asked: Option<Compression>) -> Result<Self, Fault> {
        let asked = asked.unwrap_or_default();
        let wrong = || Fault::new(format!("levels of zstd are 1 to {MAX_LEVEL}"));
        if asked.level > MAX_LEVEL {
            return Err(wrong());
        }
        let method = asked.method();
        let level = match (i32::try_from(asked.level), method) {
            (Ok(0), Method::Auto) => AUTO_LEVEL,
            (Ok(0), _) => DEFAULT_LEVEL,
            (Ok(level), _) => level,
            (Err(_), _) => return Err(wrong()),
        };
        let zstd = match method {
            Method::None => None,
            _ => zstd::bulk::Compressor::new(level).ok(),
        };
        Ok(Self {
            method,
            zstd,
            pause: 0,
        })
    }

    /// A new file begins, which may be of another kind.
    pub(super) fn next_file(&mut self) {
        self.pause = self.pause.min(1);
    }

    /// Whether so many bytes should be tried.
    pub(super) fn wants(&mut self, packer: &Packer, bytes: usize) -> bool {
        let is_asked = match self.method {
            Method::None => false,
            Method::Zstd => true,
            Method::Auto => packer.is_held_up(),
        };
        if !is_asked || self.zstd.is_none() || bytes < LEAST_BYTES {
            return false;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        true
    }

    /// The contents packed, if that makes them shorter by a sixteenth.
    pub(super) fn compress(&mut self, data: &[u8]) -> Option<Packed> {
        let frame = self.zstd.as_mut()?.compress(data).ok()?;
        if frame.len() + data.len() / 16 >= data.len() {
            self.pause = PAUSE;
            return None;
        }
        Some(Packed {
            frame: frame.into(),
            length: u32::try_from(data.len()).ok()?,
        })
    }
}

/// Unpacks contents at a target.
#[derive(Default)]
pub(super) struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    room: Vec<u8>,
}

impl Unpacker {
    /// The contents of a frame.
    ///
    /// # Errors
    /// When it is none, or its length is not what was told.
    pub(super) fn unpack(&mut self, packed: &Packed) -> Result<&[u8], Misbehaved> {
        let bad = Misbehaved("a frame that cannot be unpacked");
        let length = usize::try_from(packed.length).map_err(|_| bad)?;
        if length > CHUNK_BYTES {
            return Err(Misbehaved("a frame that is too long"));
        }
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => {
                let made: io::Result<_> = zstd::bulk::Decompressor::new();
                none.insert(made.map_err(|_| bad)?)
            }
        };
        self.room.resize(CHUNK_BYTES, 0);
        // Writes no more than there is room for, whatever the frame says.
        let written = zstd.decompress_to_buffer(&packed.frame, &mut self.room[..]);
        if written.ok() != Some(length) {
            return Err(Misbehaved("a frame that cannot be unpacked"));
        }
        Ok(self.room.get(..length).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compressor() -> Compressor {
        let mut asked = Compression::default();
        asked.set_method(Method::Zstd);
        Compressor::new(Some(asked)).unwrap()
    }

    #[test]
    fn what_is_packed_comes_out_again_and_noise_is_left_as_it_is() {
        let text = b"all roads lead to Rome; ".repeat(1000);
        let packed = compressor().compress(&text).unwrap();
        assert!(packed.frame.len() < text.len() / 10);
        assert_eq!(Unpacker::default().unpack(&packed).unwrap(), text);
        let mut noise = vec![0; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let mut compressor = compressor();
        assert_eq!(compressor.compress(&noise), None);
        assert_eq!(compressor.pause, PAUSE);
    }

    #[test]
    fn frames_that_lie_about_their_length_or_are_bombs_are_refused() {
        let zeros = vec![0; 100 << 20];
        let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
        let honest = compressor().compress(&[1; 5000]).unwrap();
        for (frame, length) in [
            (bomb.clone(), u32::MAX),
            (bomb.clone(), 100 << 20),
            (bomb, 1000),
            (honest.frame.to_vec(), 4999),
            (honest.frame.to_vec(), 5001),
            (b"no frame".to_vec(), 0),
        ] {
            let packed = Packed {
                frame: frame.into(),
                length,
            };
            assert!(Unpacker::default().unpack(&packed).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_frame_makes_a_target_panic(frame: Vec<u8>, length: u32) {
            let packed = Packed { frame: frame.into(), length };
            Unpacker::default().unpack(&packed).ok();
        }
    }
}
