//! Shared memory through which large messages pass between a server and a holder.
//!
//! The server makes it, sealed so that its size can never change: no access to it can fail. It has
//! a half for each direction, of [`SLOTS`] slots. A sender copies a message into a free slot and
//! announces it on the data socket; the receiver hands the slot out as [`Bytes`], whose end
//! releases the slot. While all slots are taken the sender waits: that is the backpressure.
//! Memory is taken only for pages that were used.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use legatus_core::limits;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use thiserror::Error;
use tokio::sync::Notify;

/// Slots in each direction: with chunks of [`limits::CHUNK_BYTES`] as much as a channel holds.
const SLOTS: u8 = 4;

/// Bytes of a slot: every message fits. A multiple of every page size in use (up to 64 KiB).
const SLOT_BYTES: usize = limits::MESSAGE_BYTES + (64 << 10);

/// Where in its slot a message begins. Large buffers of the heap begin a few bytes behind a page's
/// start. Copying to one from the start of a page takes four times as long (measured), because the
/// processor takes each load for dependent on a store whose address has the same low 12 bits.
const MESSAGE_OFFSET: usize = 2 << 10;

const HALF_BYTES: usize = SLOTS as usize * SLOT_BYTES;

const _: () = assert!(SLOT_BYTES.is_multiple_of(64 << 10));
const _: () = assert!(MESSAGE_OFFSET + limits::MESSAGE_BYTES <= SLOT_BYTES);

/// How the memory is laid out. Processes of different layouts use none of it.
pub(crate) const LAYOUT: u64 = 2 * HALF_BYTES as u64;

/// The other process announced or released a slot that it may not.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum SlotError {
    #[error("slot {0} does not exist")]
    Unknown(u8),
    #[error("slot {0} was announced while its last message is still in use")]
    InUse(u8),
    #[error("slot {slot} was announced with {length} bytes")]
    Length { slot: u8, length: u32 },
    #[error("the slots {0:#06b} were released although they were not all taken")]
    NotTaken(u8),
    #[error("cannot map the shared memory: {0}")]
    Map(rustix::io::Errno),
}

impl From<SlotError> for io::Error {
    fn from(error: SlotError) -> Self {
        Self::other(error)
    }
}

/// Makes the shared memory of one call.
pub(crate) fn create() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("legatus-call", flags)?;
    rustix::fs::ftruncate(&memory, 2 * HALF_BYTES as u64)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory)
}

/// Which end of a call a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Server,
    Holder,
}

/// Both directions of a call's shared memory, as one of its ends sees them.
pub(crate) fn open(memory: OwnedFd, end: End) -> (Arc<Outgoing>, Arc<Incoming>) {
    let memory = Arc::new(memory);
    let (out, back) = match end {
        End::Server => (0, HALF_BYTES),
        End::Holder => (HALF_BYTES, 0),
    };
    let outgoing = Outgoing {
        half: Half::new(Arc::clone(&memory), out, ProtFlags::READ | ProtFlags::WRITE),
        taken: AtomicU8::new(0),
        freed: Notify::new(),
    };
    let incoming = Incoming {
        half: Half::new(memory, back, ProtFlags::READ),
        held: AtomicU8::new(0),
        released: AtomicU8::new(0),
        changed: Notify::new(),
    };
    (Arc::new(outgoing), Arc::new(incoming))
}

/// The direction that this process sends in.
#[derive(Debug)]
pub(crate) struct Outgoing {
    half: Half,
    /// Slots that were announced and not yet released, one bit each.
    taken: AtomicU8,
    freed: Notify,
}

impl Outgoing {
    /// Copies a message into a free slot, waiting for one; the slot is to be announced then. Only
    /// one task may do so at a time.
    pub(crate) async fn place(&self, message: &[u8]) -> Result<u8, SlotError> {
        let slot = loop {
            // The lowest free one: its memory was used last, so that it may still be in a cache.
            let free = self.taken.load(Ordering::Acquire).trailing_ones();
            match u8::try_from(free) {
                Ok(slot) if slot < SLOTS => break slot,
                _ => self.freed.notified().await,
            }
        };
        self.half.write(slot, message)?;
        self.taken.fetch_or(bit(slot), Ordering::AcqRel);
        Ok(slot)
    }

    /// The other process has released these slots.
    pub(crate) fn release(&self, slots: u8) -> Result<(), SlotError> {
        if slots & !self.taken.load(Ordering::Acquire) != 0 {
            return Err(SlotError::NotTaken(slots));
        }
        self.taken.fetch_and(!slots, Ordering::AcqRel);
        self.freed.notify_one();
        Ok(())
    }
}

