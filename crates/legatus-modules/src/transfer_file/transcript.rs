//! What both halves hash of a file's contents, and how far apart the checks are.

use twox_hash::XxHash3_128;

/// Bytes after which a source proves what it has sent, so that a target may keep them: what an
/// interrupted copy sends again is less than this and what was on its way.
pub(super) const CHECK_BYTES: u64 = 1 << 20;

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
    pub(super) fn block(&mut self, hash: &blake3::Hash, length: u64) {
        self.hasher.write(hash.as_bytes());
        self.bytes = self.bytes.saturating_add(length);
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
        let finished = std::mem::take(self);
        finished.hasher.finish_128().to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_xxhsum() {
        let mut transcript = Transcript::default();
        transcript.data(b"con");
        transcript.data(b"tents");
        let expected = 0x071b_66b3_296c_6ca6_a975_9cee_3546_ba21_u128;
        assert_eq!(transcript.finish(), expected.to_be_bytes());
        assert_eq!(transcript.finish(), Transcript::default().finish());
    }
}
