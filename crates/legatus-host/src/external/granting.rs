//! What of its grants a module is given: paths as they are on this machine at this time.

use std::path::{Path, PathBuf};

use super::grants::{Grants, refused};

/// Why a module is not given this path although it was granted, if so. `folders_only`: to
/// WebAssembly, which knows no way to a file but through a folder that it was given as a whole.
pub(crate) fn withheld(path: &Path, folders_only: bool) -> Option<String> {
    // What does not exist cannot be reached either way. Links lead where they lead now.
    let real = path.canonicalize().ok()?;
    if let Some(why) = refused(&real) {
        return Some(match real == path {
            true => why.to_owned(),
            false => format!("it leads to `{}`: {why}", real.display()),
        });
    }
    (folders_only && !real.is_dir()).then(|| {
        "it is a file, and WebAssembly can be given folders only: grant its folder, or use native \
         code"
            .to_owned()
    })
}

/// What of the grants is given, and what is not, in words with the reason.
pub(crate) fn given(mut grants: Grants, folders_only: bool) -> (Grants, Vec<String>) {
    let mut told = Vec::new();
    let mut keep = |what: &str, paths: &mut Vec<PathBuf>| {
        paths.retain(|path| match withheld(path, folders_only) {
            Some(why) => {
                told.push(format!("{what} {}: {why}", path.display()));
                false
            }
            None => true,
        });
    };
    keep("read", &mut grants.read);
    keep("write", &mut grants.write);
    (grants, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_what_nobody_is_granted_is_given_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let link = folder.join("link");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        let wanted = Grants {
            read: vec![folder.clone(), link.clone()],
            write: vec![link, "/nobody/has/this".into()],
            ..Grants::default()
        };
        let (grants, told) = given(wanted, false);
        assert_eq!(grants.read, [folder]);
        assert_eq!(grants.write, [Path::new("/nobody/has/this")]);
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|one| one.contains("it leads to `/proc`: ")));
    }

    #[test]
    fn a_file_is_given_to_native_code_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let wanted = Grants {
            read: vec![file.path().to_owned()],
            ..Grants::default()
        };
        assert_eq!(given(wanted.clone(), false), (wanted.clone(), Vec::new()));
        let (grants, told) = given(wanted, true);
        assert_eq!(grants, Grants::default());
        assert!(
            told.iter().any(|one| one.contains("folders only")),
            "{told:?}"
        );
    }
}
