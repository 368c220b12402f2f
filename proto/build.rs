//! Compiles the contract without protoc, and keeps its descriptors for gRPC reflection.

use std::{env, fs, path::Path};

use prost::Message;

const PROTOS: [&str; 8] = [
    "hookline/v1/audit_service.proto",
    "hookline/v1/delivery.proto",
    "hookline/v1/delivery_service.proto",
    "hookline/v1/event.proto",
    "hookline/v1/route_service.proto",
    "hookline/v1/token_service.proto",
    "hookline/v1/webhook.proto",
    "hookline/v1/webhook_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=hookline");
    println!("cargo:rerun-if-changed=google");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .bytes(".hookline.v1.Delivery.body")
        .bytes(".hookline.v1.HttpRequest.body")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
