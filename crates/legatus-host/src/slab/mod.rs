//! Shared memory through which large messages pass between a server and a holder.
//!
//! The server makes it, sealed so that its size can never change: no access to it can fail. It has
//! a half for each direction, of [`SLOTS`] slots. A sender copies a message into a free slot, or makes it
//! there ([`Outgoing::lease`]), and announces it on the data socket; the receiver hands the slot out as
//! [`Bytes`], whose end releases the slot. While no slot is free the sender waits: that is the backpressure.
//! Memory is taken only for pages that were used.

mod half;
mod lease;

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use legatus_core::limits;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::ProtFlags;
use thiserror::Error;
use tokio::sync::Notify;

use self::half::Half;
pub(crate) use self::lease::Slab;

/// Slots in each direction: one to make a message in, and with chunks of [`limits::CHUNK_BYTES`] nearly twice as
/// many as a channel holds.
const SLOTS: u8 = 8;

/// Messages that were copied into slots and are on their way, at most: as much as a channel holds. More would
/// only take more of the processor's caches.
const COPIED: u32 = 4;

/// Bytes of a slot: every message fits. A multiple of every page size in use (up to 64 KiB).
const SLOT_BYTES: usize = limits::MESSAGE_BYTES + (64 << 10);

/// Where in its slot a message begins. Large buffers of the heap begin a few bytes behind a page's
/// start. Copying to one from the start of a page takes four times as long (measured), because the
/// processor takes each load for dependent on a store whose address has the same low 12 bits.
const MESSAGE_OFFSET: usize = 2 << 10;

const HALF_BYTES: usize = SLOTS as usize * SLOT_BYTES;

const _: () = assert!(SLOTS as u32 <= u8::BITS, "one bit each");
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
    #[error("the slots {0:#010b} were released although they were not all taken")]
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
        slots: Mutex::default(),
        freed: Notify::new(),
        leasable: Condvar::new(),
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
    slots: Mutex<Slots>,
    /// For who copies a message.
    freed: Notify,
    /// For who makes one in its slot.
    leasable: Condvar,
}

/// One bit for each slot.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    /// Announced and not yet released.
    taken: u8,
    /// Those of them that a message was copied to.
    copied: u8,
    /// In use in this process.
    leased: u8,
}

impl Slots {
    /// The lowest free one: its memory was used last, so that it may still be in a cache.
    fn free(self) -> Option<u8> {
        let free = (self.taken | self.leased).trailing_ones();
        u8::try_from(free).ok().filter(|slot| *slot < SLOTS)
    }
}

/// Where a message can be copied to.
enum Place {
    /// This slot, which is leased for it.
    Slot(u8),
    /// A slot that comes free.
    Later,
    /// None: messages that were made in slots have all of them, and may be behind this one.
    Nowhere,
}

impl Outgoing {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a message into a free slot, waiting for one; the slot is to be announced then. `None` if messages
    /// that were made in slots have all of them. Only one task may do so at a time.
    pub(crate) async fn place(&self, message: &[u8]) -> Result<Option<u8>, SlotError> {
        let slot = loop {
            match self.place_to_copy_to() {
                Place::Slot(slot) => break slot,
                Place::Later => self.freed.notified().await,
                Place::Nowhere => return Ok(None),
            }
        };
        let written = self.half.write(slot, message);
        let mut slots = self.slots();
        slots.leased &= !bit(slot);
        written?;
        slots.taken |= bit(slot);
        slots.copied |= bit(slot);
        Ok(Some(slot))
    }

    fn place_to_copy_to(&self) -> Place {
        let mut slots = self.slots();
        match slots.free() {
            None => Place::Nowhere,
            Some(_) if slots.copied.count_ones() >= COPIED => Place::Later,
            Some(slot) => {
                slots.leased |= bit(slot);
                Place::Slot(slot)
            }
        }
    }

    /// The other process has released these slots.
    pub(crate) fn release(&self, released: u8) -> Result<(), SlotError> {
        let mut slots = self.slots();
        if released & !slots.taken != 0 {
            return Err(SlotError::NotTaken(released));
        }
        slots.taken &= !released;
        slots.copied &= !released;
        drop(slots);
        self.tell_of_free();
        Ok(())
    }

