//! The pair as two processes, on every store: a webhook made at one is in force at the other within a
//! second, an event published becomes a request, and a change changes what comes next.

use std::time::{Duration, Instant};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    process::Process,
    receiver::Receiver,
    redis::{Cluster, Redis},
};
use proto::v1::{
    DeleteWebhookRequest, DeliveryState, ListDeliveriesRequest, Webhook, WebhookState, WebhookType,
};

async fn works(store: &[&str]) {
    let receiver = Receiver::start().await;
    let config = Process::config("127.0.0.1:0", store).await;
    let delivery = Process::delivery("127.0.0.1:0", config.config_address(), store).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    let account = "~99199077";

    let made = api.create(webhook(account, WebhookType::GlobalApplicationEvents, &receiver.url("/a"))).await;
    let published = api.publish_patiently(added_to_cart(account, "one")).await;
    let first = receiver.next().await;
    assert!(first.target.starts_with("/a?"), "{}", first.target);
    let delivery_id = &published.delivery_ids[0];
    assert_eq!(first.header("webhook-id"), delivery_id);
    let ended = api.until(delivery_id, DeliveryState::Succeeded).await;
    assert_eq!(ended.attempts.len(), 1);
    assert_eq!(ended.attempts[0].http_status, 200);

    // A change is in force within a second.
    let change = Webhook { id: made.id.clone(), post_url: receiver.url("/b"), ..Default::default() };
    api.update(change, &["post_url"]).await;
    let since = Instant::now();
    let mut n = 0;
    while !{
        n += 1;
        api.publish(added_to_cart(account, &format!("b{n}"))).await.unwrap();
        receiver.next().await.target.starts_with("/b?")
    } {
        assert!(since.elapsed() < Duration::from_secs(1), "the change should be in force by now");
    }

    // Paused, its events wait; active again, they are delivered.
    let pause =
        |state: WebhookState| Webhook { id: made.id.clone(), state: state as i32, ..Default::default() };
    api.update(pause(WebhookState::Paused), &["state"]).await;
    tokio::time::timeout(Duration::from_secs(5), async {
        // Until the pause is known, events go out.
        loop {
            n += 1;
            let waits = api.publish(added_to_cart(account, &format!("p{n}"))).await.unwrap();
            let unsent = tokio::time::timeout(Duration::from_millis(300), receiver.next()).await.is_err();
            if unsent {
                return waits.delivery_ids[0].clone();
            }
        }
    })
    .await
    .expect("a paused webhook keeps its events");
    api.update(pause(WebhookState::Active), &["state"]).await;
    let resumed = receiver.next().await;
    assert!(resumed.json()["event_data"]["order"].as_str().unwrap().starts_with('p'));

    api.webhooks
        .delete_webhook(DeleteWebhookRequest { id: made.id.clone(), etag: String::new() })
        .await
        .unwrap();
    let list = ListDeliveriesRequest { license_code: account.into(), page_size: 3, ..Default::default() };
    let all = api.all(list).await;
    assert!(all.len() > n, "a deleted webhook's deliveries are listed: {}", all.len());
    let times: Vec<_> = all.iter().map(|d| d.create_time.unwrap()).map(|t| (t.seconds, t.nanos)).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "newest first");
    assert!(delivery.stop().await.success());
    assert!(config.stop().await.success());
}

#[tokio::test]
async fn the_pair_works_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    works(&["--data-dir", data.path().to_str().unwrap()]).await;
}

#[tokio::test]
async fn the_pair_works_on_redis() {
    let redis = Redis::start().await;
    works(&["--redis-url", &redis.url(), "--redis-prefix", "shop"]).await;
}

#[tokio::test]
async fn the_pair_works_on_a_redis_cluster_of_three() {
    let cluster = Cluster::start(3).await;
    works(&["--redis-url", &cluster.url()]).await;
}
