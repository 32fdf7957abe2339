//! Folders to copy between, trees to compare, and a caller that can interfere.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use legatus_core::testing::{self, MemoryLocal};
use legatus_core::{
    Arguments, BoxFuture, Caller, Channel, ChannelReceiver, ChannelSender, Control, Conversation,
    Fault, Module, Outcome, PendingOutcome, Reconnection, Request,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::super::{TransferFile, spec};
use crate::configured::Configured;

/// In which direction a test copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

pub(super) const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];

/// A folder of one test, which is the home on both sides.
pub(super) struct Scene {
    folder: TempDir,
}

/// How a copy went.
pub(super) struct Told {
    pub(super) outcome: Outcome,
    pub(super) reports: Vec<String>,
    pub(super) records: Vec<String>,
}

impl Told {
    pub(super) fn assert_success(&self) {
        assert_eq!(self.outcome, Outcome::SUCCESS, "{:?}", self.reports);
        assert!(self.reports.is_empty(), "{:?}", self.reports);
    }

    pub(super) fn fault(&self) -> String {
        match self.outcome.fault() {
            Some(fault) => fault.message().to_owned(),
            None => panic!("{:?} is no fault; {:?}", self.outcome, self.reports),
        }
    }
}

impl Scene {
    pub(super) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join(Path::new(&name))
    }

    /// Writes a file, with its parents.
    pub(super) fn file(&self, name: impl AsRef<OsStr>, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(super) fn module(&self) -> Arc<TransferFile> {
        Arc::new(TransferFile {
            spec: spec(),
            home: Some(self.folder.path().to_owned()),
            bounds: Configured::default(),
        })
    }

    /// The locations of a copy; the remote ones relative to the home, so that both kinds are used.
    pub(super) fn arguments(
        &self,
        direction: Direction,
        sources: &[&[u8]],
        target: &[u8],
    ) -> Arguments {
        let here = |path: &[u8]| {
            let mut whole = self.folder.path().as_os_str().as_bytes().to_vec();
            whole.push(b'/');
            whole.extend_from_slice(path);
            OsString::from_vec(whole)
        };
        let there = |path: &[u8]| OsString::from_vec([b"web1:", path].concat());
        let mut arguments = Arguments::new();
        for source in sources {
            let source = match direction {
                Direction::Up => here(source),
                Direction::Down => there(source),
            };
            arguments.extend("paths", [source]);
        }
        let target = match direction {
            Direction::Up => there(target),
            Direction::Down => here(target),
        };
        arguments.with("paths", target)
    }

    pub(super) async fn run(&self, arguments: Arguments) -> Told {
        let local = MemoryLocal::new();
        let outcome = testing::run(self.module(), arguments, &local).await;
        Told {
            outcome,
            reports: local.reports(),
            records: local.records(),
        }
    }

    /// Copies by way of a caller.
    pub(super) async fn run_by(&self, caller: &dyn Caller, arguments: Arguments) -> Told {
        let local = MemoryLocal::new();
        let module = self.module();
        let sender = module.sender().unwrap();
        Told {
            outcome: sender.send(arguments, caller, &local).await.into(),
            reports: local.reports(),
            records: local.records(),
        }
    }

    pub(super) async fn copy(&self, direction: Direction, source: &str, target: &str) -> Told {
        let arguments = self.arguments(direction, &[source.as_bytes()], target.as_bytes());
        self.run(arguments).await
    }

    /// Names of what is in a folder, without what is kept of files that did not come to their end.
    pub(super) fn visible(&self, folder: &str) -> Vec<String> {
        let mut names = self.names(folder);
        names.retain(|name| !(name.starts_with('.') && name.ends_with(".legatus")));
        names
    }

    /// Names of all that is in a folder.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// What can be told of one entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    kind: &'static str,
    mode: u32,
    modified: (i64, i64),
    contents: Vec<u8>,
}

