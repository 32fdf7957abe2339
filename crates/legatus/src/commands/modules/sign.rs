//! `legatus modules sign` and `verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use legatus_core::Fault;
use legatus_host::external;

use crate::commands::Context;
use crate::config::Configuration;
use crate::console;

/// The flags of `legatus modules sign`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Sign {
    /// The folder with the `module.toml`
    #[arg(value_hint = clap::ValueHint::DirPath)]
    folder: PathBuf,
    /// The secret key, as minisign(1) makes it without a password
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    secret_key: Option<PathBuf>,
    /// Make a key pair first: FILE, and FILE.pub
    #[arg(long, value_name = "FILE", conflicts_with = "secret_key")]
    new_key: Option<PathBuf>,
}

/// The flags of `legatus modules verify`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Verify {
    /// The folder with the `module.toml`
    #[arg(value_hint = clap::ValueHint::DirPath)]
    folder: PathBuf,
    /// A public key, or its file; those of the configuration without it
    #[arg(long, value_name = "KEY")]
    trusted_key: Vec<String>,
}

impl Sign {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let path = match (&self.secret_key, &self.new_key) {
            (Some(path), _) => path.clone(),
            (None, Some(path)) => {
                make_key(path)?;
                path.clone()
            }
            (None, None) => bail!("no key"),
        };
        let key = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the key `{}`", path.display()))?;
        let signature = external::sign(&self.folder, &key, None)?;
        console::print(format!("signed: {}\n", signature.display()).as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes a new key pair; the secret key is for its owner only, and none is overwritten.
fn make_key(path: &PathBuf) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let (secret, public) = external::new_key()?;
    let write = |path: &PathBuf, text: &str, mode: u32| {
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .with_context(|| format!("cannot write the key `{}`", path.display()))?;
        file.write_all(text.as_bytes())?;
        anyhow::Ok(())
    };
    write(path, &secret, 0o600)?;
    let mut name = path.clone().into_os_string();
    name.push(".pub");
    write(&PathBuf::from(name), &public, 0o644)
}

impl Verify {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<ExitCode> {
        let keys: Vec<_> = if self.trusted_key.is_empty() {
            let configuration = Configuration::load(context.globals, context.environment)?;
            configuration.modules().keys()
        } else {
            self.trusted_key
                .iter()
                .map(|key| crate::external::read_key(key))
                .collect()
        };
        if keys.is_empty() {
            let none = Fault::new("there is no key to verify with");
            bail!(none.with_hint("name one with --trusted-key, or in the configuration"));
        }
        let key = external::verify(&self.folder, &keys)?;
        console::print(format!("signed by {key}\n").as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
