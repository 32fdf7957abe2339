//! What is there already is not sent again, and what is not wanted is not copied.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use legatus_core::Arguments;
use legatus_core::testing::{self, MemoryLocal};

use super::support::{
    BOTH, Direction, Losing, Scene, Told, assert_same_trees, noise, set_mode, set_modified, tree,
};

/// A number of a copy's record.
fn number(told: &Told, name: &str) -> u64 {
    let record: serde_json::Value = serde_json::from_str(told.records.last().unwrap()).unwrap();
    record[name].as_u64().unwrap()
}

/// Copies with `--itemize` and gives the lines.
async fn changes(scene: &Scene, arguments: Arguments) -> Vec<String> {
    let local = MemoryLocal::new();
    let outcome = testing::run(scene.module(), arguments.with_flag("itemize"), &local).await;
    assert_eq!(outcome.exit_status(), 0, "{:?}", local.reports());
    let text = String::from_utf8(local.stdout()).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn folder(scene: &Scene, direction: Direction) -> Arguments {
    scene.arguments(direction, &[b"source/"], b"target/")
}

#[tokio::test]
async fn files_that_are_there_already_are_not_sent_again() {
    for direction in BOTH {
        let scene = Scene::new();
        for n in 0..20 {
            scene.file(format!("source/{}/{n}", n % 3), noise(n * 1000));
        }
        let first = scene.run(folder(&scene, direction)).await;
        first.assert_success();
        assert_eq!(
            (number(&first, "files"), number(&first, "unchanged")),
            (20, 0)
        );
        let second = scene.run(folder(&scene, direction)).await;
        second.assert_success();
        assert_eq!(
            (number(&second, "files"), number(&second, "unchanged")),
            (0, 20)
        );
        assert_eq!(number(&second, "bytes"), 0);
        // Another time, another size, gone, another mode.
        set_modified(&scene.path("source/0/3"), 5, 6);
        fs::write(scene.path("source/1/4"), b"shorter").unwrap();
        fs::remove_file(scene.path("target/2/5")).unwrap();
        set_mode(&scene.path("source/0/6"), 0o600);
        let third = scene.run(folder(&scene, direction)).await;
        third.assert_success();
        assert_eq!(
            (number(&third, "files"), number(&third, "unchanged")),
            (3, 17)
        );
        assert_same_trees(&scene.path("source"), &scene.path("target"));
    }
}

#[tokio::test]
async fn contents_are_compared_where_times_are_not_trusted() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/same", b"same");
        scene.file("source/other", b"new!");
        scene.file("target/same", b"same");
        scene.file("target/other", b"old!");
        for path in ["source/other", "target/other", "source/same"] {
            set_modified(&scene.path(path), 77, 0);
        }
        let told = scene
            .run(folder(&scene, direction).with_flag("checksum"))
            .await;
        told.assert_success();
        assert_eq!((number(&told, "files"), number(&told, "unchanged")), (1, 1));
        for name in ["same", "other"] {
            let (source, target) = (format!("source/{name}"), format!("target/{name}"));
            assert_same_trees(&scene.path(source), &scene.path(target));
        }
    }
}

