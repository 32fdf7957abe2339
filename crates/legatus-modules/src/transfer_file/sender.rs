//! The client half: source of uploads, target of downloads.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use legatus_core::{
    Arguments, BoxFuture, Caller, Control, Conversation, Fault, Local, Outcome, Request, Sender,
    Stream, UserSignal,
};
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::TransferFile;
use super::change::Printer;
use super::destination::{Destination, Wanted};
use super::engine::Side;
use super::messages::answer::Answer;
use super::messages::request::Action;
use super::messages::{
    self, Download, Finished, MALFORMED, MakeFolders, Options, TargetMessage, Upload,
};
use super::names;
use super::plan::{Direction, Plan, bytes_of};
use super::receiving::{TargetJob, run_target};
use super::reconnecting::Reconnecting;
use super::report::{self, SourceCounts};
use super::sharing::{self, Placing, Quiet};
use super::source::{SourceJob, SourcePath, Summary, run_source};
use super::tally::Tally;
use super::target::TargetError;

/// How often changes are printed while a copy goes on.
const PRINTED: Duration = Duration::from_millis(100);

/// How often programs are told how far it is.
const RECORDED: Duration = Duration::from_secs(1);

impl Sender for TransferFile {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(async move {
            let plan = Plan::new(&arguments, local)?;
            let changes = Printer::new(matches!(plan.direction, Direction::Upload { .. }));
            let (tally, shared) = (Tally::new(local.progress()), Mutex::default());
            let client = Client {
                host: plan.host.to_string(),
                caller,
                local,
                options: plan.options,
                named: plan.named,
                changes: &changes,
                jobs: plan.jobs,
                shared: &shared,
                patience: plan.patience,
                tells_progress: plan.tells_progress,
                tally: &tally,
            };
            let copy = async {
                match plan.direction {
                    Direction::Upload { sources, target } => client.upload(&sources, &target).await,
                    Direction::Download { sources, target } => {
                        client.download(&sources, &target).await
                    }
                    Direction::MakeFolders { paths } => client.make_folders(paths).await,
                }
            };
            Box::pin(client.printing(copy)).await
        })
    }
}

/// The user's end of one call.
pub(super) struct Client<'a> {
    pub(super) host: String,
    pub(super) caller: &'a dyn Caller,
    pub(super) local: &'a dyn Local,
    pub(super) options: Options,
    /// Only these paths below each source.
    pub(super) named: Option<Vec<Bytes>>,
    pub(super) changes: &'a Printer,
    /// Connections to copy over.
    pub(super) jobs: u32,
    /// What was done over these.
    pub(super) shared: &'a Mutex<Finished>,
    /// How long a lost connection is looked for.
    pub(super) patience: Duration,
    /// Programs want to know how far it is.
    pub(super) tells_progress: bool,
    pub(super) tally: &'a Tally<'a>,
}

