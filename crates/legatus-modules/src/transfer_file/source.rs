//! The half that reads, as a whole: one thread walks and tells, one reads what is wanted, a task
//! sends, a task listens.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};

use bytes::Bytes;
use legatus_core::{Channel, ChannelReceiver, ChannelSender, Fault};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::compression::Compressor;
use super::delta::{Known, SUM_BYTES, SUMS_BYTES};
use super::engine::Side;
use super::filter::Filter;
use super::folders::Open;
use super::ledger::Ledger;
use super::listing::Lister;
use super::messages::answer::Answer;
use super::messages::{Finished, MALFORMED, Misbehaved, Options, Rest, Sums, TargetMessage};
use super::opening::Root;
use super::pacing::Pace;
use super::packer::{Outgoing, Packer};
use super::reading::{NO_ENTRY, Order, Reader};
use super::report::{Gauge, SourceCounts};
use super::sharing::Placing;

/// Messages between the threads and the task: enough that neither waits for the other's every step.
const QUEUE: usize = 4;

/// Files with sums of blocks that a target asks for at a time: these take up to 6 MiB each at a source.
pub(super) const WITH_SUMS: usize = 4;

/// Bytes of all paths that may be named for a copy of these alone.
pub(super) const NAMED_BYTES: usize = 64 << 20;

/// What both halves know of a copy that has come to its end.
#[derive(Default)]
pub(super) struct Summary {
    pub(super) source: SourceCounts,
    /// `None` if the target did not tell.
    pub(super) target: Option<Finished>,
}

/// A path to copy: where it is opened, and as the user wrote it.
pub(super) struct SourcePath<'a> {
    pub(super) path: &'a Path,
    pub(super) shown: &'a OsStr,
}

/// What a source reads, and how.
pub(super) struct SourceJob<'a> {
    pub(super) paths: &'a [SourcePath<'a>],
    pub(super) open: &'a Open<'a>,
    /// Count each source first.
    pub(super) count: bool,
    pub(super) options: Options,
    /// Only these paths below each source.
    pub(super) named: Option<Vec<Bytes>>,
    /// Where to note what the target says of its place.
    pub(super) placed: &'a Placing,
}

