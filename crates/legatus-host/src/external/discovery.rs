//! Looks through folders for modules, and refuses what others could change.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::manifest::{MANIFEST, MANIFEST_BYTES, Manifest};
use super::store::{Stamp, read_limited};

/// How deep folders are searched: vendor, module, version, and room.
const DEPTH: usize = 8;

/// Entries that are looked at in all: a folder of modules is not a home folder.
const ENTRIES: usize = 10_000;

/// The signed list of a module's files, and its signature.
pub(crate) const DIGESTS: &str = "module.digests";
pub(crate) const SIGNATURE: &str = "module.digests.minisig";

/// Something that may be a module.
#[derive(Debug)]
pub(crate) struct Found {
    /// The artefact, or the folder if it is not known which file that is.
    pub(crate) path: PathBuf,
    /// The folder of a module with a manifest.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) manifest: Option<Manifest>,
    /// Why it cannot be one.
    pub(crate) problem: Option<String>,
    /// What tells that nothing has changed.
    pub(crate) stamps: Vec<Stamp>,
}

/// All that may be modules in these folders, in a fixed order. Folders that do not exist are empty.
pub(crate) fn search(folders: &[PathBuf], extensions: &[String]) -> Vec<Found> {
    let mut search = Search {
        extensions,
        found: Vec::new(),
        left: ENTRIES,
    };
    for folder in folders {
        // The folder itself may be reached through a link; what is in it not.
        let Ok(folder) = folder.canonicalize() else {
            continue;
        };
        match fs::symlink_metadata(&folder) {
            Ok(metadata) => search.folder(&folder, &metadata, DEPTH),
            Err(error) => search.refuse(&folder, error.to_string()),
        }
    }
    search.found
}

struct Search<'a> {
    extensions: &'a [String],
    found: Vec<Found>,
    left: usize,
}

impl Search<'_> {
    fn refuse(&mut self, path: &Path, problem: String) {
        let stamps = fs::symlink_metadata(path).map(|found| Stamp::from(&found));
        self.found.push(Found {
            path: path.to_owned(),
            folder: None,
            manifest: None,
            problem: Some(problem),
            stamps: stamps.into_iter().collect(),
        });
    }

    fn folder(&mut self, folder: &Path, metadata: &Metadata, depth: usize) {
        if let Some(problem) = unsafe_to_use(metadata) {
            return self.refuse(folder, problem);
        }
        if folder.join(MANIFEST).symlink_metadata().is_ok() {
            let found = with_manifest(folder);
            self.found.push(found);
            return;
        }
        if depth == 0 {
            return self.refuse(folder, format!("it lies more than {DEPTH} folders deep"));
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.refuse(folder, error.to_string()),
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
            if path.file_name().is_none_or(hidden) {
                continue;
            }
            let Some(left) = self.left.checked_sub(1) else {
                return;
            };
            self.left = left;
            if left == 0 {
                return self.refuse(folder, format!("there are more than {ENTRIES} entries"));
            }
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                self.folder(&path, &metadata, depth - 1);
            } else if self.is_wanted(&path) {
                self.file(path, &metadata);
            }
        }
    }

    fn is_wanted(&self, path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| self.extensions.iter().any(|one| one == extension))
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata) {
        let problem = if metadata.is_symlink() {
            Some("it is a symbolic link".to_owned())
        } else {
            unsafe_to_use(metadata)
        };
        self.found.push(Found {
            path,
            folder: None,
            manifest: None,
            problem,
            stamps: vec![Stamp::from(metadata)],
        });
    }
}

fn with_manifest(folder: &Path) -> Found {
    let mut found = Found {
        path: folder.to_owned(),
        folder: Some(folder.to_owned()),
        manifest: None,
        problem: None,
        stamps: Vec::new(),
    };
    let mut look = |path: &Path| {
        let metadata = fs::symlink_metadata(path)
            .map_err(|error| format!("cannot read `{}`: {error}", shown(path)))?;
        found.stamps.push(Stamp::from(&metadata));
        if metadata.is_symlink() {
            return Err(format!("`{}` is a symbolic link", shown(path)));
        }
        match unsafe_to_use(&metadata) {
            Some(problem) => Err(format!("`{}`: {problem}", shown(path))),
            None => Ok(()),
        }
    };
    let file = folder.join(MANIFEST);
    let manifest = look(&file).and_then(|()| {
        let read = read_limited(&file, MANIFEST_BYTES);
        let (bytes, _) = read.map_err(|error| format!("{MANIFEST}: {error}"))?;
        let text = str::from_utf8(&bytes).map_err(|_| format!("{MANIFEST} is not UTF-8"))?;
        Manifest::parse(text).map_err(|error| error.to_string())
    });
    let checked = manifest.and_then(|manifest| {
        let artefact = folder.join(&manifest.artefact);
        // Each folder on the way counts, too.
        let mut way = folder.to_owned();
        for part in &manifest.artefact {
            way.push(part);
            look(&way)?;
        }
        for signed in [DIGESTS, SIGNATURE].map(|name| folder.join(name)) {
            if signed.symlink_metadata().is_ok() {
                look(&signed)?;
            }
        }
        Ok((manifest, artefact))
    });
    match checked {
        Ok((manifest, artefact)) => {
            found.path = artefact;
            found.manifest = Some(manifest);
        }
        Err(problem) => found.problem = Some(problem),
    }
    found
}

fn shown(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Why a file or folder is not used: somebody else could change it.
fn unsafe_to_use(metadata: &Metadata) -> Option<String> {
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Some(format!(
            "it belongs to the user {owner}, neither root nor us"
        ));
    }
    (metadata.mode() & 0o022 != 0 && !metadata.is_symlink()).then(|| {
        format!(
            "others may write it (mode {:04o})",
            metadata.mode() & 0o7777
        )
    })
}
