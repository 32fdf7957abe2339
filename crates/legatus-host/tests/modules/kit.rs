//! What the tests share: a folder of modules, its catalogue, and calls.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::testing;
use legatus_core::{
    Channel, ChannelReceiver, ChannelSender, Control, Module, Outcome, Registry, Request,
};
use legatus_host::external::{Catalogue, CatalogueSettings, Grants, Listed, State};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber as _;

/// A folder of modules and where they are compiled to.
pub(crate) struct Kit {
    folder: tempfile::TempDir,
    pub(crate) settings: CatalogueSettings,
}

impl Kit {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("modules");
        fs::create_dir(&modules).unwrap();
        let settings = CatalogueSettings {
            folders: vec![modules],
            extensions: vec!["so".into(), "wasm".into()],
            allow_native: true,
            cache: folder.path().join("cache"),
            environment: vec![("SECRET".into(), "sesame".into())],
            host_executable: "/proc/self/exe".into(),
            host_arguments: vec!["module-host".into()],
            ..CatalogueSettings::default()
        };
        Self { folder, settings }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("modules").join(name)
    }

    /// A folder beside the modules, and what it lies in, without links on the way.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Puts a file among the modules.
    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Puts a module with a manifest into a folder of its own.
    pub(crate) fn put_with_manifest(&self, name: &str, bytes: &[u8], kind: &str, rest: &str) {
        self.put(&format!("{name}/artefact"), bytes);
        let manifest = format!(
            "name = '{name}'\nvendor = 'acme'\nversion = '1.0.0'\nkind = '{kind}'\n\
             artefact = 'artefact'\n{rest}"
        );
        self.put(&format!("{name}/module.toml"), manifest);
    }

    pub(crate) fn grant(&mut self, module: &str, grants: Grants) {
        self.settings.grants = BTreeMap::from([(module.to_owned(), grants)]);
    }

    pub(crate) fn catalogue(&self) -> Catalogue {
        let catalogue = Catalogue::open(self.settings.clone()).unwrap();
        catalogue.scan();
        catalogue
    }

    /// The only module that there is.
    pub(crate) fn listed(&self) -> Listed {
        let mut listed = self.catalogue().listed();
        assert_eq!(listed.len(), 1, "{listed:?}");
        listed.remove(0)
    }

    /// Why the only module that there is is broken.
    pub(crate) fn broken(&self) -> String {
        match self.listed().state {
            State::Broken(reason) => reason,
            other => panic!("it is {other:?}"),
        }
    }

    /// A module that can be called.
    pub(crate) fn module(&self, name: &str) -> Arc<dyn Module> {
        let catalogue = self.catalogue();
        let registry = catalogue.registry(&Registry::new());
        let listed = catalogue.listed();
        let found = registry.resolve(name).cloned();
        found.unwrap_or_else(|error| panic!("{error}: {listed:?}"))
    }
}

/// Makes a file that others may write.
pub(crate) fn open_to_others(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
}

/// A running call's end of the channel, and how it will end.
pub(crate) struct Running {
    pub(crate) channel: Channel,
    pub(crate) cancellation: CancellationToken,
    outcome: JoinHandle<Outcome>,
}

/// Starts a call of a server half.
pub(crate) fn start(module: &Arc<dyn Module>, arguments: &[&str]) -> Running {
    let arguments = arguments
        .iter()
        .map(|one| Bytes::copy_from_slice(one.as_bytes()));
    let request = Request::from_arguments(arguments);
    let (_, controls) = Control::queue();
    let call = testing::call(module.as_ref(), request, controls).unwrap();
    let cancellation = call.cancellation.clone();
    let (ours, theirs) = Channel::pair(1 << 20);
    let module = Arc::clone(module);
    let running = async move {
        let commander = module.commander().expect("it has a server half");
        commander.execute(call, theirs).await.into()
    };
    // Whoever counts what is logged counts what is logged there.
    let outcome = tokio::spawn(running.with_current_subscriber());
    Running {
        channel: ours,
        cancellation,
        outcome,
    }
}

impl Running {
    pub(crate) fn split(self) -> (ChannelSender, ChannelReceiver, JoinHandle<Outcome>) {
        let (sender, receiver) = self.channel.split();
        (sender, receiver, self.outcome)
    }

    /// The outcome after the caller's half has gone.
    pub(crate) async fn outcome_without_listener(self) -> Outcome {
        drop(self.channel);
        let limit = Duration::from_secs(60);
        let ended = tokio::time::timeout(limit, self.outcome).await;
        ended.expect("the call ends").unwrap()
    }

    pub(crate) async fn outcome(self) -> Outcome {
        let limit = Duration::from_secs(60);
        let ended = tokio::time::timeout(limit, self.outcome).await;
        ended.expect("the call ends").unwrap()
    }
}

/// Calls a server half with this input; its output and how it ended.
pub(crate) async fn call(
    module: &Arc<dyn Module>,
    arguments: &[&str],
    input: &[u8],
) -> (Vec<u8>, Outcome) {
    let running = start(module, arguments);
    let (sender, mut receiver) = running.channel.split();
    let upload = async {
        for chunk in input.chunks(100_000) {
            if sender.send(Bytes::copy_from_slice(chunk)).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    let download = async {
        let mut output = Vec::new();
        while let Some(bytes) = receiver.receive().await {
            output.extend_from_slice(&bytes);
        }
        output
    };
    let ((), output) = tokio::join!(upload, download);
    let limit = Duration::from_secs(60);
    let ended = tokio::time::timeout(limit, running.outcome).await;
    (output, ended.expect("the call ends").unwrap())
}

/// What a failed call tells.
pub(crate) fn failure(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(fault) | Outcome::Unavailable(fault) => fault.to_string(),
        other => panic!("it is {other:?}"),
    }
}
