//! Order: what was accepted first arrives first, of one user or of all, through failures and kill -9.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use integration_tests::{
    api::{Api, added_to_cart},
    process::Process,
    receiver::{Receiver, answer},
    redis::Redis,
};
use proto::v1::{DeliveryOrder, DeliveryPolicy, Event, event::Payload};

use crate::engine::{ACCOUNT, make, publish_all};

const USERS: usize = 20;

fn events() -> usize {
    if std::env::var_os("HOOKLINE_LONG").is_some() { 100_000 } else { 3_000 }
}

/// The event of this number, which one of `USERS` users did.
fn event(number: usize) -> Event {
    let mut event = added_to_cart(ACCOUNT, &number.to_string());
    if let Some(Payload::Activity(activity)) = &mut event.payload {
        activity.user_id = format!("user {}", number % USERS);
    }
    event
}

/// What arrived, in order: whose, which, and whether it was answered 200.
type Log = Arc<Mutex<Vec<(String, usize, bool)>>>;

/// Publishes events to a receiver that fails some, through two kills; no user's event arrives before one
/// that was accepted before it has succeeded. `strict`: all count as one user's.
async fn order_is_kept(store: &[&str], order: DeliveryOrder) {
    let strict = order == DeliveryOrder::Strict;
    let (log, count) = (Log::default(), Arc::new(AtomicUsize::new(0)));
    let (kept, counted) = (log.clone(), count.clone());
    let receiver = Receiver::answering(move |received| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let status = if number % 97 == 13 { 500 } else { 200 };
        let body = received.json();
        let user = if strict { String::new() } else { body["user_id"].as_str().unwrap().to_owned() };
        let event: usize = body["event_data"]["order"].as_str().unwrap().parse().unwrap();
        kept.lock().unwrap().push((user, event, status == 200));
        async move { answer(status) }
    })
    .await;
    let config = Process::config("127.0.0.1:0", store).await;
    let mut delivery = Process::delivery("127.0.0.1:0", config.config_address(), store).await;
    let address = delivery.delivery_address().to_string();
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    let tenth = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
    let policy = DeliveryPolicy { order: order.into(), retry_delays: vec![tenth; 10], ..Default::default() };
    let hook = make(&mut api, ACCOUNT, &receiver.url("/"), policy).await;

    let events = events();
    let mut last = HashMap::new();
    let mut arrived = 0;
    for part in (0..events).collect::<Vec<_>>().chunks(events / 3) {
        api.in_force(&hook.id).await;
        publish_all(&mut api, part.iter().map(|n| event(*n)).collect()).await;
        let until = part.last().unwrap() + 1 - events / 6;
        while arrived < until {
            receiver.next().await;
            arrived += 1;
        }
        if part.last().unwrap() + 1 < events {
            delivery.kill();
            delivery = Process::delivery(&address, config.config_address(), store).await;
        }
    }
    let all_succeeded = || {
        let log = log.lock().unwrap();
        log.iter().filter(|(_, _, ok)| *ok).map(|(_, event, _)| event).collect::<HashSet<_>>().len() == events
    };
    while !all_succeeded() {
        receiver.next().await;
    }
    let log = log.lock().unwrap().clone();
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
    println!("{events} events, {} requests, {inversions} inversions, {twice} twice", log.len());
    assert_eq!(inversions, 0);
    // What was under way in a kill: one of each user.
    assert!(twice <= 2 * if strict { 1 } else { USERS }, "{twice} twice");
}

#[tokio::test]
async fn by_user_no_event_overtakes_another_of_its_user_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    order_is_kept(&["--data-dir", data.path().to_str().unwrap()], DeliveryOrder::ByUser).await;
}

#[tokio::test]
async fn by_user_no_event_overtakes_another_of_its_user_on_redis() {
    let redis = Redis::start().await;
    order_is_kept(&["--redis-url", &redis.url()], DeliveryOrder::ByUser).await;
}

#[tokio::test]
async fn strict_no_event_overtakes_another_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    order_is_kept(&["--data-dir", data.path().to_str().unwrap()], DeliveryOrder::Strict).await;
}

#[tokio::test]
async fn strict_no_event_overtakes_another_on_redis() {
    let redis = Redis::start().await;
    order_is_kept(&["--redis-url", &redis.url()], DeliveryOrder::Strict).await;
}
