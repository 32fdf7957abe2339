//! What both halves hash of a file's contents, and how far apart the checks are.

/// Bytes after which a source proves what it has sent, so that a target may keep them: what an
/// interrupted copy sends again is less than this and what was on its way.
pub(super) const CHECK_BYTES: u64 = 1 << 20;

/// The hash of the contents since the last check.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Transcript {
    /// Contents as they are.
    pub(super) fn data(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.bytes = self.bytes.saturating_add(data.len() as u64);
    }

    /// A block that the target has, by its own hash.
    pub(super) fn block(&mut self, hash: &blake3::Hash, length: u64) {
        self.hasher.update(hash.as_bytes());
        self.bytes = self.bytes.saturating_add(length);
    }

    /// So many zeros. They cost nothing to send again, so they make no check due.
    pub(super) fn hole(&mut self, length: u64) {
        self.hasher.update(&length.to_le_bytes());
    }

    /// Whether a check is due.
    pub(super) fn is_due(&self) -> bool {
        self.bytes >= CHECK_BYTES
    }

    /// The hash; the next begins.
    pub(super) fn finish(&mut self) -> blake3::Hash {
        self.bytes = 0;
        let hash = self.hasher.finalize();
        self.hasher.reset();
        hash
    }
}
