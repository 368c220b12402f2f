//! Redis stopped and started in the middle of a run: publishing says UNAVAILABLE meanwhile and in time,
//! both services recover by themselves, and nothing that was accepted is lost.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    process::Process,
    receiver::Receiver,
    redis::Redis,
};
use proto::v1::WebhookType;
use tonic::Code;
use tonic_types::StatusExt;

const ACCOUNT: &str = "~99199077";

#[tokio::test]
async fn both_services_outlive_a_redis_that_stops_and_starts() {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let url = redis.url();
    let store = ["--redis-url", url.as_str()];
    let receiver = Receiver::start().await;
    let config = Process::config("127.0.0.1:0", &store).await;
    let delivery = Process::delivery("127.0.0.1:0", config.config_address(), &store).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    api.create(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;

    let mut accepted = HashSet::new();
    for n in 0..200 {
        accepted.extend(api.publish(added_to_cart(ACCOUNT, &format!("a{n}"))).await.unwrap().delivery_ids);
    }
    redis.kill();
    let asked = Instant::now();
    let refused = api.publish(added_to_cart(ACCOUNT, "away")).await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_millis(2_500), "answered after {:?}", asked.elapsed());
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let details = refused.get_error_details();
    assert!(details.retry_info().is_some_and(|info| info.retry_delay.is_some()), "{details:?}");
    assert_eq!(details.error_info().unwrap().domain, "hookline");

    redis.restart().await;
    for n in 0..200 {
        accepted.extend(api.publish_patiently(added_to_cart(ACCOUNT, &format!("b{n}"))).await.delivery_ids);
    }
    while !accepted.is_empty() {
        accepted.remove(receiver.next().await.header("webhook-id"));
    }
    // Changes are followed again too.
    api.create_patiently(webhook("after", WebhookType::GlobalApplicationEvents, &receiver.url("/after")))
        .await;
}

#[tokio::test]
async fn an_emptied_redis_is_worked_with_again() {
    let redis = Redis::start().await;
    let url = redis.url();
    let data = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let config = Process::config("127.0.0.1:0", &["--data-dir", data.path().to_str().unwrap()]).await;
    let delivery = Process::delivery("127.0.0.1:0", config.config_address(), &["--redis-url", &url]).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    api.create(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    api.publish(added_to_cart(ACCOUNT, "one")).await.unwrap();
    receiver.next().await;
    let mut connection = redis.connect().await;
    for command in ["FLUSHALL", "SCRIPT FLUSH"] {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query_async::<()>(&mut connection).await.unwrap();
    }
    api.publish_patiently(added_to_cart(ACCOUNT, "two")).await;
    assert_eq!(receiver.next().await.json()["event_data"]["order"], "two");
}
