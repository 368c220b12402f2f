//! Batches: what stands in them, when they go, and that their members stay the same through retries and
//! kill -9, in order where that is kept.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use integration_tests::{
    api::{Api, added_to_cart, webhook, xml},
    process::Process,
    receiver::{Received, Receiver, answer},
    redis::Redis,
};
use proto::v1::{
    BatchPolicy, CancelDeliveriesRequest, CreateWebhookRequest, DeliveryOrder, DeliveryPolicy, DeliveryState,
    Event, RetryDeliveryRequest, UrlParameters, Webhook, WebhookType, event::Payload,
};
use tokio::sync::Semaphore;
use tonic::Code;
use tonic_types::StatusExt;

use crate::engine::{ACCOUNT, make, publish_all};

fn millis(ms: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: ms / 1_000, nanos: (ms % 1_000) as i32 * 1_000_000 }
}

fn policy(max_events: i32, max_delay_ms: i64) -> DeliveryPolicy {
    let batch = Some(BatchPolicy { max_events, max_delay: Some(millis(max_delay_ms)) });
    DeliveryPolicy { batch, ..Default::default() }
}

fn orders(numbers: std::ops::Range<usize>) -> Vec<Event> {
    numbers.map(|n| added_to_cart(ACCOUNT, &n.to_string())).collect()
}

/// An event of this name and user.
fn event(id: usize, name: &str, user: usize) -> Event {
    let mut event = added_to_cart(ACCOUNT, &id.to_string());
    if let Some(Payload::Activity(activity)) = &mut event.payload {
        (activity.event_name, activity.user_id) = (name.into(), format!("user {user}"));
    }
    event
}

/// The events in a batch, in order.
fn members(received: &Received) -> Vec<usize> {
    let body = received.json();
    let of = |item: &serde_json::Value| item["event_data"]["order"].as_str().unwrap().parse().unwrap();
    body.as_array().expect("a batch is an array").iter().map(of).collect()
}

fn ids(received: &Received) -> Vec<String> {
    received.header("webhook-delivery-ids").split(',').map(str::to_owned).collect()
}

/// Both services on a store.
struct Pair {
    config: Process,
    delivery: Process,
    store: Vec<String>,
}

impl Pair {
    async fn start(store: &[&str]) -> Self {
        let config = Process::config("127.0.0.1:0", store).await;
        let delivery = Process::delivery("127.0.0.1:0", config.config_address(), store).await;
        Self { config, delivery, store: store.iter().map(ToString::to_string).collect() }
    }

    fn api(&self) -> Api {
        Api::new(self.config.config_address(), self.delivery.delivery_address())
    }

    /// kill -9 of delivery-service, and another in its place.
    async fn kill(self) -> Self {
        let Self { config, delivery, store } = self;
        let address = delivery.delivery_address().to_string();
        delivery.kill();
        let flags: Vec<_> = store.iter().map(String::as_str).collect();
        let delivery = Process::delivery(&address, config.config_address(), &flags).await;
        Self { config, delivery, store }
    }
}

/// A receiver that answers as it is told.
async fn told(status: &Arc<AtomicU16>) -> Receiver {
    let status = status.clone();
    Receiver::answering(move |_| {
        let status = status.load(Ordering::SeqCst);
        async move { answer(status) }
    })
    .await
}