#[tokio::test]
async fn what_the_source_does_not_have_is_removed_only_if_that_is_asked_for() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/a/kept", b"x");
        scene.file("source/becomes-folder/f", b"x");
        scene.file("source/becomes-file", b"x");
        scene.file("target/a/gone", b"x");
        scene.file("target/a/folder/in/it", b"x");
        scene.file("target/becomes-folder", b"x");
        scene.file("target/becomes-file/f", b"x");
        scene.file("target/protected.o", b"x");
        scene.file("outside/f", b"x");
        symlink("../outside", scene.path("target/link")).unwrap();
        let told = scene.run(folder(&scene, direction)).await;
        assert_eq!(told.outcome.exit_status(), 23);
        assert!(scene.path("target/a/folder/in/it").exists());
        let arguments = folder(&scene, direction).with_flag("delete");
        let told = scene.run(arguments.with("exclude", "*.o")).await;
        told.assert_success();
        assert!(number(&told, "deleted") >= 6, "{:?}", told.records);
        assert!(scene.path("target/protected.o").exists());
        assert!(scene.path("outside/f").exists(), "a link was followed");
        fs::remove_file(scene.path("target/protected.o")).unwrap();
        set_modified(&scene.path("source"), 9, 9);
        scene
            .run(folder(&scene, direction).with_flag("delete"))
            .await
            .assert_success();
        assert_eq!(scene.names("target"), scene.names("source"));
        assert_same_trees(&scene.path("source/a"), &scene.path("target/a"));
    }
}

#[tokio::test]
async fn several_connections_make_the_same_as_one() {
    for direction in BOTH {
        for (source, target, arrives) in [("source", "new", "new"), ("source/", "to/", "to")] {
            let scene = Scene::new();
            for n in 0..60 {
                scene.file(format!("source/{}/{n}", n % 7), noise(n * 500));
            }
            fs::hard_link(scene.path("source/1/1"), scene.path("source/2/again")).unwrap();
            symlink("1/1", scene.path("source/link")).unwrap();
            set_mode(&scene.path("source/3"), 0o555);
            scene.file("to/extra", b"x");
            let arguments = scene.arguments(direction, &[source.as_bytes()], target.as_bytes());
            let arguments = arguments.with("jobs", "3").with_flag("delete");
            let caller = Losing::new(&scene, &[], || ());
            let told = scene.run_by(&caller, arguments).await;
            told.assert_success();
            assert_eq!(
                *caller.opened.lock().unwrap(),
                4,
                "three shares and the rest"
            );
            assert_eq!(number(&told, "files"), 60);
            assert_eq!(number(&told, "deleted"), u64::from(arrives == "to"));
            let (mut is, mut should) = (tree(&scene.path(arrives)), tree(&scene.path("source")));
            // The folder that was named keeps its own mode if it was there.
            is.remove(OsStr::new(""));
            should.remove(OsStr::new(""));
            assert_eq!(is, should);
        }
    }
}

#[tokio::test]
async fn deep_trees_are_removed_with_few_folders_open() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.folder("source");
        // More than a process has descriptors by default.
        let mut deepest = String::from("target");
        for _ in 0..1100 {
            deepest.push_str("/d");
        }
        scene.file(format!("{deepest}/f"), b"x");
        let told = scene
            .run(folder(&scene, direction).with_flag("delete"))
            .await;
        told.assert_success();
        assert_eq!(number(&told, "deleted"), 1101);
        assert!(scene.names("target").is_empty());
    }
}

#[tokio::test]
async fn a_further_name_takes_the_place_of_a_folder_only_if_that_may_be_deleted() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/a", b"x");
        fs::hard_link(scene.path("source/a"), scene.path("source/b")).unwrap();
        scene.file("target/b/kept", b"kept");
        let told = scene.run(folder(&scene, direction)).await;
        assert_eq!(told.outcome.exit_status(), 23, "{:?}", told.reports);
        assert_eq!(fs::read(scene.path("target/b/kept")).unwrap(), b"kept");
        for option in ["dry-run", "delete"] {
            let arguments = folder(&scene, direction).with_flag("delete");
            let arguments = match option {
                "delete" => arguments,
                option => arguments.with_flag(option),
            };
            let told = scene.run(arguments).await;
            told.assert_success();
            assert_eq!(number(&told, "deleted"), 2, "{option}");
            assert_eq!(scene.path("target/b").is_dir(), option == "dry-run");
        }
        let inode = |name: &str| fs::metadata(scene.path(name)).unwrap().ino();
        assert_eq!(inode("target/a"), inode("target/b"));
    }
}

