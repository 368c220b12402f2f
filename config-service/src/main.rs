//! The process `config-service`: its settings, and the service until it is told to stop.

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;
use common::{
    metrics, process,
    settings::{self, EgressArgs, IngressArgs, Problems, ProcessArgs, StoreArgs},
    telemetry,
};
use config_service::{Metrics, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Owns webhooks and accounts, and feeds their routes to delivery-service
#[derive(Debug, Parser)]
#[command(name = "config-service", version)]
struct Cli {
    /// Where it listens
    #[arg(long, env = "HOOKLINE_CONFIG_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:50051")]
    config_addr: SocketAddr,

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
        return process::check_health(&cli.process, &[cli.config_addr]);
    }
    let settings = cli.check().unwrap_or_else(|problems| problems.exit());
    process::run(&cli.process, async |stop| {
        let metrics = Metrics::default();
        metrics::serve(cli.process.metrics_listen, |registry| metrics.register(registry)).await?;
        config_service::start(settings, metrics, stop).await?.finished().await
    })
}

impl Cli {
    fn check(&self) -> Result<Settings, Problems> {
        let mut problems = Problems::default();
        let listeners = self.process.listeners(&[("--config-addr", self.config_addr)]);
        let store = self.store.check(&mut problems);
        let route_token = self.ingress.check(&listeners, Some(self.config_addr), &mut problems);
        let egress = self.egress.check(&listeners, &mut problems);
        telemetry::check(&self.process, &mut problems);
        let Some(store) = store.filter(|_| problems.is_empty()) else { return Err(problems) };
        Ok(Settings { listen: self.config_addr, store, route_token, egress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_it_needs_a_token_for_the_feed_of_secrets() {
        let check = |flags: &[&str]| {
            let cli = Cli::try_parse_from([&["config-service"], flags].concat()).unwrap();
            cli.check().map_err(|problems| problems.to_string())
        };
        assert!(check(&[]).unwrap().egress.development);
        let problems = check(&["--config-addr", "0.0.0.0:1", "--insecure"]).unwrap_err();
        assert!(problems.contains("--route-token-file"), "{problems}");
        let problems = check(&["--metrics-listen", "0.0.0.0:1"]).unwrap_err();
        assert!(problems.contains("--metrics-listen 0.0.0.0:1 is beyond loopback"), "{problems}");
    }
}
