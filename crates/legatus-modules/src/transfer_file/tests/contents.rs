//! What is copied arrives as it was.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use legatus_core::limits::CHUNK_BYTES;

use super::support::{BOTH, Direction, Scene, assert_same_trees, noise, set_mode, set_modified};

#[tokio::test]
async fn files_of_every_size_arrive_whole() {
    let scene = Scene::new();
    let sizes = [
        0,
        1,
        1000,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        3 * CHUNK_BYTES,
        5 * CHUNK_BYTES + 7,
        9 << 20,
    ];
    for size in sizes {
        scene.file(format!("source/{size}"), noise(size));
    }
    scene.file("source/blanks", [b' '; 5000]);
    for direction in BOTH {
        let target = format!("{direction:?}");
        scene
            .copy(direction, "source", &target)
            .await
            .assert_success();
        assert_same_trees(&scene.path("source"), &scene.path(&target));
    }
}

#[tokio::test]
async fn names_are_bytes() {
    let scene = Scene::new();
    let long = [b'x'; 255];
    let names: [&[u8]; 9] = [
        b"a b",
        b"line\nbreak",
        b"not utf-8 \xff\xfe",
        b"-rf",
        b"--help",
        b"\x1b[31m",
        b" ",
        b"c:d",
        &long,
    ];
    for name in names {
        let name = OsStr::from_bytes(name);
        scene.file(
            OsStr::new("source").to_os_string().into_string().unwrap() + "/x",
            b"x",
        );
        let path = scene.path("source").join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join(name), name.as_bytes()).unwrap();
    }
    for direction in BOTH {
        let target = format!("{direction:?}");
        // Twice: with nothing there, and with everything there to be replaced.
        for _ in 0..2 {
            let told = scene.copy(direction, "source", &format!("{target}/")).await;
            told.assert_success();
            let copied = scene.path(format!("{target}/source"));
            assert_same_trees(&scene.path("source"), &copied);
        }
        let one = scene.arguments(direction, &[b"source/not utf-8 \xff\xfe"], b"\xfe\n");
        scene.run(one).await.assert_success();
        fs::remove_dir_all(scene.path(OsStr::from_bytes(b"\xfe\n"))).unwrap();
    }
}

#[tokio::test]
async fn modes_times_and_links_are_kept() {
    let scene = Scene::new();
    for (number, mode) in [0o600, 0o644, 0o755, 0o444, 0o000].iter().enumerate() {
        let file = scene.file(format!("source/{number}"), b"x");
        set_modified(&file, 1_000_000_000 + number as u64, 123_456_789);
        set_mode(&file, *mode);
    }
    set_modified(&scene.file("source/1970", b""), 0, 1);
    set_modified(&scene.file("source/2106", b""), 4_300_000_000, 999_999_999);
    scene.folder("source/empty/in/empty");
    scene.file("source/read-only/file", b"x");
    set_mode(&scene.path("source/read-only"), 0o555);
    set_modified(&scene.path("source/read-only"), 77, 7);
    set_modified(&scene.path("source/empty"), 78, 8);
    let links = scene.folder("source/links");
    symlink("../1970", links.join("to file")).unwrap();
    symlink("..", links.join("to folder")).unwrap();
    symlink("nowhere", links.join("dangling")).unwrap();
    symlink("/\u{fc}/".repeat(1000), links.join("long")).unwrap();
    set_mode(&scene.path("source"), 0o1751);
    set_modified(&scene.path("source"), 79, 9);
    for direction in BOTH {
        let target = format!("{direction:?}");
        for _ in 0..2 {
            let told = scene.copy(direction, "source", &format!("{target}/")).await;
            told.assert_success();
            let copied = scene.path(format!("{target}/source"));
            assert_same_trees(&scene.path("source"), &copied);
        }
    }
}

#[tokio::test]
async fn files_are_setuid_setgid_and_sticky_only_if_the_user_says_so() {
    for direction in BOTH {
        for mode in [0o4755, 0o2711, 0o1644, 0o7777] {
            let scene = Scene::new();
            set_mode(&scene.file("source/f", b"x"), mode);
            set_mode(&scene.path("source"), 0o1755);
            let mode_of = |path| fs::metadata(scene.path(path)).unwrap().mode() & 0o7777;
            let told = scene.copy(direction, "source", "kept").await;
            told.assert_success();
            assert_eq!((mode_of("kept"), mode_of("kept/f")), (0o1755, mode & 0o777));
            let arguments = scene.arguments(direction, &[b"source/f"], b"given");
            let told = scene.run(arguments.with("mode", "4711")).await;
            told.assert_success();
            assert_eq!(mode_of("given"), 0o4711);
        }
    }
}

