//! The load generator: `cargo run --release -p load -- WORKLOAD…` starts the pair from the binaries
//! beside it, receivers in a process of their own, publishes, and says how fast it went, what it cost
//! and whether all that was accepted has arrived. Everything is measured beside the machine's own limit
//! in the same run, for absolute figures hold for one machine and one hour.

mod args;
mod backlog;
mod empty;
mod measure;
mod pace;
mod pair;
mod publish;
mod raw;
mod receiver;
mod receivers;
mod report;
mod run;
mod setup;
mod tickets;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let done = match args::Role::of_process() {
        Some(args::Role::Receiver) => receiver::run().await,
        Some(args::Role::Empty(stream)) => empty::run(stream).await,
        None => run::run(&args::Args::parse()).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
