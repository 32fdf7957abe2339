//! Copies that are disturbed half way leave nothing half.

use std::fs::{self, OpenOptions};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use legatus_core::limits::CHUNK_BYTES;
use legatus_core::testing::MemoryLocal;
use legatus_core::{Outcome, Sender};
use tokio::sync::oneshot;

use super::support::{BOTH, Direction, Meddler, Scene, noise};

/// More than fits into all queues between the halves.
const LARGE: usize = 40 * CHUNK_BYTES;

/// Copies `source/large` and `source/next` into a folder that has an old `large`, and does something
/// to the source in the middle.
async fn disturbed(
    direction: Direction,
    scene: &Scene,
    disturb: impl FnOnce() + Send + 'static,
) -> (Outcome, Vec<String>) {
    let meddler = Meddler::new(scene, direction, 2, disturb);
    let local = MemoryLocal::new();
    let sources: [&[u8]; 2] = [b"source/large", b"source/next"];
    let arguments = scene.arguments(direction, &sources, b"target");
    let outcome = scene
        .module()
        .send(arguments, &meddler, &local)
        .await
        .into();
    (outcome, local.reports())
}

#[tokio::test]
async fn a_source_that_changes_while_it_is_read_is_told_and_the_old_file_stays() {
    type Change = fn(&fs::File);
    let changes: [(&str, Change); 3] = [
        ("it shrank while it was read", |file| {
            file.set_len(5).unwrap();
        }),
        ("it grew while it was read", |file| {
            file.set_len(1 << 30).unwrap();
        }),
        ("it changed while it was read", |file| {
            file.set_modified(std::time::SystemTime::UNIX_EPOCH)
                .unwrap();
        }),
    ];
    for direction in BOTH {
        for (reason, change) in changes {
            let scene = Scene::new();
            let source = scene.file("source/large", noise(LARGE));
            scene.file("source/next", b"next");
            scene.file("target/large", b"old");
            let (outcome, reports) = disturbed(direction, &scene, move || {
                change(&OpenOptions::new().write(true).open(source).unwrap());
            })
            .await;
            assert_eq!(outcome, Outcome::Exit(23));
            assert!(
                reports.len() == 1 && reports[0].ends_with(reason),
                "{reason}: {reports:?}"
            );
            assert_eq!(fs::read(scene.path("target/large")).unwrap(), b"old");
            assert_eq!(scene.visible("target"), ["large", "next"]);
        }
    }
}

#[tokio::test]
async fn entries_that_vanish_are_told_as_such() {
    for direction in BOTH {
        let scene = Scene::new();
        // The folder's entries are read at once, in an order that nobody knows: all but the first
        // are gone when their turn comes.
        for number in 0..20 {
            scene.file(format!("source/{number}"), noise(LARGE / 4));
        }
        let source = scene.path("source");
        let vanish = move || {
            for number in 0..20 {
                fs::remove_file(source.join(number.to_string())).unwrap();
            }
        };
        let meddler = Meddler::new(&scene, direction, 2, vanish);
        let local = MemoryLocal::new();
        let arguments = scene.arguments(direction, &[b"source"], b"target");
        let outcome: Outcome = scene
            .module()
            .send(arguments, &meddler, &local)
            .await
            .into();
        let reports = local.reports();
        assert_eq!(outcome, Outcome::Exit(24), "{reports:?}");
        assert!(
            reports
                .iter()
                .all(|line| line.ends_with("it vanished before it was read"))
        );
        assert_eq!(reports.len() + scene.names("target").len(), 20);
    }
}

#[tokio::test]
async fn a_client_that_is_gone_in_the_middle_leaves_no_part_of_a_file() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/large", noise(LARGE));
        scene.file("target/large", b"old");
        let (go, gone) = oneshot::channel();
        let go = Mutex::new(Some(go));
        let meddler = Meddler::new(&scene, direction, 10, move || {
            go.lock().unwrap().take().unwrap().send(()).unwrap();
        });
        let local = MemoryLocal::new();
        let arguments = scene.arguments(direction, &[b"source/large"], b"target");
        let module = scene.module();
        tokio::select! {
            told = module.send(arguments, &meddler, &local) => panic!("it ended: {told:?}"),
            told = gone => told.unwrap(),
        }
        let outcome = meddler.commander().await;
        assert!(
            matches!(outcome, Outcome::Failed(_) | Outcome::Cancelled),
            "{outcome:?}"
        );
        assert_eq!(scene.visible("target"), ["large"]);
        assert_eq!(fs::read(scene.path("target/large")).unwrap(), b"old");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_not_sent_to_its_end() {
    const SIZE: usize = 1 << 30;
    for direction in BOTH {
        for blocked in ["source", "source/large"] {
            let scene = Scene::new();
            // Full of holes: it costs nothing but to be read.
            let source = fs::File::create(scene.file("source/large", b"")).unwrap();
            source.set_len(SIZE as u64).unwrap();
            scene.file("next", b"next");
            // A file where a folder should be, and a FIFO where a file should be.
            if blocked == "source" {
                scene.file("target/source", b"old");
            } else {
                let mode = rustix::fs::Mode::RUSR;
                let fifo = scene.folder("target").join("large");
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, fifo, kind, mode, 0).unwrap();
            }
            let sent = Arc::new(AtomicBool::new(false));
            let half = Arc::clone(&sent);
            let meddler = Meddler::new(&scene, direction, SIZE / CHUNK_BYTES / 2, move || {
                half.store(true, Ordering::Relaxed);
            });
            let local = MemoryLocal::new();
            let sources = [blocked.as_bytes(), b"next"];
            let arguments = scene.arguments(direction, &sources, b"target");
            let outcome: Outcome = scene
                .module()
                .send(arguments, &meddler, &local)
                .await
                .into();
            assert_eq!(outcome, Outcome::Exit(23));
            assert_eq!(local.reports().len(), 1, "{:?}", local.reports());
            assert!(!sent.load(Ordering::Relaxed), "{blocked}");
            assert_eq!(fs::read(scene.path("target/next")).unwrap(), b"next");
        }
    }
}

#[tokio::test]
async fn a_source_that_grows_for_ever_comes_to_an_end() {
    for direction in BOTH {
        let scene = Scene::new();
        let path = scene.file("source/log", noise(LARGE));
        scene.file("source/other", b"x");
        let (begun, has_begun) = std::sync::mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let caller = Meddler::new(&scene, direction, 6, move || {
            let thread = std::thread::spawn(move || {
                use std::io::Write;
                let mut log = OpenOptions::new().append(true).open(path).unwrap();
                while !until.load(Ordering::Relaxed) {
                    log.write_all(b"one line more\n").unwrap();
                    begun.send(()).ok();
                }
            });
            has_begun.recv().unwrap();
            GROWING.lock().unwrap().push(thread);
        });
        let arguments = scene.arguments(direction, &[b"source/"], b"target/");
        let told = scene.run_by(&caller, arguments).await;
        ended.store(true, Ordering::Relaxed);
        for thread in GROWING.lock().unwrap().drain(..) {
            thread.join().unwrap();
        }
        assert_eq!(told.outcome.exit_status(), 23, "{:?}", told.reports);
        assert!(told.reports[0].contains("log"), "{:?}", told.reports);
        assert_eq!(scene.visible("target"), ["other"]);
    }
}

/// Threads that write until they are told to end.
static GROWING: Mutex<Vec<std::thread::JoinHandle<()>>> = Mutex::new(Vec::new());
