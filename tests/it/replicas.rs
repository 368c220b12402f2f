//! Many replicas on one store: three delivery-services and two config-services. One that is killed, paused
//! or drained leaves its lanes to the others; nothing that was accepted is lost, limits are kept over all
//! replicas together, and each says what was sent, received and duplicated.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use integration_tests::{
    api::{added_to_cart, webhook},
    fleet::{Arrived, Fleet, Load, account, receiver, size},
    receiver::{Receiver, answer},
    redis::{Cluster, Redis},
};
use proto::v1::{DeliveryPolicy, PublishEventsRequest, Webhook, WebhookType};
use tokio::time::sleep;

const LANES: usize = 8;
const IN_FLIGHT: i32 = 4;
/// What one crash can repeat at most: requests under way, and as many whose outcome was on its way to Redis.
const UNDER_WAY: usize = 2 * LANES * IN_FLIGHT as usize;

fn policy() -> DeliveryPolicy {
    DeliveryPolicy { max_in_flight: IN_FLIGHT, ..Default::default() }
}

/// Load on all, lanes being at the replica `n`: who enqueues first in a lane has it while it is busy.
async fn load_at(fleet: &Fleet, name: &str, n: usize) -> (Load, HashSet<String>) {
    let first = Load::start(&format!("{name}-first"), &fleet.addresses[n..=n], LANES);
    first.more(LANES * 2).await;
    let load = Load::start(name, &fleet.addresses, LANES);
    load.more(LANES * 2).await;
    (load, first.finish().await)
}

