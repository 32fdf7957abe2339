//! What a user at a terminal sees, and that a user can stop a copy.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Mutex;

use legatus_core::limits::CHUNK_BYTES;
use legatus_core::testing::{MemoryCaller, MemoryLocal};
use legatus_core::{
    BoxFuture, Input, Local, Outcome, Output, Progress, Sender, Stream, Terminal, TerminalSize,
    UserSignal,
};
use tokio::sync::oneshot;

use super::support::{BOTH, Meddler, Scene, noise};

/// A user at a terminal who sends a signal once.
#[derive(Default)]
struct User {
    memory: MemoryLocal,
    signal: Mutex<Option<oneshot::Receiver<UserSignal>>>,
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    total: (u64, u64),
    done: (u64, u64),
    names: Vec<String>,
    finished: bool,
}

impl Local for User {
    fn stdin(&self) -> Option<Box<dyn Input>> {
        self.memory.stdin()
    }

    fn output(&self, stream: Stream) -> Box<dyn Output> {
        self.memory.output(stream)
    }

    fn terminal(&self) -> Option<&dyn Terminal> {
        Some(self)
    }

    fn signal(&self) -> BoxFuture<'_, UserSignal> {
        let signal = self.signal.lock().unwrap().take();
        Box::pin(async move {
            match signal {
                Some(signal) => signal.await.unwrap(),
                None => std::future::pending().await,
            }
        })
    }

    fn open(&self, path: &Path, no_follow: bool) -> io::Result<File> {
        self.memory.open(path, no_follow)
    }

    fn environment(&self, name: &str) -> Option<OsString> {
        self.memory.environment(name)
    }

    fn progress(&self) -> &dyn Progress {
        self
    }

    fn report(&self, line: &str) {
        self.memory.report(line);
    }

    fn record(&self, json: &str) {
        self.memory.record(json);
    }
}

impl Terminal for User {
    fn raw(&self) -> io::Result<Box<dyn Send + Sync>> {
        Err(io::Error::other("not needed"))
    }

    fn size(&self) -> TerminalSize {
        TerminalSize {
            columns: 80,
            rows: 24,
        }
    }

    fn resized(&self) -> BoxFuture<'_, TerminalSize> {
        Box::pin(std::future::pending())
    }
}

impl Progress for User {
    fn total(&self, bytes: u64, entries: u64) {
        self.seen.lock().unwrap().total = (bytes, entries);
    }

    fn advance(&self, bytes: u64, entries: u64) {
        let mut seen = self.seen.lock().unwrap();
        seen.done.0 += bytes;
        seen.done.1 += entries;
    }

    fn current(&self, name: &str) {
        self.seen.lock().unwrap().names.push(name.to_owned());
    }

    fn finish(&self) {
        self.seen.lock().unwrap().finished = true;
    }
}

#[tokio::test]
async fn progress_comes_to_its_total() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/large\n", noise(3 * CHUNK_BYTES));
        scene.file("source/a/b", b"x");
        scene.file("other", b"xyz");
        let user = User::default();
        let caller = MemoryCaller::new(scene.module(), 7);
        let sources: [&[u8]; 2] = [b"source", b"other"];
        let arguments = scene.arguments(direction, &sources, b"target/");
        let outcome: Outcome = scene.module().send(arguments, &caller, &user).await.into();
        assert_eq!(outcome, Outcome::SUCCESS);
        let seen = user.seen.lock().unwrap().clone();
        let all = (3 * CHUNK_BYTES as u64 + 1 + 3, 5);
        assert_eq!((seen.total, seen.done), (all, all), "{direction:?}");
        assert!(seen.finished);
        assert!(
            seen.names.iter().all(|name| !name.contains('\n')),
            "{:?}",
            seen.names
        );
    }
}

#[tokio::test]
async fn a_user_who_stops_a_copy_finds_no_part_of_a_file() {
    for direction in BOTH {
        for signal in [
            UserSignal::Interrupt,
            UserSignal::Terminate,
            UserSignal::HangUp,
        ] {
            let scene = Scene::new();
            scene.file("source/large", noise(40 * CHUNK_BYTES));
            scene.file("target/large", b"old");
            let (tx, rx) = oneshot::channel();
            let meddler = Meddler::new(&scene, direction, 10, move || tx.send(signal).unwrap());
            let user = User {
                signal: Mutex::new(Some(rx)),
                ..User::default()
            };
            let arguments = scene.arguments(direction, &[b"source/large"], b"target");
            let outcome: Outcome = scene.module().send(arguments, &meddler, &user).await.into();
            assert_eq!(outcome, Outcome::Cancelled);
            assert_ne!(meddler.commander().await, Outcome::SUCCESS);
            assert_eq!(scene.visible("target"), ["large"]);
            assert_eq!(fs::read(scene.path("target/large")).unwrap(), b"old");
        }
    }
}

#[tokio::test]
async fn a_server_that_cancels_ends_the_copy_as_cancelled() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source", noise(40 * CHUNK_BYTES));
        let local = MemoryLocal::new();
        let caller = MemoryCaller::new(scene.module(), 7);
        caller.cancellation().cancel();
        let arguments = scene.arguments(direction, &[b"source"], b"target");
        let outcome: Outcome = scene.module().send(arguments, &caller, &local).await.into();
        assert_eq!(outcome, Outcome::Cancelled, "{direction:?}");
        assert_eq!(scene.visible(""), ["source"]);
    }
}

#[tokio::test]
async fn programs_are_told_how_far_a_copy_is() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/a", vec![b'x'; 100_000]);
        scene.file("source/b", b"y");
        let arguments = scene.arguments(direction, &[b"source"], b"target");
        let told = scene.run(arguments.with_flag("progress")).await;
        told.assert_success();
        let progress = told
            .records
            .iter()
            .rev()
            .find(|one| one.contains("progress"));
        let last: serde_json::Value = serde_json::from_str(progress.unwrap()).unwrap();
        let last = &last["progress"];
        assert_eq!(last["bytes"], 100_001, "{last}");
        assert_eq!(
            (&last["total_bytes"], &last["seconds_left"]),
            (&100_001.into(), &0.0.into())
        );
        assert_eq!(last["entries"], last["total_entries"]);
    }
}
