//! What both halves hash of a file's contents, and how far apart the checks are.

use twox_hash::XxHash3_128;

use super::delta::BlockHash;

/// Bytes after which a source proves what it has sent, so that a target may keep them: what an
/// interrupted copy sends again is less than this and what was on its way.
pub(super) const CHECK_BYTES: u64 = 1 << 20;

/// Bytes in blocks that the target has count for one that is sent: to name them again costs next to
/// nothing, only to copy them.
const BLOCKS_FOR_DATA: u64 = 16;

/// Bytes of the hash: XXH3-128, as xxhsum(1) prints it (decision 0012).
pub(super) const DIGEST_BYTES: usize = 16;

/// The hash of the contents since the last check.
#[derive(Default)]
pub(super) struct Transcript {
    hasher: XxHash3_128,
    bytes: u64,
}

impl Transcript {
    /// Contents as they are.
    pub(super) fn data(&mut self, data: &[u8]) {
        self.hasher.write(data);
        self.bytes = self.bytes.saturating_add(data.len() as u64);
    }

    /// A block that the target has, by its own hash.
    pub(super) fn block(&mut self, hash: BlockHash, length: u64) {
        self.hasher.write(&hash.bytes());
        self.bytes = self.bytes.saturating_add(length / BLOCKS_FOR_DATA);
    }

    /// So many zeros. They cost nothing to send again, so they make no check due.
    pub(super) fn hole(&mut self, length: u64) {
        self.hasher.write(&length.to_le_bytes());
    }

    /// Whether a check is due.
    pub(super) fn is_due(&self) -> bool {
        self.bytes >= CHECK_BYTES
    }

    /// The hash; the next begins.
    pub(super) fn finish(&mut self) -> [u8; DIGEST_BYTES] {
        std::mem::take(self).hasher.finish_128().to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer_file::delta::BlockKey;

    /// As xxhsum has it, since the key is its secret.
    fn hash(block: &[u8]) -> BlockHash {
        BlockKey::told(&XxHash3_128::new().into_secret())
            .unwrap()
            .hash(block)
    }

    const EMPTY: u128 = 0x99aa_06d3_0147_98d8_6001_c324_468d_497f;
    const EIGHT: u128 = 0xe1e4_432a_6221_7fe4_cfd5_0c61_c8bb_98c1;
    const LONG: u128 = 0x5418_2c58_bbb1_337c_42c2_3aee_ad96_750d;
    const MIXED: u128 = 0x2b75_8b4c_47db_51ec_000c_d6e4_4fa6_9807;

    #[test]
    fn the_hash_is_that_of_xxhsum() {
        let text: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        for (length, hash) in [(0, EMPTY), (8, EIGHT), (100_000, LONG)] {
            let mut transcript = Transcript::default();
            for piece in text[..length].chunks(777) {
                transcript.data(piece);
            }
            assert_eq!(transcript.finish(), u128::to_be_bytes(hash), "{length}");
        }
    }

    /// The figure is made by other programs from what the schema says.
    #[test]
    fn blocks_and_holes_are_hashed_as_the_schema_says() {
        let mut transcript = Transcript::default();
        transcript.data(b"contents");
        transcript.block(hash(b"first"), 5);
        transcript.hole(300);
        transcript.block(hash(b"second"), 6);
        assert_eq!(transcript.finish(), u128::to_be_bytes(MIXED));
        assert_eq!(transcript.finish(), u128::to_be_bytes(EMPTY));
    }

    #[test]
    fn a_check_is_due_after_a_mebibyte_that_is_no_hole() {
        let mut transcript = Transcript::default();
        transcript.hole(u64::MAX);
        transcript.block(hash(b""), (CHECK_BYTES - 1) * BLOCKS_FOR_DATA);
        assert!(!transcript.is_due());
        transcript.data(b"x");
        assert!(transcript.is_due());
        transcript.finish();
        assert!(!transcript.is_due());
    }
}
