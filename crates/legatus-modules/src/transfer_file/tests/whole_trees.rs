//! Trees that are made beside their name and swapped in as a whole.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use legatus_core::Arguments;

use super::super::temporary::lasting_name;
use super::support::{
    BOTH, Direction, Meddler, Scene, assert_same_trees, noise, set_mode, set_modified, tree,
};

fn whole(scene: &Scene, direction: Direction, source: &str, target: &str) -> Arguments {
    let arguments = scene.arguments(direction, &[source.as_bytes()], target.as_bytes());
    arguments.with_flag("atomic")
}

fn inode(scene: &Scene, path: &str) -> u64 {
    fs::symlink_metadata(scene.path(path)).unwrap().ino()
}

#[tokio::test]
async fn a_tree_appears_as_a_whole_at_every_kind_of_target() {
    for direction in BOTH {
        for (source, target, arrives) in [
            ("source", "new", "new"),
            ("source/", "contents/", "contents"),
            ("source", "there/", "there/source"),
            ("source/", "deep/er", "deep/er"),
        ] {
            let scene = Scene::new();
            scene.file("source/a/b", b"1");
            symlink("a/b", scene.path("source/link")).unwrap();
            set_mode(&scene.path("source/a"), 0o750);
            for _ in 0..2 {
                let told = scene.run(whole(&scene, direction, source, target)).await;
                told.assert_success();
                // Once more: a folder at the name receives.
                let arrives = if source == "source" && scene.path("new/source").exists() {
                    "new/source"
                } else {
                    arrives
                };
                let (mut is, mut should) =
                    (tree(&scene.path(arrives)), tree(&scene.path("source")));
                // The folder that was named keeps its own mode if it was there.
                is.remove(OsStr::new(""));
                should.remove(OsStr::new(""));
                assert_eq!(is, should, "{source} {target}");
            }
            let left = scene
                .names(".")
                .into_iter()
                .chain(scene.names(&arrives.replace("/er", "")));
            assert!(left.into_iter().all(|name| !name.ends_with(".legatus")));
        }
    }
}

#[tokio::test]
async fn what_has_not_changed_is_the_same_file_and_what_has_is_another() {
    for direction in BOTH {
        let scene = Scene::new();
        for name in ["same", "other-mode", "other-contents", "gone"] {
            scene.file(format!("source/{name}"), noise(5000));
            set_mode(&scene.path(format!("source/{name}")), 0o644);
        }
        symlink("same", scene.path("source/link")).unwrap();
        let first = scene
            .run(whole(&scene, direction, "source/", "target/"))
            .await;
        first.assert_success();
        // Somebody looks at the old tree for as long as this has it open, or by other names.
        fs::create_dir(scene.path("old")).unwrap();
        for name in scene.names("target") {
            fs::hard_link(
                scene.path(format!("target/{name}")),
                scene.path(format!("old/{name}")),
            )
            .unwrap();
        }
        let (before, was) = (tree(&scene.path("old")), inode(&scene, "target"));
        set_mode(&scene.path("source/other-mode"), 0o600);
        fs::write(scene.path("source/other-contents"), b"new").unwrap();
        fs::remove_file(scene.path("source/gone")).unwrap();
        let arguments = whole(&scene, direction, "source/", "target/");
        let second = scene.run(arguments.with_flag("delete")).await;
        second.assert_success();
        assert_same_trees(&scene.path("source"), &scene.path("target"));
        assert_ne!(inode(&scene, "target"), was, "the tree was not swapped");
        assert_eq!(inode(&scene, "target/same"), inode(&scene, "old/same"));
        for name in ["other-mode", "other-contents"] {
            let (new, old) = (format!("target/{name}"), format!("old/{name}"));
            assert_ne!(inode(&scene, &new), inode(&scene, &old), "{name}");
        }
        let mut after = tree(&scene.path("old"));
        let mut before = before;
        // Making names changes the folder's own time, which is not what this is about.
        after.remove(OsStr::new(""));
        before.remove(OsStr::new(""));
        assert_eq!(after, before, "the old tree was written to");
    }
}

