//! Modules whose calls run as another user, or as one for each identity.
//!
//! Only root can become another user; everybody else becomes himself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use legatus_core::{Outcome, Pattern};
use legatus_host::external::Grants;
use legatus_host::{User, Users};

use crate::guests;
use crate::kit::{Kit, call};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Somebody else, if that is possible.
fn other() -> User {
    if is_root() {
        return User::named("nobody").unwrap();
    }
    let mut own = User::named("root").unwrap();
    own.uid = rustix::process::getuid().as_raw();
    own.gid = rustix::process::getgid().as_raw();
    own
}

/// Everybody may pass through the folder, and nobody but its owner read the file `secret`.
fn files(kit: &Kit) {
    let folder = kit.outside("files");
    for (name, mode) in [("open", 0o644), ("secret", 0o600)] {
        fs::write(folder.join(name), name).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&folder, all.clone()).unwrap();
    fs::set_permissions(folder.parent().unwrap(), all).unwrap();
}

/// What a guest reads that has files, as `users` say.
async fn read(name: &str, users: Users) -> (Vec<u8>, Outcome) {
    let mut kit = Kit::new();
    files(&kit);
    let folder = kit.outside("files");
    let wants = format!("[grants]\nread = ['{}']\n", folder.display());
    kit.put_with_manifest("reader", &guests::reader(0, name), "command", &wants);
    let granted = Grants {
        read: vec![folder],
        ..Grants::default()
    };
    kit.grant("acme/reader", granted);
    kit.settings.users = users;
    call(&kit.module("reader"), &[], b"").await
}

fn all_as(user: User) -> Users {
    Users {
        run_as: Some(user),
        mapped: None,
    }
}

fn each_as(identity: &str, user: User) -> Users {
    Users {
        run_as: None,
        mapped: Some(vec![(Pattern::new(identity), user)]),
    }
}

pub(crate) async fn a_component_touches_files_in_the_rights_of_its_calls_user() {
    let own = read("secret", Users::default()).await;
    assert_eq!(own, (b"secret".to_vec(), Outcome::SUCCESS));
    for users in [all_as(other()), each_as("test*", other())] {
        let open = read("open", users.clone()).await;
        assert_eq!(open, (b"open".to_vec(), Outcome::SUCCESS), "{users:?}");
        let secret = read("secret", users).await;
        // `A` is the first of the errors: access.
        let expected = if is_root() { "A" } else { "secret" };
        assert_eq!(secret, (expected.into(), Outcome::SUCCESS));
    }
}

pub(crate) async fn an_identity_without_a_user_calls_no_module_of_any_kind() {
    let mut kit = Kit::new();
    kit.put("plain.wasm", guests::command("(i32.const 0)"));
    guests::library(&crate::hostile_native::source(), &kit.path("hostile.so"));
    kit.settings.users = each_as("somebody-else", other());
    for module in ["plain", "hostile"] {
        let (output, outcome) = call(&kit.module(module), &[], b"").await;
        let Outcome::Denied(fault) = outcome else {
            panic!("{module}: {outcome:?}");
        };
        assert!(fault.to_string().contains("`tester`"), "{fault}");
        assert!(output.is_empty());
    }
}

pub(crate) async fn a_library_runs_as_the_user_of_its_caller_for_good() {
    let mut kit = Kit::new();
    guests::library(&crate::hostile_native::source(), &kit.path("hostile.so"));
    let user = other();
    let expected = format!("{} {}", user.uid, user.uid);
    for users in [all_as(user.clone()), each_as("tester", user)] {
        kit.settings.users = users;
        let (output, outcome) = call(&kit.module("hostile"), &["user"], b"").await;
        assert_eq!(outcome, Outcome::SUCCESS);
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }
}
