//! The public API as Rust: messages, clients and servers of `hookline.v1`, and the descriptors
//! that gRPC reflection serves. Nothing else lives here; with feature `json`, a reader of proto JSON.

#[cfg(feature = "json")]
pub mod json;

#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used)]
pub mod v1 {
    tonic::include_proto!("hookline.v1");
}

/// The contract's encoded `FileDescriptorSet`, with all that it imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