impl Client<'_> {
    /// Prints changes while the copy goes on.
    async fn printing(
        &self,
        copy: impl Future<Output = Result<Outcome, Fault>>,
    ) -> Result<Outcome, Fault> {
        if !self.options.itemize && !self.tells_progress {
            return copy.await;
        }
        let mut stdout = self.local.output(Stream::Stdout);
        let unwritable = |error| Fault::new(format!("cannot write standard output: {error}"));
        tokio::pin!(copy);
        let mut since_record = Instant::now();
        loop {
            let told = tokio::select! {
                told = &mut copy => Some(told),
                () = tokio::time::sleep(PRINTED) => None,
            };
            let lines = self.changes.lines();
            if !lines.is_empty() {
                stdout.write(lines.into()).await.map_err(unwritable)?;
            }
            if self.tells_progress && (told.is_some() || since_record.elapsed() >= RECORDED) {
                since_record = Instant::now();
                self.local.record(&self.tally.record());
            }
            if let Some(told) = told {
                stdout.flush().await.map_err(unwritable)?;
                return told;
            }
        }
    }

    async fn upload(&self, sources: &[OsString], target: &OsStr) -> Result<Outcome, Fault> {
        let placed = Placing::default();
        let callers = self.further_callers().await;
        let quiet = Quiet(self.local);
        let shares = self.shares(&callers, &quiet);
        let is_shared = !shares.is_empty();
        let gone = CancellationToken::new();
        let share = async |(number, client): (usize, Client<'_>)| {
            if number > 0 {
                // By then it is known what the target is.
                tokio::select! {
                    () = placed.wait() => {}
                    () = gone.cancelled() => return,
                }
            }
            // What is missing afterwards is for the copy that follows.
            client.attempt_upload(sources, target, &placed).await.ok();
            gone.cancel();
        };
        let all = futures_util::future::join_all(shares.into_iter().enumerate().map(share));
        // Whoever asks to stop is heard once.
        if is_shared && self.unless_interrupted(all).await.is_none() {
            return Ok(Outcome::Cancelled);
        }
        let mut reconnecting = Reconnecting::new(self, is_shared);
        loop {
            let ended = self.attempt_upload(sources, target, &placed).await;
            // What the target was when the copy began, nobody else knows.
            let may_go_on = placed.get().is_some();
            let next = reconnecting.after(ended, may_go_on, self.interrupted());
            if let Some(ended) = next.await {
                return ended;
            }
        }
    }

    async fn attempt_upload(
        &self,
        sources: &[OsString],
        target: &OsStr,
        placed: &Placing,
    ) -> Result<Outcome, Fault> {
        let request = Action::Upload(Upload {
            target: bytes_of(target),
            into_folder: sources.len() > 1,
            options: Some(self.options.clone()),
            placed: placed.get(),
        });
        let Conversation {
            channel,
            controls,
            outcome,
        } = self.call(request).await?;
        let paths: Vec<_> = sources
            .iter()
            .map(|source| SourcePath {
                path: Path::new(source),
                shown: source,
            })
            .collect();
        let open = |path: &Path, no_follow: bool| self.open(path, no_follow);
        // Counting first is worth its time only where the user watches.
        let count = self.counts();
        let work = async {
            let job = SourceJob {
                paths: &paths,
                open: &open,
                count,
                options: self.options.clone(),
                named: self.named.clone(),
                placed,
            };
            let summary = run_source(job, channel, self.side()).await?;
            Ok::<_, Fault>((summary, outcome.wait().await))
        };
        let Some(worked) = self.unless_interrupted(work).await else {
            controls.send(Control::Cancel);
            return Ok(Outcome::Cancelled);
        };
        let (summary, outcome) = worked?;
        Ok(self.conclude(&summary, outcome))
    }

    async fn download(&self, sources: &[OsString], target: &OsStr) -> Result<Outcome, Fault> {
        let open = |path: &Path, no_follow: bool| self.open(path, no_follow);
        let wanted = Wanted {
            path: Path::new(target),
            shown: target.as_bytes(),
            into_folder: sources.len() > 1,
            no_parents: self.options.no_parents,
            dry_run: self.options.dry_run,
            placed: None,
        };
        let first = Destination::find(&open, &wanted)?;
        let unusable = |error| Fault::new(format!("cannot go on: {}", report::reason(&error)));
        let again = first.again().map_err(unusable)?;
        let callers = self.further_callers().await;
        let quiet = Quiet(self.local);
        let mut shared = Vec::new();
        for client in self.shares(&callers, &quiet) {
            shared.push((client, again.again().map_err(unusable)?));
        }
        let share = async |(client, destination): (Client<'_>, Destination)| {
            // What is missing afterwards is for the copy that follows.
            let copied = client.attempt_download(sources, target, (destination, None));
            copied.await.ok();
        };
        let is_shared = !shared.is_empty();
        let all = futures_util::future::join_all(shared.into_iter().map(share));
        // Whoever asks to stop is heard once.
        if is_shared && self.unless_interrupted(all).await.is_none() {
            return Ok(Outcome::Cancelled);
        }
        let mut destination = if is_shared {
            again.again().map_err(unusable)?
        } else {
            first
        };
        let mut reconnecting = Reconnecting::new(self, is_shared);
        loop {
            let above = match self.options.atomic {
                true => destination.above(&open, &wanted)?,
                false => None,
            };
            let ended = self.attempt_download(sources, target, (destination, above));
            let ended = ended.await;
            let next = reconnecting.after(ended, true, self.interrupted());
            if let Some(ended) = next.await {
                return ended;
            }
            destination = again.again().map_err(unusable)?;
        }
    }

    async fn attempt_download(
        &self,
        sources: &[OsString],
        target: &OsStr,
        (destination, above): (Destination, Option<(OwnedFd, Vec<u8>)>),
    ) -> Result<Outcome, Fault> {
        let asked = sources.iter().map(|path| names::root(path.as_bytes()));
        let job = TargetJob {
            destination,
            above,
            shown: target,
            options: self.options.clone(),
            named: self.named.clone(),
            asked: Some(asked.collect()),
        };
        let request = Action::Download(Download {
            sources: sources.iter().map(|path| bytes_of(path)).collect(),
            count: self.counts(),
            options: Some(self.options.clone()),
        });
        let Conversation {
            channel,
            controls,
            outcome,
        } = self.call(request).await?;
        let cancelled = CancellationToken::new();
        let work = run_target(job, channel, self.side(), &cancelled);
        tokio::pin!(work);
        let copied = tokio::select! {
            copied = &mut work => copied,
            () = self.interrupted() => {
                controls.send(Control::Cancel);
                cancelled.cancel();
                // Nothing incomplete may be left; but the disk may let us wait for long, and who asks
                // again does not want to.
                self.unless_interrupted(work).await;
                return Ok(Outcome::Cancelled);
            }
        };
        let copied = match copied {
            Ok((source, target)) => Summary {
                source,
                target: Some(target),
            },
            // The server ended early, and tells why.
            Err(TargetError::Interrupted) => Summary::default(),
            Err(error) => {
                controls.send(Control::Cancel);
                return Err(error.into());
            }
        };
        Ok(self.conclude(&copied, outcome.wait().await))
    }

    async fn make_folders(&self, paths: Vec<OsString>) -> Result<Outcome, Fault> {
        let request = Action::MakeFolders(MakeFolders {
            paths: paths.iter().map(|path| bytes_of(path)).collect(),
            mode: self.options.mode,
            no_parents: self.options.no_parents,
        });
        let mut conversation = self.call(request).await?;
        let mut summary = Summary {
            source: SourceCounts::default(),
            target: None,
        };
        while let Some(message) = conversation.channel.receive().await {
            let message = TargetMessage::decode(message).map_err(|_| MALFORMED)?;
            for answer in message.answers {
                match answer.answer {
                    Some(Answer::Failure(failure)) => {
                        failure.tell(self.local, Some(&self.host));
                    }
                    Some(Answer::Finished(finished)) => summary.target = Some(finished),
                    _ => return Err(MALFORMED.into()),
                }
            }
        }
        Ok(self.conclude(&summary, conversation.outcome.wait().await))
    }

    async fn call(&self, action: Action) -> Result<Conversation, Fault> {
        let request = messages::Request {
            action: Some(action),
            bounds: None,
        };
        let request = Request::from_body(request.encode_to_vec());
        self.caller.open(request).await
    }

    /// Joins what both halves know.
    fn conclude(&self, summary: &Summary, outcome: Outcome) -> Outcome {
        match (outcome, &summary.target) {
            (Outcome::Exit(_), Some(target)) => {
                let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                let mut target = *target;
                sharing::join(&mut target, &shared);
                if self.options.share.is_some() {
                    *shared = target;
                } else {
                    self.local.record(&report::record(summary.source, &target));
                }
                report::outcome(summary.source, &target)
            }
            (Outcome::Exit(_), None) => Outcome::Lost(Fault::new(format!(
                "{} ended the copy without telling that it is complete",
                self.host
            ))),
            (outcome, _) => outcome,
        }
    }

    /// Whether somebody wants to know how much there is to copy.
    fn counts(&self) -> bool {
        self.tells_progress || self.local.terminal().is_some()
    }

    fn side(&self) -> Side<'_> {
        Side::Client {
            local: self.local,
            host: &self.host,
            changes: self.changes,
            tally: self.tally,
        }
    }

    fn open(&self, path: &Path, no_follow: bool) -> io::Result<File> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        self.local.open(path, no_follow)
    }

    /// Waits until the user wants the copy to end.
    async fn interrupted(&self) {
        while self.local.signal().await == UserSignal::Quit {}
    }

    async fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.interrupted() => None,
        }
    }
}
