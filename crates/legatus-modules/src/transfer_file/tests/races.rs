//! What is swapped for a symbolic link while a copy runs: the attacks of rsync's tests on races.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::partial::PARTIAL_USES;
use super::super::temporary::lasting_name;
use super::support::{BOTH, Meddler, Scene, noise, set_mode, set_modified, tree};

/// Messages of a copy of these scenes; a swap comes before each of them.
const MOMENTS: usize = 16;

/// Long enough to be looked at block by block.
const LARGE: usize = 300_000;

const SECRET: &[u8] = b"nobody may see this";

/// A target that is older in everything, and a folder outside that looks like the one in it.
fn scene() -> Scene {
    let scene = Scene::new();
    for name in ["d/large", "d/small", "d/e/f", "d/mode", "z"] {
        let length = if name.ends_with("large") { LARGE } else { 100 };
        scene.file(format!("source/{name}"), noise(length));
        scene.file(format!("target/{name}"), noise(length + 5));
        set_modified(&scene.path(format!("target/{name}")), 7, 7);
    }
    // This one differs in its mode alone.
    scene.file("target/d/mode", noise(100));
    for folder in ["source", "target"] {
        set_modified(&scene.path(format!("{folder}/d/mode")), 9, 9);
    }
    set_mode(&scene.path("source/d/mode"), 0o600);
    set_mode(&scene.path("target/d/mode"), 0o640);
    scene.file("target/d/extra/x", b"x");
    for name in ["large", "small", "e/f", "mode", "extra/x", "own"] {
        scene.file(format!("outside/{name}"), SECRET);
        set_mode(&scene.path(format!("outside/{name}")), 0o604);
    }
    scene
}

/// Moves what is at a path aside, and puts a link to something else there.
fn swap(path: &Path, to: &str) {
    fs::rename(path, path.with_file_name("moved")).unwrap();
    symlink(to, path).unwrap();
}

fn holds_secret(root: &Path) -> bool {
    let contains = |text: &[u8]| text.windows(SECRET.len()).any(|part| part == SECRET);
    // A link is where it points, and that is no secret.
    tree(root).values().any(|entry| contains(entry.contents()))
}

#[tokio::test]
async fn a_target_folder_that_is_swapped_for_a_link_leads_no_write_outside() {
    for direction in BOTH {
        for moment in 0..MOMENTS {
            let scene = scene();
            let before = tree(&scene.path("outside"));
            let folder = scene.path("target/d");
            let caller = Meddler::new(&scene, direction, moment, move || {
                swap(&folder, "../outside");
            });
            let arguments = scene.arguments(direction, &[b"source/"], b"target/");
            let arguments = match moment % 3 {
                0 => arguments.with_flag("delete"),
                1 => arguments.with_flag("delete").with("backup", "~"),
                _ => arguments,
            };
            scene.run_by(&caller, arguments).await;
            assert_eq!(
                tree(&scene.path("outside")),
                before,
                "{direction:?} {moment}"
            );
        }
    }
}

#[tokio::test]
async fn a_target_file_that_is_swapped_for_a_link_is_replaced_and_what_it_leads_to_stays() {
    for direction in BOTH {
        for moment in 0..MOMENTS {
            for name in ["large", "small", "mode"] {
                let scene = scene();
                let before = tree(&scene.path("outside"));
                let file = scene.path(format!("target/d/{name}"));
                let to = format!("../../outside/{name}");
                let caller = Meddler::new(&scene, direction, moment, move || swap_if(&file, &to));
                let arguments = scene.arguments(direction, &[b"source/"], b"target/");
                scene.run_by(&caller, arguments).await;
                assert_eq!(
                    tree(&scene.path("outside")),
                    before,
                    "{direction:?} {moment}"
                );
                assert!(
                    !holds_secret(&scene.path("target")),
                    "{direction:?} {moment}"
                );
            }
        }
    }
}

/// The file may have been replaced and the link with it, or the copy be over.
fn swap_if(path: &Path, to: &str) {
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path).unwrap();
        symlink(to, path).unwrap();
    }
}

#[tokio::test]
async fn a_source_folder_that_is_swapped_for_a_link_gives_away_nothing_outside() {
    for direction in BOTH {
        for moment in 0..MOMENTS {
            let scene = scene();
            let folder = scene.path("source/d");
            let caller = Meddler::new(&scene, direction, moment, move || {
                swap(&folder, "../outside");
            });
            let arguments = scene.arguments(direction, &[b"source/"], b"target/");
            scene.run_by(&caller, arguments).await;
            assert!(
                !holds_secret(&scene.path("target")),
                "{direction:?} {moment}"
            );
        }
    }
}

#[tokio::test]
async fn links_at_the_names_that_a_copy_uses_itself_are_not_followed() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/large", noise(3 << 20));
        scene.file("outside/f", SECRET);
        let before = tree(&scene.path("outside"));
        for use_ in PARTIAL_USES {
            let name = lasting_name(b"large", use_);
            scene.folder("target");
            let path = scene.path("target").join(OsStr::from_bytes(&name));
            symlink("../outside/f", path).unwrap();
        }
        let tree_name = lasting_name(b"whole", "tree");
        let path = scene.path(OsStr::from_bytes(&tree_name));
        symlink("outside", path).unwrap();
        scene.copy(direction, "source/", "target/").await;
        let whole = scene.arguments(direction, &[b"source"], b"whole");
        let told = scene.run(whole.with_flag("atomic")).await;
        assert_eq!(told.outcome.exit_status(), 23, "{:?}", told.reports);
        assert_eq!(tree(&scene.path("outside")), before);
        assert!(!scene.path("whole").exists());
    }
}

#[tokio::test]
async fn a_folder_that_is_swapped_while_a_whole_tree_is_made_leads_nowhere() {
    let being_made = OsStr::from_bytes(&lasting_name(b"target", "tree")).to_owned();
    for direction in BOTH {
        for attacked in [being_made.as_os_str(), OsStr::new("target")] {
            let hits = Arc::new(AtomicUsize::new(0));
            for moment in 0..MOMENTS {
                let scene = scene();
                let before = tree(&scene.path("outside"));
                let (folder, hit) = (scene.path(attacked).join("d"), Arc::clone(&hits));
                let caller = Meddler::new(&scene, direction, moment, move || {
                    // It may not have been begun, or have been swapped in.
                    if fs::rename(&folder, folder.with_file_name("moved")).is_ok() {
                        symlink("../outside", &folder).unwrap();
                        hit.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let arguments = scene.arguments(direction, &[b"source/"], b"target/");
                let arguments = arguments.with_flag("atomic").with_flag("delete");
                scene.run_by(&caller, arguments).await;
                assert_eq!(
                    tree(&scene.path("outside")),
                    before,
                    "{direction:?} {attacked:?} {moment}"
                );
            }
            assert!(
                hits.load(Ordering::Relaxed) > 0,
                "{direction:?} {attacked:?}"
            );
        }
    }
}

#[tokio::test]
async fn links_that_lead_in_circles_are_copied_as_links() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.folder("source/d");
        for (name, to) in [("a", "b"), ("b", "a"), ("self", "self"), ("d/up", "..")] {
            symlink(to, scene.path(format!("source/{name}"))).unwrap();
        }
        scene
            .copy(direction, "source", "target")
            .await
            .assert_success();
        super::support::assert_same_trees(&scene.path("source"), &scene.path("target"));
        let told = scene.copy(direction, "source/a/", "other").await;
        assert_eq!(told.outcome.exit_status(), 23);
        assert!(
            told.reports[0].contains("symbolic links"),
            "{:?}",
            told.reports
        );
    }
}
