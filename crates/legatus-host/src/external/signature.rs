//! Signatures of modules: minisign's format, over the list of the files' digests.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use minisign::{PublicKey, SecretKey, SignatureBox};
use thiserror::Error;

use super::discovery::{DIGESTS, SIGNATURE};
use super::store::{digest, read_limited};

/// Bytes of a list of digests, at most.
const LIST_BYTES: u64 = 1 << 20;

/// Bytes of one file of a module, at most; that of the largest artefact.
pub(crate) const FILE_BYTES: u64 = 64 << 20;

/// How deep a module's own folders may be.
const DEPTH: usize = 16;

/// A module could not be signed, or its signature does not hold.
#[derive(Debug, Error)]
pub enum SignatureError {
    /// A file cannot be read or written.
    #[error("cannot use `{path}`: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is none.
    #[error("the module is not signed")]
    Missing,
    /// It was made by a key that is not trusted, or is damaged.
    #[error("the signature is of no trusted key, or does not fit the list of digests")]
    Untrusted,
    /// A file is not the one that was signed.
    #[error("the file `{0}` is not the one that was signed")]
    Changed(String),
    /// A key cannot be understood.
    #[error("`{0}` is no minisign key")]
    Key(String),
}

/// Signs a module's folder with a secret key in minisign's format. An encrypted key needs its
/// password.
///
/// # Errors
/// When the key cannot be used, or a file cannot be read or written.
pub fn sign(folder: &Path, key: &str, password: Option<String>) -> Result<PathBuf, SignatureError> {
    let broken = |error: minisign::PError| SignatureError::Key(error.to_string());
    let key = minisign::SecretKeyBox::from_string(key).map_err(broken)?;
    let key: SecretKey = match password {
        Some(password) => key.into_secret_key(Some(password)).map_err(broken)?,
        None => key.into_unencrypted_secret_key().map_err(broken)?,
    };
    let list = list(folder)?;
    write(&folder.join(DIGESTS), &list)?;
    let comment = Some("a module of Legatus");
    let signature = minisign::sign(None, &key, Cursor::new(&list), comment, None);
    let signature = signature.map_err(broken)?.into_string();
    let path = folder.join(SIGNATURE);
    write(&path, &signature)?;
    Ok(path)
}

/// Whether a trusted key has signed what is in the folder now; which one.
///
/// # Errors
/// When none has, or something has changed since.
pub fn verify(folder: &Path, trusted: &[String]) -> Result<String, SignatureError> {
    if !folder.join(SIGNATURE).exists() {
        return Err(SignatureError::Missing);
    }
    let signature = read(&folder.join(SIGNATURE))?;
    let signed = read(&folder.join(DIGESTS))?;
    let signature = SignatureBox::from_string(&signature).map_err(|_| SignatureError::Untrusted)?;
    let mut keys = trusted.iter();
    let key = keys.find(|key| {
        let key = PublicKey::from_base64(key.trim());
        key.is_ok_and(|key| {
            minisign::verify(&key, &signature, Cursor::new(&signed), true, false, false).is_ok()
        })
    });
    let key = key.ok_or(SignatureError::Untrusted)?;
    let now = list(folder)?;
    if now == signed {
        return Ok(key.clone());
    }
    let (now, then): (Vec<_>, Vec<_>) = (now.lines().collect(), signed.lines().collect());
    let different = then.iter().find(|line| !now.contains(line));
    let different = different.or_else(|| now.iter().find(|line| !then.contains(line)));
    let name = different
        .and_then(|line| line.split_once("  "))
        .map_or("", |(_, name)| name);
    Err(SignatureError::Changed(name.to_owned()))
}

