//! Changed blocks only: what a target tells of the file that it has, and how a source finds that in
//! the file that it sends, at any offset (the algorithm of rsync, with a hash that has a key).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, TryRecvError};

use bytes::Bytes;
use twox_hash::XxHash3_128;

use super::beside::beside;
use super::messages::Misbehaved;

/// Files shorter than this are sent whole: that costs less than looking.
pub(super) const DELTA_BYTES: u64 = 64 << 10;

/// Blocks of a file, at most: their sums take 786,432 bytes.
const BLOCKS: u64 = 65_536;

/// Length of a block in bytes, at most: two of them are in memory at a time.
pub(super) const BLOCK_BYTES: u64 = 16 << 20;

/// Length of the sums of a block: 4 bytes of the rolling checksum, 8 of the hash.
pub(super) const SUM_BYTES: usize = 12;

/// Length of the sums of a file, at most.
pub(super) const SUMS_BYTES: u64 = BLOCKS * SUM_BYTES as u64;

/// Bytes that are read at a time: they stay in the level 2 cache until they are hashed.
const READ_BYTES: u64 = 256 << 10;

/// The length of a block for a file of that size, 0 if it is too large: short blocks are found more
/// often, long ones need fewer sums. At 1 GiB 16 KiB, of which the sums take 0.08 %.
pub(super) fn block_bytes(size: u64) -> u64 {
    let balanced = size.isqrt() / 2;
    let fitting = size.div_ceil(BLOCKS);
    let block = balanced.max(fitting).max(2048).next_power_of_two();
    if block > BLOCK_BYTES { 0 } else { block }
}

/// The rolling checksum of a window of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rolling {
    a: u32,
    b: u32,
}

impl Rolling {
    /// Of a whole window.
    pub(super) fn of(window: &[u8]) -> Self {
        const LANES: u32 = 32;
        // Lane by lane: the sum of its bytes, and the sum of that sum before each group. Nothing but
        // additions that do not wait for one another, so that the compiler makes vectors of them.
        let (mut sums, mut before) = ([0_u32; LANES as usize], [0_u32; LANES as usize]);
        let (groups, rest) = window.as_chunks::<{ LANES as usize }>();
        for group in groups {
            for ((before, sum), byte) in before.iter_mut().zip(&mut sums).zip(group) {
                *before = before.wrapping_add(*sum);
                *sum = sum.wrapping_add(u32::from(*byte));
            }
        }
        let (mut a, mut b) = (0_u32, 0_u32);
        for ((sum, before), weight) in sums.iter().zip(before).zip((1..=LANES).rev()) {
            a = a.wrapping_add(*sum);
            b = b
                .wrapping_add(before.wrapping_mul(LANES))
                .wrapping_add(sum.wrapping_mul(weight));
        }
        for byte in rest {
            a = a.wrapping_add(u32::from(*byte));
            b = b.wrapping_add(a);
        }
        Self { a, b }
    }

    /// The window goes on by one byte.
    pub(super) fn roll(&mut self, length: u32, old: u8, new: u8) {
        let (old, new) = (u32::from(old), u32::from(new));
        self.a = self.a.wrapping_sub(old).wrapping_add(new);
        self.b = self
            .b
            .wrapping_sub(length.wrapping_mul(old))
            .wrapping_add(self.a);
    }

    pub(super) fn value(self) -> u32 {
        (self.a & 0xffff) | (self.b << 16)
    }
}

/// Length of the key that blocks are hashed with: that of XXH3's own secret.
pub(super) const KEY_BYTES: usize = 192;

/// What blocks are hashed with: random numbers of which nobody knew when the files were written, so that
/// nobody can have made blocks collide (decision 0003).
#[derive(Clone)]
pub(super) struct BlockKey([u8; KEY_BYTES]);

/// The hash of a block: XXH3-128 with a key in the place of its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHash(u128);

impl BlockKey {
    /// A key for one file of one copy.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn random() -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        let filled = getrandom::fill(&mut key);
        filled.map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
        Ok(Self(key))
    }

    /// One that was told; `None` if it cannot be.
    pub(super) fn told(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// The hash of a block.
    pub(super) fn hash(&self, block: &[u8]) -> BlockHash {
        #[expect(clippy::expect_used, reason = "136 bytes are enough for XXH3")]
        let hash = XxHash3_128::oneshot_with_secret(&self.0, block).expect("a long key");
        BlockHash(hash)
    }
}

impl std::fmt::Debug for BlockKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BlockKey").finish_non_exhaustive()
    }
}

