//! The file that holds a module's code.

use std::path::Path;

use super::fault::Failure;
use super::signature::FILE_BYTES;
use super::store::{Cache, Stamp, digest, read_limited};

/// An artefact that was read, or is known from before.
pub(super) struct Artefact<'a> {
    pub(super) path: &'a Path,
    pub(super) digest: String,
    /// What is in it, unless it was not needed yet.
    bytes: Option<Vec<u8>>,
}

impl<'a> Artefact<'a> {
    /// The artefact at this place, read unless it is known.
    pub(super) fn of(path: &'a Path, cache: &Cache) -> Result<Self, Failure> {
        let metadata = std::fs::symlink_metadata(path);
        let stamp = metadata.as_ref().map(Stamp::from);
        let known = stamp.ok().and_then(|stamp| cache.known(path, &stamp));
        if let Some(digest) = known {
            return Ok(Self {
                path,
                digest,
                bytes: None,
            });
        }
        let (bytes, metadata) = read(path)?;
        let digest = digest(&bytes);
        cache.remember(path, Stamp::from(&metadata), &digest);
        Ok(Self {
            path,
            digest,
            bytes: Some(bytes),
        })
    }

    /// What is in it.
    pub(super) fn bytes(&mut self) -> Result<&[u8], Failure> {
        if self.bytes.is_none() {
            let (bytes, _) = read(self.path)?;
            if digest(&bytes) != self.digest {
                return Err(Failure::Unfit("it changed while it was loaded".to_owned()));
            }
            self.bytes = Some(bytes);
        }
        Ok(self.bytes.as_deref().unwrap_or_default())
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, std::fs::Metadata), Failure> {
    read_limited(path, FILE_BYTES).map_err(|error| Failure::Unfit(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_another_file_by_the_time_it_is_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let path = folder.path().join("artefact");
        std::fs::write(&path, "first").unwrap();
        let known = Artefact::of(&path, &cache).unwrap().digest;
        let mut later = Artefact {
            path: &path,
            digest: known,
            bytes: None,
        };
        std::fs::write(&path, "other").unwrap();
        let error = later.bytes().unwrap_err().to_string();
        assert!(error.contains("changed while it was loaded"), "{error}");
    }
}