impl Entry {
    /// Contents of a file, or where a link points.
    pub(super) fn contents(&self) -> &[u8] {
        &self.contents
    }
}

/// A tree: all of its entries by their paths; the root's is empty.
pub(super) fn tree(root: &Path) -> BTreeMap<OsString, Entry> {
    let mut entries = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let (kind, contents) = if metadata.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            ("folder", Vec::new())
        } else if metadata.is_symlink() {
            (
                "link",
                fs::read_link(&path).unwrap().into_os_string().into_vec(),
            )
        } else {
            ("file", fs::read(&path).unwrap())
        };
        let entry = Entry {
            kind,
            mode: metadata.mode() & 0o7777,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            contents,
        };
        entries.insert(
            path.strip_prefix(root).unwrap().as_os_str().to_owned(),
            entry,
        );
    }
    entries
}

pub(super) fn assert_same_trees(left: &Path, right: &Path) {
    let (left, right) = (tree(left), tree(right));
    let names = |tree: &BTreeMap<OsString, Entry>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right));
    for (name, entry) in &left {
        let other = &right[name];
        assert!(
            entry.contents == other.contents,
            "contents of {name:?} differ"
        );
        assert_eq!(
            (entry.kind, format!("{:o}", entry.mode), entry.modified),
            (other.kind, format!("{:o}", other.mode), other.modified),
            "{name:?}"
        );
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(super) fn set_modified(path: &Path, seconds: u64, nanoseconds: u32) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Bytes that do not repeat.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

type Hook = Box<dyn FnOnce() + Send>;

/// Opens calls as [`testing::MemoryCaller`] does, and does something once, before it passes on the
/// message of this number in the direction of the copy.
pub(super) struct Meddler {
    module: Arc<TransferFile>,
    direction: Direction,
    before: usize,
    hook: Mutex<Option<Hook>>,
    commander: Mutex<Option<JoinHandle<Outcome>>>,
}

impl Meddler {
    pub(super) fn new(
        scene: &Scene,
        direction: Direction,
        before: usize,
        hook: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self {
            module: scene.module(),
            direction,
            before,
            hook: Mutex::new(Some(Box::new(hook))),
            commander: Mutex::default(),
        }
    }

    /// Waits until the Commander has ended.
    pub(super) async fn commander(&self) -> Outcome {
        let commander = self.commander.lock().unwrap().take();
        commander.unwrap().await.unwrap()
    }
}

async fn relay(
    mut from: ChannelReceiver,
    to: ChannelSender,
    before: usize,
    mut hook: Option<Hook>,
) {
    let mut number = 0;
    while let Some(message) = from.receive().await {
        if number == before
            && let Some(hook) = hook.take()
        {
            hook();
        }
        number += 1;
        if to.send(message).await.is_err() {
            return;
        }
    }
}

impl Caller for Meddler {
    fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
        Box::pin(async move {
            let (client, client_end) = Channel::pair(7);
            let (server_end, server) = Channel::pair(7);
            let (to_client, from_client) = client_end.split();
            let (to_server, from_server) = server_end.split();
            let hook = self.hook.lock().unwrap().take();
            let (up, down) = match self.direction {
                Direction::Up => (hook, None),
                Direction::Down => (None, hook),
            };
            tokio::spawn(relay(from_client, to_server, self.before, up));
            tokio::spawn(relay(from_server, to_client, self.before, down));
            let (controls, receiver) = Control::queue();
            let (decide, outcome) = PendingOutcome::new();
            let call = testing::call(self.module.as_ref(), request, receiver)?;
            let module = Arc::clone(&self.module);
            let commander = tokio::spawn(async move {
                let outcome: Outcome = match module.commander() {
                    Some(commander) => commander.execute(call, server).await.into(),
                    None => panic!("no Commander"),
                };
                decide.send(outcome.clone()).ok();
                outcome
            });
            *self.commander.lock().unwrap() = Some(commander);
            Ok(Conversation {
                channel: client,
                controls,
                outcome,
            })
        })
    }
}

