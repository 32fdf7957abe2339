//! Where copies go: the rule of the trailing slash, existing targets, parents, homes.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use legatus_core::testing::{self, MemoryLocal};
use legatus_core::{Arguments, Module, Outcome, Settings};

use super::support::{BOTH, Direction, Scene, assert_same_trees, set_mode, set_modified};

#[tokio::test]
async fn copies_go_where_rsync_and_cp_would_put_them() {
    // Source, target, where the file `f` is found.
    let cases = [
        ("source", "new", "new/f"),
        ("source", "new/", "new/source/f"),
        ("source", "existing", "existing/source/f"),
        ("source", "existing/", "existing/source/f"),
        ("source", "to-existing", "existing/source/f"),
        ("source", "", "source/f"),
        ("source", ".", "source/f"),
        ("source/", "new", "new/f"),
        ("source/", "new/", "new/f"),
        ("source/.", "new", "new/f"),
        ("source/", "existing", "existing/f"),
        ("source/", "existing/", "existing/f"),
        ("source", "a/b/new", "a/b/new/f"),
        ("source/", "a/b/new/", "a/b/new/f"),
        ("source/f", "new", "new"),
        ("source/f", "new/", "new/f"),
        ("source/f", "existing", "existing/f"),
        ("source/f", "file", "file"),
        ("source/f", "a/b/c", "a/b/c"),
        ("source/f", "existing/../x/./y", "x/y"),
    ];
    for direction in BOTH {
        for (source, target, found) in cases {
            let scene = Scene::new();
            scene.file("source/f", b"contents");
            scene.file("file", b"old");
            scene.folder("existing");
            symlink("existing", scene.path("to-existing")).unwrap();
            let told = scene.copy(direction, source, target).await;
            told.assert_success();
            let contents = fs::read(scene.path(found)).ok();
            let contents = contents.as_deref();
            assert_eq!(contents, Some(&b"contents"[..]), "{source} to {target}");
        }
    }
}

#[tokio::test]
async fn targets_that_cannot_be_are_refused_before_anything_is_written() {
    let cases = [
        ("source", "file/", "Not a directory"),
        ("source", "file/below", "Not a directory"),
    ];
    for direction in BOTH {
        for (source, target, reason) in cases {
            let scene = Scene::new();
            scene.file("source/f", b"contents");
            scene.file("file", b"old");
            let told = scene.copy(direction, source, target).await;
            let fault = told.fault();
            assert!(fault.starts_with("cannot copy to `"), "{fault}");
            assert!(fault.contains(reason), "{fault}");
            assert_eq!(scene.names(""), ["file", "source"]);
        }
    }
}

#[tokio::test]
async fn several_sources_need_a_folder() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("a", b"a");
        scene.file("b/c", b"c");
        let sources: [&[u8]; 2] = [b"a", b"b"];
        let told = scene
            .run(scene.arguments(direction, &sources, b"new"))
            .await;
        assert!(told.fault().contains("is no folder"), "{}", told.fault());
        let told = scene.run(scene.arguments(direction, &sources, b"a")).await;
        assert!(told.fault().contains("is no folder"), "{}", told.fault());
        let told = scene
            .run(scene.arguments(direction, &sources, b"new/"))
            .await;
        told.assert_success();
        assert_eq!(scene.names("new"), ["a", "b"]);
        assert_eq!(scene.names("new/b"), ["c"]);
    }
}

#[tokio::test]
async fn missing_parents_are_not_made_if_that_is_forbidden() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source", b"x");
        for target in [&b"a/b"[..], b"a/b/"] {
            let arguments = scene.arguments(direction, &[b"source"], target);
            let told = scene.run(arguments.with_flag("no-parents")).await;
            let fault = told.fault();
            assert!(fault.ends_with("No such file or directory"), "{fault}");
            assert_eq!(scene.names(""), ["source"]);
        }
        let arguments = scene.arguments(direction, &[b"source"], b"a/");
        scene
            .run(arguments.with_flag("no-parents"))
            .await
            .assert_success();
        assert_same_trees(&scene.path("source"), &scene.path("a/source"));
    }
}

