//! A copy whose connection is lost goes on by itself, from what is there already.

use std::os::unix::fs::PermissionsExt;

use legatus_core::testing::MemoryLocal;
use legatus_core::{Arguments, Module, Outcome};

use super::support::{BOTH, Losing, Scene, assert_same_trees, noise, set_mode};

async fn send(
    caller: &Losing,
    scene: &Scene,
    arguments: Arguments,
    local: &MemoryLocal,
) -> Outcome {
    let module = scene.module();
    let sender = module.sender().unwrap();
    sender.send(arguments, caller, local).await.into()
}

#[tokio::test]
async fn a_copy_goes_on_when_its_connection_comes_back() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/large", noise(20 << 20));
        scene.file("source/small", b"x");
        let arguments = scene.arguments(direction, &[b"source"], b"target");
        let arguments = arguments.with("compress", "none");
        let caller = Losing::new(&scene, &[20, 30, 4], || {});
        let local = MemoryLocal::new();
        let outcome = send(&caller, &scene, arguments, &local).await;
        assert_eq!(outcome, Outcome::SUCCESS, "{:?}", local.reports());
        assert_eq!(*caller.opened.lock().unwrap(), 4);
        // As the new name that the target was at first, though there is a folder by now.
        assert_same_trees(&scene.path("source"), &scene.path("target"));
        let notice = "connection lost (cut); reconnecting";
        assert_eq!(local.reports(), [notice, "connected again"].repeat(3));
        let record: serde_json::Value =
            serde_json::from_str(local.records().last().unwrap()).unwrap();
        // The queues on the way hold fewer messages than were passed on.
        assert!(record["reused"].as_u64().unwrap() >= 1 << 20, "{record}");
    }
}

#[tokio::test]
async fn a_copy_gives_up_if_connections_come_back_and_none_brings_it_further() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/f", b"x");
        let arguments = scene.arguments(direction, &[b"source/"], b"target/");
        let arguments = arguments.with("reconnect", "1s");
        let caller = Losing::new(&scene, &[0; 1000], || {});
        let local = MemoryLocal::new();
        let outcome = send(&caller, &scene, arguments, &local).await;
        assert!(matches!(outcome, Outcome::Lost(_)), "{outcome:?}");
        assert!(*caller.opened.lock().unwrap() < 1000);
    }
}

#[tokio::test]
async fn a_copy_over_several_connections_goes_on_when_the_first_was_lost_before_its_last_part() {
    for direction in BOTH {
        let scene = Scene::new();
        for number in 0..40 {
            scene.file(format!("source/d/{number}"), noise(600_000));
        }
        let arguments = scene.arguments(direction, &[b"source"], b"target");
        let arguments = arguments.with("jobs", "2").with("compress", "none");
        let caller = Losing::new(&scene, &[30], || {});
        let local = MemoryLocal::new();
        let outcome = send(&caller, &scene, arguments, &local).await;
        assert_eq!(outcome, Outcome::SUCCESS, "{:?}", local.reports());
        assert_same_trees(&scene.path("source"), &scene.path("target"));
    }
}

#[tokio::test]
async fn folders_on_the_way_to_files_that_were_named_get_their_modes_from_whichever_attempt() {
    for direction in BOTH {
        for (jobs, cuts) in [("1", &[][..]), ("2", &[]), ("1", &[20, 5, 6]), ("2", &[15])] {
            let scene = Scene::new();
            let mut list = String::new();
            for number in 0..8 {
                scene.file(format!("source/d/e{number}/f"), noise(900_000));
                set_mode(&scene.path(format!("source/d/e{number}")), 0o711);
                list += &format!("d/e{number}/f\n");
            }
            set_mode(&scene.path("source/d"), 0o755);
            scene.file("list", list);
            // That one is the user's.
            set_mode(&scene.folder("target/d/e0"), 0o700);
            set_mode(&scene.path("target/d"), 0o750);
            let arguments = scene.arguments(direction, &[b"source/"], b"target/");
            let list = scene.path("list").into_os_string();
            let arguments = arguments.with("files-from", list).with("jobs", jobs);
            let arguments = arguments.with("compress", "none");
            let caller = Losing::new(&scene, cuts, || {});
            let local = MemoryLocal::new();
            let outcome = send(&caller, &scene, arguments, &local).await;
            assert_eq!(outcome, Outcome::SUCCESS, "{:?}", local.reports());
            let mode = |name: &str| mode(&scene.path(format!("target/{name}")));
            assert_eq!((mode("d"), mode("d/e0")), (0o750, 0o700));
            for number in 1..8 {
                let name = format!("d/e{number}");
                assert_eq!(mode(&name), 0o711, "{direction:?} {jobs} {cuts:?} {name}");
            }
        }
    }
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_copy_that_is_not_to_look_for_its_connection_ends_with_it() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/large", noise(8 << 20));
        let arguments = scene.arguments(direction, &[b"source/"], b"target/");
        let arguments = arguments.with("reconnect", "0").with("compress", "none");
        let caller = Losing::new(&scene, &[8], || panic!("it was looked for"));
        let local = MemoryLocal::new();
        let outcome = send(&caller, &scene, arguments, &local).await;
        assert!(matches!(outcome, Outcome::Lost(_)), "{outcome:?}");
        assert!(local.reports().is_empty());
    }
}

#[tokio::test]
async fn a_copy_that_ends_on_a_connection_that_is_not_lost_is_not_tried_again() {
    let scene = Scene::new();
    for direction in BOTH {
        let arguments = scene.arguments(direction, &[b"nothing"], b"target/");
        let caller = Losing::new(&scene, &[], || panic!("it was looked for"));
        let local = MemoryLocal::new();
        let outcome = send(&caller, &scene, arguments, &local).await;
        assert_eq!(outcome.exit_status(), 23);
        assert_eq!(*caller.opened.lock().unwrap(), 1);
    }
}

#[tokio::test]
async fn a_tree_that_is_swapped_in_as_a_whole_goes_on_with_what_was_made_of_it() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/large", noise(20 << 20));
        scene.file("target/old", b"old");
        let target = scene.path("target");
        let arguments = scene.arguments(direction, &[b"source/"], b"target/");
        let arguments = arguments.with_flag("atomic").with("compress", "none");
        let caller = Losing::new(&scene, &[40], move || {
            let entries = std::fs::read_dir(&target).unwrap();
            assert_eq!(entries.count(), 1, "something came before the whole");
        });
        let local = MemoryLocal::new();
        let outcome = send(&caller, &scene, arguments, &local).await;
        assert_eq!(outcome, Outcome::SUCCESS, "{:?}", local.reports());
        assert_eq!(scene.names("target"), ["large", "old"]);
        assert_eq!(scene.names("."), ["source", "target"]);
        let record: serde_json::Value =
            serde_json::from_str(local.records().last().unwrap()).unwrap();
        assert!(record["reused"].as_u64().unwrap() >= 1 << 20, "{record}");
    }
}