#[tokio::test]
async fn a_batch_is_an_array_of_what_single_requests_carry() {
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let (receiver, singles) = (Receiver::start().await, Receiver::start().await);
    make(&mut api, ACCOUNT, &receiver.url("/"), policy(3, 700)).await;
    make(&mut api, ACCOUNT, &singles.url("/"), DeliveryPolicy::default()).await;
    let start = Instant::now();
    publish_all(&mut api, orders(0..7)).await;
    let mut bodies = HashMap::new();
    for _ in 0..7 {
        let single = singles.next().await;
        bodies.insert(single.header("x-event-id").to_owned(), single.body);
    }
    let mut seen = HashSet::new();
    // Two full ones go at once, in either order; the last waits for company.
    let mut batches = [receiver.next().await, receiver.next().await, receiver.next().await];
    batches.sort_by_key(members);
    for (batch, expected) in batches.iter().zip([vec![0, 1, 2], vec![3, 4, 5], vec![6]]) {
        let singles = expected.iter().map(|n: &usize| std::str::from_utf8(&bodies[&n.to_string()]).unwrap());
        let body = format!("[{}]", singles.collect::<Vec<_>>().join(","));
        assert_eq!((members(batch), &*batch.body), (expected.clone(), body.as_bytes()));
        let id = batch.header("webhook-id");
        assert_eq!(batch.header("x-request-id"), id);
        assert!(batch.target.starts_with("/?eventType=Added%20to%20Cart&licenseCode="), "{}", batch.target);
        for name in ["x-event-id", "x-event-feedback-id", "traceparent"] {
            assert!(!batch.headers.contains_key(name), "{name} is of one event");
        }
        assert_eq!(ids(batch).len(), expected.len());
        for member in ids(batch) {
            let delivery = api.until(&member, DeliveryState::Succeeded).await;
            assert_eq!((delivery.batch_id.as_str(), delivery.attempt_count), (id, 1));
            assert!(seen.insert(member));
        }
        let waited = batch.at - start;
        assert_eq!(waited >= Duration::from_millis(650), expected.len() == 1, "{expected:?}: {waited:?}");
    }
}

#[tokio::test]
async fn a_batch_is_of_one_event_type_unless_the_query_has_none() {
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let (apart, mixed) = (Receiver::start().await, Receiver::start().await);
    make(&mut api, ACCOUNT, &apart.url("/"), policy(10, 200)).await;
    let hook = webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &mixed.url("/"));
    let url_parameters = UrlParameters::None.into();
    api.create(Webhook { url_parameters, delivery_policy: Some(policy(10, 200)), ..hook }).await;
    publish_all(&mut api, (0..6).map(|n| event(n, ["one", "two"][n % 2], 0)).collect()).await;
    let mut by_type = HashMap::new();
    for _ in 0..2 {
        let batch = apart.next().await;
        by_type.insert(batch.target.clone(), members(&batch));
    }
    let target = |name| format!("/?eventType={name}&licenseCode=~99199077");
    assert_eq!(by_type, HashMap::from([(target("one"), vec![0, 2, 4]), (target("two"), vec![1, 3, 5])]));
    let batch = mixed.next().await;
    assert_eq!((batch.target.as_str(), members(&batch)), ("/", vec![0, 1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn several_batches_go_at_once_up_to_max_in_flight() {
    let receiver = Receiver::answering(|_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer(200)
    })
    .await;
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    make(&mut api, ACCOUNT, &receiver.url("/"), DeliveryPolicy { max_in_flight: 4, ..policy(10, 1_000) })
        .await;
    publish_all(&mut api, orders(0..2_000)).await;
    let mut seen = HashSet::new();
    while seen.len() < 2_000 {
        seen.extend(members(&receiver.next().await));
    }
    assert_eq!(receiver.most_under_way(), 4);
}

/// Answered 500, then killed, then 200: the same batch with the same members, whatever came since.
async fn members_stay_the_same(store: &[&str]) {
    let status = Arc::new(AtomicU16::new(500));
    let receiver = told(&status).await;
    let pair = Pair::start(store).await;
    let mut api = pair.api();
    let policy = DeliveryPolicy { retry_delays: vec![millis(1_500); 5], ..policy(4, 300) };
    let hook = make(&mut api, ACCOUNT, &receiver.url("/"), policy).await;
    publish_all(&mut api, orders(0..3)).await;
    let first = receiver.next().await;
    assert_eq!(members(&first), [0, 1, 2]);
    for id in ids(&first) {
        api.until(&id, DeliveryState::Retrying).await;
    }
    // There would be room for one of these.
    publish_all(&mut api, orders(3..5)).await;
    let pair = pair.kill().await;
    status.store(200, Ordering::SeqCst);
    let mut api = pair.api();
    api.in_force(&hook.id).await;
    let mut seen = HashMap::new();
    while seen.len() < 2 {
        let batch = receiver.next().await;
        seen.insert(members(&batch), batch);
    }
    let again = &seen[&vec![0, 1, 2]];
    assert!(seen.contains_key(&vec![3, 4]), "{:?}", seen.keys());
    assert_eq!(again.body, first.body);
    assert_eq!((again.header("webhook-id"), ids(again)), (first.header("webhook-id"), ids(&first)));
    for id in ids(&first) {
        let delivery = api.until(&id, DeliveryState::Succeeded).await;
        assert_eq!((delivery.attempt_count, delivery.batch_id.as_str()), (2, first.header("webhook-id")));
    }
}

#[tokio::test]
async fn members_stay_the_same_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    members_stay_the_same(&["--data-dir", data.path().to_str().unwrap()]).await;
}

#[tokio::test]
async fn members_stay_the_same_on_redis() {
    let redis = Redis::start().await;
    members_stay_the_same(&["--redis-url", &redis.url()]).await;
}

#[tokio::test]
async fn another_replica_sends_what_was_under_way_as_it_was() {
    let redis = Redis::start().await;
    let store = ["--redis-url", &redis.url()];
    let pair = Pair::start(&store).await;
    let other = Process::delivery("127.0.0.1:0", pair.config.config_address(), &store).await;
    let passes = Arc::new(Semaphore::new(0));
    let gate = passes.clone();
    let receiver = Receiver::answering(move |_| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            answer(200)
        }
    })
    .await;
    let mut api = Api::new(pair.config.config_address(), other.delivery_address());
    let policy = DeliveryPolicy { order: DeliveryOrder::Strict.into(), ..policy(4, 300) };
    let hook = make(&mut api, ACCOUNT, &receiver.url("/"), policy).await;
    pair.api().in_force(&hook.id).await;
    publish_all(&mut pair.api(), orders(0..3)).await;
    let first = receiver.next().await;
    // There would be room for one of these.
    publish_all(&mut api, orders(3..5)).await;
    let Pair { config: _config, delivery, .. } = pair;
    delivery.kill();
    passes.add_permits(10);
    let again = receiver.next().await;
    assert_eq!((members(&again), again.body), (vec![0, 1, 2], first.body.clone()));
    assert_eq!(again.headers["webhook-id"], first.headers["webhook-id"]);
    assert_eq!(members(&receiver.next().await), [3, 4]);
}

