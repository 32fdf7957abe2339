//! The client half: source of uploads, target of downloads.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use legatus_core::{
    Arguments, BoxFuture, Caller, Control, Conversation, Fault, Host, Local, Location, Outcome,
    Request, Sender, UserSignal,
};
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::TransferFile;
use super::destination::{Destination, Wanted};
use super::engine::{Side, SourcePath, Summary, TargetJob, run_source, run_target};
use super::messages::request::Action;
use super::messages::{
    self, Download, MakeFolders, TargetMessage, Upload, WriteOptions, target_message::Part,
};
use super::names;
use super::report::{self, SourceCounts};
use super::target::TargetError;

impl Sender for TransferFile {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(async move {
            let plan = Plan::new(&arguments)?;
            let client = Client {
                host: plan.host.to_string(),
                caller,
                local,
            };
            match plan.direction {
                Direction::Upload { sources, target } => {
                    client.upload(&sources, &target, plan.options).await
                }
                Direction::Download { sources, target } => {
                    client.download(&sources, &target, plan.options).await
                }
                Direction::MakeFolders { paths } => client.make_folders(paths, plan.options).await,
            }
        })
    }
}

/// What the user asked for.
#[derive(Debug)]
struct Plan {
    host: Host,
    direction: Direction,
    options: WriteOptions,
}

#[derive(Debug)]
enum Direction {
    Upload {
        sources: Vec<OsString>,
        target: OsString,
    },
    Download {
        sources: Vec<OsString>,
        target: OsString,
    },
    MakeFolders {
        paths: Vec<OsString>,
    },
}

impl Plan {
    fn new(arguments: &Arguments) -> Result<Self, Fault> {
        let options = WriteOptions {
            mode: arguments.mode("mode")?,
            no_parents: arguments.is_given("no-parents"),
            no_fsync: arguments.is_given("no-fsync"),
            verify_disk: arguments.is_given("verify-disk"),
        };
        let mut locations = Vec::new();
        for value in arguments.all("paths") {
            let location = Location::parse(value);
            let mut location = location.map_err(|error| Fault::new(error.to_string()))?;
            if location.host.is_some() && location.path == "~" {
                location.path.push("/");
            }
            locations.push(location);
        }
        let (host, direction) = if arguments.is_given("mkdir") {
            let (host, paths) = on_one_host(locations)?.ok_or_else(|| {
                Fault::new("--mkdir makes folders on a host").with_hint("name them as HOST:PATH")
            })?;
            (host, Direction::MakeFolders { paths })
        } else {
            Self::copy(locations)?
        };
        Ok(Self {
            host,
            direction,
            options,
        })
    }

    fn copy(mut locations: Vec<Location>) -> Result<(Host, Direction), Fault> {
        let hint = "write SRC... DST, of which one side is HOST:PATH";
        let Some(target) = locations.pop().filter(|_| !locations.is_empty()) else {
            return Err(Fault::new("a copy needs a source and a target").with_hint(hint));
        };
        let paths = |locations: Vec<Location>| locations.into_iter().map(|one| one.path).collect();
        match target.host {
            Some(host) if locations.iter().all(|source| source.host.is_none()) => Ok((
                host,
                Direction::Upload {
                    sources: paths(locations),
                    target: target.path,
                },
            )),
            Some(_) => Err(Fault::new("cannot copy from a host to a host")
                .with_hint("copy to this machine first, then to the other host")),
            None => match on_one_host(locations)? {
                Some((host, sources)) => Ok((
                    host,
                    Direction::Download {
                        sources,
                        target: target.path,
                    },
                )),
                None => Err(Fault::new("neither source nor target is on a host").with_hint(hint)),
            },
        }
    }
}

/// The host that all locations are on; `None` if they are on none.
fn on_one_host(locations: Vec<Location>) -> Result<Option<(Host, Vec<OsString>)>, Fault> {
    let mut hosts = locations.iter().map(|location| &location.host);
    let first = hosts.next().cloned().flatten();
    if hosts.any(|host| *host != first) {
        let fault = Fault::new("the paths are on more than one host");
        return Err(fault.with_hint("one copy has one host; run one for each"));
    }
    let paths = locations.into_iter().map(|location| location.path);
    Ok(first.map(|host| (host, paths.collect())))
}

