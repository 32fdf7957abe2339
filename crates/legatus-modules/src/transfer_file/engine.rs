//! Runs the two engines over a channel, on either side: reading and writing on a thread, sending
//! and receiving in a task, with short queues between.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use legatus_core::{Channel, ChannelReceiver, ChannelSender, Fault, Local};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::destination::Destination;
use super::folders::Open;
use super::messages::{
    Event, Failure, Finished, Misbehaved, Root, Skip, SourceMessage, TargetMessage, WriteOptions,
    event, target_message::Part,
};
use super::packer::Outgoing;
use super::report::{Gauge, Shown, SourceCounts};
use super::source::{self, Source};
use super::target::{Notice, Target, TargetError};

/// Messages between an engine's thread and its task: enough that neither waits for the other's
/// every step.
const QUEUE: usize = 4;

/// On which side an engine runs, and so who is told of what it does.
#[derive(Clone, Copy)]
pub(super) enum Side<'a> {
    /// In the client: the user, about the entries here and on this host.
    Client { local: &'a dyn Local, host: &'a str },
    /// In the server: the other half.
    Server,
}

impl<'a> Side<'a> {
    /// Tells the user of a failure on this side; false if it is the other half that must be told.
    fn report_here(self, failure: &Failure) -> bool {
        if let Self::Client { local, .. } = self {
            local.report(&failure.line(None));
        }
        matches!(self, Self::Client { .. })
    }

    /// Tells the user of a failure on the other side.
    fn report_there(self, failure: &Failure) {
        if let Self::Client { local, host } = self {
            local.report(&failure.line(Some(host)));
        }
    }

