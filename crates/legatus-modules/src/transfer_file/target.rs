//! The half that writes, as a whole: one thread decides about each entry (`judging`), one writes
//! contents (`writing`), a task receives, a task tells. What the threads share is here.
//!
//! Nothing that the other half sends is trusted: names stay in their folder, no link is followed,
//! events out of order end the copy.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use legatus_core::Fault;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::delta::Basis;
use super::durability::Durability;
use super::messages::{
    Attributes, Change, Failure, Finished, Misbehaved, Options, PERMISSIONS, Range,
};
use super::metadata::{self, Lost};
use super::report::{Gauge, SourceCounts, reason};
use super::site::Site;
use super::staging::Stage;

/// The mode of a file whose source tells none, as in the Go original.
const FILE_MODE: u32 = 0o664;
/// The mode of a folder whose source tells none.
const FOLDER_MODE: u32 = 0o775;

/// What is told in one message, at most.
const NOTICES: usize = 128;

/// Why a copy came to no end.
#[derive(Debug, Error)]
pub(super) enum TargetError {
    #[error(transparent)]
    Misbehaved(#[from] Misbehaved),
    #[error("the copy ended before everything had come")]
    Interrupted,
    #[error("the copy engine failed unexpectedly")]
    Broken,
    #[error("cannot make the copy durable: {}", reason(.0))]
    NotDurable(io::Error),
    #[error("{}", .0.message())]
    Refused(Fault),
}

impl From<TargetError> for Fault {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Refused(fault) => fault,
            error => Self::new(error.to_string()),
        }
    }
}

/// What a target tells while it works.
#[derive(Debug)]
pub(super) enum Notice {
    Wanted(u64),
    Rest(super::messages::Rest),
    Sums(super::messages::Sums),
    Settled(u64),
    /// An entry that the source could not read.
    AtSource(Failure),
    /// An entry that could not be written.
    AtTarget(Failure),
    /// The rest of the contents of this file is not wanted.
    Skip(u64),
    Change(Change),
    /// Something to be told once; whether the source tells it.
    Note(String, bool),
}

/// A file whose contents are wanted.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) site: Arc<Site>,
    pub(super) name: Vec<u8>,
    pub(super) attributes: Attributes,
    /// As the source told it.
    pub(super) size: u64,
    /// The older file, if its blocks were told.
    pub(super) basis: Option<Arc<Basis>>,
    /// What was kept of an interrupted copy.
    pub(super) partial: Option<(super::partial::Partial, File)>,
    /// It did not arrive as it was: it is asked for once more.
    pub(super) is_second: bool,
    /// That was done.
    pub(super) was_asked_again: bool,
    /// There is something at its name.
    pub(super) replaces: bool,
}

/// What the threads of a target share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) gauge: Arc<Gauge>,
    pub(super) durability: Durability,
    /// `None` when nothing more is told.
    notices: Mutex<Option<mpsc::Sender<Vec<Notice>>>>,
    waiting: Mutex<Vec<Notice>>,
    /// Held by whoever sends what waited.
    sending: Mutex<()>,
    pending: Mutex<HashMap<u64, Pending>>,
    /// Files that are wanted and not settled.
    outstanding: AtomicU64,
    /// Files with sums of blocks among them.
    pub(super) with_sums: super::gate::Gate,
    ended: AtomicBool,
    /// Fires when nothing more is to come.
    pub(super) complete: CancellationToken,
    /// Fires when a thread has failed: the other half may say nothing more.
    pub(super) broken: CancellationToken,
    /// Nobody waits for the copy any more.
    pub(super) stop: AtomicBool,
    pub(super) finished: Mutex<Finished>,
    pub(super) source: Mutex<SourceCounts>,
    noted: Mutex<HashSet<&'static str>>,
}

impl Shared {
    pub(super) fn new(
        options: Options,
        gauge: Arc<Gauge>,
        notices: mpsc::Sender<Vec<Notice>>,
    ) -> Self {
        Self {
            durability: Durability::new(!options.no_fsync && !options.dry_run),
            options,
            gauge,
            notices: Mutex::new(Some(notices)),
            waiting: Mutex::default(),
            sending: Mutex::default(),
            pending: Mutex::default(),
            outstanding: AtomicU64::new(0),
            with_sums: super::gate::Gate::new(super::source::WITH_SUMS),
            ended: AtomicBool::new(false),
            complete: CancellationToken::new(),
            broken: CancellationToken::new(),
            stop: AtomicBool::new(false),
            finished: Mutex::default(),
            source: Mutex::default(),
            noted: Mutex::default(),
        }
    }

    /// Asks for the contents of a file.
    pub(super) fn want(&self, entry: u64, pending: Pending) {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        pending.site.hold();
        self.put_back(entry, pending);
    }

    /// Remembers a file that will come again.
    pub(super) fn put_back(&self, entry: u64, pending: Pending) {
        lock(&self.pending).insert(entry, pending);
    }

    /// The file that begins to come.
    pub(super) fn take(&self, entry: u64) -> Option<Pending> {
        lock(&self.pending).remove(&entry)
    }

