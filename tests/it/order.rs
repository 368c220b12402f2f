//! Order: what was accepted first arrives first, of one user or of all, through failures and kill -9.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use integration_tests::{
    api::{Api, added_to_cart},
    fleet::size,
    process::Process,
    receiver::{Receiver, answer},
    redis::Redis,
};
use proto::v1::{DeliveryOrder, DeliveryPolicy, Event, event::Payload};

use crate::engine::{ACCOUNT, make, publish_all};

const USERS: usize = 20;

/// The event of this number, which one of `USERS` users did.
fn event(number: usize) -> Event {
    let mut event = added_to_cart(ACCOUNT, &number.to_string());
    if let Some(Payload::Activity(activity)) = &mut event.payload {
        activity.user_id = format!("user {}", number % USERS);
    }
    event
}

/// What arrived.
#[derive(Default)]
struct Log {
    /// In order: whose, which, and whether it was answered 200.
    requests: Vec<(String, usize, bool)>,
    succeeded: HashSet<usize>,
}

/// Publishes events to a receiver that fails some, through two kills; no user's event arrives before one
/// that was accepted before it has succeeded. STRICT: all count as one user's. `shared`: another replica
/// is there and takes over from one that is killed, rather than the same one when it is back.
async fn order_is_kept(store: &[&str], shared: bool, order: DeliveryOrder) {
    let (events, fails): (usize, _) = size((3_000, 97), (100_000, 997));
    let strict = order == DeliveryOrder::Strict;
    let (log, count) = (Arc::new(Mutex::new(Log::default())), Arc::new(AtomicUsize::new(0)));
    let (kept, counted) = (log.clone(), count.clone());
    let receiver = Receiver::answering(move |received| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let status = if number % fails == 13 { 500 } else { 200 };
        let body = received.json();
        let user = if strict { String::new() } else { body["user_id"].as_str().unwrap().to_owned() };
        let event: usize = body["event_data"]["order"].as_str().unwrap().parse().unwrap();
        let mut kept = kept.lock().unwrap();
        kept.requests.push((user, event, status == 200));
        if status == 200 {
            kept.succeeded.insert(event);
        }
        async move { answer(status) }
    })
    .await;
    let config = Process::config("127.0.0.1:0", store).await;
    let mut delivery = Process::delivery("127.0.0.1:0", config.config_address(), store).await;
    let address = delivery.delivery_address().to_string();
    let start = async |address| Process::delivery(address, config.config_address(), store).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    let tenth = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
    let policy = DeliveryPolicy { order: order.into(), retry_delays: vec![tenth; 10], ..Default::default() };
    let hook = make(&mut api, ACCOUNT, &receiver.url("/"), policy).await;

    let began = Instant::now();
    let mut last = HashMap::new();
    let mut arrived = 0;
    for part in (0..events).collect::<Vec<_>>().chunks(events.div_ceil(3)) {
        api.in_force(&hook.id).await;
        publish_all(&mut api, part.iter().map(|n| event(*n)).collect()).await;
        let until = part.last().unwrap() + 1 - events / 6;
        while arrived < until {
            receiver.next().await;
            arrived += 1;
        }
        if part.last().unwrap() + 1 < events {
            let other = if shared { Some(start("127.0.0.1:0").await) } else { None };
            delivery.kill();
            delivery = match other {
                Some(other) => other,
                None => start(&address).await,
            };
            api = Api::new(config.config_address(), delivery.delivery_address());
        }
    }
    while log.lock().unwrap().succeeded.len() < events {
        receiver.next().await;
    }
    let rate = events as f64 / began.elapsed().as_secs_f64();
    let log = std::mem::take(&mut log.lock().unwrap().requests);
    let (mut inversions, mut twice) = (0, 0);
    for (user, event, ok) in &log {
        let before: &mut Option<usize> = last.entry(user.clone()).or_default();
        // All before it have succeeded, and none after it has been tried.
        let step = if strict { 1 } else { USERS };
        let next = before.map_or(event % step, |before| before + step);
        if *event != next && Some(*event) != *before {
            inversions += 1;
            println!("{user:?}: {event} after {before:?}");
        }
        twice += usize::from(Some(*event) == *before);
        if *ok && *event >= next {
            *before = Some(*event);
        }
    }
    println!(
        "{}: {events} events, {} requests, {inversions} inversions, {twice} twice, {rate:.0} a second",
        order.as_str_name(),
        log.len()
    );
    assert_eq!(inversions, 0);
    // What was under way in a kill: one of each user.
    assert!(twice <= 2 * if strict { 1 } else { USERS }, "{twice} twice");
}

#[tokio::test]
async fn by_user_no_event_overtakes_another_of_its_user_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    order_is_kept(&["--data-dir", data.path().to_str().unwrap()], false, DeliveryOrder::ByUser).await;
}

#[tokio::test]
async fn by_user_no_event_overtakes_another_of_its_user_on_redis() {
    let redis = Redis::start().await;
    order_is_kept(&["--redis-url", &redis.url()], true, DeliveryOrder::ByUser).await;
}

#[tokio::test]
async fn strict_no_event_overtakes_another_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    order_is_kept(&["--data-dir", data.path().to_str().unwrap()], false, DeliveryOrder::Strict).await;
}

#[tokio::test]
async fn strict_no_event_overtakes_another_on_redis() {
    let redis = Redis::start().await;
    order_is_kept(&["--redis-url", &redis.url()], true, DeliveryOrder::Strict).await;
}