/// Closes the ledger when a copy ends, however it does, so that no thread waits for room.
struct Closing(Arc<Ledger>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Runs the half that reads. Dropping it stops the threads.
///
/// # Errors
/// When the other half misbehaves or a thread fails.
pub(super) async fn run_source(
    job: SourceJob<'_>,
    channel: Channel,
    side: Side<'_>,
) -> Result<Summary, Fault> {
    let gauge = Arc::new(Gauge::default());
    let ledger = Arc::new(Ledger::default());
    let _closing = Closing(Arc::clone(&ledger));
    let (roots, roots_out) = mpsc::channel(1);
    let (packed, packed_out) = mpsc::channel(QUEUE);
    let (orders, orders_out) = std_mpsc::channel();
    let skipped = Arc::new(AtomicU64::new(NO_ENTRY));
    let filter = Filter::new(&job.options)?;
    let compressor = Compressor::new(job.options.compression)?;
    let pace = Pace::new(job.options.bandwidth);
    let (name, named) = oneshot::channel();
    let (name, named) = match job.named {
        Some(paths) => (name.send(paths).err().and(None), Some(named)),
        None if job.options.names_follow => (Some(name), Some(named)),
        None => (None, None),
    };
    let lister = Lister::new(
        Packer::new(packed.clone()),
        Arc::clone(&ledger),
        Arc::clone(&gauge),
        filter,
        job.options,
        job.count,
    );
    let reader = Reader::new(
        Packer::new(packed).with_buffers(channel.buffers()),
        compressor,
        Arc::clone(&gauge),
        Arc::clone(&skipped),
    );
    let listing = spawn_blocking(move || lister.run(roots_out, named));
    let reading = spawn_blocking(move || reader.run(orders_out));
    let (sender, receiver) = channel.split();
    let opening = async move {
        for path in job.paths {
            let root = Root::open(job.open, path.path, path.shown.as_bytes());
            if roots.send(root).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let sending = async {
        send_packed(packed_out, sender, side, &gauge, pace).await;
        Ok(())
    };
    let listener = Listener {
        side,
        ledger: &ledger,
        orders,
        skipped: &skipped,
        gauge: &gauge,
        name,
        named: (Vec::new(), 0),
        with_sums: Arc::default(),
        told_of: HashMap::new(),
        placed: job.placed,
    };
    let ((), (), target) = tokio::try_join!(opening, sending, listener.listen(receiver))?;
    ledger.close();
    let broken = |_| Fault::new("the copy engine failed unexpectedly");
    // Stopped early: the other half has gone, and its outcome tells why.
    let listed = listing.await.map_err(broken)?.unwrap_or_default();
    let read = reading.await.map_err(broken)?.unwrap_or_default();
    let source = listed.plus(read);
    Ok(Summary { source, target })
}

async fn send_packed(
    mut packed: mpsc::Receiver<Outgoing>,
    sender: ChannelSender,
    side: Side<'_>,
    gauge: &Gauge,
    mut pace: Pace,
) {
    let mut shown = side.show(gauge);
    while let Some(outgoing) = packed.recv().await {
        let message = match outgoing {
            Outgoing::Message(message) => message,
            Outgoing::Failure(failure) => {
                side.report_here(&failure);
                continue;
            }
        };
        pace.wait(message.len()).await;
        if sender.send(message).await.is_err() {
            return;
        }
        if let Some(shown) = &mut shown {
            shown.update();
        }
    }
}

/// Takes what the target tells.
struct Listener<'a> {
    side: Side<'a>,
    ledger: &'a Ledger,
    orders: std_mpsc::Sender<Order>,
    skipped: &'a AtomicU64,
    gauge: &'a Gauge,
    /// Who waits for the paths that are named.
    name: Option<oneshot::Sender<Vec<Bytes>>>,
    named: (Vec<Bytes>, usize),
    /// Held by each order with sums of blocks, which take memory, and while more of them come.
    with_sums: Arc<()>,
    /// Files of whose blocks more is told, by their entries.
    told_of: HashMap<u64, ToldOf>,
    placed: &'a Placing,
}

/// A file of whose blocks more is told.
struct ToldOf {
    tell: std_mpsc::Sender<Bytes>,
    bytes: u64,
    _held: Arc<()>,
}

impl Listener<'_> {
    /// Listens until the target has finished, or gone.
    async fn listen(
        mut self,
        mut receiver: ChannelReceiver,
    ) -> Result<Option<Finished>, Misbehaved> {
        let mut finished = None;
        while let Some(message) = receiver.receive().await {
            let message = TargetMessage::decode(message).map_err(|_| MALFORMED)?;
            for answer in message.answers {
                match answer.answer {
                    Some(Answer::Finished(told)) if finished.is_none() => finished = Some(told),
                    Some(answer) => self.take(answer)?,
                    None => return Err(Misbehaved("an unknown answer")),
                }
            }
            if finished.is_some() && matches!(self.side, Side::Server) {
                break;
            }
        }
        Ok(finished)
    }

    fn take(&mut self, answer: Answer) -> Result<(), Misbehaved> {
        match answer {
            Answer::Wanted(range) => {
                for entry in range.first..range.first.saturating_add(range.count) {
                    self.order(entry, 0, None)?;
                }
            }
            Answer::Rest(rest) => self.rest(&rest)?,
            Answer::Sums(sums) => self.sums(sums)?,
            Answer::Settled(range) => {
                let (files, bytes) = self.ledger.settle(range.first, range.count)?;
                self.gauge.advance(bytes, files);
            }
            Answer::Failure(failure) => self.side.report_there(&failure),
            Answer::Change(change) => {
                self.side.show_change(&change);
            }
            Answer::Skip(entry) => self.skipped.store(entry, Ordering::Relaxed),
            Answer::Names(names) => self.names(names)?,
            Answer::Note(note) => {
                self.side.note(&note);
            }
            // What it was when the copy began counts, not what this made of it since.
            Answer::Placed(placed) => self.placed.tell(placed),
            Answer::Finished(_) => return Err(Misbehaved("a second end")),
        }
        Ok(())
    }

    fn rest(&mut self, rest: &Rest) -> Result<(), Misbehaved> {
        let known = match rest.block_bytes {
            0 => None,
            block if Arc::strong_count(&self.with_sums) <= 4 * WITH_SUMS => {
                let (tell, more) = std_mpsc::channel();
                let told_of = ToldOf {
                    tell,
                    bytes: 0,
                    _held: Arc::clone(&self.with_sums),
                };
                self.told_of.insert(rest.entry, told_of);
                let held = Arc::clone(&self.with_sums);
                Some((Known::new(block, &rest.key, more)?, held))
            }
            _ => return Err(Misbehaved("too many sums of blocks")),
        };
        self.order(rest.entry, rest.offset, known)
    }

    fn sums(&mut self, sums: Sums) -> Result<(), Misbehaved> {
        let told_of = self.told_of.get_mut(&sums.entry);
        let told_of = told_of.ok_or(Misbehaved("sums of blocks of no file"))?;
        let bytes = sums.sums.len();
        told_of.bytes += bytes as u64;
        if told_of.bytes > SUMS_BYTES {
            return Err(Misbehaved("too many sums of blocks"));
        }
        if !bytes.is_multiple_of(SUM_BYTES) || (bytes == 0 && !sums.last) {
            return Err(Misbehaved("sums of blocks that cannot be"));
        }
        if bytes > 0 {
            // Not a slice of a whole message. The file may be done with already.
            let sums = Bytes::copy_from_slice(&sums.sums);
            told_of.tell.send(sums).ok();
        }
        if sums.last {
            self.told_of.remove(&sums.entry);
        }
        Ok(())
    }

    fn order(
        &self,
        entry: u64,
        offset: u64,
        known: Option<(Known, Arc<()>)>,
    ) -> Result<(), Misbehaved> {
        let record = self.ledger.ask(entry)?;
        // The thread has stopped: the sender tells why.
        let order = Order {
            entry,
            record,
            offset,
            known,
        };
        self.orders.send(order).ok();
        Ok(())
    }

    fn names(&mut self, names: super::messages::Names) -> Result<(), Misbehaved> {
        let (all, bytes) = &mut self.named;
        *bytes += names
            .paths
            .iter()
            .map(|path| path.len() + 64)
            .sum::<usize>();
        if *bytes > NAMED_BYTES {
            return Err(Misbehaved("too many names"));
        }
        // Not slices of whole messages.
        all.extend(names.paths.iter().map(|path| Bytes::copy_from_slice(path)));
        if names.last {
            let waiting = self
                .name
                .take()
                .ok_or(Misbehaved("names that nobody asked for"))?;
            waiting.send(std::mem::take(all)).ok();
        }
        Ok(())
    }
}
