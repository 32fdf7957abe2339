//! Guests of all kinds, made while the tests run: components from WAT, libraries by the system's C
//! compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A guest in WAT: what it tells about itself, and what its server half does.
pub(crate) struct Wat {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// The body of `execute`; a status on the stack ends it.
    pub(crate) body: &'static str,
    /// The body of `send`, if it has a client half.
    pub(crate) sender: Option<&'static str>,
    /// Whether it says that it has a client half.
    pub(crate) tells_of_sender: bool,
}

impl Wat {
    pub(crate) const fn new(name: &'static str, body: &'static str) -> Self {
        Self {
            name,
            version: "1.0.0",
            body,
            sender: None,
            tells_of_sender: false,
        }
    }

    /// The component.
    pub(crate) fn component(&self) -> Vec<u8> {
        let world = if self.sender.is_some() {
            "module"
        } else {
            "commander-module"
        };
        component(&self.text(), world, |text| text)
    }

    /// The component as if it were made for another version of the contract.
    pub(crate) fn component_for(&self, version: &str) -> Vec<u8> {
        let text = self.text().replace("@1.0.0", &format!("@{version}"));
        component(&text, "commander-module", |wit| {
            wit.replace("module@1.0.0", &format!("module@{version}"))
        })
    }

    /// The component, made with the contract as it was first published.
    pub(crate) fn component_of_first_contract(&self) -> Vec<u8> {
        component_of(
            &self.text(),
            "commander-module",
            include_str!("v1.0/module.wit"),
        )
    }

    /// The core module, before it is made a component.
    pub(crate) fn core(&self) -> Vec<u8> {
        wat::parse_str(self.text()).unwrap()
    }

    fn text(&self) -> String {
        let Self {
            name,
            version,
            body,
            sender,
            tells_of_sender,
        } = self;
        let (name_length, version_length) = (name.len(), version.len());
        let has_sender = u8::from(sender.is_some() || *tells_of_sender);
        let sender = sender.map_or(String::new(), |body| {
            format!(
                r#"(func (export "legatus:module/sender@1.0.0#send") (param i32 i32 i32 i32) (result i32)
                     (local $result i32) {body})"#
            )
        });
        let local = if self.sender.is_some() {
            r#"(import "legatus:module/caller@1.0.0" "open" (func $open (param i32 i32 i32)))
               (import "legatus:module/caller@1.0.0" "wait-outcome" (func $outcome (param i32)))
               (import "legatus:module/local@1.0.0" "open-file" (func $open_file (param i32 i32 i32)))
               (import "legatus:module/local@1.0.0" "write-output" (func $write (param i32 i32 i32)))"#
        } else {
            ""
        };
        format!(
            r#"(module
  (import "legatus:module/channel@1.0.0" "receive" (func $receive (param i32)))
  (import "legatus:module/channel@1.0.0" "send" (func $send (param i32 i32 i32)))
  (import "legatus:module/channel@1.0.0" "finish" (func $finish))
  (import "legatus:module/host@1.0.0" "log" (func $log (param i32 i32 i32)))
  (import "legatus:module/host@1.0.0" "wait" (func $wait (param i32 i64) (result i32)))
  {local}
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 4096))
  (data (i32.const 64) "{name}")
  (data (i32.const 192) "{version}")
  (data (i32.const 256) "hello from wasm\n")
  (data (i32.const 320) "/etc/passwd")
  (data (i32.const 352) "/root/.ssh/id_ed25519")
  (func $word (param $at i32) (param $value i32) (i32.store (local.get $at) (local.get $value)))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $place i32)
    (local.set $place (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $place) (local.get $size)))
    (block $fits
      (br_if $fits (i32.ge_u (i32.mul (memory.size) (i32.const 65536)) (global.get $heap)))
      (br_if $fits (i32.ne (i32.const -1) (memory.grow (i32.add (i32.const 1)
        (i32.div_u (i32.sub (global.get $heap) (i32.mul (memory.size) (i32.const 65536))) (i32.const 65536))))))
      unreachable)
    (local.get $place))
  (func (export "legatus:module/descriptions@1.0.0#describe") (result i32)
    (call $word (i32.const 512) (i32.const 64))
    (call $word (i32.const 516) (i32.const {name_length}))
    (call $word (i32.const 520) (i32.const 192))
    (call $word (i32.const 524) (i32.const {version_length}))
    (call $word (i32.const 528) (i32.const 256))
    (call $word (i32.const 532) (i32.const 15))
    (i32.store8 (i32.const 564) (i32.const 1))
    (i32.store8 (i32.const 565) (i32.const {has_sender}))
    (call $word (i32.const 600) (i32.const 512))
    (call $word (i32.const 604) (i32.const 1))
    (i32.const 600))
  (func $inner_most (result i32) unreachable)
  (func $recurse (param i64) (result i64)
    (i64.add (i64.const 1) (call $recurse (i64.add (local.get 0) (i64.const 1)))))
  (func (export "legatus:module/commander@1.0.0#execute")
    (param i32 i32 i32 i32 i32 i32) (param $arguments i32) (param $count i32) (param i32 i64) (result i32)
    (local $status i32)
    {body}
    (local.set $status)
    (i32.store8 (i32.const 640) (i32.const 0))
    (i32.store8 (i32.const 644) (local.get $status))
    (i32.const 640))
  {sender})"#
        )
    }
}

