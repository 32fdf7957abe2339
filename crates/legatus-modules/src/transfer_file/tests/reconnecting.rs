//! A copy whose connection is lost goes on by itself, from what is there already.

use legatus_core::testing::MemoryLocal;
use legatus_core::{Arguments, Module, Outcome};

use super::support::{BOTH, Losing, Scene, assert_same_trees, noise};

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
