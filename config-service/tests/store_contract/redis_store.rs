//! The contract on one Redis server and on a cluster of three, and what holds only there: replicas hear of
//! each other's changes, and an emptied or restarted server is lived through.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use config_service::store::{Changes, Created, Store, StoreError, redis::RedisStore};

use super::{
    Backend, LOG, NOW, contract, create, record, request,
    servers::{Cluster, Redis},
};

/// Where stores are made, each under a prefix of its own.
struct Servers {
    url: String,
    made: AtomicUsize,
}

impl Servers {
    fn at(url: String) -> Self {
        Self { url, made: AtomicUsize::new(0) }
    }

    fn open(&self, prefix: &str) -> RedisStore {
        let connection = common::redis::connect(&self.url.parse().unwrap(), None).unwrap();
        RedisStore::new(connection, prefix, LOG)
    }
}

#[async_trait::async_trait]
impl Backend for Servers {
    async fn store(&self) -> Arc<dyn Store> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Arc::new(self.open(&format!("test{number}")))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_redis_server_keeps_the_contract() {
    let redis = Redis::start().await;
    contract(&Servers::at(redis.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_keeps_the_contract() {
    let cluster = Cluster::start(3).await;
    assert_eq!(cluster.nodes.len(), 3);
    contract(&Servers::at(cluster.url())).await;
}

#[tokio::test]
async fn a_replica_hears_of_what_another_has_changed() {
    let redis = Redis::start().await;
    let servers = Servers::at(redis.url());
    let (one, other) = (servers.open("p"), servers.open("p"));
    let mut changed = other.changed();
    let made = create(&one, record("~a", 1)).await;
    changed.wait_for(|revision| *revision == made.revision).await.unwrap();
    assert_eq!(other.get(made.id().unwrap()).await, Ok(Some(made)));
}

#[tokio::test]
async fn what_was_stored_outlives_a_restart_of_redis() {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let store = Servers::at(redis.url()).open("p");
    let mut changed = store.changed();
    let made = store.create(record("~a", 1), request("r", b"x", NOW)).await.unwrap();
    let Created::New(made) = made else { panic!("{made:?}") };
    redis.kill();
    let while_away = store.get(made.id().unwrap()).await;
    assert!(matches!(while_away, Err(StoreError::Unavailable(_))), "{while_away:?}");
    redis.restart().await;
    let again = loop {
        // The connection waits a moment between two attempts.
        match store.create(record("~a", 2), request("r", b"x", NOW)).await {
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            done => break done,
        }
    };
    assert_eq!(again, Ok(Created::Repeat(made)));
    let next = create(&store, record("~a", 3)).await;
    changed.wait_for(|revision| *revision == next.revision).await.unwrap();
}

#[tokio::test]
async fn an_emptied_server_is_told_from_the_one_before() {
    let redis = Redis::start().await;
    let store = Servers::at(redis.url()).open("p");
    let made = create(&store, record("~a", 1)).await;
    let mut changed = store.changed();
    changed.wait_for(|revision| *revision == made.revision).await.unwrap();
    let mut connection = redis.connect().await;
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    changed.wait_for(|revision| *revision != made.revision).await.unwrap();
    assert_eq!(store.changes(made.revision, 10).await, Ok(Changes::OutOfRange));
    let anew = create(&store, record("~a", 2)).await;
    assert!(anew.revision > made.revision);
    assert_eq!(store.changes(made.revision, 10).await, Ok(Changes::OutOfRange));
    assert_eq!(store.scan(None, 10).await, Ok(vec![anew]));
}

#[tokio::test]
async fn a_layout_that_is_not_known_is_not_touched() {
    let redis = Redis::start().await;
    let mut connection = redis.connect().await;
    let mut write = redis::cmd("HSET");
    write.arg("p:{hookline}:state").arg("version").arg(2).exec_async(&mut connection).await.unwrap();
    let store = Servers::at(redis.url()).open("p");
    let refused = store.create(record("~a", 1), None).await;
    assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    assert!(matches!(store.ping().await, Err(StoreError::Damaged(_))));
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    assert_eq!(keys, ["p:{hookline}:state"]);
}
