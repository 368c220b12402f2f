//! The services under load: started here on a store of their own, or found at an address.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use integration_tests::{process::Process, redis::Redis};
use tempfile::TempDir;

use crate::{
    args::{Args, Store},
    measure,
};

/// What docs/operations.md has busy installations set, beside an append-only file.
const REDIS: [&str; 8] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "everysec",
    "--auto-aof-rewrite-min-size",
    "1gb",
    "--rdbcompression",
    "no",
];

pub struct Pair {
    pub config: SocketAddr,
    pub delivery: SocketAddr,
    /// Names and ids of the processes whose cost is counted.
    pub processes: Vec<(&'static str, u32)>,
    pub store: Where,
    _services: Vec<Process>,
    _redis: Option<Redis>,
    _folder: TempDir,
}

/// Where to ask how much the store holds.
pub enum Where {
    Unknown,
    Folder(PathBuf),
    Redis { url: String, connection: redis::aio::MultiplexedConnection },
}

impl Pair {
    pub async fn start(args: &Args) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut pair = Self {
            config: SocketAddr::from(([127, 0, 0, 1], 0)),
            delivery: SocketAddr::from(([127, 0, 0, 1], 0)),
            processes: Vec::new(),
            store: Where::Unknown,
            _services: Vec::new(),
            _redis: None,
            _folder: folder,
        };
        if let (Some(config), Some(delivery)) = (args.config_addr, args.delivery_addr) {
            (pair.config, pair.delivery) = (config, delivery);
            return Ok(pair);
        }
        let redis_url = match (&args.redis_url, args.store) {
            (Some(url), _) => Some(url.clone()),
            (None, Store::Embedded) => None,
            (None, Store::Redis) => {
                let redis = Redis::with(&REDIS).await;
                let url = redis.url();
                pair._redis = Some(redis);
                Some(url)
            }
        };
        let prefix = format!("load-{}", std::process::id());
        let data = pair._folder.path().to_str().context("a folder whose name is a text")?.to_owned();
        let flags = match &redis_url {
            Some(url) => vec!["--redis-url", url, "--redis-prefix", &prefix],
            None => vec!["--data-dir", &data],
        };
        let config = Process::config("127.0.0.1:0", &flags).await;
        pair.config = config.config_address();
        let delivery = Process::delivery("127.0.0.1:0", pair.config, &flags).await;
        pair.delivery = delivery.delivery_address();
        pair.processes.extend([("delivery-service", delivery.pid()), ("config-service", config.pid())]);
        pair._services = vec![config, delivery];
        pair.store = match redis_url {
            None => Where::Folder(pair._folder.path().to_owned()),
            Some(url) => {
                let mut connection =
                    redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
                if let Some(pid) = info(&mut connection, "process_id").await? {
                    pair.processes.push(("redis", pid as u32));
                }
                Where::Redis { url, connection }
            }
        };
        Ok(pair)
    }

    /// CPU time that one of `processes` has had.
    pub fn cpu_seconds(&self, name: &str) -> Option<f64> {
        let of = self.processes.iter().find(|(its, _)| *its == name)?;
        measure::process(*of).map(|process| process.cpu_seconds)
    }
}

/// A number that Redis says of itself.
pub async fn info(
    connection: &mut redis::aio::MultiplexedConnection,
    name: &str,
) -> anyhow::Result<Option<u64>> {
    let text: String = redis::cmd("INFO").arg("all").query_async(connection).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.and_then(|value| value.trim().parse().ok()))
}