#[tokio::test]
async fn a_folder_that_receives_contents_keeps_its_mode_if_it_was_there() {
    for direction in BOTH {
        let scene = Scene::new();
        scene.file("source/below/f", b"x");
        set_mode(&scene.path("source"), 0o777);
        set_modified(&scene.path("source"), 77, 7);
        set_mode(&scene.path("source/below"), 0o775);
        scene.folder("home/below");
        set_mode(&scene.path("home"), 0o700);
        let mode = |path| fs::metadata(scene.path(path)).unwrap().mode() & 0o7777;
        for target in ["home", "home/", "new", "made/"] {
            let told = scene.copy(direction, "source/", target).await;
            told.assert_success();
        }
        assert_eq!((mode("home"), mode("home/below")), (0o700, 0o775));
        assert_eq!(fs::metadata(scene.path("home")).unwrap().mtime(), 77);
        for target in ["new", "made"] {
            assert_same_trees(&scene.path("source"), &scene.path(target));
        }
    }
}

#[tokio::test]
async fn folders_are_made_with_their_parents() {
    let scene = Scene::new();
    let mkdir = |path: &str| {
        let arguments = Arguments::new().with_flag("mkdir");
        arguments.with("paths", format!("web1:{path}"))
    };
    let told = scene.run(mkdir("a/b").with_flag("no-parents")).await;
    assert_eq!(told.outcome.exit_status(), 23);
    assert_eq!(
        told.reports,
        ["cannot make folder `a/b` on web1: No such file or directory"]
    );
    scene
        .run(mkdir("a/b").with("mode", "0700"))
        .await
        .assert_success();
    assert_eq!(
        fs::metadata(scene.path("a/b")).unwrap().mode() & 0o7777,
        0o700
    );
    assert_ne!(
        fs::metadata(scene.path("a")).unwrap().mode() & 0o7777,
        0o700
    );
    // Again, with a slash, below home written out, and without a mode.
    for path in ["a/b", "a/b/", "~/a/b"] {
        scene.run(mkdir(path)).await.assert_success();
    }
    assert_eq!(
        fs::metadata(scene.path("a/b")).unwrap().mode() & 0o7777,
        0o700
    );
    scene.file("a/file", b"");
    let told = scene.run(mkdir("a/file")).await;
    assert_eq!(
        told.reports,
        ["cannot make folder `a/file` on web1: Not a directory"]
    );
}

#[tokio::test]
async fn copies_that_make_no_sense_are_refused_with_a_hint() {
    let scene = Scene::new();
    for paths in [
        &["a", "b"][..],
        &["web1:a", "web2:b"],
        &["web1:a", "web1:b"],
        &["web1:a", "web2:b", "c"],
        &["web1:a", "b", "c"],
        &["a", "web1:b", "web1:c"],
        &["web1:a"],
        &[],
    ] {
        let mut arguments = Arguments::new();
        arguments.extend("paths", paths);
        let told = scene.run(arguments).await;
        let fault = told.outcome.fault().unwrap().clone();
        assert!(fault.hint().is_some(), "{paths:?}: {fault}");
    }
    let local = Arguments::new().with_flag("mkdir").with("paths", "a");
    assert!(scene.run(local).await.fault().contains("--mkdir"));
    let mode = scene.arguments(BOTH[0], &[b"a"], b"b").with("mode", "0999");
    assert!(scene.run(mode).await.fault().contains("octal"));
}

