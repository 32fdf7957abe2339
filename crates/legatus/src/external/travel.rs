//! Modules that only the server has: their calls are made by the generic client half, or by one of
//! their own that the server hands out, which runs sandboxed.

use std::ffi::OsString;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use legatus_core::{Fault, Host, Module, Outcome, Registry, Request, wire};
use legatus_host::Users;
use legatus_host::external::{CLIENT_HALVES, Remote, SHA256_DIGITS, sha256, spec_from_wire};

use super::scan::globals;
use super::{Places, Travel, open, settings};
use crate::cli;
use crate::config::{Configuration, ResolvedHost};
use crate::connect::Connector;
use crate::console::printable;
use crate::environment::Environment;

/// Bytes of a client half, at most: those of an artefact.
const HALF_BYTES: usize = 64 << 20;

/// Global flags that take a value.
const WITH_VALUE: [&str; 8] = [
    "--ca",
    "--cert",
    "--config",
    "--connect-timeout",
    "--key",
    "--log-level",
    "--modules-dir",
    "--modules-extension",
];

/// The module that a command line names, if only the host that it names has it.
///
/// # Errors
/// When the host has it, but it may not or cannot be used here.
pub(crate) fn lacking(
    words: &[OsString],
    registry: &Registry,
    connector: &dyn Connector,
) -> Result<Option<Arc<dyn Module>>> {
    let Some((name, host)) = named(words, registry) else {
        return Ok(None);
    };
    let globals = globals(words);
    // What is wrong with the configuration is told where it is used.
    let Ok(configuration) = Configuration::load(&globals, &Environment::Process) else {
        return Ok(None);
    };
    if globals.modules.no_external_modules || configuration.modules().are_off() {
        return Ok(None);
    }
    let Ok(host) = configuration.resolve(&host) else {
        return Ok(None);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let told = runtime.block_on(connector.describe(&host));
    let modules = told.map(|told| told.modules).unwrap_or_default();
    let Some(told) = modules.into_iter().find(|one| one.name == name) else {
        return Ok(None);
    };
    if told.travelling.is_empty() {
        let spec = spec_from_wire(&told);
        return Ok(spec.map(|spec| Arc::new(Remote::new(spec)) as _));
    }
    let travel = configuration.modules().travel;
    let yes = words.iter().any(|word| word == "--yes");
    let half = Half {
        told: &told,
        host: &host,
        data: Places::of_process()
            .data
            .context("no HOME to keep client halves in")?,
    };
    let module = half.module(&configuration, travel, yes, || {
        runtime.block_on(half.fetch(connector))
    });
    module.map(Some)
}

/// The module and the host that a command line names, if the module is unknown here and no slip of
/// the pen: the network is not asked about those.
fn named(words: &[OsString], registry: &Registry) -> Option<(String, Host)> {
    let mut words = words.iter().skip(1);
    let name = loop {
        let word = words.next()?.to_str()?;
        if WITH_VALUE.contains(&word) {
            words.next()?;
        } else if !word.starts_with('-') {
            break word.to_ascii_lowercase();
        }
    };
    let unknown = registry.resolve(&name).err()?;
    let known = cli::command(registry).find_subcommand(&name).is_some();
    if unknown.nearest.is_some() || !unknown.claimants.is_empty() || known {
        return None;
    }
    let host = words.next()?.to_str()?.parse().ok()?;
    Some((name, host))
}

/// A client half that a server offers.
struct Half<'a> {
    told: &'a wire::Spec,
    host: &'a ResolvedHost,
    /// The user's data folder.
    data: PathBuf,
}

impl Half<'_> {
    /// The module with this client half, kept from before or fetched after the user agreed.
    fn module(
        &self,
        configuration: &Configuration,
        travel: Travel,
        yes: bool,
        fetch: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<dyn Module>> {
        let digest = &self.told.travelling;
        if digest.len() != SHA256_DIGITS || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            bail!("the server tells a digest that is none");
        }
        let folder = self.data.join("legatus/travelled").join(digest);
        let file = folder.join("half.wasm");
        // What lies there was agreed to.
        if !file.exists() {
            self.agree(travel, yes)?;
            let bytes = fetch()?;
            if sha256(&bytes) != *digest {
                bail!("the client half that the server sent is not the one that it told of");
            }
            keep(&folder, &file, &bytes)?;
        }
        let flags = super::ModuleFlags {
            modules_dir: vec![folder],
            ..Default::default()
        };
        let mut table = configuration.modules().clone();
        // Its digest is what was agreed to; grants and preferences are not for it.
        table.restrict();
        let cache = self.data.join("legatus/cache");
        let settings = settings(&flags, table, &Places::default(), cache, Users::default());
        let catalogue = open(settings.context("external modules are off")?)?;
        let registry = catalogue.registry(&Registry::new());
        let module = registry.resolve(&self.told.name).cloned();
        module.map_err(|_| {
            anyhow::anyhow!(
                "the client half of `{}` cannot be used here",
                self.told.name
            )
        })
    }

    fn agree(&self, travel: Travel, yes: bool) -> Result<()> {
        let name = printable(&self.told.name);
        let host = &self.host.name;
        let refusal = |hint: &str| {
            Fault::new(format!(
                "`{name}` has a client half of its own, which only {host} has"
            ))
            .with_hint(hint)
        };
        match travel {
            Travel::Yes => return Ok(()),
            Travel::Ask if yes => return Ok(()),
            Travel::No => bail!(refusal(
                "the configuration says that none is taken from servers"
            )),
            Travel::Ask => {}
        }
        let mut stderr = std::io::stderr();
        if !std::io::stdin().is_terminal() || !stderr.is_terminal() {
            bail!(refusal(
                "`--yes` takes it from there and runs it, sandboxed"
            ));
        }
        let digest = &self.told.travelling;
        write!(
            stderr,
            "{host} offers the client half of `{name}` (WebAssembly, sha256 {digest}).\n\
             It sees the arguments, standard input and output, and files that you name.\n\
             Take it and run it, sandboxed? [y/N] "
        )?;
        stderr.flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        bail!(refusal("it was not taken"));
    }

    /// Takes the client half from the server.
    async fn fetch(&self, connector: &dyn Connector) -> Result<Vec<u8>> {
        let caller = connector.connect(self.host, CLIENT_HALVES).await;
        let caller = caller.map_err(|failure| told(&Outcome::from(failure)))?;
        let request = Request::from_arguments([self.told.travelling.clone()]);
        let mut conversation = caller.open(request).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = conversation.channel.receive().await {
            if bytes.len() + chunk.len() > HALF_BYTES {
                bail!("the client half is larger than {} MiB", HALF_BYTES >> 20);
            }
            bytes.extend_from_slice(&chunk);
        }
        match conversation.outcome.wait().await {
            Outcome::Exit(0) => Ok(bytes),
            other => bail!(told(&other)),
        }
    }
}

fn told(outcome: &Outcome) -> Fault {
    let fault = outcome.fault().cloned();
    fault.unwrap_or_else(|| Fault::new("the server does not hand out the client half"))
}

/// Keeps what the user agreed to, for the user only.
fn keep(folder: &Path, file: &Path, bytes: &[u8]) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let temporary = folder.join(format!(".half.{}", std::process::id()));
    let mut options = fs::File::options();
    let mut written = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    written.write_all(bytes)?;
    fs::rename(&temporary, file)?;
    Ok(())
}
