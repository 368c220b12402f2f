//! A node of a Redis Cluster that hangs, or dies: what lies on the others is accepted, delivered and retried as if nothing
//! had happened; what lies on it is refused in time, and goes on when it is back.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use integration_tests::{
    api::{Api, added_to_cart, grpcurl},
    fleet::{Fleet, account},
    receiver::{Receiver, answer},
    redis::{Cluster, Redis},
};
use proto::v1::DeliveryPolicy;
use tonic::Code;

/// Over 64 shards and three nodes: each has some.
const ACCOUNTS: usize = 32;
/// Every so many are retried once.
const RETRIED: usize = 4;
/// How long it may take until nobody waits for the node any more: a claim of it runs into its limit.
const NOTICED: Duration = Duration::from_secs(5);
/// By then who does not wait has been answered.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Longer than leases live.
const WATCHED: Duration = Duration::from_secs(4);
/// How soon what is accepted has been delivered, on a machine that is busy with other things too.
const SOON: Duration = Duration::from_secs(2);

/// Who is served, round by round.
struct Rounds {
    apis: Vec<Api>,
    receiver: Receiver,
    round: usize,
    /// How often each event is still to arrive.
    missing: HashMap<String, usize>,
}

impl Rounds {
    /// Publishes an event in each account: whose were refused, each in time.
    async fn publish(&mut self) -> BTreeSet<usize> {
        self.round += 1;
        let round = self.round;
        let asked = self.apis.iter().cloned().enumerate().map(|(n, mut api)| {
            tokio::spawn(async move {
                let (event_id, began) = (format!("{n}-{round}"), Instant::now());
                let answer = api.publish(added_to_cart(&account(n), &event_id)).await;
                assert!(
                    began.elapsed() < Duration::from_millis(2_500),
                    "answered after {:?}",
                    began.elapsed()
                );
                (n, event_id, answer)
            })
        });
        let mut refused = BTreeSet::new();
        for answer in asked.collect::<Vec<_>>() {
            let (n, event_id, answer) = answer.await.unwrap();
            match answer {
                Ok(_) => {
                    self.missing.insert(event_id, if n % RETRIED == 0 { 2 } else { 1 });
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    refused.insert(n);
                }
            }
        }
        refused
    }

    /// Waits until all that was accepted has arrived.
    async fn arrive(&mut self) {
        while !self.missing.is_empty() {
            let arrived = self.receiver.next().await;
            let event_id = arrived.header("x-event-id");
            if let Some(count) = self.missing.get_mut(event_id) {
                *count -= 1;
                if *count == 0 {
                    self.missing.remove(event_id);
                }
            }
        }
    }
}

/// Answers every so many accounts' events with 503 the first time.
async fn receiver() -> Receiver {
    let seen = Arc::new(Mutex::new(HashSet::new()));
    Receiver::answering(move |request| {
        let event_id = request.header("x-event-id").to_owned();
        let (account, _) = event_id.split_once('-').unwrap();
        let retried = account.parse::<usize>().unwrap().is_multiple_of(RETRIED);
        let fails = retried && seen.lock().unwrap().insert(event_id);
        async move { answer(if fails { 503 } else { 200 }) }
    })
    .await
}

/// A node of three is away for longer than leases live.
async fn a_node_is_away(
    what: &str,
    mut cluster: Cluster,
    away: fn(&mut Redis),
    back: impl AsyncFn(&mut Redis),
) {
    let (config, receiver) = (Redis::start().await, receiver().await);
    cluster.goes_on_in_part().await;
    let fleet = Fleet::start(1, &["--redis-url", &config.url()], &["--redis-url", &cluster.url()]).await;
    let policy = DeliveryPolicy {
        retry_delays: vec![Duration::from_millis(100).try_into().unwrap()],
        ..Default::default()
    };
    fleet.webhooks(ACCOUNTS, &receiver, &policy).await;
    let apis = (0..ACCOUNTS).map(|_| fleet.api(0, 0)).collect();
    let mut rounds = Rounds { apis, receiver, round: 0, missing: HashMap::new() };
    assert_eq!(rounds.publish().await, BTreeSet::new());
    rounds.arrive().await;

    away(&mut cluster.nodes[0]);
    let since = Instant::now();
    let on_it = loop {
        let began = Instant::now();
        let refused = rounds.publish().await;
        if !refused.is_empty() && began.elapsed() < AT_ONCE {
            break refused;
        }
        assert!(since.elapsed() < NOTICED, "all wait for it");
    };
    let (watched, first, mut longest) = (Instant::now(), rounds.round, Duration::ZERO);
    assert!(on_it.len() < ACCOUNTS, "a third lies on each node: {on_it:?}");
    while watched.elapsed() < WATCHED {
        let began = Instant::now();
        assert_eq!(rounds.publish().await, on_it);
        let arrived = tokio::time::timeout(SOON, rounds.arrive()).await;
        assert!(arrived.is_ok(), "what is accepted should arrive: {:?}", rounds.missing);
        longest = longest.max(began.elapsed());
    }
    println!(
        "{what}: noticed after {:?}, {} rounds without it, the longest {longest:?}",
        watched - since,
        rounds.round - first
    );

    let health = grpcurl(fleet.addresses[0], &["grpc.health.v1.Health/Check"]).unwrap();
    assert!(health.contains("\"SERVING\""), "for the others it is ready: {health}");

    back(&mut cluster.nodes[0]).await;
    while !rounds.publish().await.is_empty() {
        rounds.arrive().await;
    }
    rounds.arrive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_keeps_nobody_waiting_who_is_served_by_others() {
    let goes_on = async |node: &mut Redis| node.signal("CONT");
    a_node_is_away("a node hangs", Cluster::start(3).await, |node| node.signal("STOP"), goes_on).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_keeps_nobody_waiting_who_is_served_by_others() {
    let starts = async |node: &mut Redis| node.restart().await;
    a_node_is_away("a node dies", Cluster::start(3).await, Redis::kill, starts).await;
}