/// The user's end of one call.
struct Client<'a> {
    host: String,
    caller: &'a dyn Caller,
    local: &'a dyn Local,
}

impl Client<'_> {
    async fn upload(
        &self,
        sources: &[OsString],
        target: &OsStr,
        options: WriteOptions,
    ) -> Result<Outcome, Fault> {
        let request = Action::Upload(Upload {
            target: bytes_of(target),
            into_folder: sources.len() > 1,
            options: Some(options),
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
        let count = self.local.terminal().is_some();
        let work = async {
            let summary = run_source(&paths, &open, count, channel, self.side()).await?;
            Ok::<_, Fault>((summary, outcome.wait().await))
        };
        let Some(worked) = self.unless_interrupted(work).await else {
            controls.send(Control::Cancel);
            return Ok(Outcome::Cancelled);
        };
        let (summary, outcome) = worked?;
        Ok(self.conclude(&summary, outcome))
    }

    async fn download(
        &self,
        sources: &[OsString],
        target: &OsStr,
        options: WriteOptions,
    ) -> Result<Outcome, Fault> {
        let open = |path: &Path, no_follow: bool| self.open(path, no_follow);
        let wanted = Wanted {
            path: Path::new(target),
            shown: target.as_bytes(),
            into_folder: sources.len() > 1,
            no_parents: options.no_parents,
        };
        let job = TargetJob {
            destination: Destination::find(&open, &wanted)?,
            shown: target,
            options,
            asked: Some(
                sources
                    .iter()
                    .map(|path| names::root(path.as_bytes()))
                    .collect(),
            ),
        };
        let request = Action::Download(Download {
            sources: sources.iter().map(|path| bytes_of(path)).collect(),
            count: self.local.terminal().is_some(),
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
            Err(TargetError::Interrupted) => Summary {
                source: SourceCounts::default(),
                target: None,
            },
            Err(error) => {
                controls.send(Control::Cancel);
                return Err(error.into());
            }
        };
        Ok(self.conclude(&copied, outcome.wait().await))
    }

    async fn make_folders(
        &self,
        paths: Vec<OsString>,
        options: WriteOptions,
    ) -> Result<Outcome, Fault> {
        let request = Action::MakeFolders(MakeFolders {
            paths: paths.iter().map(|path| bytes_of(path)).collect(),
            mode: options.mode,
            no_parents: options.no_parents,
        });
        let mut conversation = self.call(request).await?;
        let mut summary = Summary {
            source: SourceCounts::default(),
            target: None,
        };
        while let Some(message) = conversation.channel.receive().await {
            match TargetMessage::decode(message).map(|message| message.part) {
                Ok(Some(Part::Failure(failure))) => {
                    self.local.report(&failure.line(Some(&self.host)));
                }
                Ok(Some(Part::Finished(finished))) => summary.target = Some(finished),
                _ => return Err(messages::Misbehaved("a malformed message").into()),
            }
        }
        Ok(self.conclude(&summary, conversation.outcome.wait().await))
    }

    async fn call(&self, action: Action) -> Result<Conversation, Fault> {
        let request = messages::Request {
            action: Some(action),
        };
        let request = Request::from_body(request.encode_to_vec());
        self.caller.open(request).await
    }

    /// Joins what both halves know.
    fn conclude(&self, summary: &Summary, outcome: Outcome) -> Outcome {
        match (outcome, &summary.target) {
            (Outcome::Exit(_), Some(target)) => {
                self.local.record(&report::record(summary.source, target));
                report::outcome(summary.source, target)
            }
            (Outcome::Exit(_), None) => Outcome::Lost(Fault::new(format!(
                "{} ended the copy without telling that it is complete",
                self.host
            ))),
            (outcome, _) => outcome,
        }
    }

    fn side(&self) -> Side<'_> {
        Side::Client {
            local: self.local,
            host: &self.host,
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

fn bytes_of(path: &OsStr) -> Bytes {
    Bytes::copy_from_slice(path.as_bytes())
}