#[tokio::test]
async fn a_source_that_could_not_be_read_deletes_nothing() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/fine", b"x");
        scene.file("source/small", b"x");
        scene.file("target/small", b"larger than asked for");
        let fifo = scene.path("source/fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, fifo, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        scene.file("target/fifo", b"not sent, not deleted");
        let arguments = folder(&scene, direction).with_flag("delete");
        let told = scene.run(arguments.with("min-size", "2")).await;
        assert_eq!(told.outcome.exit_status(), 23, "{:?}", told.reports);
        assert_eq!(scene.names("target"), ["fifo", "small"]);
    }
}

#[tokio::test]
async fn a_dry_run_tells_everything_and_changes_nothing() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/new/f", b"x");
        scene.file("source/changed", b"longer");
        symlink("changed", scene.path("source/link")).unwrap();
        set_modified(&scene.file("target/changed", b"old"), 7, 7);
        scene.file("target/extra/f", b"x");
        // Of folders made one after the other, the times may be the same or not.
        set_modified(&scene.path("source"), 8, 8);
        let before = tree(&scene.path("target"));
        let arguments = folder(&scene, direction)
            .with_flag("delete")
            .with_flag("dry-run");
        let told = changes(&scene, arguments).await;
        let sign = if direction == Direction::Up { '<' } else { '>' };
        let expected = [
            "*deleting   extra/".to_owned(),
            "*deleting   extra/f".to_owned(),
            format!("{sign}f+++++++++ new/f"),
            format!("{sign}f.st...... changed"),
            "cL+++++++++ link -> changed".to_owned(),
            "cd+++++++++ new/".to_owned(),
            ".d..t...... ./".to_owned(),
        ];
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(told, expected, "{direction:?}");
        assert_eq!(before, tree(&scene.path("target")));
        let nowhere = scene.arguments(direction, &[b"source"], b"no/such/folder/");
        let told = changes(&scene, nowhere.with_flag("dry-run")).await;
        assert_eq!(told.len(), 5, "{told:?}");
        assert!(!scene.path("no").exists());
    }
}

#[tokio::test]
async fn filters_sizes_and_lists_say_what_is_copied() {
    for direction in BOTH {
        let scene = Scene::new();
        for name in [
            "a.o",
            "b.c",
            "keep.o",
            "deep/er/c.o",
            "deep/er/d.c",
            "build/x",
        ] {
            scene.file(format!("source/{name}"), noise(100));
        }
        scene.file("source/large", noise(3000));
        scene.file("patterns", b"# from a file\n/build/\n");
        let arguments = folder(&scene, direction)
            .with("exclude", "*.o")
            .with("include", "keep.o")
            .with("exclude-from", scene.path("patterns"))
            .with("max-size", "2K");
        scene.run(arguments).await.assert_success();
        assert_eq!(scene.names("target"), ["b.c", "deep", "keep.o"]);
        assert_eq!(scene.names("target/deep/er"), ["d.c"]);
        scene.file("list", b"deep/er/c.o\0build\0");
        let arguments = scene
            .arguments(direction, &[b"source/"], b"listed/")
            .with("files-from", scene.path("list"))
            .with_flag("from0");
        scene.run(arguments).await.assert_success();
        assert_eq!(scene.names("listed"), ["build", "deep"]);
        assert_eq!(scene.names("listed/build"), ["x"]);
        assert_eq!(scene.names("listed/deep/er"), ["c.o"]);
        scene.file("bad", b"../patterns\n/etc/passwd\nmissing\n");
        let arguments = scene
            .arguments(direction, &[b"source/"], b"bad-listed/")
            .with("files-from", scene.path("bad"));
        let told = scene.run(arguments).await;
        assert_eq!(told.outcome.exit_status(), 23);
        assert_eq!(told.reports.len(), 3, "{:?}", told.reports);
        assert_eq!(scene.names("bad-listed"), [""; 0]);
    }
}

