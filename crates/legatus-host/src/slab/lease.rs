//! Slots in which messages are made, so that nobody copies them.

use std::ptr::NonNull;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use legatus_core::{BufferPool, PooledBuffer, limits};

use super::{Outgoing, SLOT_BYTES, SLOTS, bit, start_of};

/// The slots as buffers to make messages in.
#[derive(Debug)]
pub(crate) struct Slab(pub(crate) Arc<Outgoing>);

impl BufferPool for Slab {
    fn take(&self, patience: Duration) -> Option<PooledBuffer> {
        self.0.lease(patience).map(PooledBuffer::new)
    }
}

/// A slot in which a message is made.
struct Lease {
    outgoing: Arc<Outgoing>,
    slot: u8,
    first: NonNull<u8>,
}

#[expect(
    unsafe_code,
    reason = "a pointer into a mapping that `outgoing` keeps alive"
)]
// SAFETY: the pointer belongs to no thread; who has the lease reads and writes there.
unsafe impl Send for Lease {}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "the bytes lie in shared memory")]
        // SAFETY: a slot has room for this many bytes behind its start; they are mapped and readable for ever, and
        // any are valid `u8`s. The bit in `leased` keeps everybody else in this process from writing there
        // (`place` and `lease` take free slots only); the other process maps them for reading only, or is hostile:
        // see `Message`.
        unsafe {
            std::slice::from_raw_parts(self.first.as_ptr(), limits::MESSAGE_BYTES)
        }
    }
}

impl AsMut<[u8]> for Lease {
    fn as_mut(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "the bytes lie in shared memory")]
        // SAFETY: as above; nobody else has this lease, whose half is mapped writable.
        unsafe {
            std::slice::from_raw_parts_mut(self.first.as_ptr(), limits::MESSAGE_BYTES)
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.outgoing.slots().leased &= !bit(self.slot);
        self.outgoing.tell_of_free();
    }
}

impl Outgoing {
    /// A free slot to make a message in, waiting so long for one at most.
    fn lease(self: &Arc<Self>, patience: Duration) -> Option<Lease> {
        let waited = self
            .leasable
            .wait_timeout_while(self.slots(), patience, |slots| slots.free().is_none());
        let (mut slots, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let slot = slots.free()?;
        let first = self.half.start(slot).ok()?;
        slots.leased |= bit(slot);
        Some(Lease {
            outgoing: Arc::clone(self),
            slot,
            first,
        })
    }

    /// Takes the slot that a message was made in, which is to be announced then; `None` if it has to be copied.
    pub(crate) fn take_slot_of(&self, message: &[u8]) -> Option<u8> {
        let base = self.half.mapped()?;
        let offset = message.as_ptr().addr().checked_sub(base.addr().get())?;
        let slot = u8::try_from(offset / SLOT_BYTES).ok()?;
        let mut slots = self.slots();
        let begins_there = slot < SLOTS && offset == start_of(slot);
        // Once it is on its way, what else is made of it has to be copied.
        if !begins_there || slots.taken & bit(slot) != 0 {
            return None;
        }
        slots.taken |= bit(slot);
        Some(slot)
    }
}
