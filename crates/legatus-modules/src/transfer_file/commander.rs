//! The server half: target of uploads, source of downloads.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use legatus_core::{
    BoxFuture, Call, Channel, Commander, Control, ControlReceiver, Effects, Fault, Inspection,
    Outcome, Request,
};
use prost::Message;
use rustix::fs::Mode;
use tokio_util::sync::CancellationToken;

use super::TransferFile;
use super::bounds::Bounds;
use super::destination::{self, Destination, Wanted};
use super::engine::Side;
use super::messages::answer::Answer;
use super::messages::request::Action;
use super::messages::{self, Download, Failure, Finished, MakeFolders, PERMISSIONS, Upload};
use super::names;
use super::receiving::{TargetJob, run_target};
use super::report::{self, SourceCounts, reason};
use super::sharing::Placing;
use super::source::{SourceJob, SourcePath, run_source};

impl Commander for TransferFile {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        Ok(match decode(request)?.0 {
            Action::Upload(upload) => Inspection {
                effects: match upload.options.as_ref().is_some_and(tells) {
                    true => Effects::READ.union(Effects::WRITE),
                    // What is there is looked at, and told in parts by sums of blocks.
                    false => Effects::WRITE,
                },
                summary: format!("upload to {}", names::shown(&upload.target)),
            },
            Action::Download(download) => Inspection {
                effects: Effects::READ,
                summary: format!("download of {}", shown_list(&download.sources)),
            },
            Action::MakeFolders(folders) => Inspection {
                effects: Effects::WRITE,
                summary: format!("make {}", shown_list(&folders.paths)),
            },
        })
    }

    fn admit(&self, mut request: Request) -> Result<Request, Fault> {
        let mut told =
            messages::Request::decode(request.body).map_err(|_| refuse("it is malformed"))?;
        told.bounds = Some(self.bounds.get().clone());
        request.body = told.encode_to_vec().into();
        Ok(request)
    }

    fn execute(&self, call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(async move {
            let (mut action, bounds) = decode(&call.request)?;
            let (read, write) = (Bounds::from(bounds.read), Bounds::from(bounds.write));
            if let Err(fault) = self.keep_within(&mut action, &read, &write) {
                return Ok(Outcome::Denied(fault));
            }
            let cancelled = call.cancellation.child_token();
            // However this ends, an engine that is still running stops.
            let _stop = cancelled.clone().drop_guard();
            let work = async {
                match action {
                    Action::Upload(upload) => {
                        self.upload(upload, &write, channel, &cancelled).await
                    }
                    Action::Download(download) => {
                        self.download(download, &read, channel, &cancelled).await
                    }
                    Action::MakeFolders(folders) => {
                        self.make_folders(&folders, &write, &channel).await
                    }
                }
            };
            let told = tokio::select! {
                told = work => told,
                never = cancel_on_control(call.controls, &cancelled) => match never {},
            };
            if cancelled.is_cancelled() && told.is_err() {
                return Ok(Outcome::Cancelled);
            }
            told
        })
    }
}

