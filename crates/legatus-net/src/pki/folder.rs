//! An authority and its certificates as plain PEM files in a folder.
//!
//! All targets are checked before the first is written; each appears complete or not at all.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{
    Authority, AuthorityOptions, Holder, IssueOptions, Issued, PkiError, describe::role_in,
};

/// The file name of the authority's certificate.
pub const AUTHORITY_CERTIFICATE: &str = "ca.crt";
/// The file name of the authority's private key.
pub const AUTHORITY_KEY: &str = "ca.key";

/// Makes a new authority: `ca.crt` and `ca.key`. The folder is made if need be. Returns the files
/// written.
///
/// # Errors
///
/// When a file exists and `force` is not set, or cannot be written.
pub fn init(
    folder: &Path,
    options: &AuthorityOptions,
    force: bool,
) -> Result<Vec<PathBuf>, PkiError> {
    let targets = authority_targets(folder);
    check_targets(&targets, force)?;
    let authority = Authority::generate_with(options)?;
    write_all(folder, authority_files(folder, &authority), force)
}

/// Makes a key and a certificate, `NAME.crt` and `NAME.key` in the folder `out`, signed by the
/// authority of the folder `authority`. Returns the files written.
///
/// # Errors
///
/// As [`init`], when the authority cannot be read or the name cannot be used, and, even with
/// `force`, when `NAME.crt` is a certificate of another role.
pub fn issue(
    authority: &Path,
    out: &Path,
    holder: &Holder,
    options: &IssueOptions,
    force: bool,
) -> Result<Vec<PathBuf>, PkiError> {
    check_role(out, holder)?;
    check_targets(&holder_targets(out, holder), force)?;
    let issued = open(authority)?.issue(holder, options)?;
    write_all(out, holder_files(out, holder, &issued), force)
}

/// Signs the certificate request in a file; writes `NAME.crt` in the folder `out`. Returns the file
/// written.
///
/// # Errors
///
/// As [`issue`], and when the request cannot be used.
pub fn sign_request(
    authority: &Path,
    out: &Path,
    request: &Path,
    holder: &Holder,
    options: &IssueOptions,
    force: bool,
) -> Result<Vec<PathBuf>, PkiError> {
    check_role(out, holder)?;
    let [certificate, _] = holder_targets(out, holder);
    check_targets(std::slice::from_ref(&certificate), force)?;
    let contents = open(authority)?.sign_request(&read(request)?, holder, options)?;
    let file = NewFile {
        path: certificate,
        contents,
        mode: PUBLIC,
    };
    write_all(out, vec![file], force)
}

/// Makes an authority, a server's and a client's certificate at once. Returns the files written.
///
/// # Errors
///
/// As [`init`] and [`issue`].
pub fn quickstart(
    folder: &Path,
    server: &Holder,
    client: &Holder,
    options: &IssueOptions,
    force: bool,
) -> Result<Vec<PathBuf>, PkiError> {
    check_role(folder, server)?;
    check_role(folder, client)?;
    let (server_targets, client_targets) = (
        holder_targets(folder, server),
        holder_targets(folder, client),
    );
    let mut targets = authority_targets(folder).to_vec();
    targets.extend(server_targets.into_iter().chain(client_targets));
    check_targets(&targets, force)?;

    let authority = Authority::generate_with(&AuthorityOptions {
        key_type: options.key_type,
        ..AuthorityOptions::default()
    })?;
    let mut files = authority_files(folder, &authority);
    for holder in [server, client] {
        files.extend(holder_files(
            folder,
            holder,
            &authority.issue(holder, options)?,
        ));
    }
    write_all(folder, files, force)
}

/// The authority of a folder.
///
/// # Errors
///
/// When there is none, or it cannot be used.
pub fn open(folder: &Path) -> Result<Authority, PkiError> {
    let [certificate, key] = authority_targets(folder);
    if !certificate.exists() {
        return Err(PkiError::NoAuthority(folder.to_owned()));
    }
    let text = |path: &Path| -> Result<String, PkiError> {
        String::from_utf8(read(path)?).map_err(|_| PkiError::NotPem)
    };
    Authority::from_pem(&text(&certificate)?, &text(&key)?)
}