#[tokio::test]
async fn a_cancelled_member_falls_out_and_a_failed_one_goes_in_a_new_batch() {
    let status = Arc::new(AtomicU16::new(500));
    let receiver = told(&status).await;
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let policy = DeliveryPolicy { retry_delays: vec![millis(1_000)], ..policy(3, 1_000) };
    let hook = make(&mut api, ACCOUNT, &receiver.url("/"), policy).await;
    publish_all(&mut api, orders(0..3)).await;
    let first = receiver.next().await;
    let all = ids(&first);
    api.until(&all[1], DeliveryState::Retrying).await;
    let cancel = CancelDeliveriesRequest { webhook_id: hook.id.clone(), delivery_ids: vec![all[1].clone()] };
    assert_eq!(api.deliveries.cancel_deliveries(cancel).await.unwrap().into_inner().cancelled_count, 1);
    let second = receiver.next().await;
    assert_eq!((members(&second), second.header("webhook-id")), (vec![0, 2], first.header("webhook-id")));
    api.until(&all[0], DeliveryState::Failed).await;
    api.until(&all[2], DeliveryState::Failed).await;
    status.store(200, Ordering::SeqCst);
    let retry = RetryDeliveryRequest { id: all[2].clone() };
    api.deliveries.retry_delivery(retry).await.unwrap();
    let third = receiver.next().await;
    assert_eq!(members(&third), [2]);
    assert_ne!(third.header("webhook-id"), first.header("webhook-id"));
    api.until(&all[2], DeliveryState::Succeeded).await;
    assert_eq!(api.delivery(&all[0]).await.state(), DeliveryState::Failed);
}

