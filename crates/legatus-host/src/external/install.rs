//! The errand that installs a module: what a client sends is put aside, loaded as it will be, and
//! only then takes its place, whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use legatus_core::{
    BoxFuture, Call, Channel, Commander, Effects, Fault, Inspection, Module, Outcome, Request, Spec,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use super::catalogue::{Catalogue, Listed, State};
use super::discovery::{self, DIGESTS, SIGNATURE};
use super::errands::{self, ToldModule};
use super::manifest::{MANIFEST, Manifest};
use super::store::digest;

/// The name by which clients call it, and policies may name it.
pub const INSTALL_MODULE: &str = "install-module";

/// Files of one module.
const FILES: usize = 256;

/// Bytes of all of them: an artefact of the largest size, and as much beside it.
const BYTES: u64 = 128 << 20;

/// How long a caller waits until the module can be called; it can be a moment later as well.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What is to be installed: the first message. The files' bytes follow, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parcel {
    /// The files.
    pub files: Vec<ParcelFile>,
}

/// One file of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParcelFile {
    /// Where it lies in the module's folder.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
    /// SHA-256, in hexadecimal.
    pub digest: String,
    /// Whether it may be executed.
    pub executable: bool,
}

/// Installs modules into a folder.
#[derive(Debug)]
pub struct InstallModule {
    spec: Spec,
    places: Arc<Places>,
}

/// Where modules are installed.
#[derive(Debug)]
struct Places {
    catalogue: Arc<Catalogue>,
    folder: PathBuf,
    /// One takes its place at a time.
    placing: Mutex<()>,
}

impl InstallModule {
    /// Installs into this folder, one of those that the catalogue searches.
    pub fn new(catalogue: Arc<Catalogue>, folder: PathBuf) -> Self {
        let effects = Effects::WRITE.union(Effects::EXEC);
        Self {
            spec: errands::spec(INSTALL_MODULE, "Install an external module", effects),
            places: Arc::new(Places {
                catalogue,
                folder,
                placing: Mutex::default(),
            }),
        }
    }
}

impl Places {
    /// Puts what was received in its place.
    fn place(&self, staged: &Staged) -> Result<Listed, Fault> {
        let found = discovery::search(
            std::slice::from_ref(&staged.folder),
            self.catalogue.extensions(),
        );
        let [found] = found.as_slice() else {
            return Err(Fault::new(
                "it is no module: a .wasm or .so file, or files with a module.toml",
            ));
        };
        let entry = self.catalogue.load_aside(found);
        let Some(listed) = entry.listed.first() else {
            return Err(Fault::new("it describes no module"));
        };
        match &listed.state {
            State::Ready => {}
            State::Off(reason) | State::Broken(reason) => {
                return Err(Fault::new(format!(
                    "`{}` cannot be installed: {reason}",
                    listed.qualified
                )));
            }
        }
        let _one = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let target = self.target(&entry.listed)?;
        let failed = |error: io::Error| {
            Fault::new(format!(
                "`{}` cannot be put in its place: {error}",
                listed.qualified
            ))
        };
        fs::set_permissions(&staged.folder, Permissions::from_mode(0o755)).map_err(failed)?;
        if let Some(parent) = target.parent() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o755);
            builder.create(parent).map_err(failed)?;
        }
        let exchange = || renameat_with(CWD, &staged.folder, CWD, &target, RenameFlags::EXCHANGE);
        let placed = match renameat_with(CWD, &staged.folder, CWD, &target, RenameFlags::NOREPLACE)
        {
            Err(rustix::io::Errno::EXIST) => exchange(),
            placed => placed,
        };
        placed.map_err(|error| failed(error.into()))?;
        let name = found
            .path
            .strip_prefix(&staged.canonical)
            .unwrap_or_else(|_| Path::new(""));
        Ok(Listed {
            source: target.join(name),
            ..listed.clone()
        })
    }

    /// Where it belongs, unless one of its name lies elsewhere.
    fn target(&self, listed: &[Listed]) -> Result<PathBuf, Fault> {
        let first = listed.first().map(|one| one.qualified.as_str());
        let target = self.folder.join(first.unwrap_or_default());
        let canonical = target.canonicalize().unwrap_or_else(|_| target.clone());
        for known in self.catalogue.listed() {
            let same = listed.iter().any(|one| one.qualified == known.qualified);
            if same && !known.source.starts_with(&canonical) {
                return Err(Fault::new(format!(
                    "`{}` lies at `{}` already, where nobody has installed it over the network",
                    known.qualified,
                    known.source.display()
                )));
            }
        }
        Ok(target)
    }

    /// Waits until the module can be called.
    async fn wait_until_ready(&self, installed: &Listed) {
        let mut looked = self.catalogue.looked();
        let there = |one: &Listed| {
            one.source.ends_with(relative(installed, &self.folder))
                && one.digest == installed.digest
        };
        let ready = async {
            loop {
                self.catalogue.look_now();
                if looked.changed().await.is_err() || self.catalogue.listed().iter().any(there) {
                    return;
                }
            }
        };
        // It is installed; who calls it at once may be a moment too early.
        tokio::time::timeout(READY_WITHIN, ready).await.ok();
    }
}

