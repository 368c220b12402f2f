//! What `hookline` is told: the settings of both services, and `--demo`.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;
use common::{
    settings::{EgressArgs, IngressArgs, Problems, ProcessArgs, Secret, Store, StoreArgs},
    telemetry,
};
use delivery_service::settings::DeliveryArgs;

/// The ports of both services when none are named.
const PORTS: [u16; 2] = [50051, 50052];

/// Webhooks over gRPC, events over gRPC, bodies by HTTP POST: both services of Hookline in one process
#[derive(Debug, Parser)]
#[command(name = "hookline", version)]
pub struct Cli {
    /// Deliver sample events to a receiver of its own, show each request, and end
    #[arg(long)]
    pub demo: bool,

    /// Where config-service listens
    #[arg(long, env = "HOOKLINE_CONFIG_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:50051")]
    #[arg(help_heading = "config-service")]
    config_addr: SocketAddr,

    #[command(flatten)]
    delivery: DeliveryArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    ingress: IngressArgs,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// Both services', checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub config: config_service::Settings,
    /// Its config_url is not known before config-service listens.
    pub delivery: delivery_service::Settings,
    /// Where the metrics of both are served.
    pub metrics_listen: Option<SocketAddr>,
}

impl Cli {
    /// Where both listen. A demo beside a running hookline takes free ports.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        let mut addresses = [self.config_addr, self.delivery.delivery_addr];
        let default = PORTS.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        if self.demo && addresses == default {
            addresses.iter_mut().for_each(|address| address.set_port(0));
        }
        addresses
    }

    /// The demo's output is the requests: logs only what is wrong, unless more was asked for.
    pub fn quieten(&mut self) {
        if self.process.log == "info" {
            "warn".clone_into(&mut self.process.log);
        }
    }

    /// Whether a folder for the data was named.
    pub fn has_data_dir(&self) -> bool {
        self.store.data_dir.is_some()
    }

    pub fn check(&self) -> Result<Settings, Problems> {
        let mut problems = Problems::default();
        let [config_addr, delivery_addr] = self.addresses();
        let services = [("--config-addr", config_addr), ("--delivery-addr", delivery_addr)];
        let listeners = self.process.listeners(&services);
        if config_addr == delivery_addr && config_addr.port() != 0 {
            problems.add("--config-addr and --delivery-addr must differ");
        }
        let store = self.store.check(&mut problems);
        // One process needs no file to agree on a token.
        let token = self.ingress.check(&listeners, None, &mut problems).unwrap_or_else(Secret::random);
        let egress = self.egress.check(&listeners, &mut problems);
        telemetry::check(&self.process, &mut problems);
        if self.demo && matches!(store, Some(Store::Redis(_))) {
            problems.add("--demo has an embedded store of its own: leave out --redis-url");
        }
        if self.demo && !egress.development {
            problems.add("--demo posts to loopback: it needs development mode");
        }
        let delivery = store.clone().and_then(|store| {
            let token = Some(token.clone());
            self.delivery.settings(String::new(), token, store, egress.clone(), &mut problems)
        });
        let (Some(store), Some(delivery), true) = (store, delivery, problems.is_empty()) else {
            return Err(problems);
        };
        let config =
            config_service::Settings { listen: config_addr, store, route_token: Some(token), egress };
        let delivery = delivery_service::Settings { listen: delivery_addr, ..delivery };
        Ok(Settings { config, delivery, metrics_listen: self.process.metrics_listen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: &[&str]) -> Result<Settings, String> {
        let cli = Cli::try_parse_from([&["hookline"], flags].concat()).unwrap();
        cli.check().map_err(|problems| problems.to_string())
    }

    #[test]
    fn without_flags_it_runs_on_loopback_in_development_mode() {
        let Settings { config, delivery, metrics_listen } = check(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
        assert_eq!(delivery.listen.to_string(), "127.0.0.1:50052");
        assert_eq!(config.store, Store::Disk("./data".into()));
        assert_eq!(delivery.store, config.store);
        assert!(config.egress.development && delivery.egress.development);
        assert_eq!(config.route_token.as_ref().map(|token| token.expose().len()), Some(64));
        assert_eq!(delivery.route_token, config.route_token);
        assert_eq!(metrics_listen, None);
    }

    #[test]
    fn a_demo_takes_free_ports_unless_others_are_named() {
        assert_eq!(check(&["--demo"]).unwrap().config.listen.port(), 0);
        let named = check(&["--demo", "--config-addr", "127.0.0.1:7001"]).unwrap();
        assert_eq!(named.config.listen.port(), 7001);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (flags, problem) in [
            (&["--config-addr", "127.0.0.1:1", "--delivery-addr", "127.0.0.1:1"][..], "must differ"),
            (&["--delivery-addr", "0.0.0.0:1"], "--insecure"),
            (&["--demo", "--redis-url", "redis://localhost"], "leave out --redis-url"),
            (&["--demo", "--no-development"], "needs development mode"),
            (&["--log", "a=b=c"], "--log"),
        ] {
            let problems = check(flags).unwrap_err();
            assert!(problems.contains(problem), "{flags:?}: {problems}");
        }
    }
}
