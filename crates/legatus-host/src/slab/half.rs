//! One direction of the shared memory, and its mapping into this process.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use legatus_core::limits;
use rustix::mm::{MapFlags, ProtFlags};

use super::{HALF_BYTES, SLOTS, SlotError, start_of};

/// One half of the shared memory, mapped when it is first needed: most calls never need it.
#[derive(Debug)]
pub(super) struct Half {
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
    pub(super) fn new(memory: Arc<OwnedFd>, offset: usize, protection: ProtFlags) -> Self {
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

    /// Where the message of a slot begins; [`limits::MESSAGE_BYTES`] of the mapping follow.
    pub(super) fn start(&self, slot: u8) -> Result<NonNull<u8>, SlotError> {
        if slot >= SLOTS {
            return Err(SlotError::Unknown(slot));
        }
        let base = self.base()?;
        #[expect(unsafe_code, reason = "the slot lies in shared memory")]
        // SAFETY: the slot exists (checked above), so this stays inside the mapping.
        Ok(unsafe { base.add(start_of(slot)) })
    }

    /// Where it is mapped, if it was needed already.
    pub(super) fn mapped(&self) -> Option<NonNull<u8>> {
        Some(self.mapping.get()?.as_ref().ok()?.0)
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

    pub(super) fn write(&self, slot: u8, message: &[u8]) -> Result<(), SlotError> {
        if message.len() > limits::MESSAGE_BYTES {
            return Err(SlotError::Unknown(slot));
        }
        let slot = self.start(slot)?;
        #[expect(unsafe_code, reason = "the slot lies in shared memory")]
        // SAFETY: the message fits into the slot (checked above), which is mapped writable and
        // leased by the caller, so that there is no reference to it in this process; a message elsewhere cannot overlap it.
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
        // it held the `Incoming` or `Outgoing` that owns it.
        let unmapped = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), HALF_BYTES) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping cannot fail");
    }
}
