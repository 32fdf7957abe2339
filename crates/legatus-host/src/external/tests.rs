//! The four spellings of the contract are held against one another: the Rust types, the WIT, the C
//! header, and the frames of the protocol.

use std::fs;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::child::native_types::{
    ArgumentTold, Bytes, CallTold, ExampleTold, Given, Host, LibraryTold, ModuleTold, OutcomeTold,
};
use super::child::protocol::{Kind, PROTOCOL};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn header() -> String {
    fs::read_to_string(root().join("include/legatus_module.h")).unwrap()
}

/// Prints sizes and places as the C compiler sees them, in the order of `mirrored`.
const PLACES: &str = r#"
#include <stdio.h>
#include "legatus_module.h"
#define S(type) printf(#type " %zu\n", sizeof(type));
#define P(type, member) printf(#type "." #member " %zu\n", offsetof(type, member));
int main(void) {
"#;

macro_rules! places {
    ($($rust:ty, $c:ident: $($member:ident)*;)*) => {{
        let mut program = String::from(PLACES);
        let mut ours = String::new();
        $(
            program += &format!("S({})\n", stringify!($c));
            ours += &format!("{} {}\n", stringify!($c), size_of::<$rust>());
            $(
                program += &format!("P({}, {})\n", stringify!($c), stringify!($member));
                ours += &format!("{}.{} {}\n", stringify!($c), stringify!($member),
                    offset_of!($rust, $member));
            )*
        )*
        (program + "return 0; }\n", ours)
    }};
}

#[test]
fn the_header_and_its_mirror_have_the_same_places() {
    let (program, ours) = places! {
        Bytes, legatus_bytes: data length;
        Given, legatus_given: name values value_count;
        OutcomeTold, legatus_outcome: kind status;
        CallTold, legatus_call: size reserved module id peer arguments argument_count milliseconds;
        Host, legatus_host: size abi context receive send finish wait log fail open outcome
            read_input write_output write_error open_file read_file close_file;
        ArgumentTold, legatus_argument: name value_name help kind value marks short_name;
        ExampleTold, legatus_example: command explanation;
        ModuleTold, legatus_module: size effects name version summary details arguments
            argument_count examples example_count execute send;
        LibraryTold, legatus_library: abi module_count modules;
    };
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("places.c"), folder.path().join("places"));
    fs::write(&source, program).unwrap();
    let compiled = Command::new("cc")
        .args(["-Wall", "-Werror", "-I"])
        .arg(root().join("include"))
        .arg("-o")
        .arg(&binary)
        .arg(&source)
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let told = Command::new(binary).output().unwrap();
    assert_eq!(String::from_utf8(told.stdout).unwrap(), ours);
}

#[test]
fn the_header_has_the_numbers_of_all_frames() {
    let header = header();
    for (kind, name) in Kind::ALL {
        let line = format!("#define LEGATUS_FRAME_{name} {}u\n", kind as u8);
        assert!(header.contains(&line), "{line}");
    }
    let frames = header.matches("#define LEGATUS_FRAME_").count();
    assert_eq!(frames, Kind::ALL.len());
    assert!(header.contains(&format!("#define LEGATUS_PROTOCOL {PROTOCOL}u\n")));
}

/// What a module may ask of its host: the function in the WIT, the member in the header, the frame.
const FUNCTIONS: [(&str, &str, &str, Option<Kind>); 15] = [
    ("channel", "receive", "receive", Some(Kind::Pull)),
    ("channel", "send", "send", Some(Kind::Message)),
    ("channel", "finish", "finish", Some(Kind::End)),
    ("host", "log", "log", Some(Kind::Log)),
    // A program of its own waits for its socket.
    ("host", "wait", "wait", None),
    ("caller", "open", "open", Some(Kind::Open)),
    ("caller", "wait-outcome", "outcome", Some(Kind::Outcome)),
    ("local", "read-input", "read_input", Some(Kind::ReadInput)),
    (
        "local",
        "write-output",
        "write_output",
        Some(Kind::WriteOutput),
    ),
    (
        "local",
        "write-error",
        "write_error",
        Some(Kind::WriteError),
    ),
    ("local", "open-file", "open_file", Some(Kind::OpenFile)),
    ("local", "read-file", "read_file", Some(Kind::ReadFile)),
    ("local", "close-file", "close_file", Some(Kind::CloseFile)),
    // What the host asks of a module.
    ("commander", "execute", "execute", Some(Kind::Execute)),
    ("sender", "send", "send", Some(Kind::Send)),
];

fn wit() -> (wit_parser::Resolve, wit_parser::PackageId) {
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit/v1")).unwrap();
    (resolve, package)
}

