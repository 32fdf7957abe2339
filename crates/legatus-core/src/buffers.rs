//! Memory in which messages are made that need not be copied on their way.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Buffers for messages of one [`Channel`](crate::Channel), such as memory that the process at its other end
/// shares. A message that was made in one is passed on without being copied.
pub trait BufferPool: fmt::Debug + Send + Sync {
    /// A buffer of [`limits::MESSAGE_BYTES`](crate::limits::MESSAGE_BYTES) with anything in it; blocks the thread until
    /// one is free, but no longer than that: not for asynchronous code.
    fn take(&self, patience: Duration) -> Option<PooledBuffer>;
}

/// Memory of a [`PooledBuffer`], which its pool has back when it is dropped.
pub trait PooledMemory: AsRef<[u8]> + AsMut<[u8]> + Send + 'static {}

impl<M: AsRef<[u8]> + AsMut<[u8]> + Send + 'static> PooledMemory for M {}

/// A buffer of a [`BufferPool`]. It is free again when it, or the last of the message that was made of it, is
/// dropped.
pub struct PooledBuffer(Box<dyn PooledMemory>);

impl PooledBuffer {
    /// A buffer in that memory.
    pub fn new(memory: impl PooledMemory) -> Self {
        Self(Box::new(memory))
    }

    /// The message that its first `length` bytes are; all of it if it is shorter.
    pub fn freeze(self, length: usize) -> Bytes {
        let mut message = Bytes::from_owner(self);
        message.truncate(length);
        message
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PooledBuffer")
            .finish_non_exhaustive()
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl AsMut<[u8]> for PooledBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        (*self.0).as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_what_was_written() {
        let mut buffer = PooledBuffer::new(vec![0; 8]);
        buffer.as_mut()[..3].copy_from_slice(b"abc");
        assert_eq!(buffer.freeze(3), "abc");
        assert_eq!(PooledBuffer::new(vec![0; 8]).freeze(9).len(), 8);
    }
}