/// The direction that this process receives in.
#[derive(Debug)]
pub(crate) struct Incoming {
    half: Half,
    /// Slots whose messages are in use here, one bit each.
    held: AtomicU8,
    /// Slots that the other process has to be told of.
    released: AtomicU8,
    changed: Notify,
}

impl Incoming {
    /// The message that the other process has announced, without copying it.
    pub(crate) fn take(self: &Arc<Self>, slot: u8, length: u32) -> Result<Bytes, SlotError> {
        if slot >= SLOTS {
            return Err(SlotError::Unknown(slot));
        }
        let bytes = usize::try_from(length)
            .ok()
            .filter(|bytes| *bytes <= limits::MESSAGE_BYTES)
            .ok_or(SlotError::Length { slot, length })?;
        let base = self.half.base()?;
        if self.held.fetch_or(bit(slot), Ordering::AcqRel) & bit(slot) != 0 {
            return Err(SlotError::InUse(slot));
        }
        Ok(Bytes::from_owner(Message {
            incoming: Arc::clone(self),
            slot,
            base,
            bytes,
        }))
    }

    /// Waits until slots have become free of which the other process is to be told. Cancel safe.
    pub(crate) async fn released(&self) -> u8 {
        loop {
            let slots = self.released.swap(0, Ordering::AcqRel);
            if slots != 0 {
                return slots;
            }
            self.changed.notified().await;
        }
    }
}

/// A message in a slot; the slot is released when it is dropped.
struct Message {
    incoming: Arc<Incoming>,
    slot: u8,
    base: NonNull<u8>,
    bytes: usize,
}

#[expect(
    unsafe_code,
    reason = "a pointer into a mapping that `incoming` keeps alive"
)]
// SAFETY: the pointer belongs to no thread; what it points to is only read.
unsafe impl Send for Message {}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        let start = start_of(self.slot);
        #[expect(unsafe_code, reason = "the bytes lie in shared memory")]
        // SAFETY: `take` has checked slot and length, and the sum stays inside the mapping, which
        // `self.incoming` keeps alive.
        let first = unsafe { self.base.add(start) };
        #[expect(unsafe_code, reason = "the bytes lie in shared memory")]
        // SAFETY: the mapping is readable, of this size for ever (it is sealed), and any bytes are
        // valid `u8`s. In this process nobody writes there. The other process does not either
        // until it is told of the release, unless it is hostile: then whoever reads sees bytes
        // change. A holder trusts its server. The server only ever copies these bytes to the
        // network, with a length that it took from the announcement; no decision of its depends
        // on them, so that a hostile holder can do no more than send a garbled message, which it
        // can do anyway. (Mapped files have the same rule, see the crate `memmap2`.)
        unsafe {
            std::slice::from_raw_parts(first.as_ptr(), self.bytes)
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.incoming
            .held
            .fetch_and(!bit(self.slot), Ordering::AcqRel);
        self.incoming
            .released
            .fetch_or(bit(self.slot), Ordering::AcqRel);
        self.incoming.changed.notify_one();
    }
}

/// One half of the shared memory, mapped when it is first needed: most calls never need it.
#[derive(Debug)]
struct Half {
    memory: Arc<OwnedFd>,
    offset: usize,
    protection: ProtFlags,
    mapping: OnceLock<Result<Mapping, rustix::io::Errno>>,
}

#[derive(Debug)]
struct Mapping(NonNull<u8>);

#[expect(
    unsafe_code,
    reason = "a pointer to memory that belongs to the process"
)]
// SAFETY: the pointer belongs to no thread; `Half` decides who reads and writes through it.
unsafe impl Send for Mapping {}

#[expect(
    unsafe_code,
    reason = "a pointer to memory that belongs to the process"
)]
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Half {
    fn new(memory: Arc<OwnedFd>, offset: usize, protection: ProtFlags) -> Self {
        Self {
            memory,
            offset,
            protection,
            mapping: OnceLock::new(),
        }
    }

    fn base(&self) -> Result<NonNull<u8>, SlotError> {
        match self.mapping.get_or_init(|| self.map()) {
            Ok(mapping) => Ok(mapping.0),
            Err(error) => Err(SlotError::Map(*error)),
        }
    }

    fn map(&self) -> Result<Mapping, rustix::io::Errno> {
        #[expect(unsafe_code, reason = "mmap(2)")]
        // SAFETY: a new mapping at an address that the kernel chooses; it overlaps nothing.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                HALF_BYTES,
                self.protection,
                MapFlags::SHARED,
                &self.memory,
                self.offset as u64,
            )
        }?;
        NonNull::new(base.cast())
            .map(Mapping)
            .ok_or(rustix::io::Errno::NOMEM)
    }

    fn write(&self, slot: u8, message: &[u8]) -> Result<(), SlotError> {
        if slot >= SLOTS || message.len() > limits::MESSAGE_BYTES {
            return Err(SlotError::Unknown(slot));
        }
        let base = self.base()?;
        #[expect(unsafe_code, reason = "the slot lies in shared memory")]
        // SAFETY: the slot exists (checked above), so this stays inside the mapping.
        let slot = unsafe { base.add(start_of(slot)) };
        #[expect(unsafe_code, reason = "the slot lies in shared memory")]
        // SAFETY: the message fits into the slot (checked above), which is mapped writable and
        // never shared as a reference in this process; a message elsewhere cannot overlap it.
        unsafe {
            std::ptr::copy_nonoverlapping(message.as_ptr(), slot.as_ptr(), message.len());
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "munmap(2)")]
        // SAFETY: this is the mapping that `map` made, whole, and every message that pointed into
        // it held the `Incoming` that owns it.
        let unmapped = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), HALF_BYTES) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping cannot fail");
    }
}