/// Some paths in one line; a request may have very many.
fn shown_list(paths: &[bytes::Bytes]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = paths.iter().take(SHOWN).map(names::shown).collect();
    let shown = shown.join(", ");
    match paths.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

fn refuse(why: &str) -> Fault {
    Fault::new(format!("cannot understand the request: {why}"))
}

/// Whether an upload has what is at its target compared, listed or deleted, and tells of that.
fn tells(options: &messages::Options) -> bool {
    options.checksum || options.itemize || options.delete || options.dry_run
}

/// Decodes a request: what is asked for, and where it is allowed.
fn decode(request: &Request) -> Result<(Action, messages::Bounds), Fault> {
    let request =
        messages::Request::decode(request.body.clone()).map_err(|_| refuse("it is malformed"))?;
    let action = request
        .action
        .ok_or_else(|| refuse("it asks for nothing"))?;
    let mode = match &action {
        Action::Upload(upload) => upload.options.as_ref().and_then(|options| options.mode),
        Action::MakeFolders(folders) => folders.mode,
        Action::Download(_) => None,
    };
    if mode.is_some_and(|mode| mode > PERMISSIONS) {
        return Err(refuse("a mode is at most 07777"));
    }
    if let Action::Upload(Upload {
        options: Some(options),
        ..
    }) = &action
        && (options.backup.contains(&b'/') || options.backup.contains(&0))
    {
        return Err(refuse("a suffix has no `/`"));
    }
    Ok((action, request.bounds.unwrap_or_default()))
}

async fn cancel_on_control(
    mut controls: ControlReceiver,
    cancelled: &CancellationToken,
) -> std::convert::Infallible {
    while let Some(control) = controls.receive().await {
        if control == Control::Cancel {
            cancelled.cancel();
        }
    }
    std::future::pending().await
}

impl TransferFile {
    /// Refuses what the server's settings do not allow. Of a target that may be written and not read,
    /// nothing is told.
    fn keep_within(&self, action: &mut Action, read: &Bounds, write: &Bounds) -> Result<(), Fault> {
        match action {
            Action::Upload(upload) => {
                let target = self.below_home(&upload.target)?;
                write.check(&target, &upload.target)?;
                let options = upload.options.get_or_insert_default();
                if read.allow(&target) && write.agree(read, &target) {
                    return Ok(());
                }
                options.whole_file = true;
                if tells(options) {
                    return Err(Fault::new(format!(
                        "{} may be written and not read: nothing is compared, listed or deleted",
                        names::shown(&upload.target)
                    )));
                }
            }
            Action::Download(download) => {
                for source in &download.sources {
                    read.check(&self.below_home(source)?, source)?;
                }
            }
            Action::MakeFolders(folders) => {
                for path in &folders.paths {
                    write.check(&self.below_home(path)?, path)?;
                }
            }
        }
        Ok(())
    }

    async fn upload(
        &self,
        upload: Upload,
        bounds: &Bounds,
        channel: Channel,
        cancelled: &CancellationToken,
    ) -> Result<Outcome, Fault> {
        let options = upload.options.unwrap_or_default();
        let open = |path: &Path, no_follow: bool| bounds.open(path, no_follow);
        let wanted = Wanted {
            path: &self.below_home(&upload.target)?,
            shown: &upload.target,
            into_folder: upload.into_folder,
            no_parents: options.no_parents,
            dry_run: options.dry_run,
            placed: upload.placed,
        };
        let destination = Destination::find(&open, &wanted)?;
        send(&channel, Answer::Placed(destination.placed())).await?;
        let above = match options.atomic {
            true => destination.above(&open, &wanted)?,
            false => None,
        };
        let job = TargetJob {
            destination,
            above,
            shown: OsStr::from_bytes(&upload.target),
            options,
            asked: None,
            named: None,
        };
        let (source, target) = run_target(job, channel, Side::Server, cancelled).await?;
        Ok(report::outcome(source, &target))
    }

    async fn download(
        &self,
        mut download: Download,
        bounds: &Bounds,
        channel: Channel,
        cancelled: &CancellationToken,
    ) -> Result<Outcome, Fault> {
        let open = |path: &Path, no_follow: bool| bounds.open(path, no_follow);
        let mut paths = Vec::with_capacity(download.sources.len());
        for source in &download.sources {
            paths.push(self.below_home(source)?);
        }
        let shown = download.sources.iter().map(|path| OsStr::from_bytes(path));
        let sources: Vec<_> = paths
            .iter()
            .zip(shown)
            .map(|(path, shown)| SourcePath { path, shown })
            .collect();
        let job = SourceJob {
            paths: &sources,
            open: &open,
            count: download.count,
            options: download.options.take().unwrap_or_default(),
            named: None,
            placed: &Placing::default(),
        };
        let work = run_source(job, channel, Side::Server);
        let summary = tokio::select! {
            summary = work => summary?,
            () = cancelled.cancelled() => return Ok(Outcome::Cancelled),
        };
        match summary.target {
            Some(target) => Ok(report::outcome(summary.source, &target)),
            None => Err(Fault::new("the target ended before the copy did")),
        }
    }

    async fn make_folders(
        &self,
        folders: &MakeFolders,
        bounds: &Bounds,
        channel: &Channel,
    ) -> Result<Outcome, Fault> {
        let open = |path: &Path, no_follow: bool| bounds.open(path, no_follow);
        let mut finished = Finished::default();
        let mode = folders.mode.map(Mode::from_raw_mode);
        for shown in &folders.paths {
            let path = self.below_home(shown)?;
            match destination::make_folder(&open, &path, mode, folders.no_parents) {
                Ok(()) => finished.folders += 1,
                Err(error) => {
                    finished.failed += 1;
                    let failure = Failure::new("make folder", shown.to_vec(), reason(&error));
                    send(channel, Answer::Failure(failure)).await?;
                }
            }
        }
        send(channel, Answer::Finished(finished)).await?;
        Ok(report::outcome(SourceCounts::default(), &finished))
    }

    /// A path of a request: relative to the home folder, unless absolute.
    fn below_home(&self, path: &[u8]) -> Result<PathBuf, Fault> {
        let relative = path.strip_prefix(b"~/").unwrap_or(path);
        let relative = Path::new(OsStr::from_bytes(relative));
        if relative.is_absolute() && !path.starts_with(b"~") {
            return Ok(relative.to_owned());
        }
        let home = self.home.clone().or_else(std::env::home_dir);
        let home = home.filter(|home| home.is_absolute()).ok_or_else(|| {
            Fault::new(format!(
                "cannot find {}: the user has no home",
                names::shown(path)
            ))
            .with_hint("name an absolute path")
        })?;
        // `~//x` is below home as well.
        let relative = relative.strip_prefix("/").unwrap_or(relative);
        Ok(home.join(relative))
    }
}

async fn send(channel: &Channel, answer: Answer) -> Result<(), Fault> {
    let sent = channel.send(messages::message(answer)).await;
    sent.map_err(|_| Fault::new("the caller stopped listening"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_told_of_what_a_link_in_a_readable_folder_leads_to() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("write/read")).unwrap();
        fs::create_dir(home.path().join("write/private")).unwrap();
        symlink("../private", home.path().join("write/read/link")).unwrap();
        let module = TransferFile {
            spec: super::super::spec(),
            home: Some(home.path().to_owned()),
            bounds: crate::configured::Configured::default(),
        };
        let below = |folder: &str| {
            let path = home.path().join(folder).into_os_string();
            let path = std::os::unix::ffi::OsStringExt::into_vec(path).into();
            Bounds::from(Some(messages::Folders { paths: vec![path] }))
        };
        let (read, write) = (below("write/read"), below("write"));
        for (target, tells) in [
            ("write/private", false),
            ("write/read/link", false),
            ("write/read/link/new", false),
            ("write/read", true),
            ("write/read/new", true),
        ] {
            let mut options = messages::Options {
                checksum: true,
                ..Default::default()
            };
            let upload = |options| {
                let mut action = Action::Upload(Upload {
                    target: target.into(),
                    options: Some(options),
                    ..Upload::default()
                });
                module.keep_within(&mut action, &read, &write).is_ok()
            };
            assert_eq!(upload(options.clone()), tells, "{target}");
            options.checksum = false;
            assert!(upload(options), "{target}");
        }
    }
}