#[tokio::test]
async fn a_link_that_is_named_is_copied_as_a_link() {
    let scene = Scene::new();
    scene.file("folder/file", b"x");
    symlink("folder", scene.path("link")).unwrap();
    for direction in BOTH {
        let target = format!("{direction:?}");
        scene
            .copy(direction, "link", &target)
            .await
            .assert_success();
        assert_eq!(
            fs::read_link(scene.path(&target)).unwrap(),
            OsStr::new("folder")
        );
        let contents = format!("{target} contents");
        scene
            .copy(direction, "link/", &contents)
            .await
            .assert_success();
        assert_same_trees(&scene.path("folder"), &scene.path(contents));
    }
}

#[tokio::test]
async fn deep_trees_do_not_need_a_descriptor_for_each_folder() {
    let scene = Scene::new();
    let mut deepest = String::from("source");
    for level in 0..400 {
        deepest.push_str("/d");
        scene.file(format!("{deepest}/{level}"), b"x");
    }
    for direction in BOTH {
        let target = format!("{direction:?}");
        scene
            .copy(direction, "source", &target)
            .await
            .assert_success();
        assert_same_trees(&scene.path("source"), &scene.path(target));
    }
}

#[tokio::test]
async fn many_small_files_arrive() {
    let scene = Scene::new();
    for number in 0..1000 {
        scene.file(format!("source/{}/{number}", number % 7), noise(number));
    }
    for direction in BOTH {
        let target = format!("{direction:?}");
        let told = scene.copy(direction, "source", &target).await;
        told.assert_success();
        assert_same_trees(&scene.path("source"), &scene.path(target));
        let bytes = 999 * 1000 / 2;
        assert_eq!(
            told.records,
            [format!(
                r#"{{"files":1000,"folders":8,"links":0,"bytes":{bytes},"failed":0,"vanished":0,"unchanged":0,"deleted":0,"reused":0}}"#
            )]
        );
    }
}

#[tokio::test]
async fn the_mode_that_is_asked_for_overrides_that_of_files() {
    let scene = Scene::new();
    set_mode(&scene.file("source/file", b"x"), 0o755);
    set_mode(&scene.path("source"), 0o750);
    for direction in BOTH {
        let target = format!("{direction:?}");
        let arguments = scene.arguments(direction, &[b"source"], target.as_bytes());
        scene
            .run(arguments.with("mode", "0604"))
            .await
            .assert_success();
        let copy = super::support::tree(&scene.path(&target));
        let shown = format!("{copy:?}");
        assert!(shown.contains(&format!("mode: {}", 0o604)), "{shown}");
        assert!(shown.contains(&format!("mode: {}", 0o750)), "{shown}");
    }
}

#[tokio::test]
async fn what_is_read_back_from_the_disk_is_compared_too() {
    let scene = Scene::new();
    scene.file("source", noise(1 << 20));
    for (number, flag) in ["verify-disk", "no-fsync"].into_iter().enumerate() {
        for direction in BOTH {
            let target = format!("{direction:?}{number}");
            let arguments = scene.arguments(direction, &[b"source"], target.as_bytes());
            scene.run(arguments.with_flag(flag)).await.assert_success();
            assert_same_trees(&scene.path("source"), &scene.path(target));
        }
    }
}

#[tokio::test]
async fn files_that_do_not_tell_their_size_are_copied() {
    let scene = Scene::new();
    let target = scene.path("version");
    let arguments = legatus_core::Arguments::new()
        .with("paths", "web1:/proc/version")
        .with("paths", &target);
    scene.run(arguments).await.assert_success();
    assert_eq!(
        fs::read(target).unwrap(),
        fs::read("/proc/version").unwrap()
    );
}

#[tokio::test]
async fn a_file_can_be_copied_onto_itself() {
    let scene = Scene::new();
    scene.file("file", b"contents");
    for direction in [Direction::Up, Direction::Down] {
        scene.copy(direction, "file", "file").await.assert_success();
        assert_eq!(fs::read(scene.path("file")).unwrap(), b"contents");
    }
}

#[tokio::test]
async fn times_of_every_century_are_kept() {
    for direction in BOTH {
        let scene = Scene::new();
        for (name, seconds) in [("1970", 0), ("2038", 1 << 31), ("2106", (1 << 32) + 5)] {
            let path = scene.file(format!("source/{name}"), b"x");
            set_modified(&path, seconds, 999_999_999);
        }
        let before = scene.file("source/1969", b"x");
        let time = std::time::SystemTime::UNIX_EPOCH - std::time::Duration::new(1000, 5);
        fs::File::open(before).unwrap().set_modified(time).unwrap();
        let target = format!("{direction:?}");
        scene
            .copy(direction, "source", &target)
            .await
            .assert_success();
        assert_same_trees(&scene.path("source"), &scene.path(target));
    }
}
