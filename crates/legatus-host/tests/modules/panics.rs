//! A failing guest's last words and backtrace go to the log of the program that runs it; the other
//! half is told only that the module failed, and by which rule.

use std::path::Path;
use std::process::Command;

use crate::guests::{self, Wat, root};
use crate::kit::{Kit, call, failure};
use crate::useful::logged;

/// Calls the only module that there is; the lines of its log, and what its caller is told.
async fn fails(kit: &Kit, module: &str, arguments: &[&str]) -> (String, String) {
    let module = kit.module(module);
    let mut told = String::new();
    let lines = logged(async {
        let (output, outcome) = call(&module, arguments, b"").await;
        assert_eq!(output, b"");
        told = failure(&outcome);
    })
    .await;
    (lines.join("\n"), told)
}

pub(crate) async fn of_a_component_are_logged_with_its_frames() {
    let kit = Kit::new();
    let guest = Wat::new(
        "guest",
        "(call $log (i32.const 4) (i32.const 256) (i32.const 15)) (call $inner_most)",
    );
    kit.put("guest.wasm", guest.component());
    let (log, told) = fails(&kit, "guest", &[]).await;
    assert!(log.starts_with("hello from wasm"), "{log}");
    assert!(
        log.contains("inner_most") && log.contains("execute"),
        "{log}"
    );
    assert!(
        told.contains("local/guest") && told.contains("unreachable"),
        "{told}"
    );
    for secret in ["hello", "inner_most", "backtrace"] {
        assert!(!told.contains(secret), "{told}");
    }
}

const EXECUTABLE: &str = r#"#!/usr/bin/python3
import json, struct, sys
source, sink = sys.stdin.buffer, sys.stdout.buffer
length, kind = struct.unpack("<IB3x", source.read(8))
payload = source.read(length)
def inner_most():
    raise RuntimeError("the vault is " + "empty " * 500)
if kind == 2:
    about = {"name": "raises", "version": "1.0.0", "summary": "Fails", "commander": True}
    told = json.dumps({"protocol": 1, "modules": [about]}).encode()
    sink.write(struct.pack("<IB3x", len(told), 33) + told)
else:
    inner_most()
"#;

pub(crate) async fn of_an_executable_are_logged_to_the_last() {
    let kit = Kit::new();
    kit.put_with_manifest(
        "raises",
        EXECUTABLE.as_bytes(),
        "executable",
        "[limits]\nmemory = 256\n",
    );
    let (log, told) = fails(&kit, "raises", &[]).await;
    assert!(log.contains("Traceback"), "{log}");
    assert!(log.contains("inner_most"), "{log}");
    assert!(log.contains("RuntimeError: the vault is empty"), "{log}");
    assert!(told.contains("acme/raises"), "{told}");
    assert!(
        !told.contains("vault") && !told.contains("Traceback"),
        "{told}"
    );
}

/// A module in Rust, in one file.
const PANICS: &str = r#"
use legatus_sdk::{Call, Commander, Description, Fault, Host, Module, module};

struct Panics;

impl Module for Panics {
    fn describe() -> Description {
        Description::new("panics", "1.0.0", "Fail")
    }
}

#[inline(never)]
fn inner_most(arguments: &[Vec<u8>]) -> u8 {
    arguments[7][0]
}

impl Commander for Panics {
    fn execute(call: &Call, _: &mut Host) -> Result<u8, Fault> {
        Ok(inner_most(&call.arguments))
    }
}

module!(commander: Panics);
"#;

fn rustc(arguments: &[&str], folder: &Path) {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args(["--edition", "2024", "--out-dir"])
        .arg(folder)
        .arg("-L")
        .arg(folder)
        .args(arguments)
        .output()
        .expect("the compiler of these tests");
    let told = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{told}");
}

pub(crate) async fn of_a_library_in_rust_are_logged_with_its_frames() {
    let kit = Kit::new();
    let folder = tempfile::tempdir().unwrap();
    let sdk = root().join("crates/legatus-sdk/src/lib.rs");
    let source = folder.path().join("panics.rs");
    std::fs::write(&source, PANICS).unwrap();
    let [sdk, source] = [&sdk, &source].map(|path| path.to_str().unwrap());
    let sdk = ["--crate-type", "rlib", "--crate-name", "legatus_sdk", sdk];
    rustc(&sdk, folder.path());
    let module = ["--crate-type", "cdylib", "--extern", "legatus_sdk", source];
    rustc(&module, folder.path());
    let library = folder.path().join("libpanics.so");
    kit.put("panics.so", std::fs::read(library).unwrap());
    let (log, told) = fails(&kit, "panics", &[]).await;
    assert!(log.starts_with("panicked at "), "{log}");
    assert!(log.contains("index out of bounds"), "{log}");
    assert!(
        log.contains("backtrace:") && log.contains("inner_most"),
        "{log}"
    );
    assert!(told.contains("the module panicked"), "{told}");
    assert!(
        !told.contains("bounds") && !told.contains("inner_most"),
        "{told}"
    );
}

/// A library that dies says what it wrote to standard error.
const DIES: &str = r#"
#include "legatus_module.h"
#include <stdio.h>
#include <stdlib.h>
static int32_t execute(const legatus_host *host, const legatus_call *call)
{
    (void)host; (void)call;
    fputs("assertion failed: the vault is open\n", stderr);
    abort();
}
static const legatus_module module = {.size = sizeof(legatus_module), .name = "dies",
    .version = "1.0.0", .summary = "Fail", .execute = execute};
static const legatus_module *const modules[] = {&module};
static const legatus_library library = {LEGATUS_ABI, 1, modules};
const legatus_library *legatus_modules(uint32_t abi) { return abi == LEGATUS_ABI ? &library : NULL; }
"#;

pub(crate) async fn of_a_library_in_c_are_logged() {
    let kit = Kit::new();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("dies.c");
    std::fs::write(&source, DIES).unwrap();
    guests::library(&source, &kit.path("dies.so"));
    let (log, told) = fails(&kit, "dies", &[]).await;
    assert_eq!(log, "assertion failed: the vault is open");
    assert!(
        told.contains("local/dies") && !told.contains("vault"),
        "{told}"
    );
}
