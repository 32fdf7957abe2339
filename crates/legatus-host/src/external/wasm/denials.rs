//! What a guest is denied: it gets a clear error, and a line in the log tells of it.
//!
//! A guest without files sees one folder, `/`, in which nothing is: whatever it looks for below is
//! answered with "permission denied" rather than with a "not found" that nobody would see here.

use tracing::Level;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::cli::environment::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, ErrorCode, HostDescriptor as _, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{Host as _, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode as NetworkError, Network};

use super::state::State;

/// Where a guest without files looks in vain.
pub(super) const ROOT: &str = "/";

/// The functions of WASI whose denials are logged; the version is the one of `wasmtime-wasi`.
const PREOPENS: &str = "wasi:filesystem/preopens@0.2.12";
const TYPES: &str = "wasi:filesystem/types@0.2.12";
const ENVIRONMENT: &str = "wasi:cli/environment@0.2.12";
const NAMES: &str = "wasi:sockets/ip-name-lookup@0.2.12";

type Outcome<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

/// Folders that the guest was given, by the numbers of their descriptors.
#[derive(Default)]
pub(super) struct Folders(Vec<(u32, String)>);

impl Folders {
    fn name(&self, descriptor: u32) -> Option<&str> {
        let mut all = self.0.iter();
        all.find(|(number, _)| *number == descriptor)
            .map(|(_, name)| name.as_str())
    }
}

/// Puts these functions in the place of those that deny in silence.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut preopens = linker.instance(PREOPENS)?;
    preopens.func_wrap(
        "get-directories",
        |mut store: StoreContextMut<'_, State>, (): ()| {
            let state = store.data_mut();
            let given = state.filesystem().get_directories()?;
            let folders = given
                .iter()
                .map(|(folder, name)| (folder.rep(), name.clone()));
            state.folders = Folders(folders.collect());
            state.tell_of_missing(&["read ", "write "]);
            Ok((given,))
        },
    )?;
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, State>,
         (folder, follow, path, how, flags): (
            Resource<Descriptor>,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )| {
            Box::new(async move {
                let (state, at) = (store.data_mut(), folder.rep());
                let mut files = state.filesystem();
                let opened = files
                    .open_at(folder, follow, path.clone(), how, flags)
                    .await;
                state.told(at, "open", &path, opened)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.stat-at",
        |mut store: StoreContextMut<'_, State>,
         (folder, follow, path): (Resource<Descriptor>, PathFlags, String)| {
            Box::new(async move {
                let (state, at) = (store.data_mut(), folder.rep());
                let found = state
                    .filesystem()
                    .stat_at(folder, follow, path.clone())
                    .await;
                let told: Outcome<DescriptorStat> = state.told(at, "look at", &path, found);
                told
            })
        },
    )?;
    /// A function that takes a folder and a path in it.
    macro_rules! with_path {
        ($name:literal, $method:ident, $what:literal) => {
            types.func_wrap_async(
                concat!("[method]descriptor.", $name),
                |mut store: StoreContextMut<'_, State>,
                 (folder, path): (Resource<Descriptor>, String)| {
                    Box::new(async move {
                        let (state, at) = (store.data_mut(), folder.rep());
                        let done = state.filesystem().$method(folder, path.clone()).await;
                        state.told(at, $what, &path, done)
                    })
                },
            )?;
        };
    }
    with_path!("create-directory-at", create_directory_at, "make");
    with_path!("remove-directory-at", remove_directory_at, "remove");
    with_path!("unlink-file-at", unlink_file_at, "remove");
    let mut environment = linker.instance(ENVIRONMENT)?;
    environment.func_wrap(
        "get-environment",
        |mut store: StoreContextMut<'_, State>, (): ()| {
            let state = store.data_mut();
            state.tell_of_missing(&["environment "]);
            use wasmtime_wasi::cli::WasiCliView as _;
            Ok((state.cli().get_environment()?,))
        },
    )?;
    names(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Looking up names, which is granted with addresses.
fn names(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use wasmtime_wasi::sockets::WasiSocketsView as _;
    type Found = (Result<Resource<ResolveAddressStream>, NetworkError>,);
    let mut names = linker.instance(NAMES)?;
    names.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, State>, (network, name): (Resource<Network>, String)| {
            let state = store.data_mut();
            if !state.may_connect {
                state.deny(&format!("look up the name `{name}`"));
                return Ok::<Found, _>((Err(NetworkError::AccessDenied),));
            }
            match state.sockets().resolve_addresses(network, name) {
                Ok(found) => Ok((Ok(found),)),
                Err(error) => Ok((Err(error.downcast()?),)),
            }
        },
    )
}

impl State {
    fn deny(&self, what: &str) {
        let line = format!("denied: it may not {what}; it has no grant for that");
        self.log.line(Level::WARN, &line);
    }

    /// Tells once for each what the module asks for by its manifest, and was not granted.
    fn tell_of_missing(&mut self, kinds: &[&str]) {
        let missing = self.denied.iter();
        for what in missing.filter(|what| kinds.iter().any(|kind| what.starts_with(kind))) {
            if self.denied_told.insert(what.clone()) {
                let line = format!("denied: `{what}` is not granted");
                self.log.line(Level::WARN, &line);
            }
        }
    }

    /// The end of a function of the file system, for the guest and for the log.
    fn told<T>(&self, folder: u32, what: &str, path: &str, ended: FsResult<T>) -> Outcome<T> {
        let code = match ended {
            Ok(value) => return Ok((Ok(value),)),
            Err(error) => error.downcast()?,
        };
        let base = self.folders.name(folder);
        let in_nothing = base == Some(ROOT);
        let denied = matches!(code, ErrorCode::Access | ErrorCode::NotPermitted)
            || (in_nothing && matches!(code, ErrorCode::NoEntry | ErrorCode::ReadOnly));
        if !denied {
            return Ok((Err(code),));
        }
        let base = base.map_or("...", |base| base.trim_end_matches('/'));
        self.deny(&format!("{what} `{base}/{path}`"));
        Ok((Err(if in_nothing { ErrorCode::Access } else { code }),))
    }
}
