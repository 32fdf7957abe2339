//! Several connections for one copy: each has a share of the files. An ordinary copy follows, which does
//! the rest (folders, links, what is removed) and finds the files there.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use legatus_core::{
    BoxFuture, Caller, Input, Local, Output, Progress, Stream, Terminal, UserSignal,
};
use rustix::fs::Stat;
use tokio::sync::Notify;

use super::messages::{Finished, Options, Placed, Share};
use super::names;
use super::sender::Client;

/// Connections of one copy, at most: more only take memory.
pub(super) const JOBS: u32 = 16;

/// Where the target is, once it has said so.
#[derive(Debug, Default)]
pub(super) struct Placing {
    placed: OnceLock<Placed>,
    told: Notify,
}

impl Placing {
    /// Notes what the target says; the first time counts.
    pub(super) fn tell(&self, placed: Placed) {
        self.placed.set(placed).ok();
        self.told.notify_waiters();
    }

    pub(super) fn get(&self) -> Option<Placed> {
        self.placed.get().copied()
    }

    /// Waits until it has been told.
    pub(super) async fn wait(&self) {
        let mut told = std::pin::pin!(self.told.notified());
        told.as_mut().enable();
        if self.placed.get().is_none() {
            told.await;
        }
    }
}

/// What a call is asked to do that copies a share: files, and the folders that they are in.
pub(super) fn options(all: &Options, index: u32, count: u32) -> Options {
    Options {
        delete: false,
        itemize: all.itemize,
        share: Some(Share { index, count }),
        // Together they take what the user allows; 0 allows all.
        bandwidth: match all.bandwidth {
            0 => 0,
            all => (all / u64::from(count.max(1))).max(1),
        },
        ..all.clone()
    }
}

/// Whether a file is left to another call: one with several names to the copy that follows.
pub(super) fn leaves<'a>(
    share: Share,
    folders: impl Iterator<Item = &'a [u8]>,
    name: &'a [u8],
    stat: &Stat,
) -> bool {
    let path = names::join(b"", folders.chain([name]));
    let hash = blake3::hash(&path);
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    stat.st_nlink > 1 || u32::from_le_bytes(first) % share.count.max(1) != share.index
}

/// Adds to what a copy has done what shares have done before it.
pub(super) fn join(copy: &mut Finished, shares: &Finished) {
    copy.files += shares.files;
    copy.bytes += shares.bytes;
    copy.reused += shares.reused;
    copy.unchanged = copy.unchanged.saturating_sub(shares.files);
}

impl Client<'_> {
    /// Further connections, as many as can be had.
    pub(super) async fn further_callers(&self) -> Vec<Box<dyn Caller>> {
        let further = (1..self.jobs).map(|_| self.caller.another());
        let callers = futures_util::future::join_all(further).await;
        callers.into_iter().filter_map(Result::ok).collect()
    }

    /// One of us for each connection, with its share of the files; none if there is only one.
    pub(super) fn shares<'b>(
        &'b self,
        callers: &'b [Box<dyn Caller>],
        quiet: &'b Quiet<'b>,
    ) -> Vec<Client<'b>> {
        let further = callers.iter().map(|caller| &**caller);
        let all = std::iter::once(self.caller).chain(further);
        let count = u32::try_from(callers.len()).unwrap_or(0) + 1;
        let share = |(caller, index): (&'b dyn Caller, u32)| Client {
            host: self.host.clone(),
            caller,
            local: quiet,
            options: options(&self.options, index, count),
            named: self.named.clone(),
            changes: self.changes,
            jobs: 1,
            shared: self.shared,
            patience: Duration::ZERO,
            tells_progress: false,
            tally: self.tally,
        };
        match count {
            1 => Vec::new(),
            _ => all.zip(0..count).map(share).collect(),
        }
    }
}

/// A user who is not told what the copy that follows tells: failures, records; and whose wish to stop is
/// heard by that.
pub(super) struct Quiet<'a>(pub(super) &'a dyn Local);

impl Local for Quiet<'_> {
    fn stdin(&self) -> Option<Box<dyn Input>> {
        None
    }

    fn output(&self, stream: Stream) -> Box<dyn Output> {
        self.0.output(stream)
    }

    fn terminal(&self) -> Option<&dyn Terminal> {
        None
    }

    fn signal(&self) -> BoxFuture<'_, UserSignal> {
        Box::pin(std::future::pending())
    }

    fn open(&self, path: &Path, no_follow: bool) -> io::Result<File> {
        self.0.open(path, no_follow)
    }

    fn environment(&self, name: &str) -> Option<OsString> {
        self.0.environment(name)
    }

    fn progress(&self) -> &dyn Progress {
        self.0.progress()
    }

    fn report(&self, _line: &str) {}

    fn record(&self, _json: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_together_have_the_bandwidth_of_one_copy() {
        for (all, count, each) in [(0, 4, 0), (1000, 4, 250), (1000, 1, 1000), (3, 16, 1)] {
            let all = Options {
                bandwidth: all,
                ..Options::default()
            };
            assert_eq!(options(&all, 0, count).bandwidth, each);
        }
    }
}
