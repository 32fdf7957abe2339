//! Changed blocks only: what a target tells of the file that it has, and how a source finds that in
//! the file that it sends, at any offset (the algorithm of rsync, with BLAKE3).

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

fn short(hash: &blake3::Hash) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(hash.as_bytes().split_at(8).0);
    short
}

/// The file that a target has, and what it knows of all whole blocks of it.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) file: File,
    /// Length of a block in bytes.
    pub(super) block: u64,
    blocks: Vec<Block>,
}

/// A block, as it was read.
#[derive(Debug)]
struct Block {
    rolling: u32,
    hash: blake3::Hash,
    /// By it the block is known again when it is copied: that takes a tenth of the time of its hash.
    mark: u128,
}

impl Block {
    fn of(data: &[u8]) -> Self {
        Self {
            rolling: Rolling::of(data).value(),
            hash: blake3::hash(data),
            mark: XxHash3_128::oneshot(data),
        }
    }
}

impl Basis {
    /// Reads a file of that size; two threads share the work. `None` if `stop` says so.
    pub(super) fn read(
        file: File,
        size: u64,
        block: u64,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Option<Self>> {
        let count = size / block;
        let half = count / 2;
        let read = |blocks| read_blocks(&file, blocks, block, stop);
        let (second, first) = beside(|| read(half..count), || read(0..half))?;
        let (Some(mut blocks), Some(second)) = (first?, second?) else {
            return Ok(None);
        };
        blocks.extend(second);
        Ok(Some(Self {
            file,
            block,
            blocks,
        }))
    }

    /// What a source is told of the blocks.
    pub(super) fn sums(&self) -> Bytes {
        let mut sums = Vec::with_capacity(self.blocks.len() * SUM_BYTES);
        for block in &self.blocks {
            sums.extend_from_slice(&block.rolling.to_le_bytes());
            sums.extend_from_slice(&short(&block.hash));
        }
        sums.into()
    }

    /// The hash of this block, of which `data` was read just now.
    pub(super) fn hash(&self, number: u64, data: &[u8]) -> blake3::Hash {
        let known = usize::try_from(number).map(|number| self.blocks.get(number));
        match known {
            Ok(Some(known)) if known.mark == XxHash3_128::oneshot(data) => known.hash,
            _ => blake3::hash(data),
        }
    }
}

fn read_blocks(
    file: &File,
    blocks: std::ops::Range<u64>,
    block: u64,
    stop: &(dyn Fn() -> bool + Sync),
) -> io::Result<Option<Vec<Block>>> {
    let length = usize::try_from(block).unwrap_or(usize::MAX);
    // Some blocks with one system call.
    let together = ((1 << 20) / block).max(1);
    let mut room = vec![0; length.saturating_mul(usize::try_from(together).unwrap_or(1))];
    let mut found = Vec::new();
    let mut next = blocks.start;
    while next < blocks.end {
        if stop() {
            return Ok(None);
        }
        let count = together.min(blocks.end - next);
        let bytes = usize::try_from(count * block).unwrap_or(usize::MAX);
        let room = room.get_mut(..bytes).unwrap_or_default();
        file.read_exact_at(room, next * block)?;
        found.extend(room.chunks_exact(length).map(Block::of));
        next += count;
    }
    Ok(Some(found))
}

/// What a target has, as a source looks for it.
#[derive(Debug)]
pub(super) struct Known {
    block: usize,
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
    pub(super) fn new(block: u64, sums: &Bytes) -> Result<Self, Misbehaved> {
        let bad = Misbehaved("sums of blocks that cannot be");
        let count = sums.len() / SUM_BYTES;
        let fits = sums.len().is_multiple_of(SUM_BYTES) && count as u64 <= BLOCKS;
        if !fits || !(1..=BLOCK_BYTES).contains(&block) {
            return Err(bad);
        }
        let mut known = Self {
            block: usize::try_from(block).map_err(|_| bad)?,
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

    /// The block that this window is, preferably the one expected, and its whole hash.
    pub(super) fn find(
        &self,
        rolling: u32,
        window: &[u8],
        expected: Option<u64>,
    ) -> Option<(u64, blake3::Hash)> {
        let first = *self.first.get(&rolling)?;
        let hash = blake3::hash(window);
        let is_it = |number: u64| {
            let number = usize::try_from(number).ok()?;
            self.blocks
                .get(number)
                .filter(|block| block.0 == short(&hash))
        };
        if let Some(expected) = expected
            && is_it(expected).is_some()
        {
            return Some((expected, hash));
        }
        let mut next = Some(first);
        for _ in 0..CANDIDATES {
            let number = next?;
            if is_it(number.into()).is_some() {
                return Some((number.into(), hash));
            }
            next = self.blocks.get(number as usize)?.1;
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

    #[test]
    fn a_block_that_has_changed_since_it_was_told_of_is_hashed_as_it_is() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        let basis = Basis::read(file, 8192, 2048, &|| false).unwrap().unwrap();
        assert_eq!(basis.hash(3, &[7; 2048]), blake3::hash(&[7; 2048]));
        assert_eq!(basis.hash(3, &[8; 2048]), blake3::hash(&[8; 2048]));
        assert_eq!(basis.hash(4, &[7; 2048]), blake3::hash(&[7; 2048]));
        assert_eq!(basis.hash(u64::MAX, b""), blake3::hash(b""));
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
            prop_assert_eq!(rolling.value(), slow(&bytes[..length]));
            for start in 1..=bytes.len() - length {
                rolling.roll(long, bytes[start - 1], bytes[start + length - 1]);
                prop_assert_eq!(rolling.value(), slow(&bytes[start..start + length]));
            }
        }

        #[test]
        fn no_sums_make_a_source_panic(block: u64, sums: Vec<u8>, window: Vec<u8>) {
            if let Ok(known) = Known::new(block, &sums.into()) {
                let rolling = Rolling::of(&window).value();
                known.may_have(rolling);
                known.find(rolling, &window, Some(block));
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
        let known = Known::new(2048, &sums.into()).unwrap();
        assert_eq!(known.find(0, &[0; 2048], None), None);
    }
}
