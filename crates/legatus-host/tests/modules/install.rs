//! Modules that a client sends: whole or not at all, and only what would be usable.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use legatus_core::{Module, Outcome, Registry};
use legatus_host::external::{
    Catalogue, InstallModule, Parcel, ParcelFile, State, ToldModule, sha256,
};

use crate::guests::{HELLO, Wat};
use crate::kit::{Kit, call, failure};

fn component(version: &'static str) -> Vec<u8> {
    let guest = Wat {
        version,
        ..Wat::new("sent", HELLO)
    };
    guest.component()
}

/// A catalogue with somebody who looks for changes, and the errand.
fn server(kit: &Kit) -> (Arc<Catalogue>, Arc<dyn Module>) {
    let catalogue = Arc::new(kit.catalogue());
    let looking = Arc::clone(&catalogue);
    tokio::spawn(async move {
        loop {
            looking.wanted().await;
            let scanned = Arc::clone(&looking);
            let scan = tokio::task::spawn_blocking(move || scanned.scan());
            scan.await.unwrap();
            looking.in_force();
        }
    });
    let folder = kit.settings.folders[0].clone();
    let errand = InstallModule::new(Arc::clone(&catalogue), folder);
    (catalogue, Arc::new(errand))
}

/// What a client sends: the announcement in a message of its own, then the files.
async fn install(errand: &Arc<dyn Module>, parcel: &Parcel, rest: &[u8]) -> (Vec<u8>, Outcome) {
    let running = crate::kit::start(errand, &["it"]);
    let (sender, mut receiver, outcome) = running.split();
    let announcement = serde_json::to_vec(parcel).unwrap();
    // A refusal may come before everything was sent.
    sender.send(announcement.into()).await.ok();
    for chunk in rest.chunks(1000) {
        if sender.send(chunk.to_vec().into()).await.is_err() {
            break;
        }
    }
    drop(sender);
    let mut told = Vec::new();
    while let Some(message) = receiver.receive().await {
        told = message.to_vec();
    }
    (told, outcome.await.unwrap())
}

fn file(path: &str, bytes: &[u8]) -> ParcelFile {
    ParcelFile {
        path: PathBuf::from(path),
        length: bytes.len() as u64,
        digest: sha256(bytes),
        executable: false,
    }
}

/// A module with a manifest.
fn packed(version: &str, component: &[u8], rest: &str) -> (Parcel, Vec<u8>) {
    let manifest = format!(
        "name = 'sent'\nvendor = 'acme'\nversion = '{version}'\nkind = 'wasm'\n\
         artefact = 'sent.wasm'\n{rest}"
    );
    let files = vec![
        file("module.toml", manifest.as_bytes()),
        file("sent.wasm", component),
    ];
    (Parcel { files }, [manifest.as_bytes(), component].concat())
}

/// Nothing is left of what did not take its place.
fn nothing_waits(kit: &Kit) {
    let entries = fs::read_dir(&kit.settings.folders[0]).unwrap().flatten();
    let waiting = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(waiting.count(), 0);
}

pub(crate) async fn what_arrives_takes_its_place_and_can_be_called() {
    let kit = Kit::new();
    let (catalogue, errand) = server(&kit);
    for version in ["1.0.0", "1.1.0"] {
        let (parcel, bytes) = packed(version, &component(version), "");
        let (told, outcome) = install(&errand, &parcel, &bytes).await;
        assert_eq!(outcome, Outcome::SUCCESS);
        let told = ToldModule::parse(&told).unwrap();
        let facts = [&told.name, &told.version, &told.state].map(String::as_str);
        assert_eq!(facts, ["acme/sent", version, "ready"]);
        let registry = catalogue.registry(&Registry::new());
        let module = registry.resolve("sent").unwrap();
        assert_eq!(module.spec().version, version);
        let (output, _) = call(module, &[], b"").await;
        assert_eq!(output, b"hello from wasm\n");
        nothing_waits(&kit);
    }
    // A file without a manifest belongs to the vendor `local`.
    let bare = Wat::new("bare", HELLO).component();
    let parcel = Parcel {
        files: vec![file("bare.wasm", &bare)],
    };
    let (_, outcome) = install(&errand, &parcel, &bare).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert!(kit.path("local/bare/bare.wasm").is_file());
}

pub(crate) async fn what_cannot_be_used_leaves_everything_as_it_was() {
    let kit = Kit::new();
    let (catalogue, errand) = server(&kit);
    let good = component("1.0.0");
    let (parcel, bytes) = packed("1.0.0", &good, "");
    assert_eq!(install(&errand, &parcel, &bytes).await.1, Outcome::SUCCESS);
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    let cut = bytes[..bytes.len() - 1].to_vec();
    let (broken, broken_bytes) = packed("1.0.0", b"\0asm nonsense", "");
    let (lying, lying_bytes) = packed("2.0.0", &good, "");
    let digest = format!("digest = '{}'\n", "0".repeat(64));
    let (other, other_bytes) = packed("1.0.0", &good, &digest);
    let leading_out = Parcel {
        files: vec![file("../sent.wasm", &good)],
    };
    for (parcel, bytes, expected) in [
        (&parcel, &changed, "its digest is another"),
        (&parcel, &cut, "stopped before"),
        (&broken, &broken_bytes, "no WebAssembly component"),
        (&lying, &lying_bytes, "the manifest says version 2.0.0"),
        (&other, &other_bytes, "the manifest says 000"),
        (&leading_out, &good, "no path within a module"),
        (
            &Parcel { files: Vec::new() },
            &Vec::new(),
            "it is no module",
        ),
    ] {
        let (told, outcome) = install(&errand, parcel, bytes).await;
        let fault = failure(&outcome);
        assert!(fault.contains(expected), "{fault}");
        assert!(told.is_empty());
        nothing_waits(&kit);
    }
    catalogue.scan();
    let listed = catalogue.listed();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].state, State::Ready);
}

pub(crate) async fn what_may_not_run_is_not_installed() {
    let mut kit = Kit::new();
    kit.settings.require_signature = true;
    let (_, errand) = server(&kit);
    let (parcel, bytes) = packed("1.0.0", &component("1.0.0"), "");
    let (_, outcome) = install(&errand, &parcel, &bytes).await;
    assert!(failure(&outcome).contains("not signed"));
    let mut kit = Kit::new();
    kit.settings.allow_native = false;
    let (_, errand) = server(&kit);
    let parcel = Parcel {
        files: vec![file("native.so", b"\x7fELF")],
    };
    let (_, outcome) = install(&errand, &parcel, b"\x7fELF").await;
    assert!(failure(&outcome).contains("--allow-native"));
}

pub(crate) async fn a_module_that_somebody_else_has_put_there_is_not_replaced() {
    let kit = Kit::new();
    let good = component("1.0.0");
    let (parcel, bytes) = packed("1.0.0", &good, "");
    kit.put("by-hand/sent.wasm", &good);
    let manifest = &bytes[..bytes.len() - good.len()];
    kit.put("by-hand/module.toml", manifest);
    let (_, errand) = server(&kit);
    let (_, outcome) = install(&errand, &parcel, &bytes).await;
    let fault = failure(&outcome);
    assert!(
        fault.contains("acme/sent") && fault.contains("by-hand"),
        "{fault}"
    );
    nothing_waits(&kit);
}
