//! Entries that cannot be copied are told one by one, and the rest goes on.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use super::support::{BOTH, Direction, Scene, noise};

/// The line that tells a failure at the source.
fn unread(direction: Direction, scene: &Scene, path: &str, reason: &str) -> String {
    match direction {
        Direction::Up => format!("cannot read `{}`: {reason}", scene.path(path).display()),
        Direction::Down => format!("cannot read `{path}` on web1: {reason}"),
    }
}

/// The line that tells a failure at the target.
fn undone(direction: Direction, scene: &Scene, what: &str, path: &str, reason: &str) -> String {
    match direction {
        Direction::Up => format!("cannot {what} `{path}` on web1: {reason}"),
        Direction::Down => format!("cannot {what} `{}`: {reason}", scene.path(path).display()),
    }
}

#[tokio::test]
async fn a_source_that_is_not_there_is_told_and_the_others_are_copied() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("b", b"b");
        let sources: [&[u8]; 4] = [b"a", b"b", b"b/", b"no/a"];
        let told = scene
            .run(scene.arguments(direction, &sources, b"new/"))
            .await;
        assert_eq!(told.outcome.exit_status(), 23);
        let missing = "No such file or directory";
        assert_eq!(
            told.reports,
            [
                unread(direction, &scene, "a", missing),
                unread(direction, &scene, "b/", "Not a directory"),
                unread(direction, &scene, "no/a", missing),
            ]
        );
        assert_eq!(scene.names("new"), ["b"]);
        let (summary, failures) = told.records.split_last().unwrap();
        assert_eq!(failures.len(), 3);
        assert!(
            failures[0].contains(r#""action":"read""#),
            "{}",
            failures[0]
        );
        assert!(summary.contains(r#""files":1"#) && summary.contains(r#""failed":3"#));
    }
}

#[tokio::test]
async fn special_files_are_told_and_skipped() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/file", b"x");
        let fifo = scene.path("source/fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = UnixListener::bind(scene.path("source/socket")).unwrap();
        let told = scene.copy(direction, "source", "new").await;
        assert_eq!(told.outcome.exit_status(), 23);
        let mut reports = told.reports;
        reports.sort();
        assert_eq!(
            reports,
            [
                unread(
                    direction,
                    &scene,
                    "source/fifo",
                    "it is a FIFO, which is not copied"
                ),
                unread(
                    direction,
                    &scene,
                    "source/socket",
                    "it is a socket, which is not copied"
                ),
            ]
        );
        assert_eq!(scene.names("new"), ["file"]);
        let told = scene.copy(direction, "source/fifo", "other").await;
        assert_eq!(told.outcome.exit_status(), 23);
    }
}

#[tokio::test]
async fn what_stands_in_the_way_stays_and_is_told() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/file", b"x");
        scene.file("source/folder/a/b", b"x");
        scene.file("source/link/f", b"x");
        scene.file("source/other", b"x");
        scene.file("new/source/file/kept", b"kept");
        scene.file("new/source/folder", b"kept");
        let outside = scene.folder("outside");
        symlink(&outside, scene.path("new/source/link")).unwrap();
        let told = scene.copy(direction, "source", "new").await;
        assert_eq!(told.outcome.exit_status(), 23);
        let mut reports = told.reports;
        reports.sort();
        let way = "there is something else than a folder at its name";
        assert_eq!(
            reports,
            [
                undone(direction, &scene, "make folder", "new/source/folder", way),
                undone(direction, &scene, "make folder", "new/source/link", way),
                undone(
                    direction,
                    &scene,
                    "write",
                    "new/source/file",
                    "Is a directory"
                ),
            ]
        );
        assert_eq!(
            fs::read(scene.path("new/source/file/kept")).unwrap(),
            b"kept"
        );
        assert_eq!(fs::read(scene.path("new/source/folder")).unwrap(), b"kept");
        assert_eq!(fs::read(scene.path("new/source/other")).unwrap(), b"x");
        assert_eq!(scene.names("outside"), [""; 0], "a link was followed");
        assert_eq!(
            scene.names("new/source"),
            ["file", "folder", "link", "other"]
        );
    }
}

