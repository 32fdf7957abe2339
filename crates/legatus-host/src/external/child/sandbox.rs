//! What a module host gives up before foreign code runs in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use serde::{Deserialize, Serialize};

use super::super::grants::Grants;

/// The newest Landlock that is used; older kernels enforce what they can.
const LANDLOCK: ABI = ABI::V6;

/// Descriptors that a module may have open.
const DESCRIPTORS: u64 = 256;

/// Processes and threads of the module's user, all together: a module that multiplies without end
/// stops there (root does not).
const PROCESSES: u64 = 4096;

/// What every program needs to start: libraries, interpreters, and what they look at.
const SYSTEM: [&str; 16] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/dev/full",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
];

/// What the names of the network need.
const NETWORK: [&str; 5] = [
    "/etc/gai.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
];

/// The rules of one module host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rules {
    pub(super) memory: u64,
    /// Bytes of memory for what is there beside the module.
    pub(super) extra_memory: u64,
    pub(super) cpu_seconds: u64,
    pub(super) grants: Grants,
    /// The module's folder, which it may read.
    pub(super) folder: Option<PathBuf>,
}

impl Rules {
    /// Gives up what is not granted, for good. `artefact` stays readable and executable.
    ///
    /// Returns whether the kernel guards files, too.
    pub(super) fn apply(
        &self,
        artefact: Option<BorrowedFd<'_>>,
        executes: bool,
    ) -> io::Result<bool> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::thread::set_no_new_privs(true)?;
        let memory = self.memory.saturating_add(self.extra_memory);
        // Not address space: some interpreters reserve much of it and touch little.
        limit(Resource::Data, memory, memory)?;
        limit(
            Resource::Cpu,
            self.cpu_seconds,
            self.cpu_seconds.saturating_add(1),
        )?;
        limit(Resource::Nofile, DESCRIPTORS, DESCRIPTORS)?;
        limit(Resource::Nproc, PROCESSES, PROCESSES)?;
        limit(Resource::Core, 0, 0)?;
        self.guard(artefact, executes).map_err(io::Error::other)
    }

    fn guard(
        &self,
        artefact: Option<BorrowedFd<'_>>,
        executes: bool,
    ) -> Result<bool, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let execute = AccessFs::Execute;
        let all = AccessFs::from_all(LANDLOCK);
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::AbstractUnixSocket | Scope::Signal)?
            .create()?;
        // An executable has to become itself, and its interpreter; a library needs no program.
        let programs = if executes || self.grants.run {
            read | execute
        } else {
            read
        };
        let mut ruleset = ruleset;
        if let Some(artefact) = artefact {
            let access = fitting(artefact, read | execute);
            ruleset = ruleset.add_rule(PathBeneath::new(artefact, access))?;
        }
        let network: &[&str] = if self.grants.connect.is_empty() {
            &[]
        } else {
            &NETWORK
        };
        let system = SYSTEM.iter().chain(network).map(PathBuf::from);
        let granted = self.grants.read.iter().cloned().chain(self.folder.clone());
        let devices = AccessFs::WriteFile;
        let paths = system
            .map(|path| {
                let extra = if path.starts_with("/dev") {
                    devices.into()
                } else {
                    BitFlags::EMPTY
                };
                (path, programs | extra)
            })
            .chain(granted.map(|path| (path, read)))
            .chain(
                self.grants
                    .write
                    .iter()
                    .map(|path| (path.clone(), all & !execute)),
            );
        for (path, access) in paths {
            // What does not exist needs no rule.
            let Ok(opened) = PathFd::new(&path) else {
                continue;
            };
            let access = fitting(opened.as_fd(), access);
            ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
        }
        for (_, port) in self.grants.addresses().flatten() {
            ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
        }
        let status = ruleset.restrict_self()?;
        Ok(status.ruleset != landlock::RulesetStatus::NotEnforced)
    }
}

/// A file takes no rights of folders.
fn fitting(opened: BorrowedFd<'_>, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    let stat = rustix::fs::fstat(opened);
    let is_folder = stat.is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
    });
    if is_folder {
        access
    } else {
        access & AccessFs::from_file(LANDLOCK)
    }
}

fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    // Nobody can raise what somebody else has lowered before.
    let most = rustix::process::getrlimit(resource)
        .maximum
        .unwrap_or(u64::MAX);
    setrlimit(
        resource,
        Rlimit {
            current: Some(soft.min(most)),
            maximum: Some(hard.min(most)),
        },
    )?;
    Ok(())
}