/// Reads a PEM file of at most 1 MiB: what is larger is a mistake.
///
/// # Errors
///
/// When it cannot be read or is too large.
pub fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let error = |source| PkiError::Read {
        path: path.to_owned(),
        source,
    };
    let mut contents = Vec::new();
    let file = fs::File::open(path).map_err(error)?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut contents)
        .map_err(error)?;
    if contents.len() as u64 > MAX_FILE {
        return Err(error(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    Ok(contents)
}

struct NewFile {
    path: PathBuf,
    contents: String,
    mode: u32,
}

fn authority_targets(folder: &Path) -> [PathBuf; 2] {
    [
        folder.join(AUTHORITY_CERTIFICATE),
        folder.join(AUTHORITY_KEY),
    ]
}

fn holder_targets(folder: &Path, holder: &Holder) -> [PathBuf; 2] {
    let stem = file_stem(holder.name());
    [".crt", ".key"].map(|extension| folder.join(format!("{stem}{extension}")))
}

fn authority_files(folder: &Path, authority: &Authority) -> Vec<NewFile> {
    pair(
        authority_targets(folder),
        authority.certificate_pem(),
        authority.key_pem(),
    )
}

fn holder_files(folder: &Path, holder: &Holder, issued: &Issued) -> Vec<NewFile> {
    pair(
        holder_targets(folder, holder),
        issued.certificate_pem(),
        issued.key_pem(),
    )
}

fn pair([certificate, key]: [PathBuf; 2], certificate_pem: &str, key_pem: &str) -> Vec<NewFile> {
    let file = |path, contents: &str, mode| NewFile {
        path,
        contents: contents.to_owned(),
        mode,
    };
    vec![
        file(certificate, certificate_pem, PUBLIC),
        file(key, key_pem, SECRET),
    ]
}

/// A name as a file name: letters, digits and `._-@` stay, the rest becomes `_`; never hidden, never
/// like an option, never the authority's own, never too long.
fn file_stem(name: &str) -> String {
    let safe = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    let mut stem = String::new();
    for character in name.chars() {
        let character = if safe(character) { character } else { '_' };
        if stem.len() + character.len_utf8() > MAX_STEM {
            break;
        }
        stem.push(character);
    }
    if stem.starts_with(['.', '-']) {
        stem.replace_range(..1, "_");
    }
    if stem.eq_ignore_ascii_case("ca") {
        stem.push('_');
    }
    stem
}

/// Refuses to take the place of another role's certificate: a server `ann` and a client `ann` would
/// be the same files.
fn check_role(folder: &Path, holder: &Holder) -> Result<(), PkiError> {
    let [path, _] = holder_targets(folder, holder);
    let wanted = match holder {
        Holder::Client { .. } => "client",
        Holder::Server { .. } => "server",
    };
    match read(&path).ok().and_then(|pem| role_in(&pem)) {
        Some(existing @ ("authority" | "client" | "server")) if existing != wanted => {
            Err(PkiError::OtherRole {
                path,
                existing,
                wanted,
            })
        }
        // A file that is no such certificate is one like any other.
        _ => Ok(()),
    }
}

fn check_targets(targets: &[PathBuf], force: bool) -> Result<(), PkiError> {
    let mut seen: Vec<&PathBuf> = Vec::new();
    for target in targets {
        if seen.contains(&target) {
            return Err(PkiError::SameFile(target.clone()));
        }
        if !force && target.symlink_metadata().is_ok() {
            return Err(PkiError::Exists(target.clone()));
        }
        seen.push(target);
    }
    Ok(())
}

fn write_all(folder: &Path, files: Vec<NewFile>, force: bool) -> Result<Vec<PathBuf>, PkiError> {
    let error = |path: &Path, source| PkiError::Write {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(|source| error(folder, source))?;
    // Everything is on the disk before the first name appears.
    let mut prepared = Vec::with_capacity(files.len());
    for file in files {
        let temporary = prepare(folder, &file).map_err(|source| error(&file.path, source))?;
        prepared.push((temporary, file.path));
    }
    let mut written = Vec::with_capacity(prepared.len());
    for (temporary, path) in prepared {
        let persisted = if force {
            temporary.persist(&path)
        } else {
            temporary.persist_noclobber(&path)
        };
        persisted.map_err(|failed| match failed.error.kind() {
            io::ErrorKind::AlreadyExists => PkiError::Exists(path.clone()),
            _ => error(&path, failed.error),
        })?;
        written.push(path);
    }
    Ok(written)
}

fn prepare(folder: &Path, file: &NewFile) -> io::Result<NamedTempFile> {
    let mut temporary = tempfile::Builder::new()
        .prefix(&OsString::from(".legatus-"))
        .tempfile_in(folder)?;
    temporary.write_all(file.contents.as_bytes())?;
    let permissions = Permissions::from_mode(file.mode);
    temporary.as_file().set_permissions(permissions)?;
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;
const MAX_FILE: u64 = 1 << 20;
/// In bytes; leaves room below the 255 that file systems allow.
const MAX_STEM: usize = 200;
