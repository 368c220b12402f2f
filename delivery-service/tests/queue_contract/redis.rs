//! The Redis backend, on one server and on a cluster of three, which the tests start themselves. Each
//! test has a prefix of its own; time passes by an offset.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::redis::{Address, Connection, connect};
use delivery_service::queue::{Limits, Queue, redis::RedisQueue};

use crate::{
    bench::Backend,
    redis_server::{Cluster, Server},
};

/// One server.
pub struct Single(Store<Server>);

/// A cluster of three.
pub struct Clustered(Store<Arc<Cluster>>);

struct Store<S> {
    address: String,
    prefix: String,
    limits: Limits,
    offset_ms: Arc<AtomicI64>,
    server: S,
}

impl<S> Store<S> {
    fn new(server: S, address: String, limits: Limits) -> Self {
        let mut store = Self { address, prefix: String::new(), limits, offset_ms: Arc::default(), server };
        store.renew();
        store
    }

    fn renew(&mut self) {
        static STORES: AtomicU64 = AtomicU64::new(0);
        self.prefix = format!("test{}", STORES.fetch_add(1, Ordering::Relaxed));
        self.offset_ms = Arc::default();
    }

    async fn open(&self) -> Arc<dyn Queue> {
        open(&self.address, &self.prefix, &self.limits, &self.offset_ms).await
    }

    fn advance(&self, by: Duration) {
        self.offset_ms.fetch_add(by.as_millis() as i64, Ordering::Relaxed);
    }
}

impl Single {
    pub fn server(&self) -> &Server {
        &self.0.server
    }

    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }
}

impl Clustered {
    pub fn address(&self) -> String {
        self.0.address.clone()
    }
}

pub fn connection(address: &str) -> Connection {
    connect(&address.parse::<Address>().unwrap(), None).unwrap()
}

pub async fn open(
    address: &str,
    prefix: &str,
    limits: &Limits,
    offset_ms: &Arc<AtomicI64>,
) -> Arc<RedisQueue> {
    RedisQueue::open_at(connection(address), prefix, limits.clone(), Arc::clone(offset_ms)).await.unwrap()
}

#[async_trait]
impl Backend for Single {
    const HOLDERS: usize = 2;
    const RUNS: u64 = 1_000;

    async fn start(limits: Limits) -> Self {
        let server = Server::start();
        let address = server.address();
        Self(Store::new(server, address, limits))
    }

    async fn renew(&mut self) {
        self.0.renew();
    }

    async fn open(&self) -> Arc<dyn Queue> {
        self.0.open().await
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }

    async fn crash(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        drop(queue);
        self.0.open().await
    }
}

#[async_trait]
impl Backend for Clustered {
    const HOLDERS: usize = 2;
    const RUNS: u64 = 50;

    async fn start(limits: Limits) -> Self {
        let cluster = Cluster::shared().await;
        let address = cluster.address();
        Self(Store::new(cluster, address, limits))
    }

    async fn renew(&mut self) {
        self.0.renew();
    }

    async fn open(&self) -> Arc<dyn Queue> {
        self.0.open().await
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }

    async fn crash(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        drop(queue);
        self.0.open().await
    }
}