/// A key pair without a password, for tests and first steps: secret and public key in minisign's
/// format.
///
/// # Errors
/// When the system has no random numbers.
pub fn new_key() -> Result<(String, String), SignatureError> {
    let broken = |error: minisign::PError| SignatureError::Key(error.to_string());
    let pair = minisign::KeyPair::generate_unencrypted_keypair().map_err(broken)?;
    let secret = pair
        .sk
        .to_box(Some("secret key for modules of Legatus"))
        .map_err(broken)?;
    let public = pair.pk.to_box().map_err(broken)?;
    Ok((secret.into_string(), public.into_string()))
}

/// The key in a public key's file, or the key itself.
pub fn public_key(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.rfind(|line| PublicKey::from_base64(line).is_ok())?;
    Some(line.to_owned())
}

/// `DIGEST  NAME` of all files, sorted, as sha256sum(1) writes and checks it.
fn list(folder: &Path) -> Result<String, SignatureError> {
    let mut lines = Vec::new();
    add(folder, folder, DEPTH, &mut lines)?;
    lines.sort();
    let lines = lines
        .into_iter()
        .map(|(name, digest)| format!("{digest}  {name}\n"));
    Ok(lines.collect())
}

fn add(
    root: &Path,
    folder: &Path,
    depth: usize,
    lines: &mut Vec<(String, String)>,
) -> Result<(), SignatureError> {
    let unusable = |path: &Path, reason: String| SignatureError::File {
        path: path.to_owned(),
        reason,
    };
    let entries = fs::read_dir(folder).map_err(|error| unusable(folder, error.to_string()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        let kind = entry
            .file_type()
            .map_err(|error| unusable(&path, error.to_string()))?;
        if [DIGESTS, SIGNATURE].contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() && depth > 0 {
            add(root, &path, depth - 1, lines)?;
        } else {
            let read = read_limited(&path, FILE_BYTES);
            let (bytes, _) = read.map_err(|error| unusable(&path, error.to_string()))?;
            lines.push((name, digest(&bytes)));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, SignatureError> {
    let unusable = |reason: String| SignatureError::File {
        path: path.to_owned(),
        reason,
    };
    let (bytes, _) = read_limited(path, LIST_BYTES).map_err(|error| unusable(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| unusable(error.to_string()))
}

fn write(path: &Path, text: &str) -> Result<(), SignatureError> {
    fs::write(path, text).map_err(|error| SignatureError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("module.toml"), "name = 'a'\n").unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("data/x"), "x").unwrap();
        let (secret, public) = new_key().unwrap();
        sign(folder.path(), &secret, None).unwrap();
        (folder, public_key(&public).unwrap())
    }

    #[test]
    fn any_change_after_signing_is_found() {
        type Change = fn(&Path);
        let changes: [Change; 3] = [
            |folder| fs::write(folder.join("data/x"), "y").unwrap(),
            |folder| fs::write(folder.join("new"), "").unwrap(),
            |folder| fs::remove_file(folder.join("data/x")).unwrap(),
        ];
        for change in changes {
            let (folder, key) = signed();
            assert_eq!(
                verify(folder.path(), std::slice::from_ref(&key)).unwrap(),
                key
            );
            change(folder.path());
            let error = verify(folder.path(), &[key]).unwrap_err();
            assert!(matches!(error, SignatureError::Changed(_)), "{error}");
        }
    }

    #[test]
    fn another_key_another_list_or_none_is_refused() {
        let (folder, _) = signed();
        let other = public_key(&new_key().unwrap().1).unwrap();
        for keys in [vec![], vec![other], vec!["nonsense".to_owned()]] {
            let error = verify(folder.path(), &keys).unwrap_err();
            assert!(matches!(error, SignatureError::Untrusted));
        }
        let (folder, key) = signed();
        let list = folder.path().join(DIGESTS);
        fs::write(&list, fs::read_to_string(&list).unwrap() + " ").unwrap();
        assert!(matches!(
            verify(folder.path(), &[key]),
            Err(SignatureError::Untrusted)
        ));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(
            verify(empty.path(), &[]),
            Err(SignatureError::Missing)
        ));
    }
}
