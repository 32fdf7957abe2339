//! Seals what holders are told of their calls, so that a server believes nothing else of them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::messages::{Facts, Sealed};

/// A key that servers of one folder share.
pub(crate) struct SealingKey([u8; 32]);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

impl SealingKey {
    /// The key in this file, made at the first start and readable by the server's user only.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut key = [0; 32];
        match File::open(path) {
            Ok(mut file) => file.read_exact(&mut key)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                File::open("/dev/urandom")?.read_exact(&mut key)?;
                // Whole or not at all, and the first of several servers wins.
                let new = path.with_extension(format!("new.{}", std::process::id()));
                let mut options = File::options();
                options.write(true).create(true).truncate(true).mode(0o600);
                options.open(&new)?.write_all(&key)?;
                let linked = std::fs::hard_link(&new, path);
                std::fs::remove_file(&new)?;
                match linked {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Self::open(path);
                    }
                    linked => linked?,
                }
            }
            Err(error) => return Err(error),
        }
        Ok(Self(key))
    }

    /// Facts with the seal that makes this server believe them later.
    pub(crate) fn seal(&self, facts: &Facts) -> Sealed {
        let facts: Bytes = facts.encode_to_vec().into();
        let seal = blake3::keyed_hash(&self.0, &facts);
        Sealed {
            seal: Bytes::copy_from_slice(seal.as_bytes()),
            facts,
        }
    }

    pub(crate) fn unseal(&self, sealed: &Sealed) -> Option<Facts> {
        let expected = blake3::keyed_hash(&self.0, &sealed.facts);
        // Compares in constant time.
        let given = blake3::Hash::from_slice(&sealed.seal).ok()?;
        (expected == given)
            .then(|| Facts::decode(sealed.facts.clone()).ok())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_were_changed_or_sealed_elsewhere_are_not_believed() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let server = SealingKey::open(&here.path().join("key")).unwrap();
        let other = SealingKey::open(&there.path().join("key")).unwrap();
        let facts = Facts {
            identity: "ann".to_owned(),
            ..Facts::default()
        };
        let sealed = server.seal(&facts);
        assert_eq!(server.unseal(&sealed), Some(facts.clone()));
        assert_eq!(other.unseal(&sealed), None);
        let mut forged = sealed;
        forged.facts = Facts {
            identity: "eve".to_owned(),
            ..facts
        }
        .encode_to_vec()
        .into();
        assert_eq!(server.unseal(&forged), None);
    }

    #[test]
    fn a_server_that_starts_again_has_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let first = SealingKey::open(&folder.path().join("key")).unwrap();
        let second = SealingKey::open(&folder.path().join("key")).unwrap();
        assert_eq!(first.0, second.0);
        assert_ne!(first.0, [0; 32]);
    }
}
