//! `legatus link-ssh`: a folder with an `ssh` that is this program, for programs that look for it in
//! PATH only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::console;

/// Programs of OpenSSH that call `ssh`, and by which option they take another one.
const WRAPPED: [&str; 2] = ["scp", "sftp"];

/// Flags of `legatus link-ssh`.
#[derive(clap::Args, Clone, Debug)]
pub struct LinkArguments {
    /// The folder; it is made if it is missing
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    folder: PathBuf,
}

/// Puts `ssh`, `scp` and `sftp` into a folder, and prints how they are used.
pub(crate) fn link(arguments: &LinkArguments) -> Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let named = &arguments.folder;
    fs::create_dir_all(named).with_context(|| format!("cannot make `{}`", named.display()))?;
    let folder = named
        .canonicalize()
        .with_context(|| format!("cannot use `{}`", named.display()))?;
    let ssh = folder.join("ssh");
    if console::printable(&ssh.to_string_lossy()) != ssh.to_string_lossy()
        || ssh.to_string_lossy().contains(['\'', ' '])
    {
        bail!(
            "`{}` has characters that programs do not take in the name of a command",
            ssh.display()
        );
    }
    place_link(&program, &ssh)?;
    for name in WRAPPED {
        place_wrapper(&folder, name, &ssh)?;
    }
    console::print(advice(&folder, &ssh).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn place_link(program: &Path, at: &Path) -> Result<()> {
    match fs::symlink_metadata(at) {
        Ok(found) if found.is_symlink() => {
            fs::remove_file(at).with_context(|| format!("cannot replace `{}`", at.display()))?;
        }
        Ok(_) => bail!(
            "`{}` is there already, and is no link: it may be OpenSSH's own",
            at.display()
        ),
        Err(_) => {}
    }
    symlink(program, at).with_context(|| format!("cannot make the link `{}`", at.display()))
}

/// Marks scripts that may be written anew.
const MARK: &str = "# Made by `legatus link-ssh`.";

/// OpenSSH's own program, told which ssh to use.
fn place_wrapper(folder: &Path, name: &str, ssh: &Path) -> Result<()> {
    let at = folder.join(name);
    match fs::read_to_string(&at) {
        Ok(text) if text.contains(MARK) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        _ => bail!(
            "`{}` is there already, and was not made by this command",
            at.display()
        ),
    }
    let script = format!(
        "#!/bin/sh\n{MARK}\n# The first {name} in PATH outside of this folder, with this folder's ssh.\n\
         old_ifs=$IFS IFS=:\nfor folder in $PATH; do\n    \
         [ \"$folder\" -ef '{folder}' ] && continue\n    \
         [ -x \"$folder/{name}\" ] || continue\n    \
         IFS=$old_ifs\n    exec \"$folder/{name}\" -S '{ssh}' \"$@\"\ndone\n\
         echo '{name}: OpenSSH is not installed' >&2\nexit 255\n",
        folder = folder.display(),
        ssh = ssh.display(),
    );
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(&at)
        .and_then(|mut file| file.write_all(script.as_bytes()));
    written.with_context(|| format!("cannot write `{}`", at.display()))
}

fn advice(folder: &Path, ssh: &Path) -> String {
    let (folder, ssh) = (folder.display(), ssh.display());
    format!(
        "{folder} has ssh, scp and sftp that go through Legatus.

everything that looks in PATH:
    export PATH={folder}:$PATH
rsync:
    rsync -a -e {ssh} folder/ web1:/srv/folder/
git:
    GIT_SSH_COMMAND={ssh} git clone web1:/srv/repository.git
    git config core.sshCommand {ssh}
borg:
    BORG_RSH={ssh} borg create ssh://web1/srv/backup::today /home
Ansible (ansible.cfg):
    [connection]
    pipelining = true
    [ssh_connection]
    ssh_executable = {ssh}
    transfer_method = piped
VS Code (Remote - SSH, settings.json):
    \"remote.SSH.path\": \"{ssh}\"
"
    )
}
