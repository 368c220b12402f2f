//! What a lane holds to: its limits in flight and its pace at the receiver, and its circuit while a
//! receiver is dead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    process::Process,
    receiver::{Receiver, answer},
};
use proto::v1::{DeliveryPolicy, Event, PublishEventsRequest, Webhook, WebhookType, publish_result::Outcome};

pub const ACCOUNT: &str = "~99199077";

/// Publishes events, up to 500 in a call.
pub async fn publish_all(api: &mut Api, events: Vec<Event>) {
    for batch in events.chunks(500) {
        let request = PublishEventsRequest { events: batch.to_vec() };
        let results = api.events.publish_events(request).await.unwrap().into_inner().results;
        assert!(results.iter().all(|r| matches!(r.outcome, Some(Outcome::Accepted(_)))), "{results:?}");
    }
}

pub async fn make(api: &mut Api, account: &str, url: &str, policy: DeliveryPolicy) -> Webhook {
    let hook = webhook(account, WebhookType::GlobalApplicationEvents, url);
    api.create(Webhook { delivery_policy: Some(policy), ..hook }).await
}

fn orders(count: usize) -> Vec<Event> {
    (0..count).map(|n| added_to_cart(ACCOUNT, &n.to_string())).collect()
}

#[tokio::test]
async fn no_more_than_max_in_flight_are_under_way_at_the_receiver() {
    let receiver = Receiver::answering(|_| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        answer(200)
    })
    .await;
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let policy = DeliveryPolicy { max_in_flight: 30, ..Default::default() };
    make(&mut api, ACCOUNT, &receiver.url("/"), policy).await;
    publish_all(&mut api, orders(2_000)).await;
    for _ in 0..2_000 {
        receiver.next().await;
    }
    assert_eq!(receiver.most_under_way(), 30, "all that it may have, and no more");
}

#[tokio::test]
async fn max_rate_is_kept_evenly() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let policy = DeliveryPolicy { max_rate: 100.0, ..Default::default() };
    make(&mut api, ACCOUNT, &receiver.url("/"), policy).await;
    publish_all(&mut api, orders(300)).await;
    let mut at = Vec::new();
    for _ in 0..300 {
        at.push(receiver.next().await.at);
    }
    let took = at[299] - at[0];
    assert!(took >= Duration::from_millis(2_900), "300 at 100 a second took {took:?}");
    let most = at
        .iter()
        .map(|from| at.iter().filter(|t| **t >= *from && **t - *from < Duration::from_secs(1)).count());
    let most = most.max().unwrap();
    println!("300 at 100 a second took {took:?}, at most {most} within a second");
    assert!(most <= 105, "{most} within a second");
}

#[tokio::test]
async fn a_dead_receiver_is_left_alone_and_gets_all_once_it_lives() {
    const EVENTS: usize = 500;
    let status = Arc::new(AtomicU16::new(500));
    let now = status.clone();
    let receiver = Receiver::answering(move |_| {
        let now = now.load(Ordering::SeqCst);
        async move { answer(now) }
    })
    .await;
    let data = tempfile::tempdir().unwrap();
    let mut hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    make(&mut api, ACCOUNT, &receiver.url("/"), DeliveryPolicy::default()).await;
    publish_all(&mut api, orders(EVENTS)).await;
    hookline.line("the circuit has opened").await;
    let spent = receiver.arrived().await.len();
    println!("{spent} requests before the circuit opened");
    assert!((10..150).contains(&spent), "{spent} requests before it opened");
    hookline.line("a probe has failed").await;
    assert_eq!(receiver.arrived().await.len(), 1, "one probe");

    // Killed, the next holder knows of the circuit.
    hookline.kill();
    let mut hookline = Process::hookline(data.path(), &[]).await;
    status.store(200, Ordering::SeqCst);
    hookline.line("the circuit has closed").await;
    let mut delivered = std::collections::HashSet::new();
    while delivered.len() < EVENTS {
        delivered.insert(receiver.next().await.json()["event_data"]["order"].as_str().unwrap().to_owned());
    }
}