#[tokio::test]
async fn xml_goes_in_no_batch() {
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let hook = xml(webhook(ACCOUNT, WebhookType::Feedback, "https://example.com/"));
    let hook = Webhook { delivery_policy: Some(policy(2, 0)), ..hook };
    let request = CreateWebhookRequest { webhook: Some(hook), ..Default::default() };
    let refused = api.webhooks.create_webhook(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].field, "webhook.delivery_policy.batch");
}

const USERS: usize = 7;

/// What arrived: each request's events, and whether it was answered 200.
type Log = Arc<Mutex<Vec<(Vec<usize>, bool)>>>;

/// Some batches fail, and delivery-service is killed: no event comes before another one of its user (or of
/// all) that was accepted before it, and one batch is under way at a time.
async fn order_is_kept(store: &[&str], order: DeliveryOrder) {
    const EVENTS: usize = 1_200;
    let log = Log::default();
    let kept = log.clone();
    let receiver = Receiver::answering(move |received| {
        let mut log = kept.lock().unwrap();
        let ok = log.len() % 11 != 5;
        log.push((members(&received), ok));
        async move { answer(if ok { 200 } else { 500 }) }
    })
    .await;
    let mut pair = Pair::start(store).await;
    let mut api = pair.api();
    let policy =
        DeliveryPolicy { order: order.into(), retry_delays: vec![millis(100); 10], ..policy(16, 50) };
    let hook = make(&mut api, ACCOUNT, &receiver.url("/"), policy).await;
    let succeeded = || {
        let log = log.lock().unwrap();
        log.iter().filter(|(_, ok)| *ok).flat_map(|(events, _)| events.clone()).collect::<HashSet<_>>().len()
    };
    for half in [0..EVENTS / 2, EVENTS / 2..EVENTS] {
        api.in_force(&hook.id).await;
        publish_all(&mut api, half.clone().map(|n| event(n, "ordered", n % USERS)).collect()).await;
        while succeeded() < half.end - 200 {
            receiver.next().await;
        }
        if half.end < EVENTS {
            assert_eq!(receiver.most_under_way(), 1, "one batch at a time");
            pair = pair.kill().await;
            api = pair.api();
        }
    }
    while succeeded() < EVENTS {
        receiver.next().await;
    }
    let strict = order == DeliveryOrder::Strict;
    let mut done: HashMap<usize, usize> = HashMap::new();
    // One that comes again after it had succeeded was under way in the kill.
    let mut again = HashSet::new();
    let log = log.lock().unwrap();
    for (events, ok) in log.iter() {
        let mut within = done.clone();
        for event in events {
            let (user, step) = if strict { (0, 1) } else { (event % USERS, USERS) };
            let next = within.entry(user).or_insert(if strict { 0 } else { user });
            if *event < *next {
                again.insert(events.clone());
            }
            assert!(*event <= *next, "{event} of user {user} overtook {next}: {events:?}");
            *next = (*next).max(event + step);
        }
        if *ok {
            done = within;
        }
    }
    println!("{EVENTS} events in {} requests, {} batches twice", log.len(), again.len());
    assert!(again.len() <= 1, "{again:?}");
    assert!(log.len() < EVENTS / 4, "{} requests", log.len());
}

#[tokio::test]
async fn by_user_batches_keep_order_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    order_is_kept(&["--data-dir", data.path().to_str().unwrap()], DeliveryOrder::ByUser).await;
}

#[tokio::test]
async fn by_user_batches_keep_order_on_redis() {
    let redis = Redis::start().await;
    order_is_kept(&["--redis-url", &redis.url()], DeliveryOrder::ByUser).await;
}

#[tokio::test]
async fn strict_batches_keep_order_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    order_is_kept(&["--data-dir", data.path().to_str().unwrap()], DeliveryOrder::Strict).await;
}

#[tokio::test]
async fn strict_batches_keep_order_on_redis() {
    let redis = Redis::start().await;
    order_is_kept(&["--redis-url", &redis.url()], DeliveryOrder::Strict).await;
}
