//! What is refused before it is ever called, with a reason that names the rule; the others go on.

use std::fs;
use std::os::unix::fs::symlink;

use legatus_core::{Outcome, Registry};
use legatus_host::external::{State, new_key, public_key, sign};

use crate::guests::{self, HELLO, Wat};
use crate::kit::{Kit, call, open_to_others};

fn hello() -> Vec<u8> {
    Wat::new("hello", HELLO).component()
}

/// Why a file of this name and content is broken.
fn broken(name: &str, bytes: &[u8]) -> String {
    let kit = Kit::new();
    kit.put(name, bytes);
    kit.broken()
}

/// Why a module is broken whose manifest says this, beside the usual.
fn broken_manifest(rest: &str) -> String {
    let kit = Kit::new();
    kit.put_with_manifest("hello", &hello(), "wasm", rest);
    kit.broken()
}

pub(crate) async fn artefacts_that_are_none() {
    let component = hello();
    let (half, _) = component.split_at(component.len() / 2);
    assert!(broken("a.wasm", half).contains("no WebAssembly component"));
    assert!(broken("a.wasm", b"").contains("neither"));
    assert!(broken("a.wasm", b"#!/bin/sh\n").contains("neither"));
    let core = wat::parse_str("(module)").unwrap();
    assert!(broken("a.wasm", &core).contains("no WebAssembly component"));
    let large = Kit::new();
    let file = fs::File::create(large.path("a.wasm")).unwrap();
    file.set_len(200 << 20).unwrap();
    assert!(large.broken().contains("200 MiB, more than 64 MiB"));
    // An ELF file for another machine, and one that is cut off.
    let kit = Kit::new();
    let compiled = kit.path("a.o");
    guests::library(&crate::hostile_native::source(), &compiled);
    let mut library = fs::read(&compiled).unwrap();
    let cut = library[..1000].to_vec();
    library[18] = 0xb7; // e_machine: EM_AARCH64
    assert!(broken("a.so", &library).contains("cannot be loaded"));
    let told = broken("a.so", &cut);
    // The loader maps it, and then there is nothing where it looks.
    assert!(
        told.contains("cannot be loaded") || told.contains("SIGBUS"),
        "{told}"
    );
}

pub(crate) async fn what_is_replaced_while_it_is_loaded() {
    // Whatever a look finds fits together: version and digest are of the same file.
    let versions = ["1.0.0", "2.0.0"];
    let components = versions.map(|version| {
        let guest = Wat {
            version,
            ..Wat::new("changing", HELLO)
        };
        guest.component()
    });
    let kit = Kit::new();
    kit.put("changing.wasm", &components[0]);
    let catalogue = kit.catalogue();
    let path = kit.path("changing.wasm");
    let replacing = components.clone();
    let replaced = std::thread::spawn(move || {
        for number in 0..200 {
            let aside = path.with_extension("aside");
            fs::write(&aside, &replacing[number % 2]).unwrap();
            fs::rename(&aside, &path).unwrap();
        }
    });
    loop {
        let over = replaced.is_finished();
        catalogue.scan();
        for listed in catalogue.listed() {
            if listed.state == State::Ready {
                let place = versions.iter().position(|one| *one == listed.version);
                let digest = legatus_host::external::sha256(&components[place.unwrap()]);
                assert_eq!(listed.digest, digest);
            }
        }
        if over {
            break;
        }
    }
    replaced.join().unwrap();
    let listed = catalogue.listed();
    assert_eq!(
        (listed[0].state.clone(), listed[0].version.as_str()),
        (State::Ready, "2.0.0")
    );
}

pub(crate) async fn manifests_that_lie() {
    assert!(broken_manifest("colour = 'red'\n").contains("unknown field `colour`"));
    let digest = format!("digest = '{}'\n", "0".repeat(64));
    assert!(broken_manifest(&digest).contains("the manifest says 000"));
    assert!(broken_manifest("halves = ['sender']\n").contains("client half"));
    let kit = Kit::new();
    kit.put_with_manifest("other", &hello(), "wasm", "");
    assert!(kit.broken().contains("it describes `hello`"));
    let kit = Kit::new();
    kit.put(
        "a/module.toml",
        "name = 'a'\nversion = '1'\nkind = 'wasm'\nartefact = 'gone.wasm'\n",
    );
    assert!(kit.broken().contains("gone.wasm"));
}

pub(crate) async fn what_others_could_change() {
    let kit = Kit::new();
    open_to_others(&kit.put("a.wasm", hello()));
    assert!(kit.broken().contains("others may write it"));
    let kit = Kit::new();
    kit.put_with_manifest("hello", &hello(), "wasm", "");
    open_to_others(&kit.path("hello/artefact"));
    assert!(kit.broken().contains("others may write it"));
    let outside = Kit::new();
    let outside = outside.put("a.wasm", hello());
    let kit = Kit::new();
    symlink(&outside, kit.path("a.wasm")).unwrap();
    assert!(kit.broken().contains("symbolic link"));
    let kit = Kit::new();
    kit.put_with_manifest("hello", &hello(), "wasm", "");
    fs::remove_file(kit.path("hello/artefact")).unwrap();
    symlink(&outside, kit.path("hello/artefact")).unwrap();
    assert!(kit.broken().contains("symbolic link"));
}

