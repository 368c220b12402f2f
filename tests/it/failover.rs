//! Redis fails, many replicas being on it: a cluster's master is lost, sentinels name another one, the queue
//! is emptied. Both services recover by themselves, and nothing that was accepted is lost where
//! `--durability` promises so.

use std::time::{Duration, Instant};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    fleet::{Arrived, Fleet, Load, account, receiver, size},
    process::Process,
    redis::{Cluster, Redis, Sentinels, old_redis},
};
use proto::v1::{DeliveryPolicy, WebhookType};
use tonic::Code;
use tonic_types::StatusExt;

const LANES: usize = 8;
const IN_FLIGHT: usize = 4;
/// How long it may take until the outcome of a request has reached Redis' replicas.
const JUST_BEFORE: Duration = Duration::from_secs(1);
const REPLICATED: &[&str] = &["--durability", "replicas=1"];

fn policy() -> DeliveryPolicy {
    DeliveryPolicy { max_in_flight: IN_FLIGHT as i32, ..Default::default() }
}

/// A master is lost and comes back as a replica, under load.
async fn a_lost_master<S: Masters>(what: &str, mut store: S) {
    let url = store.url();
    let own = ["--redis-url", url.as_str()];
    let receiver = receiver().await;
    let fleet = Fleet::start(3, &own, &[&own, REPLICATED].concat()).await;
    fleet.webhooks(LANES, &receiver, &policy()).await;
    let load = Load::start("load", &fleet.addresses, LANES);
    load.more(size(500, 50_000)).await;
    let lost = Instant::now();
    store.lose_master().await;
    println!("{what}: a replica was master after {:?}", lost.elapsed());
    store.bring_back().await;
    load.more(size(500, 50_000)).await;
    println!("{what}: all lanes took events again after {:?}", lost.elapsed());
    // The config-services have found the new master too.
    let hook = webhook("after", WebhookType::GlobalApplicationEvents, &receiver.url("/after"));
    fleet.api(1, 0).create(hook).await;
    let refused = load.refused.clone();
    let sent = load.finish().await;
    let mut arrived = Arrived::default();
    arrived.all(what, &sent, &receiver).await;
    println!("{what}: refused and repeated: {:?}", refused.lock().unwrap());
    // Twice comes what was sent just before or since, its outcome not being stored at the new master. Of
    // what is older, no more than one lapse of leases brings, as on a machine that is too busy.
    let older = arrived.repeated_of(lost - JUST_BEFORE);
    assert!(older <= 2 * LANES * IN_FLIGHT, "{older} came again that had been settled");
}

trait Masters {
    fn url(&self) -> String;
    async fn lose_master(&mut self);
    async fn bring_back(&mut self);
}

impl Masters for Cluster {
    fn url(&self) -> String {
        Cluster::url(self)
    }
    async fn lose_master(&mut self) {
        Cluster::lose_master(self, 0).await;
    }
    async fn bring_back(&mut self) {
        self.nodes[0].restart().await;
    }
}

/// A cluster whose master hangs instead.
struct Hanging(Cluster);

impl Masters for Hanging {
    fn url(&self) -> String {
        self.0.url()
    }
    async fn lose_master(&mut self) {
        self.0.nodes[0].signal("STOP");
        self.0.replica_takes_over(0).await;
    }
    async fn bring_back(&mut self) {
        self.0.nodes[0].signal("CONT");
    }
}