#[tokio::test]
async fn what_is_named_and_was_never_there_has_not_vanished() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/there", b"x");
        scene.file("list", b"misspelled\n");
        let arguments = scene
            .arguments(direction, &[b"source/"], b"target/")
            .with("files-from", scene.path("list"));
        let told = scene.run(arguments).await;
        assert_eq!(told.outcome.exit_status(), 23);
    }
}

#[tokio::test]
async fn what_is_replaced_or_deleted_is_kept_as_a_backup() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/f", b"new");
        scene.file("target/f", b"older");
        scene.file("target/gone", b"gone");
        let arguments = folder(&scene, direction)
            .with_flag("delete")
            .with("backup", "~");
        scene.run(arguments).await.assert_success();
        assert_eq!(scene.names("target"), ["f", "f~", "gone~"]);
        assert_eq!(fs::read(scene.path("target/f~")).unwrap(), b"older");
        assert_eq!(fs::read(scene.path("target/f")).unwrap(), b"new");
    }
}

#[tokio::test]
async fn hard_links_and_holes_are_kept() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/a/one", b"linked");
        scene.folder("source/b");
        for name in ["source/a/two", "source/b/three"] {
            fs::hard_link(scene.path("source/a/one"), scene.path(name)).unwrap();
        }
        let sparse = fs::File::create(scene.path("source/sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 40 << 20).unwrap();
        drop(sparse);
        for _ in 0..2 {
            scene.run(folder(&scene, direction)).await.assert_success();
            assert_same_trees(&scene.path("source"), &scene.path("target"));
            let inode = |name: &str| fs::metadata(scene.path(name)).unwrap().ino();
            assert_eq!(inode("target/a/one"), inode("target/a/two"));
            assert_eq!(inode("target/a/one"), inode("target/b/three"));
        }
        let blocks = fs::metadata(scene.path("target/sparse")).unwrap().blocks();
        assert!(blocks * 512 < 8 << 20, "{blocks}");
    }
}

#[tokio::test]
async fn only_what_has_changed_in_a_large_file_is_sent() {
    for direction in BOTH {
        let scene = Scene::new();
        let old = noise(8 << 20);
        scene.file("target/f", &old);
        set_modified(&scene.path("target/f"), 1, 1);
        let mut new = [b"inserted", &old[..]].concat();
        new[5_000_000..5_000_100].fill(7);
        scene.file("source/f", &new);
        let told = scene.run(folder(&scene, direction)).await;
        told.assert_success();
        assert!(fs::read(scene.path("target/f")).unwrap() == new);
        let sent = number(&told, "bytes") - number(&told, "reused");
        assert!(sent < 64 << 10, "{sent}");
        // Nothing in common, shorter, and empty.
        for contents in [vec![9; 3 << 20], noise(100), Vec::new()] {
            scene.file("source/f", &contents);
            scene.run(folder(&scene, direction)).await.assert_success();
            assert!(fs::read(scene.path("target/f")).unwrap() == contents);
        }
    }
}

#[tokio::test]
async fn what_is_compressed_arrives_as_it_was() {
    for direction in BOTH {
        for how in ["zstd", "zstd:19", "none", "auto"] {
            let scene = Scene::new();
            scene.file("source/text", b"all roads lead to Rome; ".repeat(100_000));
            scene.file("source/noise", noise(1 << 20));
            scene.file("source/short", b"x");
            let arguments = folder(&scene, direction).with("compress", how);
            scene.run(arguments).await.assert_success();
            assert_same_trees(&scene.path("source"), &scene.path("target"));
        }
        let scene = Scene::new();
        scene.file("source/f", b"x");
        for bad in ["zip", "zstd:20", "zstd:x", ""] {
            let told = scene
                .run(folder(&scene, direction).with("compress", bad))
                .await;
            assert!(told.outcome.fault().is_some(), "{bad}");
        }
    }
}
