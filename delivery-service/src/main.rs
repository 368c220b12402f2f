//! The binary: reads the settings and runs the service until it is told to stop.

use std::process::ExitCode;

use clap::Parser;
use common::{
    metrics, process,
    settings::{self, EgressArgs, IngressArgs, Problems, ProcessArgs, StoreArgs},
    telemetry,
};
use delivery_service::{
    Metrics,
    settings::{DeliveryArgs, UpstreamArgs},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes events in, finds the webhooks that they fire, and delivers
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    delivery: DeliveryArgs,
    #[command(flatten)]
    upstream: UpstreamArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    ingress: IngressArgs,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

fn main() -> ExitCode {
    let cli: Cli = settings::read();
    if cli.process.check_health {
        return process::check_health(&cli.process, &[cli.delivery.delivery_addr]);
    }
    let mut problems = Problems::default();
    telemetry::check(&cli.process, &mut problems);
    let Cli { delivery, upstream, store, ingress, egress, process } = &cli;
    let settings = delivery.check(upstream, store, ingress, egress, process, &mut problems);
    let Some(settings) = settings.filter(|_| problems.is_empty()) else { problems.exit() };
    process::run(&cli.process, async |stop| {
        let metrics = Metrics::default();
        metrics::serve(cli.process.metrics_listen, |registry| metrics.register(registry)).await?;
        delivery_service::start(settings, metrics, stop).await?.finished().await
    })
}
