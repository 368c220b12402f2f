//! What delivery-service is told, checked.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use common::{
    address::Rules,
    settings::{EgressArgs, IngressArgs, Problems, ProcessArgs, Secret, Store, StoreArgs},
};

use crate::{
    lanes,
    queue::{self, Durability, redis::Safety},
};

/// delivery-service's own flags; those that services share stand in groups of their own.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "delivery-service")]
pub struct DeliveryArgs {
    /// Where delivery-service listens
    #[arg(long, env = "HOOKLINE_DELIVERY_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:50052")]
    pub delivery_addr: SocketAddr,

    /// For how long a publisher's event id is known, so that a repeat delivers nothing again
    #[arg(long, env = "HOOKLINE_EVENT_ID_WINDOW", value_name = "TIME", default_value = "4h", value_parser = time)]
    pub event_id_window: Duration,

    /// Deliveries that may wait for one webhook; more end FAILED at once
    #[arg(long, env = "HOOKLINE_BACKLOG_COUNT", value_name = "COUNT", default_value = "1000000")]
    pub backlog_count: u64,

    /// Bytes of bodies that may wait for one webhook; more end FAILED at once
    #[arg(long, env = "HOOKLINE_BACKLOG_BYTES", value_name = "BYTES", default_value = "2147483648")]
    pub backlog_bytes: u64,

    /// Succeeded and cancelled deliveries that are kept for one webhook
    #[arg(long, env = "HOOKLINE_ENDED_COUNT", value_name = "COUNT", default_value = "1000")]
    pub ended_count: u64,

    /// For how long succeeded and cancelled deliveries are kept
    #[arg(long, env = "HOOKLINE_ENDED_AGE", value_name = "TIME", default_value = "3d", value_parser = time)]
    pub ended_age: Duration,

    /// Failed deliveries that are kept for one webhook, bodies included
    #[arg(long, env = "HOOKLINE_FAILED_COUNT", value_name = "COUNT", default_value = "10000")]
    pub failed_count: u64,

    /// For how long failed deliveries are kept
    #[arg(long, env = "HOOKLINE_FAILED_AGE", value_name = "TIME", default_value = "14d", value_parser = time)]
    pub failed_age: Duration,

    /// Requests under way at once, to all receivers together
    #[arg(long, env = "HOOKLINE_ATTEMPTS", value_name = "COUNT", default_value = "4096")]
    pub attempts: usize,

    /// For how long a receiver's name may take to resolve, and it to accept a connection, TLS included
    #[arg(long, env = "HOOKLINE_CONNECT_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = time)]
    pub connect_timeout: Duration,

    /// PEM file of authorities that may sign receivers' certificates, beside the system's
    #[arg(long, env = "HOOKLINE_EGRESS_CA", value_name = "FILE")]
    pub egress_ca: Option<std::path::PathBuf>,

    /// Free disk below which the embedded store takes no more events in, in bytes
    #[arg(long, env = "HOOKLINE_MIN_FREE_DISK", value_name = "BYTES", default_value = "1073741824")]
    pub min_free_disk: u64,

    /// Memory that each Redis server may use, in bytes, if its own maxmemory is not lower: at 90 % of it no
    /// more events are taken in [default: maxmemory alone]
    #[arg(long, env = "HOOKLINE_STORE_MEMORY_LIMIT", value_name = "BYTES")]
    pub store_memory_limit: Option<u64>,

    /// What an accepted event is safe from in Redis: memory (a crash of ours), fsync (a crash of Redis),
    /// replicas=N (the loss of its machine). The embedded store always syncs
    #[arg(long, env = "HOOKLINE_DURABILITY", value_name = "LEVEL", default_value = "memory")]
    pub durability: Durability,
}

/// Where config-service is: delivery-service alone is told, for in one process it is known.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "delivery-service")]
pub struct UpstreamArgs {
    /// Where config-service is, http or https
    #[arg(long, env = "HOOKLINE_CONFIG_URL", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub config_url: String,
}

/// What delivery-service needs to start.
#[derive(Debug, Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    pub config_url: String,
    pub route_token: Option<Secret>,
    pub store: Store,
    pub egress: Rules,
    pub sending: crate::send::Settings,
    pub queue: queue::Limits,
    pub lanes: lanes::Limits,
    /// Free disk that the embedded store leaves.
    pub min_free_bytes: u64,
    /// What is asked of Redis.
    pub safety: Safety,
}

impl DeliveryArgs {
    /// The settings of a process that runs delivery-service alone.
    pub fn check(
        &self,
        upstream: &UpstreamArgs,
        store: &StoreArgs,
        ingress: &IngressArgs,
        egress: &EgressArgs,
        process: &ProcessArgs,
        problems: &mut Problems,
    ) -> Option<Settings> {
        let listeners = process.listeners(&[("--delivery-addr", self.delivery_addr)]);
        let route_token = ingress.check(&listeners, None, problems);
        let rules = egress.check(&listeners, problems);
        let store = store.check(problems);
        let http = ["http://", "https://"].iter().any(|scheme| upstream.config_url.starts_with(scheme));
        if !http {
            problems.add(format!("--config-url {} is no http or https URL", upstream.config_url));
        }
        self.settings(upstream.config_url.clone(), route_token, store?, rules, problems)
    }

    /// With what the process has checked for its services together.
    pub fn settings(
        &self,
        config_url: String,
        route_token: Option<Secret>,
        store: Store,
        egress: Rules,
        problems: &mut Problems,
    ) -> Option<Settings> {
        let counts = [
            ("--backlog-count", self.backlog_count),
            ("--backlog-bytes", self.backlog_bytes),
            ("--attempts", self.attempts as u64),
            ("--event-id-window", self.event_id_window.as_secs()),
            ("--connect-timeout", self.connect_timeout.as_millis() as u64),
        ];
        for (flag, _) in counts.iter().filter(|(_, count)| *count == 0) {
            problems.add(format!("{flag} must be more than nothing"));
        }
        if self.store_memory_limit == Some(0) {
            problems.add("--store-memory-limit must be more than nothing");
        }
        if matches!(store, Store::Disk(_)) {
            if let Durability::Replicas(_) = self.durability {
                problems.add("--durability replicas=N needs --redis-url: the embedded store has no replicas");
            }
            if self.store_memory_limit.is_some() {
                problems.add("--store-memory-limit has no effect without --redis-url");
            }
        }
        let sending = crate::send::Settings {
            connect_timeout: self.connect_timeout,
            ca: self.egress_ca.clone(),
            ..crate::send::Settings::default()
        };
        problems.is_empty().then(|| Settings {
            listen: self.delivery_addr,
            config_url,
            route_token,
            store,
            egress,
            sending,
            queue: queue::Limits {
                dedupe_window: self.event_id_window,
                backlog_deliveries: self.backlog_count,
                backlog_bytes: self.backlog_bytes,
                ended_kept: self.ended_count,
                ended_age: self.ended_age,
                failed_kept: self.failed_count,
                failed_age: self.failed_age,
            },
            lanes: lanes::Limits { attempts: self.attempts, ..lanes::Limits::default() },
            min_free_bytes: self.min_free_disk,
            safety: Safety { durability: self.durability, memory_limit: self.store_memory_limit },
        })
    }
}

/// Such as "500ms", "5s", "4h", "3d".
fn time(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}
