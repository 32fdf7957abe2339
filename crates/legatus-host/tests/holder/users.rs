//! Holders that become another user.

use std::path::Path;

use legatus_core::Outcome;
use legatus_host::User;

use crate::subject::{call, launcher};

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) async fn a_holder_becomes_its_user_for_good_or_does_nothing() {
    let other = User::named(if root() { "nobody" } else { "root" }).unwrap();
    let (uid, gid) = (other.uid, other.gid);
    let launcher = launcher().with_user(other);
    let (report, outcome) = call(launcher.clone(), &["report"]).finish().await;
    if !root() {
        let Outcome::Unavailable(fault) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(fault.message().contains("cannot become the user `root`"));
        assert!(report.is_empty());
        return;
    }
    assert_eq!(outcome, Outcome::SUCCESS);
    for ids in [
        format!("\nUid: {uid} {uid} {uid} {uid}\n"),
        format!("\nGid: {gid} {gid} {gid} {gid}\n"),
        format!("\nGroups: {gid}\n"),
    ] {
        assert!(report.contains(&ids), "{report}");
    }
    let back = call(launcher, &["become-root"]).outcome().await;
    assert_eq!(back, Outcome::Exit(0));
}

pub(crate) async fn a_user_without_a_home_works_in_the_root_folder() {
    let mut user = User::named(if root() { "nobody" } else { "root" }).unwrap();
    if !root() {
        // Becoming oneself needs no rights.
        user.uid = rustix::process::getuid().as_raw();
        user.gid = rustix::process::getgid().as_raw();
    }
    user.home = Path::new("/nonexistent").into();
    let (report, outcome) = call(launcher().with_user(user), &["report"]).finish().await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert!(report.contains("folder=/\n"), "{report}");
    assert!(report.contains(r#""LOGNAME""#), "{report}");
}