    fn tell_of_free(&self) {
        self.leasable.notify_all();
        self.freed.notify_one();
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
        let first = self.half.start(slot)?;
        let bytes = usize::try_from(length)
            .ok()
            .filter(|bytes| *bytes <= limits::MESSAGE_BYTES)
            .ok_or(SlotError::Length { slot, length })?;
        if self.held.fetch_or(bit(slot), Ordering::AcqRel) & bit(slot) != 0 {
            return Err(SlotError::InUse(slot));
        }
        Ok(Bytes::from_owner(Message {
            incoming: Arc::clone(self),
            slot,
            first,
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
    first: NonNull<u8>,
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
        #[expect(unsafe_code, reason = "the bytes lie in shared memory")]
        // SAFETY: `take` has checked the length, so that all lies inside the mapping, which `self.incoming` keeps
        // alive. It is readable, of this size for ever (it is sealed), and any bytes are
        // valid `u8`s. In this process nobody writes there. The other process does not either
        // until it is told of the release, unless it is hostile: then whoever reads sees bytes
        // change. A holder trusts its server. The server only ever copies these bytes to the
        // network, with a length that it took from the announcement; no decision of its depends
        // on them, so that a hostile holder can do no more than send a garbled message, which it
        // can do anyway. (Mapped files have the same rule, see the crate `memmap2`.)
        unsafe {
            std::slice::from_raw_parts(self.first.as_ptr(), self.bytes)
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
    use std::time::Duration;

    use legatus_core::BufferPool as _;

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
        let slot = outgoing.place(b"abc").await.unwrap().unwrap();
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
        let slot = outgoing.place(b"abc").await.unwrap().unwrap();
        assert_eq!(outgoing.release(0xff), Err(SlotError::NotTaken(0xff)));
        assert_eq!(outgoing.release(bit(slot)), Ok(()));
        assert_eq!(
            outgoing.release(bit(slot)),
            Err(SlotError::NotTaken(bit(slot)))
        );
    }

    #[tokio::test]
    async fn a_sender_waits_while_as_many_as_a_channel_holds_are_in_use() {
        let (outgoing, incoming) = ends();
        let longest = vec![7; limits::MESSAGE_BYTES];
        let mut held = Vec::new();
        for _ in 0..COPIED {
            let slot = outgoing.place(&longest).await.unwrap().unwrap();
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
        assert_eq!(waiting.poll(), Poll::Ready(Ok(Some(2))));
        assert!(held.iter().all(|message| *message == longest));
    }

    #[tokio::test]
    async fn a_message_that_was_made_in_a_slot_is_not_copied() {
        let (outgoing, incoming) = ends();
        let slab = Slab(Arc::clone(&outgoing));
        let mut buffer = slab.take(Duration::ZERO).unwrap();
        assert_eq!(buffer.as_ref().len(), limits::MESSAGE_BYTES);
        buffer.as_mut()[..3].copy_from_slice(b"abc");
        let message = buffer.freeze(3);
        let slot = outgoing.take_slot_of(&message).unwrap();
        let received = incoming.take(slot, 3).unwrap();
        assert_eq!(received, "abc");
        assert_eq!(outgoing.take_slot_of(&message), None, "it is on its way");
        // It is free when neither side has it any more.
        drop(received);
        outgoing.release(incoming.released().await).unwrap();
        assert_eq!(outgoing.place(b"x").await, Ok(Some(slot + 1)));
        drop(message);
        assert_eq!(outgoing.place(b"x").await, Ok(Some(slot)));
    }

    #[tokio::test]
    async fn what_was_not_made_at_the_start_of_a_slot_is_copied() {
        let (outgoing, _incoming) = ends();
        assert_eq!(outgoing.take_slot_of(b"elsewhere"), None);
        let message = Slab(Arc::clone(&outgoing))
            .take(Duration::ZERO)
            .unwrap()
            .freeze(3);
        assert_eq!(outgoing.take_slot_of(b"elsewhere"), None);
        assert_eq!(outgoing.take_slot_of(&message[1..]), None);
        assert_eq!(outgoing.take_slot_of(&message), Some(0));
    }

    #[tokio::test]
    async fn nothing_waits_for_slots_of_messages_that_may_be_behind_it() {
        let (outgoing, incoming) = ends();
        let slab = Slab(Arc::clone(&outgoing));
        let mut leases: Vec<_> = std::iter::from_fn(|| slab.take(Duration::ZERO)).collect();
        assert_eq!(leases.len(), usize::from(SLOTS));
        assert_eq!(outgoing.place(b"abc").await, Ok(None));
        let message = leases.remove(5).freeze(1);
        let slot = outgoing.take_slot_of(&message).unwrap();
        let received = incoming.take(slot, 1).unwrap();
        assert_eq!(outgoing.place(b"abc").await, Ok(None));
        drop((message, received));
        outgoing.release(incoming.released().await).unwrap();
        assert_eq!(outgoing.place(b"abc").await, Ok(Some(slot)));
    }

    #[tokio::test]
    async fn messages_made_in_slots_are_no_copies_to_wait_for() {
        let (outgoing, _incoming) = ends();
        let slab = Slab(Arc::clone(&outgoing));
        for _ in 0..COPIED {
            let message = slab.take(Duration::ZERO).unwrap().freeze(1);
            outgoing.take_slot_of(&message).unwrap();
        }
        let mut copied = tokio_test_poll(outgoing.place(b"abc"));
        assert!(copied.poll().is_ready());
    }

    #[test]
    fn who_makes_a_message_waits_until_a_slot_is_released() {
        let (outgoing, _incoming) = ends();
        let slab = Slab(Arc::clone(&outgoing));
        let leases: Vec<_> = std::iter::from_fn(|| slab.take(Duration::ZERO)).collect();
        for message in leases {
            outgoing.take_slot_of(&message.freeze(1)).unwrap();
        }
        assert!(slab.take(Duration::ZERO).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| slab.take(Duration::from_secs(60)).is_some());
            outgoing.release(0b11).unwrap();
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn copies_and_messages_made_in_slots_never_share_one() {
        let (outgoing, incoming) = ends();
        let slab = Slab(Arc::clone(&outgoing));
        let pass = |slot: u8, expected: u8| {
            let received = incoming.take(slot, 4096).unwrap();
            assert!(received.iter().all(|byte| *byte == expected));
            drop(received);
            let mut released = tokio_test_poll(incoming.released());
            if let Poll::Ready(slots) = released.poll() {
                outgoing.release(slots).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let mut buffer = slab.take(Duration::from_secs(60)).unwrap();
                    buffer.as_mut()[..4096].fill(1);
                    let message = buffer.freeze(4096);
                    pass(outgoing.take_slot_of(&message).unwrap(), 1);
                }
            });
            for _ in 0..2000 {
                let mut placing = tokio_test_poll(outgoing.place(&[2; 4096]));
                if let Poll::Ready(Ok(Some(slot))) = placing.poll() {
                    pass(slot, 2);
                }
            }
        });
    }

    #[tokio::test]
    async fn a_message_outlives_both_ends_and_its_descriptor() {
        let (outgoing, incoming) = ends();
        let slot = outgoing.place(b"still here").await.unwrap().unwrap();
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