impl BlockHash {
    /// All of it, highest byte first.
    pub(super) fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// What of it is told.
    fn short(self) -> [u8; 8] {
        let mut short = [0; 8];
        short.copy_from_slice(self.bytes().split_at(8).0);
        short
    }
}

/// The file that a target has, and what it tells of all whole blocks of it.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) file: File,
    /// Length of a block in bytes.
    pub(super) block: u64,
    pub(super) key: BlockKey,
}

/// Bytes of a file that are read before the source is told of them, which looks for them meanwhile.
const PART_BYTES: u64 = 32 << 20;

impl Basis {
    /// A file with blocks of that length.
    ///
    /// # Errors
    /// When the system has no randomness for the key.
    pub(super) fn new(file: File, block: u64) -> io::Result<Self> {
        Ok(Self {
            file,
            block,
            key: BlockKey::random()?,
        })
    }

    /// Reads a file of that size and tells of its blocks, part by part; two threads share the work.
    ///
    /// # Errors
    /// When it cannot be read, as if it has become shorter, and those of `tell`.
    pub(super) fn tell(
        &self,
        size: u64,
        stop: &(dyn Fn() -> bool + Sync),
        mut tell: impl FnMut(Bytes) -> io::Result<()>,
    ) -> io::Result<()> {
        let count = size / self.block;
        let together = (PART_BYTES / self.block).max(1);
        let mut next = 0;
        while next < count && !stop() {
            let end = count.min(next + together);
            let half = next + (end - next) / 2;
            let read = |blocks| self.sums(blocks, stop);
            let (second, first) = beside(|| read(half..end), || read(next..half))?;
            let mut sums = first?;
            sums.extend(second?);
            tell(sums.into())?;
            next = end;
        }
        Ok(())
    }

    fn sums(
        &self,
        blocks: std::ops::Range<u64>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.block).unwrap_or(usize::MAX);
        // Some blocks with one system call.
        let together = (READ_BYTES / self.block).max(1);
        let mut room = vec![0; length.saturating_mul(usize::try_from(together).unwrap_or(1))];
        let mut sums = Vec::new();
        let mut next = blocks.start;
        while next < blocks.end {
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = together.min(blocks.end - next);
            let bytes = usize::try_from(count * self.block).unwrap_or(usize::MAX);
            let room = room.get_mut(..bytes).unwrap_or_default();
            self.file.read_exact_at(room, next * self.block)?;
            for block in room.chunks_exact(length) {
                sums.extend_from_slice(&Rolling::of(block).value().to_le_bytes());
                sums.extend_from_slice(&self.key.hash(block).short());
            }
            next += count;
        }
        Ok(sums)
    }
}

/// What a target has, as far as it has told, as a source looks for it.
#[derive(Debug)]
pub(super) struct Known {
    block: usize,
    key: BlockKey,
    /// By rolling checksum: the first and the last of the blocks that have it.
    ends: HashMap<u32, (u32, u32), Plain>,
    /// For each block its hash, and the next with the same rolling checksum.
    blocks: Vec<([u8; 8], Option<u32>)>,
    /// Bits of rolling checksums that occur: most windows are told from all blocks by one look here.
    filter: Vec<u64>,
    /// Sums of more blocks, until the target has told of all.
    more: Option<Receiver<Bytes>>,
}

/// The rolling checksums are spread well enough.
type Plain = std::hash::BuildHasherDefault<PlainHasher>;

#[derive(Debug, Default)]
pub(super) struct PlainHasher(u64);

impl std::hash::Hasher for PlainHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Blocks with the same rolling checksum that are looked at: a peer cannot make us look for ever.
const CANDIDATES: usize = 16;

const FILTER_BITS: u32 = 20;

impl Known {
    /// Nothing yet; sums of blocks come by `more`, which ends with the last.
    ///
    /// # Errors
    /// When the length or the key cannot be.
    pub(super) fn new(block: u64, key: &[u8], more: Receiver<Bytes>) -> Result<Self, Misbehaved> {
        let bad = Misbehaved("blocks that cannot be");
        if !(1..=BLOCK_BYTES).contains(&block) {
            return Err(bad);
        }
        Ok(Self {
            block: usize::try_from(block).map_err(|_| bad)?,
            key: BlockKey::told(key).ok_or(bad)?,
            ends: HashMap::default(),
            blocks: Vec::new(),
            filter: vec![0; 1 << (FILTER_BITS - 6)],
            more: Some(more),
        })
    }