#[test]
fn all_spellings_have_the_same_functions() {
    let (resolve, package) = wit();
    let header = header();
    let mut in_wit = Vec::new();
    for (name, interface) in &resolve.packages[package].interfaces {
        for function in resolve.interfaces[*interface].functions.keys() {
            in_wit.push((name.clone(), function.clone()));
        }
    }
    in_wit.retain(|(interface, _)| interface != "descriptions");
    for (interface, function, member, _) in FUNCTIONS {
        let place = in_wit
            .iter()
            .position(|one| *one == (interface.into(), function.into()));
        in_wit.remove(place.unwrap_or_else(|| panic!("{interface}.{function} is not in the WIT")));
        assert!(
            header.contains(&format!("(*{member})(")),
            "{member} is not in the header"
        );
    }
    assert!(in_wit.is_empty(), "in the WIT only: {in_wit:?}");
    // The one that failing needs is in C only: elsewhere a fault is returned.
    let members = header.matches("(*").count();
    assert_eq!(members, FUNCTIONS.len() + 1);
    let frames: Vec<_> = FUNCTIONS.iter().filter_map(|(.., frame)| *frame).collect();
    let others = [
        Kind::Start,
        Kind::Describe,
        Kind::Description,
        Kind::Cancel,
        Kind::Reply,
        Kind::Done,
    ];
    for (kind, name) in Kind::ALL {
        assert!(frames.contains(&kind) != others.contains(&kind), "{name}");
    }
}

#[test]
fn all_spellings_have_the_same_enumerations() {
    let (resolve, package) = wit();
    let header = header();
    let types = resolve.packages[package].interfaces["types"];
    let names = |interface: wit_parser::InterfaceId, name: &str| -> Vec<String> {
        let id = resolve.interfaces[interface].types[name];
        match &resolve.types[id].kind {
            wit_parser::TypeDefKind::Enum(kind) => {
                kind.cases.iter().map(|case| case.name.clone()).collect()
            }
            wit_parser::TypeDefKind::Variant(kind) => {
                kind.cases.iter().map(|case| case.name.clone()).collect()
            }
            wit_parser::TypeDefKind::Flags(kind) => {
                kind.flags.iter().map(|flag| flag.name.clone()).collect()
            }
            other => panic!("{name} is {other:?}"),
        }
    };
    let has = |prefix: &str, name: &str, number: String| {
        let name = name.to_uppercase().replace('-', "_");
        let line = format!("#define {prefix}{name} {number}");
        let lines = header
            .lines()
            .any(|known| known == line || known.starts_with(&format!("{line} ")));
        assert!(lines, "{line}");
    };
    for (kind, prefix) in [
        ("argument-kind", "LEGATUS_"),
        ("value-kind", "LEGATUS_"),
        ("outcome", "LEGATUS_OUTCOME_"),
    ] {
        for (number, name) in names(types, kind).iter().enumerate() {
            has(prefix, name, format!("{number}u"));
        }
    }
    for (bit, name) in names(types, "effects").iter().enumerate() {
        has("LEGATUS_", name, format!("{}u", 1 << bit));
    }
    for (number, name) in names(types, "channel-error").iter().enumerate() {
        has("LEGATUS_", name, format!("(-{})", number + 1));
    }
    let host = resolve.packages[package].interfaces["host"];
    for (number, name) in names(host, "level").iter().enumerate() {
        has("LEGATUS_LOG_", name, format!("{number}u"));
    }
    // The contract's names are those of the Rust types that the host translates to.
    let effects = legatus_core::Effect::ALL.map(|effect| effect.name().to_owned());
    assert_eq!(names(types, "effects"), effects);
    let fault = || legatus_core::Fault::new("");
    let outcomes = [
        legatus_core::Outcome::Exit(0),
        legatus_core::Outcome::Signal(1),
        legatus_core::Outcome::Timeout,
        legatus_core::Outcome::Cancelled,
        legatus_core::Outcome::Denied(fault()),
        legatus_core::Outcome::Unavailable(fault()),
        legatus_core::Outcome::Lost(fault()),
        legatus_core::Outcome::Failed(fault()),
    ];
    assert_eq!(
        names(types, "outcome"),
        outcomes.map(|one| one.kind().to_owned())
    );
}

#[test]
fn what_was_published_is_not_edited() {
    let published = root().join("crates/legatus-host/tests/modules/v1.0");
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    assert_eq!(
        read(root().join("wit/v1/module.wit")),
        read(published.join("module.wit")),
        "a newer contract stands in a folder of its own"
    );
    // The header may grow at its end of structures and by new functions; what is there stays.
    let (now, then) = (header(), read(published.join("legatus_module.h")));
    for line in then.lines().filter(|line| line.starts_with("#define")) {
        assert!(now.lines().any(|known| known == line), "{line}");
    }
}
