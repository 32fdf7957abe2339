//! The borders between the crates.

use std::collections::BTreeSet;

use toml::Table;

use crate::repository::read;

const MIDDLE: [&str; 3] = ["legatus-host", "legatus-modules", "legatus-net"];

/// The names of a crate's dependencies of these kinds.
fn dependencies(of: &str, kinds: &[&str]) -> BTreeSet<String> {
    let manifest: Table = read(&format!("crates/{of}/Cargo.toml")).parse().unwrap();
    let tables = kinds.iter().filter_map(|kind| manifest.get(*kind));
    let names = tables.flat_map(|table| table.as_table().unwrap().keys().cloned());
    names.collect()
}

#[test]
fn the_contract_depends_on_nothing_that_could_open_a_socket_a_file_or_a_process() {
    let known = [
        "bytes",
        "prost",
        "strsim",
        "thiserror",
        "tokio",
        "tokio-util",
        "tracing",
        "wildmatch",
    ];
    let found = dependencies("legatus-core", &["dependencies"]);
    let known = known.map(str::to_owned).into_iter().collect();
    assert_eq!(
        found, known,
        "a new dependency of the contract is a design decision"
    );
}

#[test]
fn modules_host_and_network_do_not_depend_on_one_another() {
    for one in MIDDLE {
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        let ours = dependencies(one, &kinds).into_iter();
        let ours: Vec<_> = ours.filter(|name| name.starts_with("legatus")).collect();
        assert_eq!(ours, ["legatus-core"], "{one}");
    }
}

#[test]
fn every_version_is_named_once_in_the_workspace() {
    let root: Table = read("Cargo.toml").parse().unwrap();
    let shared = root["workspace"]["dependencies"].as_table().unwrap();
    for one in ["legatus", "legatus-core", "legatus-sdk"]
        .into_iter()
        .chain(MIDDLE)
    {
        let manifest: Table = read(&format!("crates/{one}/Cargo.toml")).parse().unwrap();
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(kind).and_then(|table| table.as_table()) else {
                continue;
            };
            for (name, dependency) in table {
                let itself = name == one;
                assert!(itself || shared.contains_key(name), "{one}: {name}");
                assert!(
                    itself || dependency.get("version").is_none(),
                    "{one}: {name}"
                );
            }
        }
    }
}

#[test]
fn every_crate_obeys_the_lints_of_the_workspace() {
    for one in ["legatus", "legatus-core", "legatus-sdk"]
        .into_iter()
        .chain(MIDDLE)
    {
        let manifest: Table = read(&format!("crates/{one}/Cargo.toml")).parse().unwrap();
        assert_eq!(
            manifest["lints"]["workspace"].as_bool(),
            Some(true),
            "{one}"
        );
    }
}
