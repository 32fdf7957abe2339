//! The repository's files, and which of them are code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Rust file of the workspace.
pub(crate) struct Source {
    /// Its path from the root.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
    /// What runs outside of tests, without comments; empty for files of tests.
    pub(crate) code: String,
}

impl Source {
    /// Whether it belongs to this crate.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.path.starts_with(&format!("crates/{name}/"))
    }

    /// The places in its code where one of these texts stands, as `path:text`.
    pub(crate) fn uses<'a>(&'a self, texts: &'a [&str]) -> impl Iterator<Item = String> + 'a {
        let used = texts.iter().filter(|text| self.code.contains(**text));
        used.map(|text| format!("{}: {text}", self.path))
    }
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file's text, by its path from the root.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files that git knows, by their paths from the root. Those that are new and not ignored
/// count too, so that a mistake shows before it is committed.
pub(crate) fn files() -> Vec<String> {
    let arguments = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let listed = Command::new("git")
        .args(arguments)
        .current_dir(root())
        .output();
    let listed = listed.expect("git is installed");
    assert!(listed.status.success(), "this test needs a git checkout");
    let text = String::from_utf8(listed.stdout).unwrap();
    let paths = text.split_terminator('\0').map(str::to_owned);
    paths.filter(|path| root().join(path).is_file()).collect()
}

/// All Rust files.
pub(crate) fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|path| path.ends_with(".rs"));
    let sources: Vec<_> = rust.map(source).collect();
    assert!(sources.len() > 50, "the sources have moved");
    sources
}

fn source(path: String) -> Source {
    let text = read(&path);
    let code = if is_test(&path) {
        String::new()
    } else {
        code(&text)
    };
    Source { path, text, code }
}

/// Tests, benchmarks, the kit for authors of tests, and what runs only while building.
fn is_test(path: &str) -> bool {
    let folder = ["/tests/", "/benches/", "/examples/"];
    folder.iter().any(|folder| path.contains(folder))
        || path.ends_with("/tests.rs")
        || path.ends_with("/build.rs")
        || path == "crates/legatus-core/src/testing.rs"
}

/// A file's text up to its tests, without lines of comment. Tests are the last thing in a file.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines();
    let code = lines.filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn neither_comments_nor_tests_count_as_code() {
    let text = "//! no\nfn a() {}\n    // no\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
    assert_eq!(code(text), "fn a() {}\n");
    assert!(is_test("crates/a/tests/b.rs") && is_test("crates/a/src/b/tests.rs"));
    assert!(!is_test("crates/a/src/tested.rs"));
}
