//! Runs the half that writes over a channel: hands events and pieces to their threads, and tells the
//! other half what they say.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use bytes::Bytes;
use legatus_core::limits::MESSAGE_BYTES;
use legatus_core::{Channel, ChannelReceiver, ChannelSender};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::destination::Destination;
use super::engine::Side;
use super::filter::Filter;
use super::judging::{Ending, Judge};
use super::ledger::EVENT_BYTES;
use super::messages::answer::Answer;
use super::messages::{self, Finished, Misbehaved, Names, Options, Root, TargetMessage};
use super::report::{Gauge, Shown, SourceCounts};
use super::target::{Notice, Shared, TargetError, ranges};
use super::temporary::{STALE, Sweep};
use super::writing::Writer;

/// Messages between a thread and the task: enough that neither waits for the other's every step.
const QUEUE: usize = 4;

/// Bytes of events that wait, at most: what a source may have on its way, and its last messages.
const WAITING_BYTES: usize = EVENT_BYTES + 4 * MESSAGE_BYTES;

/// Bytes of names in one message.
const NAMES_BYTES: usize = 256 << 10;

/// What a target writes, and how.
pub(super) struct TargetJob<'a> {
    pub(super) destination: Destination,
    /// The target's path as the user wrote it.
    pub(super) shown: &'a OsStr,
    pub(super) options: Options,
    /// The sources that were asked for; `None` if the other half decides.
    pub(super) asked: Option<Vec<Root>>,
    /// Only these paths below each source.
    pub(super) named: Option<Vec<Bytes>>,
    /// The folder that the target's folder is in, and its name there; for trees that are swapped in.
    pub(super) above: Option<(OwnedFd, Vec<u8>)>,
}

