//! What a module was not granted: a clear error in the module, and a line in the log of its host.

use std::fs;

use legatus_core::Outcome;
use legatus_host::external::Grants;

use crate::guests;
use crate::kit::{Kit, call};
use crate::useful::logged;

/// What a guest that opens this file gets, and what the log says.
async fn opened(kit: &Kit) -> (String, Vec<String>) {
    let module = kit.module("reader");
    let mut got = Vec::new();
    let lines = logged(async {
        let (output, outcome) = call(&module, &[], b"").await;
        assert_eq!(outcome, Outcome::SUCCESS);
        got = output;
    });
    let lines = lines.await;
    (String::from_utf8(got).unwrap(), lines)
}

/// The first of the errors: access.
const ACCESS: &str = "A";

pub(crate) async fn a_guest_without_files_is_told_so_and_the_log_too() {
    let kit = Kit::new();
    kit.put("reader.wasm", guests::reader(0, "etc/passwd"));
    let (got, lines) = opened(&kit).await;
    assert_eq!(got, ACCESS);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("denied") && lines[0].contains("`/etc/passwd`"),
        "{lines:?}"
    );
}

pub(crate) async fn what_a_library_asks_for_in_vain_is_in_the_log() {
    let kit = Kit::new();
    let compiled = kit.outside("compiled").join("hostile.so");
    guests::library(&crate::hostile_native::source(), &compiled);
    let library = fs::read(&compiled).unwrap();
    let wants = "[grants]\nread = ['/etc/passwd']\nrun = true\n";
    kit.put_with_manifest("hostile", &library, "native", wants);
    let module = kit.module("hostile");
    let lines = logged(async {
        let (output, _) = call(&module, &["passwd"], b"").await;
        assert_eq!(output, b"Permission denied");
    });
    let lines = lines.await;
    for what in ["`read /etc/passwd`", "`run programs`"] {
        assert!(lines.iter().any(|line| line.contains(what)), "{lines:?}");
    }
}

pub(crate) async fn what_lies_beside_a_granted_folder_is_denied_as_well() {
    let mut kit = Kit::new();
    let folder = kit.outside("granted");
    fs::write(kit.outside("beside").join("file"), "secret").unwrap();
    let wants = format!(
        "[grants]\nread = ['{}', '/nobody/grants/this']\n",
        folder.display()
    );
    let guest = guests::reader(0, "../beside/file");
    kit.put_with_manifest("reader", &guest, "command", &wants);
    let granted = Grants {
        read: vec![folder.clone()],
        ..Grants::default()
    };
    kit.grant("acme/reader", granted);
    let (got, lines) = opened(&kit).await;
    assert!(got == ACCESS || got == "`", "not permitted: {got}");
    let asked_for = lines
        .iter()
        .find(|line| line.contains("`read /nobody/grants/this`"));
    assert!(asked_for.is_some(), "{lines:?}");
    let denied = format!("`{}/../beside/file`", folder.display());
    let told = lines.iter().find(|line| line.contains(&denied));
    assert!(told.is_some(), "{lines:?}");
}

pub(crate) async fn a_file_is_not_given_to_webassembly_which_is_told() {
    let mut kit = Kit::new();
    let file = kit.outside("granted").join("file");
    fs::write(&file, "secret").unwrap();
    let wants = format!("[grants]\nread = ['{}']\n", file.display());
    kit.put_with_manifest("reader", &guests::reader(0, "file"), "command", &wants);
    let granted = Grants {
        read: vec![file.clone()],
        ..Grants::default()
    };
    kit.grant("acme/reader", granted);
    let listed = kit.listed();
    assert_eq!(listed.has, Grants::default());
    let expected = format!("read {}: it is a file", file.display());
    assert!(
        listed.withheld.iter().any(|one| one.starts_with(&expected)),
        "{:?}",
        listed.withheld
    );
    let (got, lines) = opened(&kit).await;
    assert_eq!(got, ACCESS);
    let denied = format!("`read {}`", file.display());
    assert!(lines.iter().any(|line| line.contains(&denied)), "{lines:?}");
}

pub(crate) async fn nobody_is_granted_what_leads_to_processes() {
    let mut kit = Kit::new();
    for refused in ["/", "/proc", "/proc/self", "/sys", "/dev"] {
        let wants = format!("[grants]\nread = ['{refused}']\n");
        kit.put_with_manifest("reader", &guests::reader(0, "self/mem"), "command", &wants);
        let told = kit.broken();
        assert!(
            told.contains(&format!("`{refused}` cannot be granted")),
            "{told}"
        );
    }
    let link = kit.outside("granted").join("link");
    std::os::unix::fs::symlink("/proc", &link).unwrap();
    let wants = format!("[grants]\nread = ['{}']\n", link.display());
    kit.put_with_manifest("reader", &guests::reader(0, "self/mem"), "command", &wants);
    let granted = Grants {
        read: vec![link],
        ..Grants::default()
    };
    kit.grant("acme/reader", granted);
    assert!(kit.listed().withheld[0].contains("it leads to `/proc`"));
    let (got, _) = opened(&kit).await;
    assert_eq!(got, ACCESS);
}