    /// Files that are wanted and not settled.
    pub(super) fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Acquire)
    }

    /// A file that was wanted is done with.
    pub(super) fn settle(&self, entry: u64, site: &Arc<Site>) -> Result<(), TargetError> {
        self.let_go(site)?;
        self.tell(Notice::Settled(entry))?;
        let left = self.outstanding.fetch_sub(1, Ordering::AcqRel) - 1;
        if left == 0 && self.ended.load(Ordering::Acquire) {
            self.complete.cancel();
        }
        Ok(())
    }

    /// No more events come.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        if self.outstanding() == 0 {
            self.complete.cancel();
        }
    }

    /// Whether everything has come and is done with.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.is_cancelled()
    }

    /// Lets everybody know if a thread has failed.
    pub(super) fn watch<T>(&self, ended: Result<T, TargetError>) -> Result<T, TargetError> {
        if ended.is_err() {
            self.stop();
            self.broken.cancel();
        }
        ended
    }

    /// Lets the threads end early.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Counts and tells what the source could not read.
    pub(super) fn failed_at_source(&self, failure: Failure) -> Result<(), TargetError> {
        {
            let mut source = self.source();
            if failure.vanished {
                source.vanished += 1;
            } else {
                source.failed += 1;
            }
        }
        self.tell(Notice::AtSource(failure))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Lets go of a folder, and closes it and those above if nobody has anything to do in them.
    pub(super) fn let_go(&self, site: &Arc<Site>) -> Result<(), TargetError> {
        let mut site = Arc::clone(site);
        while site.let_go() {
            if let Err(error) = self.close(&site) {
                let failure = Failure::new("set mode and time of", site.path(None), reason(&error));
                self.failed(failure)?;
            }
            match &site.parent {
                Some(parent) => site = Arc::clone(parent),
                None => break,
            }
        }
        Ok(())
    }

    /// Gives a folder that is complete its attributes.
    fn close(&self, site: &Site) -> io::Result<()> {
        let closing = site.closing();
        if self.options.dry_run || closing.is_none() && !site.is_touched() {
            return Ok(());
        }
        let folder = site.open()?;
        if let Some(attributes) = closing {
            let mode = attributes.folder_mode(FOLDER_MODE);
            let lost = metadata::set(
                std::os::fd::AsFd::as_fd(&folder),
                &attributes,
                mode,
                true,
                self.options.archive,
            )?;
            self.note_lost(lost);
        }
        if site.is_touched() {
            self.durability.folder(&folder, site.device())?;
        }
        Ok(())
    }

    /// The mode of a file, and whether the user gave it.
    pub(super) fn file_mode(&self, attributes: &Attributes) -> (rustix::fs::Mode, bool) {
        match self.options.mode {
            Some(mode) => (rustix::fs::Mode::from_raw_mode(mode & PERMISSIONS), true),
            None if attributes.has_owner() => (attributes.folder_mode(FILE_MODE), false),
            None => (attributes.file_mode(FILE_MODE), false),
        }
    }

    /// Counts and tells a failure.
    pub(super) fn failed(&self, failure: Failure) -> Result<(), TargetError> {
        self.finished().failed += 1;
        self.tell(Notice::AtTarget(failure))
    }

    /// Swaps in a tree that was made beside its name, if nothing failed.
    pub(super) fn swap_in(&self, mut stage: Stage, shown: &[u8]) -> Result<(), TargetError> {
        if self.finished().failed > 0 || self.source().failed > 0 {
            let why = "not everything could be copied, and what is there stays as it was";
            return self.failed(Failure::new("swap in", shown.to_vec(), why));
        }
        if let Err(error) = stage.swap(self.durability.is_enabled()) {
            return self.failed(Failure::new("swap in", shown.to_vec(), reason(&error)));
        }
        match stage.clean() {
            Ok(()) => Ok(()),
            Err(error) => {
                let why = reason(&error);
                self.failed(Failure::new("remove the old tree of", shown.to_vec(), why))
            }
        }
    }

    /// Tells once what could not be kept.
    pub(super) fn note_lost(&self, lost: Lost) {
        if lost.owner {
            self.note("some owners or groups are not kept: only root can give files away");
        }
        if lost.xattrs {
            self.note(
                "some extended attributes or access control lists are not kept: \
                the target or its user does not allow them",
            );
        }
    }

    /// Tells something once.
    pub(super) fn note(&self, text: &'static str) {
        if lock(&self.noted).insert(text) {
            // Who does not listen any more misses nothing.
            self.tell(Notice::Note(text.to_owned(), false)).ok();
        }
    }

    pub(super) fn finished(&self) -> MutexGuard<'_, Finished> {
        lock(&self.finished)
    }

    pub(super) fn source(&self) -> MutexGuard<'_, SourceCounts> {
        lock(&self.source)
    }

    /// Tells something; it goes with what comes after it, or with [`Self::flush`].
    pub(super) fn tell(&self, notice: Notice) -> Result<(), TargetError> {
        let full = {
            let mut waiting = lock(&self.waiting);
            waiting.push(notice);
            waiting.len() >= NOTICES
        };
        if full { self.flush() } else { Ok(()) }
    }

    /// Sends what was told.
    pub(super) fn flush(&self) -> Result<(), TargetError> {
        // What is told first is sent first, whichever thread does it.
        let _turn = lock(&self.sending);
        let notices = std::mem::take(&mut *lock(&self.waiting));
        if notices.is_empty() {
            return Ok(());
        }
        let sender = lock(&self.notices)
            .clone()
            .ok_or(TargetError::Interrupted)?;
        let sent = sender.blocking_send(notices);
        sent.map_err(|_| TargetError::Interrupted)
    }

    /// Tells nothing more.
    pub(super) fn end_notices(&self) {
        lock(&self.notices).take();
    }
}

/// Joins numbers that follow one another.
pub(super) fn ranges(numbers: impl IntoIterator<Item = u64>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(last) if last.first + last.count == number => last.count += 1,
            _ => ranges.push(Range {
                first: number,
                count: 1,
            }),
        }
    }
    ranges
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
