//! A connection to Redis: one server, a cluster, or the master that sentinels name. It is made on first
//! use and made again after a failure, so a service starts, lives and recovers while Redis is away; a
//! request meanwhile fails within a few seconds and spins on nothing. What was under way when a
//! connection broke fails, and may have been done: callers repeat what can be repeated. Servers older
//! than 7.0 are refused at every connect.

mod address;
mod cluster;
mod masters;
mod server;
mod setup;
mod version;

use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value, aio::ConnectionLike};

pub use self::{
    address::{Address, AddressError, Host, Topology},
    masters::{Master, slot},
    setup::{check_setup, is_too_old},
    version::Version,
};
use self::{cluster::Cluster, server::Server};

/// Cheap to clone; all clones share what is connected. Works with `Script` and pipelines.
#[derive(Clone)]
pub struct Connection {
    way: Way,
}

#[derive(Clone)]
enum Way {
    One(Arc<Server>),
    Cluster(Arc<Cluster>),
}

/// A connection to `address` that is made when it is first used. `ca` is PEM, for `rediss` whose
/// certificates no public authority has signed. Fails only when these two make no sense.
pub fn connect(address: &Address, ca: Option<&[u8]>) -> RedisResult<Connection> {
    let way = match address.topology {
        Topology::Cluster => Way::Cluster(Arc::new(Cluster::new(address.clone(), ca)?)),
        Topology::Single | Topology::Sentinel { .. } => Way::One(Arc::new(Server::new(address.clone(), ca)?)),
    };
    Ok(Connection { way })
}

impl Connection {
    /// Whether keys of different slots may not meet in a script or a pipeline.
    pub fn is_cluster(&self) -> bool {
        matches!(self.way, Way::Cluster(_))
    }

    /// Whether Redis answers, now; of a cluster, any of its nodes.
    pub async fn check(&self) -> RedisResult<()> {
        self.ask_any(redis::cmd("PING")).await.map(drop)
    }

    /// The server's version; of a cluster, any of its nodes'.
    pub async fn version(&self) -> RedisResult<Version> {
        version::read(&self.ask_any(version::question()).await?)
    }

    async fn ask_any(&self, cmd: Cmd) -> RedisResult<Value> {
        match &self.way {
            Way::One(server) => server.command(&cmd).await?.extract_error(),
            Way::Cluster(cluster) => cluster.ask_any(&cmd).await,
        }
    }

    fn address(&self) -> &Address {
        match &self.way {
            Way::One(server) => &server.address,
            Way::Cluster(cluster) => &cluster.address,
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &self.way {
            Way::One(server) => Box::pin(server.command(cmd)),
            Way::Cluster(cluster) => Box::pin(cluster.command(cmd)),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &self.way {
            Way::One(server) => Box::pin(server.commands(pipeline, offset, count)),
            Way::Cluster(cluster) => Box::pin(cluster.commands(pipeline, offset, count)),
        }
    }

    fn get_db(&self) -> i64 {
        self.address().db
    }
}
