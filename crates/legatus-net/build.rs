//! Generates the gRPC service from `proto/` without needing protoc.

use std::path::Path;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let files = ["", "shell", "transfer_file", "system"].map(|module| match module {
        "" => root.join("legatus/v1/legatus.proto"),
        _ => root.join(format!("legatus/{module}/v1/{module}.proto")),
    });
    for file in &files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let mut service = protox::compile([&files[0]], [root])?;
    // `Call` is spoken by `framing.rs`, which copies no message.
    for service in service.file.iter_mut().flat_map(|file| &mut file.service) {
        service.method.retain(|method| method.name() != "Call");
    }
    tonic_prost_build::configure()
        // The messages are those of `legatus_core::wire`.
        .extern_path(".legatus.v1", "::legatus_core::wire")
        .compile_fds(service)?;
    // Reflection offers the modules' messages too, so that a foreign client can discover them.
    let all = protox::compile(&files, [root])?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), all.encode_to_vec())?;
    Ok(())
}