/// Each misfortune in turn, on one store.
async fn replicas_come_and_go(store: &str, url: &str) {
    let flags = ["--redis-url", url];
    let receiver = receiver().await;
    let mut fleet = Fleet::start(3, &flags, &flags).await;
    fleet.webhooks(LANES, &receiver, &policy()).await;

    // kill -9: its lanes go on at the others.
    let mut arrived = Arrived::default();
    let (load, first) = load_at(&fleet, "killed", 0).await;
    load.more(size(500, 20_000)).await;
    fleet.kill(0);
    let killed = Instant::now();
    load.more(size(500, 20_000)).await;
    sleep(Duration::from_secs(4)).await;
    arrived.take(&receiver).await;
    let takeover = arrived.longest_wait(killed, LANES);
    println!("{store}: lanes of a killed replica went on within {takeover:?}");
    assert!(takeover < Duration::from_secs(10), "{takeover:?}");
    fleet.restart(0).await;
    let sent = load.finish().await.union(&first).cloned().collect();
    let twice = arrived.all(&format!("{store}, one killed"), &sent, &receiver).await;
    assert!(twice <= UNDER_WAY, "{twice} duplicates of {UNDER_WAY} under way");

    // Paused for longer than its leases: when it wakes it has nothing to say.
    let mut arrived = Arrived::default();
    let (load, first) = load_at(&fleet, "paused", 1).await;
    load.more(size(200, 15_000)).await;
    fleet.delivery(1).signal("STOP");
    let paused = Instant::now();
    sleep(Duration::from_secs(5)).await;
    arrived.take(&receiver).await;
    let takeover = arrived.longest_wait(paused, LANES);
    println!("{store}: lanes of a paused replica went on within {takeover:?}");
    assert!(takeover < Duration::from_secs(10), "{takeover:?}");
    fleet.delivery(1).signal("CONT");
    load.more(size(200, 15_000)).await;
    let sent = load.finish().await.union(&first).cloned().collect();
    let twice = arrived.all(&format!("{store}, one paused"), &sent, &receiver).await;
    assert!(twice <= UNDER_WAY, "{twice} duplicates of {UNDER_WAY} under way");

    // Drained, one after the other: the next one has its lanes at once, and nothing comes twice.
    let mut arrived = Arrived::default();
    let (load, first) = load_at(&fleet, "drained", 0).await;
    let mut slowest = Duration::ZERO;
    for n in 0..3 {
        load.more(size(200, 8_000)).await;
        fleet.stop(n).await;
        let ended = Instant::now();
        sleep(Duration::from_millis(1_500)).await;
        arrived.take(&receiver).await;
        slowest = slowest.max(arrived.longest_wait(ended, LANES));
        fleet.restart(n).await;
    }
    load.more(size(200, 8_000)).await;
    println!("{store}: lanes of a drained replica went on within {slowest:?}");
    assert!(slowest < Duration::from_millis(1_500), "{slowest:?}");
    let sent = load.finish().await.union(&first).cloned().collect();
    let twice = arrived.all(&format!("{store}, rolling restarts"), &sent, &receiver).await;
    assert_eq!(twice, 0, "a drained replica repeats nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_on_redis() {
    let redis = Redis::start().await;
    replicas_come_and_go("Redis", &redis.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_on_a_cluster_with_replicas() {
    let cluster = Cluster::with_replicas(3).await;
    replicas_come_and_go("Redis Cluster", &cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_one_goes_on_within_two_seconds_of_its_restart() {
    let redis = Redis::start().await;
    let url = redis.url();
    let flags = ["--redis-url", url.as_str()];
    let receiver = receiver().await;
    let mut fleet = Fleet::start(1, &flags, &flags).await;
    fleet.webhooks(LANES, &receiver, &policy()).await;
    let load = Load::start("only", &fleet.addresses, LANES);
    let mut arrived = Arrived::default();
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        load.more(size(200, 10_000)).await;
        fleet.kill(0);
        fleet.restart(0).await;
        let restarted = Instant::now();
        sleep(Duration::from_secs(3)).await;
        arrived.take(&receiver).await;
        slowest = slowest.max(arrived.longest_wait(restarted, LANES));
    }
    println!("the only one went on within {slowest:?} of its restart");
    let sent = load.finish().await;
    let twice = arrived.all("Redis, the only one killed three times", &sent, &receiver).await;
    assert!(twice <= 3 * UNDER_WAY, "{twice} duplicates");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_webhook_hold_over_all_replicas() {
    let redis = Redis::start().await;
    let url = redis.url();
    let flags = ["--redis-url", url.as_str()];
    let fleet = Fleet::start(3, &flags, &flags).await;
    let slow = Receiver::answering(|_| async {
        sleep(Duration::from_millis(20)).await;
        answer(200)
    })
    .await;
    let paced = Receiver::start().await;
    let few = DeliveryPolicy { max_in_flight: 3, ..Default::default() };
    let rate = DeliveryPolicy { max_rate: 100.0, ..Default::default() };
    for (at, receiver, policy) in [("few", &slow, few), ("rate", &paced, rate)] {
        let hook = webhook(at, WebhookType::GlobalApplicationEvents, &receiver.url("/"));
        let made = fleet.api(0, 0).create(Webhook { delivery_policy: Some(policy), ..hook }).await;
        for n in 1..3 {
            fleet.api(1, n).in_force(&made.id).await;
        }
    }
    let seconds = size(10, 60);
    let count = 100 * seconds + 50;
    for (at, account) in ["few", "rate"].into_iter().enumerate() {
        for (n, batch) in (0..count).collect::<Vec<_>>().chunks(100).enumerate() {
            let events = batch.iter().map(|n| added_to_cart(account, &format!("{at}-{n}"))).collect();
            let mut api = fleet.api(0, n % 3);
            api.events.publish_events(PublishEventsRequest { events }).await.unwrap();
        }
    }
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        slow.next().await;
        times.push(paced.next().await.at);
    }
    assert!(slow.most_under_way() <= 3, "{} at once", slow.most_under_way());
    // The first second has what the start brings together.
    let from = times[0] + Duration::from_secs(1);
    let counts: Vec<_> = (0..seconds as u32 - 2)
        .map(|n| {
            let start = from + Duration::from_secs(1) * n;
            times.iter().filter(|at| **at >= start && **at < start + Duration::from_secs(1)).count()
        })
        .collect();
    println!(
        "max_rate 100 over three replicas: {counts:?} in the seconds; most at once of 3: {}",
        slow.most_under_way()
    );
    assert!(counts.iter().all(|count| (95..=105).contains(count)), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_either_config_service_is_in_force_everywhere_within_a_second() {
    let redis = Redis::start().await;
    let url = redis.url();
    let flags = ["--redis-url", url.as_str()];
    let fleet = Arc::new(Fleet::start(3, &flags, &flags).await);
    let receiver = Receiver::start().await;
    let mut slowest = Duration::ZERO;
    for round in 0..6 {
        let hook = webhook(&account(round), WebhookType::GlobalApplicationEvents, &receiver.url("/"));
        let request = proto::v1::CreateWebhookRequest { webhook: Some(hook), ..Default::default() };
        let made = fleet.api(round % 2, 0).webhooks.create_webhook(request).await.unwrap().into_inner();
        let since = Instant::now();
        let everywhere = (0..3).map(|n| {
            let (fleet, id) = (fleet.clone(), made.id.clone());
            tokio::spawn(async move { fleet.api(0, n).in_force(&id).await })
        });
        for one in everywhere.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        slowest = slowest.max(since.elapsed());
    }
    println!("changes were in force at three delivery-services within {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