/// Where the message of a slot begins in its half.
fn start_of(slot: u8) -> usize {
    usize::from(slot) * SLOT_BYTES + MESSAGE_OFFSET
}

fn bit(slot: u8) -> u8 {
    1_u8.checked_shl(slot.into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    /// Both ends in one process.
    fn ends() -> (Arc<Outgoing>, Arc<Incoming>) {
        let memory = create().unwrap();
        let other = memory.try_clone().unwrap();
        (open(memory, End::Server).0, open(other, End::Holder).1)
    }

    #[test]
    fn the_memory_can_neither_shrink_nor_grow() {
        let memory = create().unwrap();
        assert!(rustix::fs::ftruncate(&memory, 0).is_err());
        assert!(rustix::fs::ftruncate(&memory, 1 << 40).is_err());
        assert!(rustix::fs::fcntl_add_seals(&memory, SealFlags::WRITE).is_err());
    }

    #[tokio::test]
    async fn announcements_that_lie_are_refused() {
        let (outgoing, incoming) = ends();
        let slot = outgoing.place(b"abc").await.unwrap();
        assert_eq!(incoming.take(SLOTS, 1), Err(SlotError::Unknown(SLOTS)));
        assert_eq!(incoming.take(255, 1), Err(SlotError::Unknown(255)));
        let length = u32::try_from(limits::MESSAGE_BYTES).unwrap() + 1;
        assert_eq!(
            incoming.take(slot, length),
            Err(SlotError::Length { slot, length })
        );
        let message = incoming.take(slot, 3).unwrap();
        assert_eq!(incoming.take(slot, 3), Err(SlotError::InUse(slot)));
        assert_eq!(message, "abc");
    }

    #[tokio::test]
    async fn releases_that_lie_are_refused() {
        let (outgoing, _incoming) = ends();
        assert_eq!(outgoing.release(1), Err(SlotError::NotTaken(1)));
        let slot = outgoing.place(b"abc").await.unwrap();
        assert_eq!(outgoing.release(0xff), Err(SlotError::NotTaken(0xff)));
        assert_eq!(outgoing.release(bit(slot)), Ok(()));
        assert_eq!(
            outgoing.release(bit(slot)),
            Err(SlotError::NotTaken(bit(slot)))
        );
    }

    #[tokio::test]
    async fn a_sender_waits_while_all_slots_are_in_use() {
        let (outgoing, incoming) = ends();
        let longest = vec![7; limits::MESSAGE_BYTES];
        let mut held = Vec::new();
        for _ in 0..SLOTS {
            let slot = outgoing.place(&longest).await.unwrap();
            held.push(
                incoming
                    .take(slot, u32::try_from(limits::MESSAGE_BYTES).unwrap())
                    .unwrap(),
            );
        }
        let mut waiting = tokio_test_poll(outgoing.place(b"next"));
        assert!(waiting.poll().is_pending());
        drop(held.remove(2));
        outgoing.release(incoming.released().await).unwrap();
        assert_eq!(waiting.poll(), Poll::Ready(Ok(2)));
        assert!(held.iter().all(|message| *message == longest));
    }

    #[tokio::test]
    async fn a_message_outlives_both_ends_and_its_descriptor() {
        let (outgoing, incoming) = ends();
        let slot = outgoing.place(b"still here").await.unwrap();
        let message = incoming.take(slot, 10).unwrap();
        let part = message.slice(6..);
        drop((outgoing, incoming, message));
        assert_eq!(part, "here");
    }

    struct Polled<F>(std::pin::Pin<Box<F>>);

    fn tokio_test_poll<F: Future>(future: F) -> Polled<F> {
        Polled(Box::pin(future))
    }

    impl<F: Future> Polled<F> {
        fn poll(&mut self) -> Poll<F::Output> {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            self.0.as_mut().poll(&mut context)
        }
    }
}