fn relative<'a>(listed: &'a Listed, folder: &Path) -> &'a Path {
    listed.source.strip_prefix(folder).unwrap_or(&listed.source)
}

impl Module for InstallModule {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }
}

impl Commander for InstallModule {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        let name = request.arguments.first();
        let name = name.map(|name| String::from_utf8_lossy(name).into_owned());
        Ok(Inspection {
            effects: Effects::WRITE.union(Effects::EXEC),
            summary: name.unwrap_or_default(),
        })
    }

    fn execute(&self, _: Call, mut channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(async move {
            let early = || Fault::new("the caller stopped before everything was sent");
            let first = channel.receive().await.ok_or_else(early)?;
            let parcel = parcel(&first)?;
            let staged = Staged::new(&self.places.folder)?;
            let mut rest = Bytes::new();
            for file in &parcel.files {
                let mut writer = staged.file(file)?;
                let mut left = file.length;
                let mut content = Vec::new();
                while left > 0 {
                    if rest.is_empty() {
                        rest = channel.receive().await.ok_or_else(early)?;
                    }
                    let now = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    content.extend_from_slice(rest.get(..now).unwrap_or_default());
                    rest.advance(now);
                    left -= now as u64;
                }
                if digest(&content) != file.digest {
                    let path = file.path.display();
                    return Err(Fault::new(format!(
                        "`{path}` has not come as it was sent: its digest is another"
                    )));
                }
                let path = &file.path;
                let written = writer.write_all(&content).and_then(|()| writer.sync_all());
                written.map_err(|error| cannot_write(path, &error))?;
            }
            // Compiling takes seconds, of which nobody else must notice.
            let places = Arc::clone(&self.places);
            let placing = tokio::task::spawn_blocking(move || places.place(&staged));
            let panicked = |_| Fault::new("installing it panicked");
            let installed = placing.await.map_err(panicked)??;
            self.places.wait_until_ready(&installed).await;
            let told = ToldModule::from(&installed).message()?;
            channel.send(told).await.ok();
            Ok(Outcome::SUCCESS)
        })
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Fault {
    Fault::new(format!("cannot write `{}`: {error}", path.display()))
}

/// The files of a module's folder that are to be installed: those that were signed, or else the
/// manifest and the artefact.
///
/// # Errors
/// When the manifest, or the list of what was signed, cannot be read.
pub fn files_to_install(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if let Ok(list) = fs::read_to_string(folder.join(DIGESTS)) {
        // As sha256sum(1) writes them: a digest, two spaces, a name.
        let signed = list.lines().filter_map(|line| line.split_once("  "));
        let signed = signed.map(|(_, path)| PathBuf::from(path));
        let both = [DIGESTS, SIGNATURE].map(PathBuf::from);
        let both = both.into_iter().filter(|path| folder.join(path).exists());
        return Ok(signed.chain(both).collect());
    }
    let text = fs::read_to_string(folder.join(MANIFEST))?;
    let manifest = Manifest::parse(&text).map_err(io::Error::other)?;
    Ok(vec![MANIFEST.into(), manifest.artefact])
}

/// What is announced, within its limits.
fn parcel(message: &[u8]) -> Result<Parcel, Fault> {
    let parcel: Parcel = serde_json::from_slice(message)
        .map_err(|error| Fault::new(format!("what is to be installed makes no sense: {error}")))?;
    let total = parcel.files.iter().map(|file| file.length);
    let total = total.fold(0_u64, u64::saturating_add);
    if parcel.files.len() > FILES || total > BYTES {
        return Err(Fault::new(format!(
            "it has {} files and {} MiB; a module has at most {FILES} files and {} MiB",
            parcel.files.len(),
            total >> 20,
            BYTES >> 20
        )));
    }
    let mut paths = BTreeSet::new();
    for file in &parcel.files {
        let path = &file.path;
        let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b"."));
        let fits = path.components().all(plain) && path.components().count() <= 8;
        if !fits || path.as_os_str().is_empty() || !paths.insert(path.clone()) {
            let path = path.display();
            return Err(Fault::new(format!("`{path}` is no path within a module")));
        }
    }
    Ok(parcel)
}