    fn show(self, gauge: &'a Gauge) -> Option<Shown<'a>> {
        match self {
            Self::Client { local, .. } => Some(Shown::new(gauge, local.progress())),
            Self::Server => None,
        }
    }
}

/// What both halves know of a copy that has come to its end.
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

/// Runs the engine of the half that reads. Dropping it stops the engine.
///
/// # Errors
/// When the other half misbehaves or the engine fails.
pub(super) async fn run_source(
    paths: &[SourcePath<'_>],
    open: &Open<'_>,
    count: bool,
    channel: Channel,
    side: Side<'_>,
) -> Result<Summary, Fault> {
    let gauge = Arc::new(Gauge::default());
    let (roots, roots_out) = mpsc::channel(1);
    let (packed, packed_out) = mpsc::channel(QUEUE);
    let skipped = Arc::new(AtomicU64::new(0));
    let engine = Source::new(packed, Arc::clone(&gauge), count, Arc::clone(&skipped));
    let thread = spawn_blocking(move || engine.run(roots_out));
    let (sender, receiver) = channel.split();
    let opening = async move {
        for path in paths {
            let root = source::Root::open(open, path.path, path.shown.as_bytes());
            if roots.send(root).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let sending = async {
        send_packed(packed_out, sender, side, &gauge).await;
        Ok(())
    };
    let ((), (), target) = tokio::try_join!(opening, sending, listen(receiver, side, &skipped))?;
    // Stopped early: the other half has gone, and its outcome tells why.
    let source = thread.await.map_err(|_| TargetError::Broken)?;
    let source = source.unwrap_or_default();
    Ok(Summary { source, target })
}

async fn send_packed(
    mut packed: mpsc::Receiver<Outgoing>,
    sender: ChannelSender,
    side: Side<'_>,
    gauge: &Gauge,
) {
    let mut shown = side.show(gauge);
    while let Some(outgoing) = packed.recv().await {
        let message = match outgoing {
            Outgoing::Message(message) => message,
            Outgoing::Failure(failure) if side.report_here(&failure) => continue,
            Outgoing::Failure(failure) => failure_event(failure),
        };
        if sender.send(message).await.is_err() {
            return;
        }
        if let Some(shown) = &mut shown {
            shown.update();
        }
    }
}

fn failure_event(failure: Failure) -> Bytes {
    let event = Some(event::Event::Failure(failure));
    let message = SourceMessage {
        events: vec![Event { event }],
    };
    message.encode_to_vec().into()
}

async fn listen(
    mut receiver: ChannelReceiver,
    side: Side<'_>,
    skipped: &AtomicU64,
) -> Result<Option<Finished>, Misbehaved> {
    let mut finished = None;
    while let Some(message) = receiver.receive().await {
        let message = TargetMessage::decode(message).map_err(|_| Misbehaved("a malformed message"));
        match message?.part {
            Some(Part::Failure(failure)) => side.report_there(&failure),
            Some(Part::Skip(skip)) => skipped.store(skip.file, Ordering::Relaxed),
            Some(Part::Finished(told)) if finished.is_none() => {
                finished = Some(told);
                if matches!(side, Side::Server) {
                    break;
                }
            }
            _ => return Err(Misbehaved("an unknown message")),
        }
    }
    Ok(finished)
}

/// What a target writes, and how.
pub(super) struct TargetJob<'a> {
    pub(super) destination: Destination,
    /// The target's path as the user wrote it.
    pub(super) shown: &'a OsStr,
    pub(super) options: WriteOptions,
    /// The sources that were asked for; `None` if the other half decides.
    pub(super) asked: Option<Vec<Root>>,
}

/// Runs the engine of the half that writes, and tells the other half when all is done. When
/// `cancelled` fires it stops and leaves nothing that is incomplete.
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
    let (messages, messages_out) = mpsc::channel(QUEUE);
    let (notices, notices_out) = mpsc::channel(QUEUE);
    let shown = job.shown.as_bytes();
    let engine = Target::new(
        job.destination,
        shown,
        job.options,
        notices,
        Arc::clone(&gauge),
    );
    let engine = match job.asked {
        Some(asked) => engine.asking(asked),
        None => engine,
    };
    let thread = spawn_blocking(move || engine.run(messages_out));
    let (sender, receiver) = channel.split();
    let mut shown = side.show(&gauge);
    tokio::join!(
        feed(receiver, messages, shown.as_mut(), cancelled),
        tell(notices_out, &sender, side, cancelled)
    );
    let copied = thread.await.map_err(|_| TargetError::Broken)?;
    shown.as_mut().map(Shown::update);
    let (source, finished) = copied?;
    let message = TargetMessage {
        part: Some(Part::Finished(finished)),
    };
    // If the other half has gone, everything is at its place all the same.
    tokio::select! {
        sent = sender.send(message.encode_to_vec().into()) => { sent.ok(); }
        () = cancelled.cancelled() => {}
    }
    Ok((source, finished))
}

async fn feed(
    mut receiver: ChannelReceiver,
    messages: mpsc::Sender<Bytes>,
    mut shown: Option<&mut Shown<'_>>,
    cancelled: &CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = receiver.receive() => message,
            () = messages.closed() => None,
            () = cancelled.cancelled() => None,
        };
        let Some(message) = message else { return };
        let taken = tokio::select! {
            taken = messages.send(message) => taken.is_ok(),
            () = cancelled.cancelled() => false,
        };
        if !taken {
            return;
        }
        if let Some(shown) = &mut shown {
            shown.update();
        }
    }
}

async fn tell(
    mut notices: mpsc::Receiver<Notice>,
    sender: &ChannelSender,
    side: Side<'_>,
    cancelled: &CancellationToken,
) {
    while let Some(notice) = notices.recv().await {
        let part = match notice {
            Notice::AtSource(failure) => {
                side.report_there(&failure);
                continue;
            }
            Notice::AtTarget(failure) if side.report_here(&failure) => continue,
            Notice::AtTarget(failure) => Part::Failure(failure),
            Notice::Skip(file) => Part::Skip(Skip { file }),
        };
        let message = TargetMessage { part: Some(part) };
        tokio::select! {
            // If the other half has gone, the engine will hear of it in its own time.
            sent = sender.send(message.encode_to_vec().into()) => { sent.ok(); }
            () = cancelled.cancelled() => return,
        }
    }
}