#[tokio::test]
async fn a_tree_of_which_something_fails_is_not_swapped_in() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/fine", b"new");
        // In the way, and kept: files do not replace folders without --delete.
        scene.file("source/in-the-way", b"new");
        scene.file("target/in-the-way/file", b"old");
        scene.file("target/fine", b"old");
        let before = tree(&scene.path("target"));
        let told = scene
            .run(whole(&scene, direction, "source/", "target/"))
            .await;
        assert_eq!(told.outcome.exit_status(), 23, "{:?}", told.reports);
        let last = told.reports.last().unwrap();
        assert!(last.contains("cannot swap in"), "{last}");
        assert_eq!(tree(&scene.path("target")), before);
        // And the next that works leaves nothing of it.
        let arguments = whole(&scene, direction, "source/", "target/");
        let told = scene.run(arguments.with_flag("delete")).await;
        told.assert_success();
        assert_eq!(scene.names("target"), ["fine", "in-the-way"]);
        assert_eq!(scene.names("."), ["source", "target"]);
    }
}

#[tokio::test]
async fn what_is_taken_over_from_an_earlier_copy_has_its_older_version_kept_as_a_backup() {
    for direction in BOTH {
        let scene = Scene::new();
        let left = OsStr::from_bytes(&lasting_name(b"target", "tree")).to_owned();
        let left = left.to_str().unwrap();
        scene.file("target/f", b"old");
        scene.file("source/f", b"new");
        scene.file(format!("{left}/f"), b"new");
        for folder in ["source", left] {
            set_modified(&scene.path(format!("{folder}/f")), 9, 9);
        }
        let made = inode(&scene, &format!("{left}/f"));
        let arguments = whole(&scene, direction, "source/", "target/");
        let told = scene.run(arguments.with("backup", "~")).await;
        told.assert_success();
        assert_eq!(scene.names("target"), ["f", "f~"]);
        assert_eq!(fs::read(scene.path("target/f~")).unwrap(), b"old");
        assert_eq!(inode(&scene, "target/f"), made);
        assert_eq!(scene.names("."), ["source", "target"]);
    }
}

#[tokio::test]
async fn targets_that_cannot_be_swapped_are_told_and_stay() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/f", b"new");
        scene.file("real/f", b"old");
        symlink("real", scene.path("link")).unwrap();
        let told = scene.run(whole(&scene, direction, "source/", "link")).await;
        assert_eq!(told.outcome.exit_status(), 23);
        assert!(
            told.reports[0].contains("symbolic link"),
            "{:?}",
            told.reports
        );
        assert_eq!(fs::read(scene.path("real/f")).unwrap(), b"old");
        let several = scene.arguments(direction, &[b"source/", b"real/"], b"target/");
        let told = scene.run(several.with_flag("atomic")).await;
        assert!(
            told.fault().contains("several sources"),
            "{:?}",
            told.outcome
        );
    }
}

#[tokio::test]
async fn a_copy_that_is_gone_in_the_middle_leaves_the_old_tree_whole() {
    for direction in BOTH {
        let scene = Scene::new();
        for n in 0..50 {
            scene.file(format!("source/{n}"), noise(100_000 + n));
            scene.file(format!("target/{n}"), b"old");
            set_modified(&scene.path(format!("target/{n}")), 5, 5);
        }
        let before = tree(&scene.path("target"));
        let target = scene.path("target");
        let (sees, seen) = std::sync::mpsc::channel();
        let caller = Meddler::new(&scene, direction, 12, move || {
            sees.send(tree(&target)).unwrap();
        });
        let arguments = whole(&scene, direction, "source/", "target/");
        let told = scene.run_by(&caller, arguments).await;
        told.assert_success();
        assert_eq!(seen.try_recv().unwrap(), before);
        assert_same_trees(&scene.path("source"), &scene.path("target"));
    }
}
