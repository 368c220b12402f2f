//! Memory is bounded: a backlog of up to a million deliveries of 1 KB stands before a receiver that is
//! dead, others are served meanwhile, and delivery-service stays small. What is too much for the dead one
//! fails, what has ended is forgotten, and neither a kill -9 nor the drain takes more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    fleet::size,
    process::Process,
    receiver::{Receiver, answer},
    redis::Redis,
};
use proto::v1::{
    DeliveryOrder, DeliveryPolicy, DeliveryState, Event, GetWebhookStatusRequest, ListDeliveriesRequest,
    PublishEventsRequest, Webhook, WebhookType, event::Payload, publish_result::Outcome,
};
use tokio::task::{JoinHandle, JoinSet};

/// Of resident memory, and so much of it may come with the last nine tenths of the backlog: caches fill
/// and windows do, but not with each delivery.
const BOUND: u64 = 512 << 20;
const GROWTH: u64 = 128 << 20;
/// More than the webhook may have: these fail.
const TOO_MANY: usize = 1_000;
const KEPT: usize = 200;
const LIVE: usize = 4;
const PUBLISHERS: usize = 4;
/// Events in one call.
const BATCH: usize = 500;

/// About 1 KB as it is posted.
fn event(number: usize) -> Event {
    let mut event = added_to_cart("dead", &number.to_string());
    if let Some(Payload::Activity(activity)) = &mut event.payload {
        activity.user_id = format!("user {}", number % 1_000);
        activity.event_data_json = format!(r#"{{"order":"{number}","filler":"{}"}}"#, "x".repeat(790));
    }
    event
}

/// Publishes events of these numbers; how many of the deliveries have failed at once is for others to say.
async fn publish(api: &Api, numbers: std::ops::Range<usize>) {
    let mut publishers = JoinSet::new();
    for at in 0..PUBLISHERS {
        let (mut api, numbers) = (api.clone(), numbers.clone());
        publishers.spawn(async move {
            for from in numbers.clone().step_by(BATCH).skip(at).step_by(PUBLISHERS) {
                let events = (from..numbers.end.min(from + BATCH)).map(event).collect();
                let answer = api.events.publish_events(PublishEventsRequest { events }).await.unwrap();
                let results = answer.into_inner().results;
                assert!(results.iter().all(|r| matches!(r.outcome, Some(Outcome::Accepted(_)))));
            }
        });
    }
    publishers.join_all().await;
}

/// Events to the live receivers, one each 20 ms, until it is told to stop.
struct Live {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Live {
    fn start(api: &Api, name: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut api, stopped) = (api.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            let mut count = 0;
            while !stopped.load(Ordering::SeqCst) {
                ticks.tick().await;
                let account = format!("live{}", count % LIVE);
                api.publish_patiently(added_to_cart(&account, &format!("{name}{count}"))).await;
                count += 1;
            }
            count
        });
        Self { stop, task }
    }

    /// Stops, and waits until all of them have arrived.
    async fn all_arrive(self, receiver: &Receiver) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let count = self.task.await.unwrap();
        for _ in 0..count {
            receiver.next().await;
        }
        count
    }
}

async fn memory_is_bounded(what: &str, store: &[&str], order: DeliveryOrder) {
    let backlog = size(30_000, 1_000_000);
    let (most, kept) = (backlog.to_string(), KEPT.to_string());
    let limits = ["--backlog-count", &most, "--ended-count", &kept, "--failed-count", &kept];
    let flags = [store, &limits].concat();
    let receiver = Receiver::start().await;
    // Nobody is there.
    let dead = Receiver::start().await.address();
    let config = Process::config("127.0.0.1:0", store).await;
    let delivery = Process::delivery("127.0.0.1:0", config.config_address(), &flags).await;
    let address = delivery.delivery_address();
    let mut api = Api::new(config.config_address(), address);
    let kind = WebhookType::GlobalApplicationEvents;
    for n in 0..LIVE {
        api.create(webhook(&format!("live{n}"), kind, &receiver.url("/"))).await;
    }
    let hook = webhook("dead", kind, &format!("http://{dead}/"));
    let policy = DeliveryPolicy { order: order.into(), ..Default::default() };
    let hook = api.create(Webhook { delivery_policy: Some(policy), ..hook }).await;

    let live = Live::start(&api, "a");
    publish(&api, 0..backlog / 10).await;
    let small = delivery.peak_memory();
    let began = Instant::now();
    publish(&api, backlog / 10..backlog).await;
    let rate = (backlog - backlog / 10) as f64 / began.elapsed().as_secs_f64();
    publish(&api, backlog..backlog + TOO_MANY).await;
    let served = live.all_arrive(&receiver).await;
    let full = delivery.peak_memory();
    println!(
        "{what}: {backlog} deliveries wait, accepted at {rate:.0} a second beside {served} served: \
         {} MiB at most, {} MiB with a tenth of them",
        full >> 20,
        small >> 20
    );
    assert!(full < BOUND && full - small < GROWTH, "{full} bytes, {small} with a tenth of them");
    let request = GetWebhookStatusRequest { webhook_id: hook.id.clone() };
    let status = api.deliveries.get_webhook_status(request).await.unwrap().into_inner();
    assert_eq!(status.backlog_count as usize, backlog);
    let some = KEPT + KEPT / 16;
    assert!((KEPT..=some).contains(&(status.failed_count as usize)), "{} failed", status.failed_count);
    let ended = ListDeliveriesRequest {
        license_code: "live0".into(),
        states: vec![DeliveryState::Succeeded as i32],
        page_size: 1_000,
        ..Default::default()
    };
    let ended = api.all(ended).await.len();
    assert!((served / LIVE).min(KEPT) <= ended + 1 && ended <= some, "{ended} kept of {}", served / LIVE);

    // Killed and started again, with a receiver that lives, at an address that is looked at at once.
    delivery.kill();
    let back = Receiver::on(dead, |_| async { answer(200) }).await;
    let delivery = Process::delivery(&address.to_string(), config.config_address(), &flags).await;
    let mut api = Api::new(config.config_address(), address);
    api.in_force(&hook.id).await;
    let live = Live::start(&api, "b");
    let moved = Webhook { id: hook.id, post_url: back.url("/moved"), ..Default::default() };
    api.update(moved, &["post_url"]).await;
    let began = Instant::now();
    let drained = size(5_000, 200_000);
    for _ in 0..drained {
        back.next().await;
    }
    let rate = drained as f64 / began.elapsed().as_secs_f64();
    let served = live.all_arrive(&receiver).await;
    let peak = delivery.peak_memory();
    println!("{what}: drained at {rate:.0} a second beside {served} served: {} MiB at most", peak >> 20);
    assert!(peak < BOUND, "{peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_whatever_the_backlog_on_redis() {
    let redis = Redis::with(&["--appendonly", "no"]).await;
    memory_is_bounded("Redis", &["--redis-url", &redis.url()], DeliveryOrder::Unordered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_whatever_the_backlog_of_an_ordered_lane() {
    let redis = Redis::with(&["--appendonly", "no"]).await;
    memory_is_bounded("Redis, BY_USER", &["--redis-url", &redis.url()], DeliveryOrder::ByUser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_whatever_the_backlog_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    let store = ["--data-dir", data.path().to_str().unwrap()];
    memory_is_bounded("embedded", &store, DeliveryOrder::Unordered).await;
}
