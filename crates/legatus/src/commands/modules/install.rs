//! `legatus modules install`: a module is sent to a server, which loads it before it takes its place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use legatus_core::{Fault, Host, Outcome, Request, limits};
use legatus_host::external::{
    INSTALL_MODULE, MANIFEST, Parcel, ParcelFile, ToldModule, files_to_install, sha256,
};

use crate::commands::Context;
use crate::commands::call::drive;
use crate::config::ResolvedHost;
use crate::connect::Connector;
use crate::console::{self, printable};

/// Installs a module on a host.
pub(super) fn run(file: &Path, host: &Host, context: &Context<'_>) -> Result<ExitCode> {
    let (parcel, contents) = pack(file)?;
    let name = file.file_name().unwrap_or_default().to_owned();
    drive(host, context, async |host, connector, _| {
        let name = name.to_string_lossy().into_owned();
        let sent = send(host, connector, name, &parcel, &contents).await;
        match sent {
            Ok((outcome, Some(told))) if outcome == Outcome::SUCCESS => {
                let line = format!("installed {} {} ({})", told.name, told.version, told.kind);
                match console::print(format!("{}\n", printable(&line)).as_bytes()) {
                    Ok(()) => Outcome::SUCCESS,
                    Err(error) => Outcome::Failed(Fault::new(error.to_string())),
                }
            }
            Ok((outcome, _)) => outcome,
            Err(fault) => Outcome::Failed(fault),
        }
    })
}

/// The files of a module, and what is in them.
fn pack(file: &Path) -> Result<(Parcel, Vec<Vec<u8>>)> {
    let what = || format!("cannot read `{}`", file.display());
    let is_folder = fs::metadata(file).with_context(what)?.is_dir();
    let (folder, paths) = if is_folder {
        if !file.join(MANIFEST).is_file() {
            bail!(
                Fault::new(format!("there is no {MANIFEST} in `{}`", file.display()))
                    .with_hint("a single .wasm or .so file can be installed as it is")
            );
        }
        (file.to_owned(), files_to_install(file)?)
    } else {
        let name = PathBuf::from(file.file_name().unwrap_or_default());
        let folder = file.parent().unwrap_or_else(|| Path::new(""));
        (folder.to_owned(), vec![name])
    };
    let mut parcel = Parcel::default();
    let mut contents = Vec::new();
    for path in paths {
        let there = folder.join(&path);
        let what = || format!("cannot read `{}`", there.display());
        let metadata = fs::metadata(&there).with_context(what)?;
        let content = fs::read(&there).with_context(what)?;
        parcel.files.push(ParcelFile {
            path,
            length: content.len() as u64,
            digest: sha256(&content),
            executable: metadata.permissions().mode() & 0o100 != 0,
        });
        contents.push(content);
    }
    Ok((parcel, contents))
}

async fn send(
    host: &ResolvedHost,
    connector: &dyn Connector,
    name: String,
    parcel: &Parcel,
    contents: &[Vec<u8>],
) -> Result<(Outcome, Option<ToldModule>), Fault> {
    let caller = match connector.connect(host, INSTALL_MODULE).await {
        Ok(caller) => caller,
        Err(failure) => return Ok((failure.into(), None)),
    };
    let conversation = caller.open(Request::from_arguments([name])).await?;
    let (sender, mut receiver) = conversation.channel.split();
    let announcement = serde_json::to_vec(parcel).map_err(|error| Fault::new(error.to_string()))?;
    let upload = async {
        // A server that refuses says why in the outcome.
        let mut sent = sender.send(announcement.into()).await;
        for content in contents {
            for chunk in content.chunks(limits::CHUNK_BYTES) {
                if sent.is_ok() {
                    sent = sender.send(chunk.to_vec().into()).await;
                }
            }
        }
        drop(sender);
    };
    let download = async {
        let mut told = None;
        while let Some(message) = receiver.receive().await {
            told = Some(ToldModule::parse(&message)?);
        }
        Ok::<_, Fault>(told)
    };
    let ((), told) = tokio::join!(upload, download);
    let outcome = conversation.outcome.wait().await;
    caller.finish().await;
    Ok((outcome, told?))
}
