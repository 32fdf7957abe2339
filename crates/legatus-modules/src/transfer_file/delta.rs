//! Changed blocks only: what a target tells of the file that it has, and how a source finds that in
//! the file that it sends, at any offset (the algorithm of rsync, with a hash that has a key).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use twox_hash::XxHash3_128;

use super::beside::beside;
use super::messages::Misbehaved;

/// Files shorter than this are sent whole: that costs less than looking.
pub(super) const DELTA_BYTES: u64 = 64 << 10;

/// Blocks of a file, at most: their sums fit into one message (786,432 bytes).
const BLOCKS: u64 = 65_536;

/// Length of a block in bytes, at most: two of them are in memory at a time.
pub(super) const BLOCK_BYTES: u64 = 16 << 20;

/// Length of the sums of a block: 4 bytes of the rolling checksum, 8 of the hash.
const SUM_BYTES: usize = 12;

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
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "the compiler cannot know the processor")]
            // SAFETY: the processor has AVX2, which is all that the function needs.
            return unsafe { Self::of_avx2(window) };
        }
        Self::summed(window)
    }

    /// The same in vectors of twice the length.
    ///
    /// # Safety
    ///
    /// The processor must have AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn of_avx2(window: &[u8]) -> Self {
        Self::summed(window)
    }

    #[inline(always)]
    fn summed(window: &[u8]) -> Self {
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

    fn bytes(&self) -> Bytes {
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

/// What a source is told.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) key: Bytes,
    /// For each block its rolling checksum and its hash's beginning.
    pub(super) sums: Bytes,
}

impl Basis {
    /// Reads a file of that size; two threads share the work. `None` if `stop` says so.
    pub(super) fn read(
        file: File,
        size: u64,
        block: u64,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Option<(Self, Sums)>> {
        let count = size / block;
        let half = count / 2;
        let basis = Self {
            file,
            block,
            key: BlockKey::random()?,
        };
        let read = |blocks| basis.sums(blocks, stop);
        let (second, first) = beside(|| read(half..count), || read(0..half))?;
        let (Some(mut sums), Some(second)) = (first?, second?) else {
            return Ok(None);
        };
        sums.extend(second);
        let sums = Sums {
            key: basis.key.bytes(),
            sums: sums.into(),
        };
        Ok(Some((basis, sums)))
    }

    fn sums(
        &self,
        blocks: std::ops::Range<u64>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Option<Vec<u8>>> {
        let length = usize::try_from(self.block).unwrap_or(usize::MAX);
        // Some blocks with one system call.
        let together = (READ_BYTES / self.block).max(1);
        let mut room = vec![0; length.saturating_mul(usize::try_from(together).unwrap_or(1))];
        let mut sums = Vec::new();
        let mut next = blocks.start;
        while next < blocks.end {
            if stop() {
                return Ok(None);
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
        Ok(Some(sums))
    }
}

/// What a target has, as a source looks for it.
#[derive(Debug)]
pub(super) struct Known {
    block: usize,
    key: BlockKey,
    /// By rolling checksum: the first of the blocks that have it.
    first: HashMap<u32, u32, Plain>,
    /// For each block its hash, and the next with the same rolling checksum.
    blocks: Vec<([u8; 8], Option<u32>)>,
    /// Bits of rolling checksums that occur: most windows are told from all blocks by one look here.
    filter: Vec<u64>,
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
    /// Reads what a target tells.
    ///
    /// # Errors
    /// When it is not as it should be.
    pub(super) fn new(block: u64, key: &[u8], sums: &Bytes) -> Result<Self, Misbehaved> {
        let bad = Misbehaved("sums of blocks that cannot be");
        let count = sums.len() / SUM_BYTES;
        let fits = sums.len().is_multiple_of(SUM_BYTES) && count as u64 <= BLOCKS;
        if !fits || !(1..=BLOCK_BYTES).contains(&block) {
            return Err(bad);
        }
        let mut known = Self {
            block: usize::try_from(block).map_err(|_| bad)?,
            key: BlockKey::told(key).ok_or(bad)?,
            first: HashMap::with_capacity_and_hasher(count, Plain::default()),
            blocks: Vec::with_capacity(count),
            filter: vec![0; 1 << (FILTER_BITS - 6)],
        };
        let mut all = Vec::with_capacity(count);
        for sum in sums.chunks_exact(SUM_BYTES) {
            let (rolling, hash) = sum.split_at(4);
            let rolling = u32::from_le_bytes(rolling.try_into().unwrap_or_default());
            all.push((rolling, hash.try_into().unwrap_or_default()));
        }
        known.blocks = all.iter().map(|(_, hash)| (*hash, None)).collect();
        // From the last to the first, so that the first comes first.
        for (number, (rolling, _)) in all.iter().enumerate().rev() {
            let number = u32::try_from(number).map_err(|_| bad)?;
            let next = known.first.insert(*rolling, number);
            if let Some(block) = known.blocks.get_mut(number as usize) {
                block.1 = next;
            }
            let (word, bit) = place(*rolling);
            if let Some(word) = known.filter.get_mut(word) {
                *word |= bit;
            }
        }
        Ok(known)
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
        let mut next = Some(*self.first.get(&rolling)?);
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

    #[test]
    fn each_copy_has_a_key_of_its_own_that_is_told_and_not_shown() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let read = || Basis::read(file.try_clone().unwrap(), 8192, 2048, &|| false);
        let (basis, told) = read().unwrap().unwrap();
        let (_, other) = read().unwrap().unwrap();
        assert_ne!(told.key, other.key);
        assert_ne!(told.sums, other.sums);
        let known = Known::new(2048, &told.key, &told.sums).unwrap();
        assert_eq!(known.is(3, &[0; 2048]), Some(basis.key.hash(&[0; 2048])));
        assert_eq!(known.is(4, &[0; 2048]), None);
        assert_eq!(known.is(3, &[1; 2048]), None);
        assert_eq!(format!("{:?}", basis.key), "BlockKey { .. }");
    }

    #[test]
    fn reading_what_a_target_has_stops_when_it_is_told_to() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(
            Basis::read(file, 1 << 20, 2048, &|| true)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_target_whose_file_became_shorter_tells_nothing_of_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5000).unwrap();
        assert!(Basis::read(file, 8192, 2048, &|| false).is_err());
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
            prop_assert_eq!(rolling, Rolling::summed(&bytes[..length]), "on any processor");
            prop_assert_eq!(rolling.value(), slow(&bytes[..length]));
            for start in 1..=bytes.len() - length {
                rolling.roll(long, bytes[start - 1], bytes[start + length - 1]);
                prop_assert_eq!(rolling.value(), slow(&bytes[start..start + length]));
            }
        }

        #[test]
        fn no_sums_make_a_source_panic(block: u64, sums: Vec<u8>, window: Vec<u8>) {
            if let Ok(known) = Known::new(block, &key().0, &sums.into()) {
                let rolling = Rolling::of(&window).value();
                known.may_have(rolling);
                known.find(rolling, &window);
                known.is(block, &window);
            }
        }
    }

    #[test]
    fn blocks_are_such_that_the_sums_of_any_file_fit_into_a_message() {
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
        let known = Known::new(2048, &key().0, &sums.into()).unwrap();
        assert_eq!(known.find(0, &[0; 2048]), None);
    }
}
