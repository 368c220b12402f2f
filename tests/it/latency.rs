//! One webhook, idle: how long an event takes from its publishing to its arrival.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use integration_tests::{
    api::{Api, added_to_cart, webhook},
    process::Process,
    receiver::Receiver,
    redis::Redis,
};
use proto::v1::WebhookType;

const ACCOUNT: &str = "~99199077";
const EVENTS: usize = 500;
const ROUNDS: usize = 4;
const PACE: Duration = Duration::from_millis(5);

async fn arrives_soon(store: &[&str]) {
    let receiver = Receiver::start().await;
    let config = Process::config("127.0.0.1:0", store).await;
    let delivery = Process::delivery("127.0.0.1:0", config.config_address(), store).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    api.create(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    for n in 0..20 {
        api.publish_patiently(added_to_cart(ACCOUNT, &format!("warm{n}"))).await;
        receiver.next().await;
    }
    // The best of a few rounds: others may use the machine in one of them.
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let times = measure(&mut api, &receiver, round).await;
        let (p50, p99) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
        println!("publish to arrival: p50 {p50} us, p99 {p99} us");
        if p50 < 3_000 && p99 < 10_000 {
            return;
        }
        rounds.push((p50, p99));
    }
    panic!("p50 under 3 ms and p99 under 10 ms, not (us): {rounds:?}");
}

async fn measure(api: &mut Api, receiver: &Receiver, round: usize) -> Histogram<u64> {
    let mut times = Histogram::<u64>::new(3).unwrap();
    let mut pace = tokio::time::interval(PACE);
    for n in 0..EVENTS {
        pace.tick().await;
        let published = Instant::now();
        api.publish(added_to_cart(ACCOUNT, &format!("{round}-{n}"))).await.unwrap();
        let arrived = receiver.next().await.at;
        times.record(arrived.duration_since(published).as_micros() as u64).unwrap();
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_within_milliseconds_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    arrives_soon(&["--data-dir", data.path().to_str().unwrap()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_within_milliseconds_on_redis() {
    let redis = Redis::start().await;
    arrives_soon(&["--redis-url", &redis.url()]).await;
}