/// A folder in which a module waits, hidden from searches; what is left of it goes with this.
struct Staged {
    folder: PathBuf,
    canonical: PathBuf,
}

impl Staged {
    fn new(beside: &Path) -> Result<Self, Fault> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = beside.join(format!(".install-{}-{number}", std::process::id()));
        let mut builder = DirBuilder::new();
        let made = builder.mode(0o700).create(&folder);
        let made = made.and_then(|()| folder.canonicalize());
        match made {
            Ok(canonical) => Ok(Self { folder, canonical }),
            Err(error) => Err(cannot_write(&folder, &error)),
        }
    }

    fn file(&self, file: &ParcelFile) -> Result<File, Fault> {
        let path = self.folder.join(&file.path);
        let mode = if file.executable { 0o755 } else { 0o644 };
        let made = (|| {
            if let Some(parent) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(parent)?;
            }
            let mut options = File::options();
            let made = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            made.set_permissions(Permissions::from_mode(mode))?;
            Ok(made)
        })();
        made.map_err(|error: io::Error| cannot_write(&file.path, &error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After an exchange this is what was there before.
        fs::remove_dir_all(&self.folder).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(files: &[(&str, u64)]) -> String {
        let files = files.iter().map(|(path, length)| ParcelFile {
            path: path.into(),
            length: *length,
            ..ParcelFile::default()
        });
        let parcel_ = Parcel {
            files: files.collect(),
        };
        let told = parcel(&serde_json::to_vec(&parcel_).unwrap());
        told.unwrap_err().to_string()
    }

    #[test]
    fn what_leads_elsewhere_is_no_part_of_a_module() {
        for path in [
            "../x",
            "/etc/passwd",
            "a/../b",
            "",
            ".",
            ".hidden",
            "a/.b",
            "1/2/3/4/5/6/7/8/9",
        ] {
            assert!(refused(&[(path, 1)]).contains("no path within"), "{path}");
        }
        assert!(refused(&[("a", 1), ("a", 1)]).contains("no path within"));
    }

    #[test]
    fn what_is_too_much_is_refused_before_anything_is_received() {
        assert!(refused(&[("a", u64::MAX), ("b", u64::MAX)]).contains("at most"));
        assert!(refused(&[("a", 1); FILES + 1]).contains("at most"));
        assert!(parcel(b"{}").is_err());
    }
}