    /// Takes what the target has told meanwhile; whether there was something.
    pub(super) fn catch_up(&mut self) -> bool {
        match self.more.as_ref().map(Receiver::try_recv) {
            Some(Ok(sums)) => self.add(&sums),
            Some(Err(TryRecvError::Empty)) => return false,
            Some(Err(TryRecvError::Disconnected)) | None => self.more = None,
        }
        true
    }

    /// Waits until the target has told of more, or of all.
    pub(super) fn wait(&mut self) {
        match self.more.as_ref().map(Receiver::recv) {
            Some(Ok(sums)) => self.add(&sums),
            Some(Err(_)) | None => self.more = None,
        }
    }

    /// Whether the target has told of all.
    pub(super) fn is_complete(&self) -> bool {
        self.more.is_none()
    }

    /// How many blocks the target has told of.
    pub(super) fn count(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn add(&mut self, sums: &[u8]) {
        for sum in sums.chunks_exact(SUM_BYTES) {
            let (rolling, hash) = sum.split_at(4);
            let rolling = u32::from_le_bytes(rolling.try_into().unwrap_or_default());
            let Ok(number) = u32::try_from(self.blocks.len()) else {
                return;
            };
            let (_, last) = self.ends.entry(rolling).or_insert((number, number));
            let before = std::mem::replace(last, number);
            if before != number
                && let Some((_, next)) = self.blocks.get_mut(before as usize)
            {
                *next = Some(number);
            }
            let hash = hash.try_into().unwrap_or_default();
            self.blocks.push((hash, None));
            let (word, bit) = place(rolling);
            if let Some(word) = self.filter.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// The length of a block.
    pub(super) fn block(&self) -> usize {
        self.block
    }

    /// Whether there can be a block with this rolling checksum.
    pub(super) fn may_have(&self, rolling: u32) -> bool {
        let (word, bit) = place(rolling);
        self.filter.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The hash of this window, if it is the block of that number.
    pub(super) fn is(&self, number: u64, window: &[u8]) -> Option<BlockHash> {
        let number = usize::try_from(number).ok()?;
        let (hash, _) = self.blocks.get(number)?;
        let of_window = self.key.hash(window);
        (*hash == of_window.short()).then_some(of_window)
    }

    /// The block that this window is, and its hash.
    pub(super) fn find(&self, rolling: u32, window: &[u8]) -> Option<(u64, BlockHash)> {
        let mut next = Some(self.ends.get(&rolling)?.0);
        let of_window = self.key.hash(window);
        for _ in 0..CANDIDATES {
            let number = next?;
            let (hash, another) = self.blocks.get(number as usize)?;
            if *hash == of_window.short() {
                return Some((number.into(), of_window));
            }
            next = *another;
        }
        None
    }
}

fn place(rolling: u32) -> (usize, u64) {
    let bits = rolling.wrapping_mul(0x9e37_79b1) >> (32 - FILTER_BITS);
    ((bits >> 6) as usize, 1 << (bits & 63))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    fn key() -> BlockKey {
        BlockKey([7; KEY_BYTES])
    }

    #[test]
    fn with_the_secret_of_xxh3_the_hash_is_that_of_xxhsum() {
        let secret = BlockKey::told(&XxHash3_128::new().into_secret()).unwrap();
        let text: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        let hash = secret.hash(&text);
        assert_eq!(hash.0, 0x5418_2c58_bbb1_337c_42c2_3aee_ad96_750d);
        assert_eq!(
            hash.short(),
            [0x54, 0x18, 0x2c, 0x58, 0xbb, 0xb1, 0x33, 0x7c]
        );
        assert_ne!(hash, key().hash(&text));
    }

    fn zeros(size: u64) -> Basis {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        Basis::new(file, 2048).unwrap()
    }

    /// What is told of a file, part by part.
    fn told(basis: &Basis, size: u64) -> io::Result<Vec<Bytes>> {
        let mut parts = Vec::new();
        basis.tell(size, &|| false, |sums| {
            parts.push(sums);
            Ok(())
        })?;
        Ok(parts)
    }

    /// All that a source knows of what was told.
    fn known(block: u64, key: &[u8], parts: impl IntoIterator<Item = Bytes>) -> Known {
        let (tell, more) = mpsc::channel();
        let mut known = Known::new(block, key, more).unwrap();
        for part in parts {
            tell.send(part).unwrap();
        }
        drop(tell);
        while !known.is_complete() {
            known.wait();
        }
        known
    }

    #[test]
    fn each_copy_has_a_key_of_its_own_that_is_told_and_not_shown() {
        let (basis, other) = (zeros(8192), zeros(8192));
        assert_ne!(basis.key.bytes(), other.key.bytes());
        let parts = told(&basis, 8192).unwrap();
        assert_ne!(parts, told(&other, 8192).unwrap());
        let known = known(2048, &basis.key.bytes(), parts);
        assert_eq!(known.is(3, &[0; 2048]), Some(basis.key.hash(&[0; 2048])));
        assert_eq!(known.is(4, &[0; 2048]), None);
        assert_eq!(known.is(3, &[1; 2048]), None);
        assert_eq!(format!("{:?}", basis.key), "BlockKey { .. }");
    }

    #[test]
    fn what_a_target_has_is_told_in_parts_while_it_is_read() {
        let size = 2 * PART_BYTES + 5 * 2048 + 7;
        let basis = zeros(size);
        let parts = told(&basis, size).unwrap();
        let blocks: Vec<_> = parts.iter().map(|part| part.len() / SUM_BYTES).collect();
        let whole = usize::try_from(PART_BYTES / 2048).unwrap();
        assert_eq!(blocks, [whole, whole, 5]);
        let known = known(2048, &basis.key.bytes(), parts);
        assert_eq!(known.count(), size / 2048);
        let zeros = [0; 2048];
        let found = known.find(Rolling::of(&zeros).value(), &zeros);
        assert_eq!(
            found,
            Some((0, basis.key.hash(&zeros))),
            "the first of equal ones"
        );
    }

    #[test]
    fn reading_what_a_target_has_stops_when_it_is_told_to() {
        let told = zeros(1 << 20).tell(1 << 20, &|| true, |_| Err(io::ErrorKind::Other.into()));
        told.unwrap();
    }

    #[test]
    fn a_target_whose_file_became_shorter_tells_nothing_of_what_is_not_there() {
        assert!(told(&zeros(5000), 8192).is_err());
    }

    fn slow(window: &[u8]) -> u32 {
        let n = u32::try_from(window.len()).unwrap();
        let (mut a, mut b) = (0_u32, 0_u32);
        for (i, byte) in (0..n).zip(window) {
            a = a.wrapping_add(u32::from(*byte));
            b = b.wrapping_add((n - i).wrapping_mul(u32::from(*byte)));
        }
        (a & 0xffff) | (b << 16)
    }

    proptest! {
        #[test]
        fn the_rolling_checksum_is_that_of_the_schema_however_it_is_come_to(
            bytes in proptest::collection::vec(any::<u8>(), 1..300),
            length in 1_usize..100,
        ) {
            let length = length.min(bytes.len());
            let long = u32::try_from(length).unwrap();
            let mut rolling = Rolling::of(&bytes[..length]);
            prop_assert_eq!(rolling.value(), slow(&bytes[..length]));
            for start in 1..=bytes.len() - length {
                rolling.roll(long, bytes[start - 1], bytes[start + length - 1]);
                prop_assert_eq!(rolling.value(), slow(&bytes[start..start + length]));
            }
        }

        #[test]
        fn no_sums_make_a_source_panic(block: u64, sums: Vec<u8>, window: Vec<u8>) {
            let (tell, more) = mpsc::channel();
            tell.send(sums.into()).unwrap();
            if let Ok(mut known) = Known::new(block, &key().0, more) {
                known.wait();
                let rolling = Rolling::of(&window).value();
                known.may_have(rolling);
                known.find(rolling, &window);
                known.is(block, &window);
            }
        }
    }

    #[test]
    fn blocks_are_such_that_the_sums_of_any_file_are_few() {
        for size in [1, DELTA_BYTES, 1 << 20, 1 << 30, 4 << 30, 1 << 40, u64::MAX] {
            let block = block_bytes(size);
            let blocks = size.checked_div(block).unwrap_or(0);
            assert!(blocks <= BLOCKS && block <= BLOCK_BYTES, "{size}");
        }
        assert_eq!(block_bytes(1 << 30), 16 << 10);
        assert_eq!(block_bytes(u64::MAX), 0);
    }

    #[test]
    fn many_equal_blocks_do_not_make_the_search_long() {
        let sums: Vec<u8> = (0..BLOCKS)
            .flat_map(|number| {
                let mut sum = [0; SUM_BYTES];
                sum[4..].copy_from_slice(&number.to_le_bytes());
                sum
            })
            .collect();
        let known = known(2048, &key().0, [sums.into()]);
        assert_eq!(known.find(0, &[0; 2048]), None);
    }
}