/// Events on their way to their thread. The queue has no length of its own, so that pieces behind
/// events never wait for them; a source that keeps to the protocol cannot fill it.
struct Events {
    queue: std_mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// Runs the half that writes, and tells the other half when all is done. When `cancelled` fires it
/// stops and leaves nothing incomplete at a name.
///
/// # Errors
/// When the copy came to no end.
pub(super) async fn run_target(
    job: TargetJob<'_>,
    channel: Channel,
    side: Side<'_>,
    cancelled: &CancellationToken,
) -> Result<(SourceCounts, Finished), TargetError> {
    let gauge = Arc::new(Gauge::default());
    let (events, events_out) = std_mpsc::channel();
    let (pieces, pieces_out) = mpsc::channel(QUEUE);
    let (notices, notices_out) = mpsc::channel(QUEUE);
    let target = job
        .destination
        .folder()
        .map(|folder| folder.try_clone_to_owned());
    let target = target.transpose().map_err(TargetError::NotDurable)?;
    let filter = Filter::new(&job.options).map_err(TargetError::Refused)?;
    let stale = job.options.partial_ttl.map_or(STALE, Duration::from_secs);
    let shared = Arc::new(Shared::new(job.options, Arc::clone(&gauge), notices));
    let mut judge = Judge::new(
        Arc::clone(&shared),
        job.destination,
        job.shown.as_bytes(),
        job.asked,
        filter,
        Sweep::after(stale),
    )?;
    judge.above = job.above;
    let writer = Writer::new(Arc::clone(&shared));
    let waiting = Arc::<AtomicUsize>::default();
    let events = Events {
        queue: events,
        waiting: Arc::clone(&waiting),
    };
    let (for_judge, for_writer) = (Arc::clone(&shared), Arc::clone(&shared));
    let judging = spawn_blocking(move || for_judge.watch(judge.run(events_out, &waiting)));
    let writing = spawn_blocking(move || for_writer.watch(writer.run(pieces_out)));
    let (sender, receiver) = channel.split();
    let mut shown = side.show(&gauge);
    let work = async {
        let fed = feed(receiver, events, pieces, shown.as_mut(), &shared, cancelled).await;
        // What has come is still worth writing if it is only the other half that has gone.
        if cancelled.is_cancelled() || fed.is_err() {
            shared.stop();
        }
        let (judged, written) = (judging.await, writing.await);
        let broken = |_| TargetError::Broken;
        let ending = judged.map_err(broken).and_then(|ending| ending);
        let written = written.map_err(broken).and_then(|written| written);
        // Who misbehaved or failed comes before who only stopped because of it.
        let Ending { links, stage } = match (fed, ending, written) {
            (Err(error), _, _) => return Err(error.into()),
            (_, Err(TargetError::Interrupted), Err(error)) => return Err(error),
            (_, Err(error), _) | (_, _, Err(error)) => return Err(error),
            (Ok(()), Ok(_), Ok(())) if !shared.is_complete() => {
                return Err(TargetError::Interrupted);
            }
            (Ok(()), Ok(ending), Ok(())) => ending,
        };
        let ending = Arc::clone(&shared);
        let shown = job.shown.as_bytes().to_vec();
        let ended = spawn_blocking(move || {
            links.make(&ending)?;
            if let Some(target) = target {
                let durable = ending.durability.finish(target);
                durable.map_err(TargetError::NotDurable)?;
            }
            if let Some(stage) = stage {
                ending.swap_in(stage, &shown)?;
            }
            ending.flush()
        });
        ended.await.map_err(broken)??;
        Ok(())
    };
    let telling = async {
        if let Some(named) = job.named {
            send_names(named, &sender, cancelled).await;
        }
        tell(notices_out, &sender, side, cancelled).await;
    };
    let work = async {
        let worked: Result<(), TargetError> = work.await;
        shared.end_notices();
        worked.map(|()| (*shared.source(), *shared.finished()))
    };
    let (copied, ()) = tokio::join!(work, telling);
    shown.as_mut().map(Shown::update);
    let (source, finished) = copied?;
    let message = messages::message(Answer::Finished(finished));
    // If the other half has gone, everything is at its place all the same.
    tokio::select! {
        sent = sender.send(message) => { sent.ok(); }
        () = cancelled.cancelled() => {}
    }
    Ok((source, finished))
}

async fn feed(
    mut receiver: ChannelReceiver,
    events: Events,
    pieces: mpsc::Sender<Bytes>,
    mut shown: Option<&mut Shown<'_>>,
    shared: &Shared,
    cancelled: &CancellationToken,
) -> Result<(), Misbehaved> {
    loop {
        let message = tokio::select! {
            message = receiver.receive() => message,
            () = shared.complete.cancelled() => None,
            () = shared.broken.cancelled() => None,
            () = pieces.closed() => None,
            () = cancelled.cancelled() => None,
        };
        let Some(message) = message else {
            return Ok(());
        };
        if messages::has_pieces(&message) {
            let taken = tokio::select! {
                taken = pieces.send(message) => taken.is_ok(),
                () = shared.broken.cancelled() => false,
                () = cancelled.cancelled() => false,
            };
            if !taken {
                return Ok(());
            }
        } else {
            let bytes = message.len();
            let waiting = events.waiting.fetch_add(bytes, Ordering::AcqRel);
            if waiting + bytes > WAITING_BYTES {
                return Err(Misbehaved("more entries than are settled"));
            }
            if events.queue.send(message).is_err() {
                return Ok(());
            }
        }
        if let Some(shown) = &mut shown {
            shown.update();
        }
    }
}

async fn send_names(named: Vec<Bytes>, sender: &ChannelSender, cancelled: &CancellationToken) {
    let mut names = Names::default();
    let mut bytes = 0;
    let send = async |names: Names| {
        tokio::select! {
            sent = sender.send(messages::message(Answer::Names(names))) => sent.is_ok(),
            () = cancelled.cancelled() => false,
        }
    };
    for path in named {
        bytes += path.len() + 8;
        names.paths.push(path);
        if bytes > NAMES_BYTES {
            bytes = 0;
            if !send(std::mem::take(&mut names)).await {
                return;
            }
        }
    }
    names.last = true;
    send(names).await;
}

async fn tell(
    mut notices: mpsc::Receiver<Vec<Notice>>,
    sender: &ChannelSender,
    side: Side<'_>,
    cancelled: &CancellationToken,
) {
    while let Some(first) = notices.recv().await {
        for message in pack(first, side) {
            tokio::select! {
                // If the other half has gone, the engine will hear of it in its own time.
                sent = sender.send(message) => { sent.ok(); }
                () = cancelled.cancelled() => {}
            }
        }
    }
}

/// Makes messages of notices, and tells the user of this side what is for the user. Those about
/// entries that follow one another are told as one.
fn pack(notices: Vec<Notice>, side: Side<'_>) -> Vec<Bytes> {
    let (mut wanted, mut settled, mut rest, mut others) = (vec![], vec![], vec![], vec![]);
    for notice in notices {
        match notice {
            Notice::Wanted(entry) => wanted.push(entry),
            Notice::Settled(entry) => settled.push(entry),
            Notice::Rest(told) => rest.push(Answer::Rest(told)),
            // Behind their rest.
            Notice::Sums(sums) => rest.push(Answer::Sums(sums)),
            Notice::Skip(entry) => others.push(Answer::Skip(entry)),
            Notice::AtSource(failure) => side.report_there(&failure),
            Notice::AtTarget(failure) if !side.report_here(&failure) => {
                others.push(Answer::Failure(failure));
            }
            Notice::Change(change) if !side.show_change(&change) => {
                others.push(Answer::Change(change));
            }
            Notice::Note(note, of_source) if !side.note(&note) && !of_source => {
                others.push(Answer::Note(note));
            }
            Notice::AtTarget(_) | Notice::Change(_) | Notice::Note(..) => {}
        }
    }
    settled.sort_unstable();
    let wanted = ranges(wanted).into_iter().map(Answer::Wanted);
    let settled = ranges(settled).into_iter().map(Answer::Settled);
    let answers = others.into_iter().chain(wanted).chain(rest).chain(settled);
    let mut messages = Vec::new();
    let mut message = TargetMessage::default();
    let mut bytes = 0;
    for answer in answers {
        let answer = messages::Answer {
            answer: Some(answer),
        };
        let length = answer.encoded_len() + 8;
        if bytes > 0 && bytes + length > MESSAGE_BYTES {
            messages.push(message.encode_to_vec().into());
            message.answers.clear();
            bytes = 0;
        }
        bytes += length;
        message.answers.push(answer);
    }
    if !message.answers.is_empty() {
        messages.push(message.encode_to_vec().into());
    }
    messages
}