/// Opens calls whose connection is lost after so many messages to the server, each time another number;
/// after the last of them it lasts.
pub(super) struct Losing {
    module: Arc<TransferFile>,
    after: Mutex<Vec<usize>>,
    /// What is done while there is no connection.
    between: Box<dyn Fn() + Send + Sync>,
    lost: Mutex<bool>,
    pub(super) opened: Arc<Mutex<usize>>,
}

impl Losing {
    pub(super) fn new(
        scene: &Scene,
        after: &[usize],
        between: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            module: scene.module(),
            after: Mutex::new(after.to_vec()),
            between: Box::new(between),
            lost: Mutex::new(false),
            opened: Arc::default(),
        }
    }
}

/// A call on a connection that is lost.
fn unavailable() -> Conversation {
    let (channel, _) = Channel::pair(1);
    let (controls, _) = Control::queue();
    let (decide, outcome) = PendingOutcome::new();
    let fault = Fault::new("the connection was lost: cut");
    decide.send(Outcome::Unavailable(fault)).ok();
    Conversation {
        channel,
        controls,
        outcome,
    }
}

impl Caller for Losing {
    fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
        Box::pin(async move {
            if *self.lost.lock().unwrap() {
                return Ok(unavailable());
            }
            *self.opened.lock().unwrap() += 1;
            let after = {
                let mut after = self.after.lock().unwrap();
                if after.is_empty() {
                    usize::MAX
                } else {
                    after.remove(0)
                }
            };
            *self.lost.lock().unwrap() = after < usize::MAX;
            let (client, client_end) = Channel::pair(1 << 20);
            let (server_end, server) = Channel::pair(1 << 20);
            let (to_client, mut from_client) = client_end.split();
            let (to_server, mut from_server) = server_end.split();
            let (controls, receiver) = Control::queue();
            let (decide, outcome) = PendingOutcome::new();
            let call = testing::call(self.module.as_ref(), request, receiver)?;
            let cancellation = call.cancellation.clone();
            let module = Arc::clone(&self.module);
            let commander = tokio::spawn(async move {
                let commander = module.commander().unwrap();
                commander.execute(call, server).await.into()
            });
            tokio::spawn(async move {
                // Nothing is lost before the server has said where it is.
                let (mut passed, mut heard) = (0, false);
                let ended = loop {
                    tokio::select! {
                        Some(message) = from_client.receive() => {
                            passed += 1;
                            if (heard && passed > after) || to_server.send(message).await.is_err() {
                                break false;
                            }
                        }
                        message = from_server.receive() => {
                            passed += 1;
                            match message {
                                Some(_) if heard && passed > after => break false,
                                Some(message) => {
                                    heard = true;
                                    to_client.send(message).await.ok();
                                }
                                None => break true,
                            }
                        }
                    }
                };
                drop((from_client, from_server, to_server));
                let outcome = if ended {
                    commander.await.unwrap()
                } else {
                    cancellation.cancel();
                    drop(commander.await.unwrap());
                    Outcome::Lost(Fault::new("the connection was lost: cut"))
                };
                drop(to_client);
                decide.send(outcome).ok();
            });
            Ok(Conversation {
                channel: client,
                controls,
                outcome,
            })
        })
    }

    fn another(&self) -> BoxFuture<'_, Result<Box<dyn Caller>, Fault>> {
        let another = Self {
            module: Arc::clone(&self.module),
            after: Mutex::default(),
            between: Box::new(|| ()),
            lost: Mutex::new(false),
            opened: Arc::clone(&self.opened),
        };
        Box::pin(std::future::ready(Ok(Box::new(another) as Box<dyn Caller>)))
    }

    fn reconnect(&self) -> BoxFuture<'_, Reconnection> {
        Box::pin(async move {
            if !std::mem::take(&mut *self.lost.lock().unwrap()) {
                return Reconnection::NotLost;
            }
            (self.between)();
            Reconnection::Done
        })
    }
}