/// Sends every message back.
pub(crate) const ECHO: &str = r#"
  (block $end
    (loop $again
      (global.set $heap (i32.const 4096))
      (call $receive (i32.const 704))
      (br_if $end (i32.load8_u (i32.const 704)))
      (br_if $end (i32.eqz (i32.load8_u (i32.const 708))))
      (call $send (i32.load (i32.const 712)) (i32.load (i32.const 716)) (i32.const 720))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 720))))))
  (i32.const 0)"#;

/// Sends one line.
pub(crate) const HELLO: &str = r#"
  (call $send (i32.const 256) (i32.const 16) (i32.const 720))
  (i32.const 3)"#;

fn component(text: &str, world: &str, edit: impl FnOnce(String) -> String) -> Vec<u8> {
    let wit = std::fs::read_to_string(root().join("wit/v1/module.wit")).unwrap();
    component_of(text, world, &edit(wit))
}

fn component_of(text: &str, world: &str, wit: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("module.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(&module).unwrap();
    encoder.encode().unwrap()
}

/// Imports standard output into a component in WAT.
const STDOUT: &str = r#"
  (import "wasi:io/error@0.2.6" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@0.2.6" (instance $streams
    (export "output-stream" (type $output (sub resource)))
    (alias outer 1 $error-type (type $outer-error))
    (export "error" (type $io-error (eq $outer-error)))
    (type $stream-error (variant (case "last-operation-failed" (own $io-error)) (case "closed")))
    (export "stream-error" (type $stream-error' (eq $stream-error)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $output)) (param "contents" (list u8))
        (result (result (error $stream-error')))))))
  (alias export $streams "output-stream" (type $output-type))
  (import "wasi:cli/stdout@0.2.6" (instance $stdout
    (alias outer 1 $output-type (type $outer-output))
    (export "output-stream" (type $output (eq $outer-output)))
    (export "get-stdout" (func (result (own $output))))))
"#;

/// A plain command in WAT, as a component of `wasi:cli/command`: writes what it reads to standard
/// output, in upper case's stead unchanged, and exits with the status that `body` leaves.
pub(crate) fn command(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(component{STDOUT}  (import "wasi:cli/exit@0.2.6" (instance $exit
    (export "exit" (func (param "status" (result))))))
  (core module $memory (memory (export "memory") 1))
  (core instance $memory (instantiate $memory))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower
    (func $streams "[method]output-stream.blocking-write-and-flush") (memory (core memory $memory "memory"))))
  (core func $leave (canon lower (func $exit "exit")))
  (core module $main
    (import "host" "memory" (memory 1))
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "exit" (func $exit (param i32)))
    (data (i32.const 0) "hello from a command\n")
    (func (export "run") (result i32)
      (call $write (call $get) (i32.const 0) (i32.const 21) (i32.const 64))
      {body}))
  (core instance $main (instantiate $main (with "host" (instance
    (export "memory" (memory $memory "memory"))
    (export "get" (func $get))
    (export "write" (func $write))
    (export "exit" (func $leave))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (component $wrap
    (import "run" (func $run (result (result))))
    (export "run" (func $run)))
  (instance $run-instance (instantiate $wrap (with "run" (func $run))))
  (export "wasi:cli/run@0.2.6" (instance $run-instance)))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// A plain command that opens a file and writes what is in it to standard output, or `A` and the
/// number of the error. `folder` is the number of the one that it is given.
pub(crate) fn reader(folder: u32, path: &str) -> Vec<u8> {
    let (at, length) = (folder * 12, path.len());
    let text = format!(
        r#"(component{STDOUT}  (import "wasi:filesystem/types@0.2.6" (instance $types
    (export "descriptor" (type $descriptor (sub resource)))
    (type $follow' (flags "symlink-follow"))
    (export "path-flags" (type $follow (eq $follow')))
    (type $how' (flags "create" "directory" "exclusive" "truncate"))
    (export "open-flags" (type $how (eq $how')))
    (type $rights' (flags "read" "write" "file-integrity-sync" "data-integrity-sync"
      "requested-write-sync" "mutate-directory"))
    (export "descriptor-flags" (type $rights (eq $rights')))
    (type $code' (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota"
      "exist" "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io"
      "is-directory" "loop" "too-many-links" "message-size" "name-too-long" "no-device" "no-entry" "no-lock" "insufficient-memory"
      "insufficient-space" "not-directory" "not-empty" "not-recoverable" "unsupported" "no-tty"
      "no-such-device" "overflow" "not-permitted" "pipe" "read-only" "invalid-seek" "text-file-busy"
      "cross-device"))
    (export "error-code" (type $code (eq $code')))
    (export "[method]descriptor.open-at" (func (param "self" (borrow $descriptor))
      (param "path-flags" $follow) (param "path" string) (param "open-flags" $how)
      (param "flags" $rights) (result (result (own $descriptor) (error $code)))))
    (export "[method]descriptor.read" (func (param "self" (borrow $descriptor))
      (param "length" u64) (param "offset" u64)
      (result (result (tuple (list u8) bool) (error $code)))))))
  (alias export $types "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.6" (instance $preopens
    (alias outer 1 $descriptor (type $outer))
    (export "descriptor" (type $inner (eq $outer)))
    (export "get-directories" (func (result (list (tuple (own $inner) string)))))))
  (core module $memory
    (memory (export "memory") 2)
    (global $heap (mut i32) (i32.const 8192))
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (local $place i32)
      (local.set $place (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
      (global.set $heap (i32.add (local.get $place) (local.get $size)))
      (local.get $place)))
  (core instance $memory (instantiate $memory))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower
    (func $streams "[method]output-stream.blocking-write-and-flush") (memory (core memory $memory "memory"))))
  (core func $folders (canon lower (func $preopens "get-directories")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $open (canon lower (func $types "[method]descriptor.open-at")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $read (canon lower (func $types "[method]descriptor.read")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core module $main
    (import "host" "memory" (memory 1))
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "folders" (func $folders (param i32)))
    (import "host" "open" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "read" (func $read (param i32 i64 i64 i32)))
    (data (i32.const 256) "{path}")
    (func (export "run") (result i32)
      (call $folders (i32.const 64))
      (call $open (i32.load (i32.add (i32.load (i32.const 64)) (i32.const {at}))) (i32.const 0)
        (i32.const 256) (i32.const {length}) (i32.const 0) (i32.const 1) (i32.const 80))
      (if (i32.load8_u (i32.const 80))
        (then
          (i32.store8 (i32.const 128) (i32.add (i32.const 65) (i32.load8_u (i32.const 84))))
          (call $write (call $get) (i32.const 128) (i32.const 1) (i32.const 160)))
        (else
          (call $read (i32.load (i32.const 84)) (i64.const 1000) (i64.const 0) (i32.const 96))
          (call $write (call $get) (i32.load (i32.const 100)) (i32.load (i32.const 104)) (i32.const 160))))
      (i32.const 0)))
  (core instance $main (instantiate $main (with "host" (instance
    (export "memory" (memory $memory "memory"))
    (export "get" (func $get))
    (export "write" (func $write))
    (export "folders" (func $folders))
    (export "open" (func $open))
    (export "read" (func $read))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (component $wrap
    (import "run" (func $run (result (result))))
    (export "run" (func $run)))
  (instance $run-instance (instantiate $wrap (with "run" (func $run))))
  (export "wasi:cli/run@0.2.6" (instance $run-instance)))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// Compiles a library of the C contract.
pub(crate) fn library(source: &Path, to: &Path) {
    compile(source, &root().join("include"), to);
}

/// Compiles a library that was written against the contract as it was first published.
pub(crate) fn library_of_first_contract(to: &Path) {
    let folder = root().join("crates/legatus-host/tests/modules/v1.0");
    compile(&folder.join("first.c"), &folder, to);
}

fn compile(source: &Path, include: &Path, to: &Path) {
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-I"])
        .arg(include)
        .arg("-o")
        .arg(to)
        .arg(source)
        .output()
        .expect("a C compiler is installed");
    let told = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{told}");
}
