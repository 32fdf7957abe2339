//! The worlds of the contract as the SDK for Rust holds them: the linker reads from them what a
//! component imports and exports.

use std::fmt::Write as _;

use wit_component::{ComponentEncoder, StringEncoding, metadata};
use wit_parser::Resolve;

use legatus_core::Outcome;

use crate::guests::{HELLO, Wat, root};
use crate::kit::{Kit, call};

#[expect(unreachable_pub, reason = "it belongs to another crate")]
#[path = "../../../legatus-sdk/src/wasm/worlds.rs"]
mod held;

const NAMES: [&str; 3] = ["commander-module", "sender-module", "module"];

/// A world in the linker's form, without what the contract says to human readers.
fn encoded(world: &str) -> Vec<u8> {
    let wit = std::fs::read_to_string(root().join("wit/v1/module.wit")).unwrap();
    let lines = wit.lines().filter(|line| !line.trim().starts_with("//"));
    let wit: Vec<_> = lines.collect();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("module.wit", &wit.join("\n")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    metadata::encode(&resolve, world, StringEncoding::UTF8, None, false).unwrap()
}

/// The text of the SDK's file.
pub(crate) fn text() -> String {
    let mut text = String::from(
        "//! The worlds of `wit/v1/module.wit`, as the linker wants them. A test makes this file:\n\
         //! `cargo test -p legatus-host --test modules -- make-guest worlds FILE`.\n",
    );
    for name in NAMES {
        let bytes = encoded(name);
        let constant = name.to_uppercase().replace('-', "_");
        let length = bytes.len();
        write!(
            text,
            "\n/// The world `{name}`.\npub const {constant}: &[u8; {length}] = b\"\\\n"
        )
        .unwrap();
        for line in bytes.chunks(24) {
            // What is white at the beginning of such a line does not count.
            let line = line.escape_ascii().to_string().replace(' ', "\\x20");
            writeln!(text, "    {line}\\").unwrap();
        }
        text.push_str("\";\n");
    }
    text
}

pub(crate) async fn those_of_the_sdk_are_those_of_the_contract() {
    let held: [&[u8]; 3] = [held::COMMANDER_MODULE, held::SENDER_MODULE, held::MODULE];
    for (name, held) in NAMES.into_iter().zip(held) {
        let hint = "make crates/legatus-sdk/src/wasm/worlds.rs again, as it says";
        assert!(encoded(name) == held, "the world `{name}` differs: {hint}");
    }
}

pub(crate) async fn one_of_the_sdk_makes_a_component_that_loads() {
    let mut core = Wat::new("linked", HELLO).core();
    let section = wasm_section("component-type:legatus:module", held::COMMANDER_MODULE);
    core.extend_from_slice(&section);
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(&core).unwrap();
    let kit = Kit::new();
    kit.put("linked.wasm", encoder.encode().unwrap());
    let (output, outcome) = call(&kit.module("linked"), &[], b"").await;
    assert_eq!(
        (output.as_slice(), outcome),
        (&b"hello from wasm\n"[..], Outcome::Exit(3))
    );
}

/// A custom section, as a linker writes it.
fn wasm_section(name: &str, bytes: &[u8]) -> Vec<u8> {
    let number = |mut value: usize| {
        let mut digits = Vec::new();
        loop {
            let low = u8::try_from(value & 0x7f).unwrap();
            value >>= 7;
            digits.push(if value == 0 { low } else { low | 0x80 });
            if value == 0 {
                return digits;
            }
        }
    };
    let body = [number(name.len()).as_slice(), name.as_bytes(), bytes].concat();
    [&[0][..], &number(body.len()), &body].concat()
}
