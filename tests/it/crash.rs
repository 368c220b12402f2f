//! kill -9, at any moment, of any process: what was accepted arrives, and duplicates are at most what
//! was under way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    process::Process,
    receiver::{Receiver, answer},
    redis::Redis,
};
use proto::v1::{DeliveryPolicy, PublishEventsRequest, Webhook, WebhookType, publish_result::Outcome};
use tokio::sync::Semaphore;

const ACCOUNT: &str = "~99199077";
const EVENTS: usize = 10_000;
const IN_FLIGHT: i32 = 50;

/// Publishes `EVENTS` in batches; the receiver lets some through, then holds all that is under way while
/// delivery-service is killed and started again.
async fn nothing_is_lost(store: &[&str]) {
    let passes = Arc::new(Semaphore::new(2_000));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let (gate, done) = (passes.clone(), answered.clone());
    let receiver = Receiver::answering(move |received| {
        let (gate, done) = (gate.clone(), done.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            done.lock().unwrap().push(received.header("webhook-id").to_owned());
            answer(200)
        }
    })
    .await;
    let config = Process::config("127.0.0.1:0", store).await;
    let delivery = Process::delivery("127.0.0.1:0", config.config_address(), store).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    let policy = DeliveryPolicy { max_in_flight: IN_FLIGHT, ..Default::default() };
    let hook = webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"));
    api.create(Webhook { delivery_policy: Some(policy), ..hook }).await;

    for batch in (0..EVENTS).collect::<Vec<_>>().chunks(500) {
        let events = batch.iter().map(|n| added_to_cart(ACCOUNT, &n.to_string())).collect();
        let results =
            api.events.publish_events(PublishEventsRequest { events }).await.unwrap().into_inner().results;
        assert!(
            results.iter().all(|result| matches!(result.outcome, Some(Outcome::Accepted(_)))),
            "{results:?}"
        );
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    for _ in 0..2_000 + IN_FLIGHT {
        *seen.entry(receiver.next().await.header("webhook-id").to_owned()).or_default() += 1;
    }
    // What was answered is stored: what is under way now are the held ones alone.
    let last: Vec<String> = answered.lock().unwrap().iter().rev().take(500).cloned().collect();
    for id in last {
        api.until_settled(&id).await;
    }
    let address = delivery.delivery_address().to_string();
    delivery.kill();
    passes.add_permits(EVENTS * 2);
    let delivery = Process::delivery(&address, config.config_address(), store).await;
    while seen.len() < EVENTS {
        *seen.entry(receiver.next().await.header("webhook-id").to_owned()).or_default() += 1;
    }
    // The rest of what could still come twice.
    assert!(delivery.stop().await.success());
    for late in receiver.arrived().await {
        *seen.entry(late.header("webhook-id").to_owned()).or_default() += 1;
    }
    let duplicates: usize = seen.values().map(|count| count - 1).sum();
    println!("{EVENTS} accepted, {} delivered, {duplicates} twice", seen.len());
    assert!(duplicates <= IN_FLIGHT as usize, "{duplicates} duplicates");
}

#[tokio::test]
async fn a_killed_delivery_service_loses_nothing_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    nothing_is_lost(&["--data-dir", data.path().to_str().unwrap()]).await;
}

#[tokio::test]
async fn a_killed_delivery_service_loses_nothing_on_redis() {
    let redis = Redis::start().await;
    nothing_is_lost(&["--redis-url", &redis.url()]).await;
}

#[tokio::test]
async fn a_killed_hookline_starts_again_with_all_that_it_had() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let made = api.create(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    let first = api.publish(added_to_cart(ACCOUNT, "one")).await.unwrap();
    receiver.next().await;
    hookline.kill();

    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    api.in_force(&made.id).await;
    let again = api.publish_patiently(added_to_cart(ACCOUNT, "one")).await;
    assert!(again.duplicate, "the event id is known after a crash");
    assert_eq!(again.delivery_ids, first.delivery_ids);
    api.publish_patiently(added_to_cart(ACCOUNT, "two")).await;
    while receiver.next().await.json()["event_data"]["order"] != "two" {}
}

#[tokio::test]
async fn delivery_goes_on_while_config_service_is_dead() {
    let data = tempfile::tempdir().unwrap();
    let store = ["--data-dir", data.path().to_str().unwrap()];
    let receiver = Receiver::start().await;
    let config = Process::config("127.0.0.1:0", &store).await;
    let address = config.config_address();
    let delivery = Process::delivery("127.0.0.1:0", address, &store).await;
    let mut api = Api::new(address, delivery.delivery_address());
    api.create(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    config.kill();
    api.publish(added_to_cart(ACCOUNT, "one")).await.expect("routes are known");
    receiver.next().await;

    // It comes back where it was, and its changes are followed again.
    let config = Process::config(&address.to_string(), &store).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    let second =
        api.create(webhook("second", WebhookType::GlobalApplicationEvents, &receiver.url("/2"))).await;
    api.in_force(&second.id).await;
    api.publish(added_to_cart("second", "two")).await.unwrap();
    assert!(receiver.next().await.target.starts_with("/2?"));
}
