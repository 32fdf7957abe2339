//! Threads for connections. A connection stays in one of them with all of its calls, so that its tasks
//! hand data to one another without waking other threads, which costs more than the work itself does
//! (decision record 0005 has the figures).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Threads, each with a runtime of its own. They end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Threads(Vec<Thread>);

#[derive(Debug)]
struct Thread {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// One connection more in a thread, until it is dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Threads {
    /// Starts so many.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let threads = (0..count).map(|_| Thread::start());
        threads.collect::<io::Result<_>>().map(Self)
    }

    /// The thread with the fewest connections; `None` if there are no threads.
    pub(super) fn place(&self) -> Option<(&Handle, Place)> {
        let count = |thread: &&Thread| thread.connections.load(Ordering::Relaxed);
        let thread = self.0.iter().min_by_key(count)?;
        thread.connections.fetch_add(1, Ordering::Relaxed);
        Some((&thread.handle, Place(Arc::clone(&thread.connections))))
    }
}

impl Thread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::Builder::new()
            .name("connections".to_owned())
            .spawn(move || {
                runtime.block_on(stopped.cancelled());
                // Blocking work that hangs must not hold the process.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            connections: Arc::default(),
            stop,
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_where_the_fewest_are() {
        assert!(Threads::default().place().is_none());
        let threads = Threads::start(2).unwrap();
        let (one, first) = threads.place().unwrap();
        let (two, _second) = threads.place().unwrap();
        assert_ne!(one.id(), two.id());
        drop(first);
        assert_eq!(threads.place().unwrap().0.id(), one.id());
    }
}
