//! Notices that files changed.
//!
//! By polling: certificates change a few times a year, and renewals come as renames, symbolic links
//! and mounts of every kind, which notification interfaces see in as many ways.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::TlsError;

/// How often files are looked at. Two looks must agree before a reload, so that a certificate is not
/// read before its key is there too.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Files, and how they were before they were first loaded.
#[derive(Debug)]
pub(super) struct WatchedFiles {
    paths: Arc<[PathBuf]>,
    stamps: Vec<Stamp>,
}

impl WatchedFiles {
    /// To be called before the files are read, so that no change is missed.
    pub(super) fn new<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let paths: Arc<[PathBuf]> = paths.map(Path::to_owned).collect();
        Self {
            stamps: stamps(&paths),
            paths,
        }
    }

    /// Calls `reload` whenever a file changed and then stayed the same for an interval.
    pub(super) async fn watch(
        &self,
        cancellation: CancellationToken,
        reload: impl Fn() -> Result<(), TlsError> + Send + Sync + 'static,
    ) {
        if self.paths.is_empty() {
            return;
        }
        let reload = Arc::new(reload);
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut loaded = self.stamps.clone();
        let mut previous = loaded.clone();
        loop {
            tokio::select! {
                () = cancellation.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let paths = Arc::clone(&self.paths);
            let Ok(now) = spawn_blocking(move || stamps(&paths)).await else {
                return; // The runtime is shutting down.
            };
            if now == previous && now != loaded {
                let reload = Arc::clone(&reload);
                if let Ok(result) = spawn_blocking(move || reload()).await {
                    report(&self.paths, &result);
                }
                loaded.clone_from(&now);
            }
            previous = now;
        }
    }
}

fn report(paths: &[PathBuf], result: &Result<(), TlsError>) {
    match result {
        Ok(()) => tracing::info!(?paths, "certificates reloaded"),
        Err(error) => tracing::error!(
            error = error as &dyn std::error::Error,
            hint = error.hint(),
            "the new certificates cannot be used; the old ones stay"
        ),
    }
}

/// What of a file changes with its contents: modification and change time, size, inode.
type Stamp = Option<(i64, i64, i64, i64, u64, u64)>;

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let metadata = path.metadata().ok()?;
        Some((
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
            metadata.size(),
            metadata.ino(),
        ))
    };
    paths.iter().map(stamp).collect()
}