#[tokio::test]
async fn the_home_folder_can_be_written_out() {
    let scene = Scene::new();
    let source = scene.file("here/f", b"contents");
    for (target, found) in [("~", "f"), ("~/x", "x"), ("", "f"), ("~/y/", "y/f")] {
        let arguments = Arguments::new().with("paths", &source);
        let arguments = arguments.with("paths", format!("web1:{target}"));
        scene.run(arguments).await.assert_success();
        assert_eq!(fs::read(scene.path(found)).unwrap(), b"contents");
    }
    let arguments = Arguments::new().with("paths", "web1:~/here/");
    let arguments = arguments.with("paths", scene.path("there"));
    scene.run(arguments).await.assert_success();
    assert_same_trees(&scene.path("here"), &scene.path("there"));
}

#[tokio::test]
async fn a_server_that_is_told_folders_copies_to_and_from_no_others() {
    let scene = Scene::new();
    let at = |name: &str| scene.path(name).to_str().unwrap().to_owned();
    scene.file("public/f", b"shown");
    scene.file("secret/f", b"hidden");
    scene.file("drop/f", b"old");
    scene.folder("both");
    symlink("../secret", scene.path("public/out")).unwrap();
    symlink("../secret", scene.path("both/out")).unwrap();
    let settings = Settings::new()
        .with("read", [at("public"), at("both")])
        .with("write", [at("drop"), at("both")]);
    let copy = async |direction, source: &str, target: &str, flag: Option<&str>| {
        let mut arguments = scene.arguments(direction, &[source.as_bytes()], target.as_bytes());
        if let Some(flag) = flag {
            arguments = arguments.with_flag(flag);
        }
        let module = scene.module();
        module.configure(&settings).unwrap();
        let local = MemoryLocal::new();
        testing::run(module, arguments, &local).await
    };
    for (direction, source, target) in [
        (Direction::Down, "secret/f", "here"),
        (Direction::Down, "public/../secret/f", "here"),
        (Direction::Down, "drop/f", "here"),
        (Direction::Up, "secret/f", "public/f"),
        (Direction::Up, "secret/f", "f"),
        (Direction::Up, "secret/f", "drop/../secret/g"),
    ] {
        let outcome = copy(direction, source, target, None).await;
        assert!(
            matches!(outcome, Outcome::Denied(_)),
            "{source} {target}: {outcome:?}"
        );
    }
    // A link leads out of them.
    let outcome = copy(Direction::Down, "public/out/f", "here", None).await;
    assert_eq!(outcome.exit_status(), 23, "{outcome:?}");
    for target in ["both/out/g", "both/out/deeper/g", "both/out/"] {
        let outcome = copy(Direction::Up, "public/f", target, None).await;
        assert!(
            matches!(outcome, Outcome::Failed(_)),
            "{target}: {outcome:?}"
        );
    }
    assert!(!scene.path("here").exists());
    assert_eq!(scene.names("secret"), ["f"]);
    // What may be written and not read is not looked at for the caller.
    for flag in ["checksum", "itemize", "dry-run", "delete"] {
        let outcome = copy(Direction::Up, "public/f", "drop/f", Some(flag)).await;
        assert!(matches!(outcome, Outcome::Denied(_)), "{flag}: {outcome:?}");
    }
    for (direction, source, target) in [
        (Direction::Down, "public/f", "down"),
        (Direction::Up, "public/f", "drop/f"),
        (Direction::Up, "public/f", "both/new/f"),
        (Direction::Down, "both/new/", "down-folder"),
    ] {
        let outcome = copy(direction, source, target, None).await;
        assert_eq!(outcome, Outcome::SUCCESS, "{source} {target}");
    }
    assert_eq!(fs::read(scene.path("drop/f")).unwrap(), b"shown");
    let folders = scene
        .arguments(Direction::Up, &[], b"secret/new")
        .with_flag("mkdir");
    let module = scene.module();
    module.configure(&settings).unwrap();
    let outcome = testing::run(module, folders, &MemoryLocal::new()).await;
    assert!(matches!(outcome, Outcome::Denied(_)), "{outcome:?}");
}
