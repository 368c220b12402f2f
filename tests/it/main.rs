//! Scenarios against the real binaries. One test binary, a file for each thing that must hold.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a scenario that cannot go on has failed")]

mod bad_input;
mod batches;
mod circuit;
mod crash;
mod deliveries;
mod demo;
mod engine;
mod failover;
mod fixtures;
mod grpcurl;
mod isolation;
mod latency;
mod lifecycle;
mod load;
mod memory;
mod metrics;
mod order;
mod pairs;
mod replicas;
mod settings;
mod signature;
mod silent_node;
mod store_away;
mod tidy;
