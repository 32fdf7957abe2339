//! Measures `transfer-file` without a network: both halves in one process, files on `/dev/shm`.
//!
//! `cargo run --release -p legatus-modules --example transfer_rate [-- MEBIBYTES]`

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use legatus_core::testing::{MemoryCaller, MemoryLocal};
use legatus_core::{Arguments, Module, limits};

fn main() -> Result<(), Box<dyn Error>> {
    let mebibytes: usize = std::env::args()
        .nth(1)
        .map_or(Ok(2048), |text| text.parse())?;
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let source = folder.path().join("source");
    let mut file = File::create(&source)?;
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        noise.fill(&mut block);
        file.write_all(&block)?;
    }
    let tree = folder.path().join("tree");
    for number in 0..20_000 {
        let path = tree.join((number / 200).to_string());
        fs::create_dir_all(&path)?;
        let contents = block.get(number..number + 10_500).unwrap_or_default();
        fs::write(path.join(number.to_string()), contents)?;
    }
    let target = folder.path().join("target");
    for (name, source, recursive) in [("one file", &source, false), ("20,000 files", &tree, true)] {
        for _ in 0..3 {
            let size = if recursive {
                210.0
            } else {
                mebibytes as f64 * 1.048_576
            };
            let report = |what: &str, (seconds, cpu): (f64, f64)| {
                let rate = size / seconds;
                writeln!(
                    std::io::stdout(),
                    "{name}: {what}: {seconds:.3} s, {rate:.0} MB/s, own CPU {cpu:.3} s"
                )
            };
            report("cp", timed(|| plain(source, &target))?)?;
            remove(&target)?;
            report("up", timed(|| copy(source.as_os_str(), &remote(&target)))?)?;
            remove(&target)?;
            report("down", timed(|| copy(&remote(source), target.as_os_str()))?)?;
            remove(&target)?;
        }
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<(f64, f64), Box<dyn Error>> {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    work()?;
    Ok((start.elapsed().as_secs_f64(), cpu_seconds() - cpu))
}

/// What this process has used of all processors; for busy machines.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn remote(path: &Path) -> std::ffi::OsString {
    let mut location = std::ffi::OsString::from("local:");
    location.push(path);
    location
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn plain(source: &Path, target: &Path) -> Result<(), Box<dyn Error>> {
    let status = Command::new("cp")
        .arg("-a")
        .arg(source)
        .arg(target)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err("cp failed".into())
    }
}

fn copy(source: &std::ffi::OsStr, target: &std::ffi::OsStr) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let registry = legatus_modules::builtin()?;
    let module: Arc<dyn Module> = Arc::clone(registry.resolve("transfer-file")?);
    let local = MemoryLocal::new();
    let arguments = Arguments::new().with("paths", source).with("paths", target);
    let outcome = runtime.block_on(async {
        let caller = MemoryCaller::new(Arc::clone(&module), limits::CHANNEL_BYTES);
        let sender = module.sender().ok_or("no sender")?;
        sender
            .send(arguments, &caller, &local)
            .await
            .map_err(|fault| fault.to_string())
    })?;
    if outcome.exit_status() == 0 {
        Ok(())
    } else {
        Err(format!("{outcome:?} {:?}", local.reports()).into())
    }
}
