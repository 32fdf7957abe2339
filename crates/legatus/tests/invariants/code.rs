//! What the code may do where.

use std::fs::File;
use std::io::Read as _;

use crate::repository::{Source, files, root, sources};

/// Lines of one file, comments and tests not counted. Whoever needs more splits by meaning.
const FILE_LINES: usize = 400;

/// Files with `unsafe`: system calls and signal handlers that no safe library wraps.
const UNSAFE: [&str; 17] = [
    "crates/legatus-host/src/external/child/functions.rs",
    "crates/legatus-host/src/external/child/native.rs",
    "crates/legatus-host/src/external/wasm/engine.rs",
    "crates/legatus-host/src/fork_server/inside.rs",
    "crates/legatus-host/src/slab/half.rs",
    "crates/legatus-host/src/slab/lease.rs",
    "crates/legatus-host/src/slab/mod.rs",
    "crates/legatus-modules/src/shell/spawn.rs",
    "crates/legatus-modules/src/transfer_file/staged.rs",
    "crates/legatus-sdk/src/lib.rs",
    "crates/legatus-sdk/src/native/mod.rs",
    "crates/legatus-sdk/src/wasm/imports.rs",
    "crates/legatus-sdk/src/wasm/mod.rs",
    "crates/legatus/src/allocator.rs",
    "crates/legatus/src/local/input.rs",
    "crates/legatus/src/local/signals.rs",
    "crates/legatus/src/local/terminal.rs",
];

fn assert_none(what: &str, found: impl Iterator<Item = String>) {
    let found: Vec<_> = found.collect();
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Paths of the sources whose code contains a text, sorted.
fn with(sources: &[Source], text: &str) -> Vec<String> {
    let found = sources.iter().filter(|source| source.code.contains(text));
    let mut paths: Vec<_> = found.map(|source| source.path.clone()).collect();
    paths.sort_unstable();
    paths
}

#[test]
fn the_contract_opens_no_socket_file_or_process() {
    let opens = [
        "fs::read",
        "fs::write",
        "fs::create",
        "fs::remove",
        "fs::OpenOptions",
        "OpenOptions::",
        "File::open",
        "File::create",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "UnixListener",
        "Command::new",
        "process::Command",
        "tokio::fs",
        "tokio::net",
        "tokio::process",
        "thread::spawn",
    ];
    let sources = sources();
    let core = sources.iter().filter(|source| source.is_of("legatus-core"));
    assert_none(
        "the contract opens",
        core.flat_map(|source| source.uses(&opens)),
    );
}

#[test]
fn only_the_program_prints_exits_and_reads_the_environment() {
    let uses = [
        "print!(",
        "println!(",
        "process::exit",
        "env::var",
        "env::args",
        "env::current_dir",
        "env::temp_dir",
        "env::home_dir",
    ];
    let sources = sources();
    let others = sources.iter().filter(|source| !source.is_of("legatus"));
    let found = others.flat_map(|source| source.uses(&uses));
    // A Commander in its holder asks for the home of the user that it has become.
    let home = "crates/legatus-modules/src/transfer_file/commander.rs: env::home_dir";
    assert_none("not in the program", found.filter(|place| place != home));
}

#[test]
fn nothing_but_the_modules_knows_a_module_by_name() {
    let builtin = legatus::modules::builtin().unwrap();
    let names: Vec<_> = builtin
        .names()
        .map(|(name, ..)| format!("\"{name}\""))
        .collect();
    assert!(names.contains(&"\"shell\"".to_owned()));
    // A log level is called as one of our modules is.
    let names: Vec<_> = names
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "\"info\"")
        .collect();
    let sources = sources();
    let others = sources
        .iter()
        .filter(|source| !source.is_of("legatus-modules"));
    assert_none(
        "a module's name",
        others.flat_map(|source| source.uses(&names)),
    );
}

#[test]
fn unsafe_code_is_only_where_it_is_known_to_be() {
    let sources = sources();
    for form in [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe extern",
        "#[unsafe(",
    ] {
        let found = with(&sources, form).into_iter();
        let new = found.filter(|path| !UNSAFE.contains(&path.as_str()));
        assert_none("unsafe code in a new place", new);
    }
    for path in UNSAFE {
        let source = sources.iter().find(|source| source.path == path);
        assert!(
            source.is_some_and(|source| source.code.contains("unsafe ")),
            "{path} has none"
        );
    }
}

#[test]
fn only_certificate_verification_and_the_child_of_a_server_vouch_for_identities() {
    let expected = [
        "crates/legatus-core/src/peer.rs",
        "crates/legatus-host/src/external/child/guest.rs",
        "crates/legatus-host/src/holder.rs",
        "crates/legatus-net/src/tls/identity.rs",
    ];
    assert_eq!(with(&sources(), "assert_verified"), expected);
}

#[test]
fn the_steps_of_a_call_stand_in_one_function_in_their_order() {
    let sources = sources();
    let path = "crates/legatus-net/src/server/pipeline.rs";
    let pipeline = sources.iter().find(|source| source.path == path).unwrap();
    let (_, function) = pipeline.code.split_once("async fn run_call(").unwrap();
    let (function, _) = function.split_once("\n    }\n").unwrap();
    let steps = [
        ".find_module(",
        ".authorise(",
        "audit.begin(",
        ".execute(",
        "audit.end(",
    ];
    let places: Vec<_> = steps.map(|step| function.find(step).expect(step)).into();
    assert!(places.is_sorted(), "{steps:?} at {places:?}");
    assert!(
        function.trim_end().ends_with("outcome"),
        "it ends with the one outcome"
    );
}

#[test]
fn every_queue_is_bounded() {
    let sources = sources();
    let unbounded = [
        "unbounded_channel",
        "mpsc::unbounded",
        "sync::mpsc::channel()",
    ];
    assert_none(
        "a queue",
        sources.iter().flat_map(|source| source.uses(&unbounded)),
    );
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let sources = sources();
    let silent = sources
        .iter()
        .filter(|source| !source.text.starts_with("//! "));
    assert_none("no `//!`", silent.map(|source| source.path.clone()));
}

#[test]
fn no_file_grows_beyond_what_one_reads_at_once() {
    let sources = sources();
    let long = sources.iter().filter_map(|source| {
        let lines = source.code.lines().count();
        (lines > FILE_LINES).then(|| format!("{}: {lines} lines", source.path))
    });
    assert_none("too long", long);
}

#[test]
fn no_test_is_ignored() {
    let sources = sources();
    let attribute = concat!("#[", "ignore");
    let ignored = sources
        .iter()
        .filter(|source| source.text.contains(attribute));
    assert_none("ignored tests", ignored.map(|source| source.path.clone()));
}

#[test]
fn neither_compiled_artefacts_nor_keys_are_kept_in_git() {
    let magics: [&[u8]; 7] = [
        b"\x7fELF",
        b"\0asm",
        b"!<arch>",
        b"MZ\x90",
        b"\xcf\xfa\xed\xfe",
        b"PK\x03\x04",
        b"-----BEGIN ",
    ];
    let found = files().into_iter().filter(|path| {
        let mut start = Vec::new();
        let file = File::open(root().join(path)).unwrap();
        file.take(16).read_to_end(&mut start).unwrap();
        magics.iter().any(|magic| start.starts_with(magic))
    });
    assert_none("made by a tool", found);
}