#[tokio::test]
async fn devices_fifos_and_sockets_are_never_replaced() {
    for direction in BOTH {
        let scene = Scene::new();
        let kinds = [
            ("FIFO", FileType::Fifo, 0),
            ("socket", FileType::Socket, 0),
            ("device", FileType::CharacterDevice, makedev(1, 3)),
        ];
        scene.folder("new/source");
        let mut expected = Vec::new();
        for (what, kind, device) in kinds {
            let standing = |name: String| {
                let path = scene.path(format!("new/source/{name}"));
                mknodat(CWD, path, kind, Mode::RUSR, device)
            };
            // Only root makes devices.
            if standing(format!("{what} file")) == Err(Errno::PERM) {
                continue;
            }
            standing(format!("{what} link")).unwrap();
            scene.file(format!("source/{what} file"), b"x");
            symlink("x", scene.path(format!("source/{what} link"))).unwrap();
            for name in [format!("{what} file"), format!("{what} link")] {
                let reason = format!("there is a {what} at its name, which is not replaced");
                let path = format!("new/source/{name}");
                expected.push(undone(direction, &scene, "write", &path, &reason));
            }
        }
        let file = expected[0].clone();
        expected.sort();
        let told = scene.copy(direction, "source", "new").await;
        assert_eq!(told.outcome.exit_status(), 23);
        let mut reports = told.reports;
        reports.sort();
        assert_eq!(reports, expected);
        assert_eq!(scene.names("new/source"), scene.names("source"));
        let named = "new/source/FIFO file";
        let told = scene.copy(direction, "source/FIFO file", named).await;
        assert_eq!(told.reports, [file]);
        for name in scene.names("new/source") {
            let path = scene.path(format!("new/source/{name}"));
            let kind = fs::symlink_metadata(path).unwrap().file_type();
            assert!(!kind.is_file() && !kind.is_symlink(), "{name}");
        }
    }
}

/// Runs a test again in a mount namespace of its own, where `prepare` has run with the test's folder
/// in `$1`. False where this machine does not let us.
fn elsewhere(test: &str, prepare: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user"]);
        command
    };
    if !unshare()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("not tested: no mount namespaces here");
        return false;
    }
    let status = unshare()
        .args(["sh", "-ec", &format!("{prepare}; shift; exec \"$@\""), "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("transfer_file::tests::failures::{test}"),
        ])
        .env("LEGATUS_TEST_FOLDER", folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace");
    true
}

fn prepared_folder() -> Option<PathBuf> {
    std::env::var_os("LEGATUS_TEST_FOLDER").map(PathBuf::from)
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing_half() {
    let Some(disk) = prepared_folder() else {
        elsewhere(
            "a_full_disk_is_told_and_leaves_nothing_half",
            "mount -t tmpfs -o size=1m tmpfs \"$1\"",
        );
        return;
    };
    let scene = Scene::new();
    scene.file("source/large", noise(2 << 20));
    scene.file("source/small", b"small");
    symlink(&disk, scene.path("disk")).unwrap();
    for direction in BOTH {
        fs::create_dir(disk.join("source")).unwrap();
        fs::write(disk.join("source/large"), b"old").unwrap();
        let told = scene.copy(direction, "source", "disk").await;
        assert_eq!(told.outcome.exit_status(), 23);
        let full = "No space left on device";
        let line = undone(direction, &scene, "write", "disk/source/large", full);
        assert_eq!(told.reports, [line]);
        assert_eq!(scene.names("disk/source"), ["large", "small"]);
        assert_eq!(fs::read(disk.join("source/large")).unwrap(), b"old");
        fs::remove_dir_all(disk.join("source")).unwrap();
    }
}

#[tokio::test]
async fn a_target_that_may_not_be_written_is_told() {
    let Some(disk) = prepared_folder() else {
        elsewhere(
            "a_target_that_may_not_be_written_is_told",
            "mount -t tmpfs tmpfs \"$1\"; mkdir \"$1/sub\"; mount -o remount,ro \"$1\"",
        );
        return;
    };
    let scene = Scene::new();
    scene.file("source", b"x");
    symlink(&disk, scene.path("disk")).unwrap();
    for direction in BOTH {
        let told = scene.copy(direction, "source", "disk/sub/").await;
        assert_eq!(told.outcome.exit_status(), 23);
        let line = "Read-only file system";
        let line = undone(direction, &scene, "write", "disk/sub/source", line);
        assert_eq!(told.reports, [line]);
        let told = scene.copy(direction, "source", "disk/new/").await;
        assert!(
            told.fault().ends_with("Read-only file system"),
            "{}",
            told.fault()
        );
    }
}

#[tokio::test]
async fn permission_denied_is_told() {
    let scene = Scene::new();
    let source = scene.file("source", b"x");
    // Not even root can make files in there.
    let arguments = legatus_core::Arguments::new().with("paths", source);
    let told = scene.run(arguments.with("paths", "web1:/sys/kernel")).await;
    assert_eq!(told.outcome.exit_status(), 23);
    let expected = ["Permission denied", "Read-only file system"].map(|reason| {
        vec![format!(
            "cannot write `/sys/kernel/source` on web1: {reason}"
        )]
    });
    assert!(expected.contains(&told.reports), "{:?}", told.reports);
}
