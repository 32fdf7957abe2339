//! The cache: compiled code, copies of native artefacts, and descriptions, by digest. Only this
//! program writes it, and nothing in it ever came with a package.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::description::Description;
use super::fault::Failure;

/// The cache cannot be used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// It cannot be read or written.
    #[error("cannot use the cache of modules `{path}`")]
    Unusable {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else could put code into it.
    #[error("the cache of modules `{0}` belongs to somebody else, or others may write it")]
    Shared(PathBuf),
}

/// What tells that a file is still the one that was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    mode: u32,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            mode: metadata.mode(),
        }
    }
}

/// A cache in a folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    index: Mutex<BTreeMap<PathBuf, (Stamp, String)>>,
}

const INDEX: &str = "index.json";

/// A folder that stays empty.
pub(crate) const EMPTY: &str = "nothing";

impl Cache {
    /// The cache in this folder, which is made if it is missing.
    pub(crate) fn open(folder: &Path) -> Result<Self, CacheError> {
        let unusable = |source| CacheError::Unusable {
            path: folder.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(unusable)?;
        let metadata = fs::symlink_metadata(folder).map_err(unusable)?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours || metadata.mode() & 0o022 != 0 || !metadata.is_dir() {
            return Err(CacheError::Shared(folder.to_owned()));
        }
        let mut nothing = DirBuilder::new();
        nothing.recursive(true).mode(0o555);
        nothing.create(folder.join(EMPTY)).map_err(unusable)?;
        let index = fs::read(folder.join(INDEX)).unwrap_or_default();
        // One that cannot be read is made anew.
        let index: Vec<(PathBuf, Stamp, String)> =
            serde_json::from_slice(&index).unwrap_or_default();
        let index = index.into_iter();
        Ok(Self {
            folder: folder.to_owned(),
            index: Mutex::new(
                index
                    .map(|(path, stamp, digest)| (path, (stamp, digest)))
                    .collect(),
            ),
        })
    }

    /// The digest of a file that has not changed since it was told.
    pub(crate) fn known(&self, path: &Path, stamp: &Stamp) -> Option<String> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, digest) = index.get(path)?;
        (known == stamp).then(|| digest.clone())
    }

    /// Remembers the digest of a file.
    pub(crate) fn remember(&self, path: &Path, stamp: Stamp, digest: &str) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.insert(path.to_owned(), (stamp, digest.to_owned()));
        index.retain(|path, _| path.exists());
        let all: Vec<_> = index
            .iter()
            .map(|(path, (stamp, digest))| (path, stamp, digest))
            .collect();
        // Without an index the next start takes longer, that is all.
        if let Ok(text) = serde_json::to_vec(&all) {
            self.put(INDEX, &text, 0o600).ok();
        }
    }

    /// What an artefact told about itself to a program of this version.
    pub(crate) fn description(&self, digest: &str, kind: &str) -> Option<Vec<Description>> {
        let text = fs::read(self.description_path(digest, kind)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn description_path(&self, digest: &str, kind: &str) -> PathBuf {
        let version = env!("CARGO_PKG_VERSION");
        self.folder.join(format!("{digest}.{kind}.{version}.json"))
    }

    pub(crate) fn put_description(
        &self,
        digest: &str,
        kind: &str,
        told: &[Description],
    ) -> Result<(), Failure> {
        let text = serde_json::to_vec(told).map_err(|error| Failure::Host(error.to_string()))?;
        let path = self.description_path(digest, kind);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.put(&name, &text, 0o600).map(drop).map_err(unwritable)
    }

    /// Where the compiled code of an artefact is or will be.
    #[cfg(feature = "wasm")]
    pub(crate) fn compiled(&self, digest: &str, fingerprint: &str) -> PathBuf {
        self.folder.join(format!("{digest}.{fingerprint}.cwasm"))
    }

    #[cfg(feature = "wasm")]
    pub(crate) fn put_compiled(
        &self,
        digest: &str,
        fingerprint: &str,
        code: &[u8],
    ) -> Result<PathBuf, Failure> {
        let name = format!("{digest}.{fingerprint}.cwasm");
        self.put(&name, code, 0o600).map_err(unwritable)
    }

    /// A folder in which nothing is, which everybody may look into.
    #[cfg(feature = "wasm")]
    pub(crate) fn nothing(&self) -> PathBuf {
        self.folder.join(EMPTY)
    }

    /// A copy of an artefact that nobody can change while it runs.
    pub(crate) fn copy(&self, digest: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.folder.join(digest);
        let complete = fs::metadata(&path).is_ok_and(|found| found.len() == bytes.len() as u64);
        if complete {
            return Ok(path);
        }
        self.put(digest, bytes, 0o555).map_err(unwritable)
    }

    /// Where the copy of an artefact is.
    pub(crate) fn copied(&self, digest: &str) -> Option<PathBuf> {
        let path = self.folder.join(digest);
        path.exists().then_some(path)
    }

    /// Puts a file into the cache, whole or not at all.
    fn put(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        // Several programs of one user may share the cache.
        let temporary = self.folder.join(format!(
            ".{name}.{}",
            rustix::process::getpid().as_raw_nonzero().get()
        ));
        let written = (|| {
            fs::remove_file(&temporary).ok();
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            drop(file);
            fs::rename(&temporary, &path)
        })();
        if written.is_err() {
            fs::remove_file(&temporary).ok();
        }
        written.map(|()| path)
    }
}

fn unwritable(error: io::Error) -> Failure {
    Failure::Host(format!("cannot write the cache of modules: {error}"))
}

/// Hexadecimal digits of a SHA-256.
pub const SHA256_DIGITS: usize = 64;

/// SHA-256 in hexadecimal, as sha256sum(1) prints it.
pub fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Reads a file of at most so many bytes; links are not followed.
pub(crate) fn read_limited(path: &Path, most: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = File::options()
        .read(true)
        .custom_flags(no_follow)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > most {
        return Err(io::Error::other(format!(
            "it has {} MiB, more than {} MiB",
            metadata.len() >> 20,
            most >> 20
        )));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok((bytes, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            Cache::open(folder.path()),
            Err(CacheError::Shared(_))
        ));
    }

    #[test]
    fn a_file_that_changed_is_not_known_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "one").unwrap();
        let stamp = Stamp::from(&fs::metadata(&file).unwrap());
        cache.remember(&file, stamp, "abc");
        let again = Cache::open(&folder.path().join("cache")).unwrap();
        assert_eq!(again.known(&file, &stamp), Some("abc".into()));
        fs::write(&file, "three").unwrap();
        let stamp = Stamp::from(&fs::metadata(&file).unwrap());
        assert_eq!(again.known(&file, &stamp), None);
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
    }

    #[test]
    fn what_is_too_large_or_a_link_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, vec![0; 100]).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(read_limited(&file, 99).is_err());
        assert!(read_limited(&link, 100).is_err());
        assert_eq!(read_limited(&file, 100).unwrap().0.len(), 100);
    }
}