impl Masters for Sentinels {
    fn url(&self) -> String {
        Sentinels::url(self)
    }
    async fn lose_master(&mut self) {
        Sentinels::lose_master(self).await;
    }
    async fn bring_back(&mut self) {
        self.servers[0].restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_loses_a_master_and_nothing_that_was_accepted() {
    a_lost_master("Redis Cluster, a master killed", Cluster::with_replicas(3).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clusters_master_hangs_and_nothing_that_was_accepted_is_lost() {
    a_lost_master("Redis Cluster, a master hangs", Hanging(Cluster::with_replicas(3).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_name_another_master_and_nothing_that_was_accepted_is_lost() {
    a_lost_master("Redis with Sentinels, the master killed", Sentinels::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_after_the_queue_was_emptied_is_delivered() {
    let (config, queue) = (Redis::start().await, Redis::start().await);
    let receiver = receiver().await;
    let fleet = Fleet::start(3, &["--redis-url", &config.url()], &["--redis-url", &queue.url()]).await;
    fleet.webhooks(LANES, &receiver, &policy()).await;
    let before = Load::start("before", &fleet.addresses, LANES);
    before.more(size(300, 20_000)).await;
    queue.ask::<()>(&["FLUSHALL"]).await;
    before.more(size(100, 5_000)).await;
    before.finish().await;
    // What was accepted before is gone with the store; what comes now arrives.
    let load = Load::start("after", &fleet.addresses, LANES);
    load.more(size(300, 20_000)).await;
    let sent = load.finish().await;
    let mut arrived = Arrived::default();
    arrived.all("Redis, emptied under load", &sent, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_without_redis_is_unavailable_in_time_at_every_durability() {
    let always = ["--appendonly", "yes", "--appendfsync", "always"];
    for durability in ["memory", "fsync", "replicas=1"] {
        let mut redis = Redis::with(&always).await;
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &redis.port.to_string()]).await;
        let url = redis.url();
        let own = ["--redis-url", url.as_str()];
        let receiver = receiver().await;
        let fleet = Fleet::start(1, &own, &[&own, &["--durability", durability][..]].concat()).await;
        fleet.webhooks(1, &receiver, &policy()).await;
        let mut api = fleet.api(0, 0);
        api.publish_patiently(added_to_cart(&account(0), "there")).await;
        receiver.next().await;
        redis.kill();
        for n in 0..3 {
            let asked = Instant::now();
            let refused = api.publish(added_to_cart(&account(0), &format!("away{n}"))).await.unwrap_err();
            let took = asked.elapsed();
            println!("{durability}: refused after {took:?}");
            assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
            assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
            assert!(took < Duration::from_millis(2_200), "{took:?}");
        }
        redis.restart().await;
        api.publish_patiently(added_to_cart(&account(0), "back")).await;
        while receiver.next().await.header("x-event-id") != "back" {}
        drop(replica);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_give_the_durability_is_refused_and_an_old_one_too() {
    let redis = Redis::with(&["--appendonly", "no"]).await;
    let own = ["--redis-url", &redis.url(), "--config-url", "http://127.0.0.1:1"].map(str::to_owned);
    let own: Vec<_> = own.iter().map(String::as_str).collect();
    let listen = ["--delivery-addr", "127.0.0.1:0", "--durability", "fsync"];
    let mut refused = Process::spawn("delivery-service", &[&own[..], &listen].concat());
    let line = refused.line("--durability fsync needs").await;
    assert!(line.contains("appendonly yes"), "{line}");
    assert!(!refused.ended().await.success());

    let old = old_redis().await;
    for (name, listen) in [("delivery-service", "--delivery-addr"), ("config-service", "--config-addr")] {
        let mut refused = Process::spawn(name, &["--redis-url", &old, listen, "127.0.0.1:0"]);
        let line = refused.line("7.0 or newer is needed").await;
        assert!(line.contains("6.2.14"), "{line}");
        assert!(!refused.ended().await.success(), "{name} ends");
    }

    // What may lose data is warned of, at both.
    let mut config = Process::config("127.0.0.1:0", &["--redis-url", &redis.url()]).await;
    assert!(config.log().iter().any(|line| line.contains("appendonly yes")), "{:?}", config.log());
    let address = config.config_address();
    let delivery = Process::delivery("127.0.0.1:0", address, &["--redis-url", &redis.url()]).await;
    for word in ["appendonly yes", "--store-memory-limit"] {
        assert!(delivery.log().iter().any(|line| line.contains(word)), "{word}: {:?}", delivery.log());
    }
    let limited = ["--redis-url", &redis.url(), "--store-memory-limit", "1"].map(str::to_owned);
    let limited: Vec<_> = limited.iter().map(String::as_str).collect();
    let full = Process::delivery("127.0.0.1:0", address, &limited).await;
    let mut api = Api::new(address, full.delivery_address());
    let receiver = receiver().await;
    api.create(webhook("full", WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    let refused = api.publish(added_to_cart("full", "one")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "STORE_FULL");
    assert!(details.quota_failure().is_some());
    config.signal("TERM");
    config.line("stopped").await;
}
