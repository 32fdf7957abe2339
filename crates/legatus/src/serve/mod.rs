//! `legatus serve`: a server from its flags and its configuration to its end.

mod embedded;
mod handover;
mod lifecycle;
mod options;
mod users;

use std::io::Write as _;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use legatus_core::{Fault, Misnamed, Policy, Registry};
use legatus_host::external::{Catalogue, ClientHalves, InstallModule, ListModules};
use legatus_host::{Launcher, SessionFolder, Users};
use legatus_net::tls::{PemSource, ServerTls};
use legatus_net::{Audit, Server, ServerOptions, parse_policy};

use tokio_util::sync::CancellationToken;

use crate::cli::Globals;
use crate::environment::Environment;
use crate::external;

pub(crate) use self::embedded::Embedded;
pub(crate) use self::options::ServeArguments;
use self::options::Settings;

/// Runs a server until it has drained.
pub(crate) fn run(
    arguments: ServeArguments,
    globals: &Globals,
    registry: &Registry,
) -> Result<ExitCode> {
    let settings = Settings::gather(arguments, globals, &Environment::Process)?;
    crate::logging::init(
        settings.log_level.as_deref().unwrap_or("info"),
        settings.log_format,
    )?;
    let sessions = SessionFolder::open(&settings.state_dir);
    let sessions =
        Arc::new(sessions.with_context(|| {
            format!("cannot keep sessions in `{}`", settings.state_dir.display())
        })?);
    let launcher = users::assign(launcher(), &settings)?
        .with_descriptor_limit(raise_descriptor_limit())
        .with_sessions(Arc::clone(&sessions))
        .with_spill(settings.session_spill);
    configure(registry, &settings)?;
    let catalogue = catalogue(&settings, launcher.users.clone())?;
    let authorities = PemSource::File(settings.ca.clone());
    let tls = Arc::new(ServerTls::new(settings.pairs.clone(), authorities)?);
    let audit = Audit::open(&settings.state_dir).context("no audit, no calls")?;
    let mut builtin = legatus_host::isolate_all(registry, launcher.clone())?;
    if let Some(catalogue) = &catalogue {
        builtin.add(ClientHalves::new(Arc::clone(catalogue)))?;
        builtin.add(ListModules::new(Arc::clone(catalogue)))?;
        if let Some(folder) = settings.modules.install_folder(catalogue)? {
            builtin.add(InstallModule::new(Arc::clone(catalogue), folder))?;
        }
    }
    let registry = match &catalogue {
        Some(catalogue) => catalogue.registry(&builtin),
        None => builtin.clone(),
    };
    let policy = load_policy(&settings, &registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let prepared = runtime.block_on(launcher.prepare());
    prepared.context("cannot start the process that runs calls")?;
    let listeners = handover::listeners(&settings.listen)?;
    let handover = handover::Handover::new(&listeners)?;
    let server = Server::new(ServerOptions {
        registry,
        policy,
        audit,
        tls: Arc::clone(&tls),
        limits: settings.limits,
        restart: Some(handover.restart()),
        sessions: Some(sessions),
    });
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let server = server
        .with_threads(threads)
        .context("cannot start threads for connections")?;
    let signals = lifecycle::Signals::take()?;
    let stop = CancellationToken::new();
    if let Some(catalogue) = catalogue {
        let watching = external::watch(catalogue, builtin, server.handle(), stop.clone());
        runtime.spawn(watching);
    }
    announce(&listeners)?;
    handover::tell_ready();
    runtime.block_on(lifecycle::run(server, listeners, signals, tls, &settings))?;
    stop.cancel();
    // Blocking work that hangs must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

/// The external modules, filled; they are found before anybody is served.
fn catalogue(settings: &Settings, users: Users) -> Result<Option<Arc<Catalogue>>> {
    let places = external::Places::of_process();
    let cache = settings.state_dir.join("modules");
    let (flags, table) = (&settings.module_flags, settings.modules.clone());
    let Some(settings) = external::settings(flags, table, &places, cache, users) else {
        return Ok(None);
    };
    let catalogue = external::open(settings).context("no external modules")?;
    Ok(Some(Arc::new(catalogue)))
}

/// Tells the modules what the configuration says to them.
fn configure(registry: &Registry, settings: &Settings) -> Result<()> {
    for (name, settings) in &settings.module_settings {
        let module = registry
            .resolve(name)
            .map_err(Fault::from)
            .with_context(|| format!("[settings.{name}]"))?;
        module
            .configure(settings)
            .with_context(|| format!("[settings.{name}]"))?;
    }
    Ok(())
}

/// How the server's children are started: as this program, by its hidden subcommand.
fn launcher() -> Launcher {
    Launcher::new(["holder"]).with_environment(std::env::vars_os())
}

/// The policy in force; without a file everyone may call everything, which is said aloud.
fn load_policy(settings: &Settings, registry: &Registry) -> Result<Policy> {
    let Some(path) = &settings.policy else {
        tracing::warn!(
            ca = %settings.ca.display(),
            "no --policy: every client with a certificate of this CA may call everything"
        );
        return Ok(Policy::allow_all("no policy"));
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the policy `{}`", path.display()))?;
    let is_not_valid = || format!("the policy `{}` is not valid", path.display());
    let policy = parse_policy(&text).with_context(is_not_valid)?;
    for Misnamed { rule, name, meant } in policy.misnamed(registry) {
        match meant {
            Ok(meant) => {
                let text =
                    format!("the rule `{rule}` is about `{name}`, which is no module's name");
                let fault = Fault::new(text).with_hint(format!("write `{meant}`"));
                return Err(fault).with_context(is_not_valid);
            }
            // It may be installed later.
            Err(unknown) => {
                let nearest = unknown.nearest.as_deref();
                let like = nearest.map(|nearest| format!("; did you mean `{nearest}`?"));
                let like = like.unwrap_or_default();
                tracing::warn!(rule, "the policy has a rule about nothing: {unknown}{like}");
            }
        }
    }
    Ok(policy)
}

/// Says on standard output where the server listens: the first lines, for scripts. Nobody has to
/// read them.
fn announce(listeners: &[TcpListener]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for listener in listeners {
        writeln!(stdout, "listening on {}", listener.local_addr()?).ok();
    }
    Ok(())
}

/// As many descriptors as the system lets us have: each connection needs one, each command about
/// five. Returns the limit before, which is the right one for children.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    before
}