pub(crate) async fn other_versions_of_the_contract() {
    for version in ["2.0.0", "0.9.0"] {
        let component = Wat::new("hello", HELLO).component_for(version);
        let told = broken("a.wasm", &component);
        assert!(told.contains(version) && told.contains("1.0.0"), "{told}");
    }
    let kit = Kit::new();
    let source = kit.path("old.c");
    let text = fs::read_to_string(crate::hostile_native::source()).unwrap();
    fs::write(
        &source,
        text.replace("library = {LEGATUS_ABI,", "library = {7,"),
    )
    .unwrap();
    guests::library(&source, &kit.path("old.so"));
    assert!(kit.broken().contains("version 7"));
    fs::write(&source, text.replace("abi == LEGATUS_ABI", "abi == 2")).unwrap();
    guests::library(&source, &kit.path("old.so"));
    assert!(kit.broken().contains("does not speak version 1"));
    for version in [0, 2] {
        let told = format!("\"protocol\": {version}");
        let text = crate::useful::EXECUTABLE.replace("\"protocol\": 1", &told);
        let kit = Kit::new();
        kit.put_with_manifest("upper", text.as_bytes(), "executable", crate::useful::ROOM);
        let told = kit.broken();
        let expected = format!("version {version} of the protocol, this program speaks 1");
        assert!(told.contains(&expected), "{told}");
    }
}

pub(crate) async fn halves_and_exports_that_are_not_there() {
    let empty = wat::parse_str("(component)").unwrap();
    assert!(broken("a.wasm", &empty).contains("exports neither"));
    let guest = Wat {
        tells_of_sender: true,
        ..Wat::new("liar", HELLO)
    };
    assert!(broken("a.wasm", &guest.component()).contains("client half"));
    let kit = Kit::new();
    let source = kit.path("none.c");
    fs::write(&source, "int nothing;\n").unwrap();
    guests::library(&source, &kit.path("none.so"));
    assert!(kit.broken().contains("legatus_modules"));
}

pub(crate) async fn names_that_are_taken_or_malformed() {
    for bad in ["a/b", "UPPER", "..", ""] {
        let told = broken("a.wasm", &Wat::new(bad, HELLO).component());
        assert!(told.contains("names have"), "{bad}: {told}");
    }
    // Two of one name, of two vendors: neither is what the name means.
    let kit = Kit::new();
    kit.put("hello.wasm", hello());
    kit.put_with_manifest("hello", &hello(), "wasm", "");
    let registry = kit.catalogue().registry(&Registry::new());
    let error = registry.resolve("hello").map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`hello` could be `acme/hello` and `local/hello`"
    );
    assert!(registry.resolve("acme/hello").is_ok());
    // That of a built-in one means the built-in one.
    let mut builtin = Registry::new();
    builtin.add_shared(kit.module("acme/hello")).unwrap();
    let registry = kit.catalogue().registry(&builtin);
    let meant = registry.resolve("hello").unwrap();
    let (_, first) = registry.qualified().next().unwrap();
    assert!(std::sync::Arc::ptr_eq(meant, first));
}

pub(crate) async fn what_is_not_signed_where_signatures_are_asked_for() {
    let mut kit = Kit::new();
    kit.put_with_manifest("hello", &hello(), "wasm", "");
    kit.settings.require_signature = true;
    assert!(matches!(kit.listed().state, State::Off(reason) if reason.contains("not signed")));
    let (secret, public) = new_key().unwrap();
    sign(&kit.path("hello"), &secret, None).unwrap();
    assert!(kit.broken().contains("no trusted key"));
    kit.settings.trusted_keys = vec![public_key(&public).unwrap()];
    let listed = kit.listed();
    assert_eq!(listed.state, State::Ready);
    assert_eq!(listed.signed_by, public_key(&public));
    kit.put(
        "hello/module.toml",
        fs::read_to_string(kit.path("hello/module.toml")).unwrap() + "\n",
    );
    assert!(kit.broken().contains("module.toml"));
}

pub(crate) async fn native_code_unless_it_is_allowed() {
    let mut kit = Kit::new();
    guests::library(&crate::hostile_native::source(), &kit.path("hostile.so"));
    kit.settings.allow_native = false;
    assert!(matches!(kit.listed().state, State::Off(reason) if reason.contains("--allow-native")));
    assert!(
        kit.catalogue()
            .registry(&Registry::new())
            .resolve("hostile")
            .is_err()
    );
}

pub(crate) async fn a_broken_module_does_not_disturb_the_others() {
    let kit = Kit::new();
    kit.put("broken.wasm", b"\0asm and nothing more");
    kit.put("deep/er/hello.wasm", hello());
    kit.put("not a module.txt", b"");
    kit.put(".hidden.wasm", b"\0asm");
    let states: Vec<_> = kit.catalogue().listed();
    let ready = states.iter().filter(|one| one.state == State::Ready);
    assert_eq!((states.len(), ready.count()), (2, 1));
    let (output, outcome) = call(&kit.module("hello"), &[], b"").await;
    assert_eq!(
        (output.as_slice(), outcome),
        (&b"hello from wasm\n"[..], Outcome::Exit(3))
    );
}
