//! A dead receiver with a long backlog, by a clock by hand: it is left alone but for probes, and once it lives
//! its backlog comes in order of due time: a fresh delivery is due since it was accepted.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    clock::{Clock, Time},
    ids::{DeliveryId, WebhookId},
};
use delivery_service::{
    delivery::{Head, Place, State},
    lanes::Limits,
    queue::{self, LaneNow, Lease, New, Query, Queue, Release, Settle, Stored, disk::DiskQueue},
    routes::{Order, Policy},
};
use tokio_util::sync::CancellationToken;

use crate::{
    account, engine,
    receiver::{Receiver, answer},
    route,
};

const STEP: Duration = Duration::from_secs(1);
const MINUTES: usize = 25;
/// For the engine to hear of a step, and to have done what follows from it.
const HEARS: Duration = Duration::from_millis(4);

async fn accept(store: &DiskQueue, lane: WebhookId, numbers: std::ops::Range<u64>) {
    let new = |number| {
        let mut head = Head::new(DeliveryId::new(0, 1_700_000_000_000, number), lane);
        (head.license_code, head.event_id) = (account(0), number.to_string());
        New { head, body: "{}".into(), dedupe: false, failed: None }
    };
    let mut given = None;
    for start in numbers.clone().step_by(2_000) {
        let batch = (start..numbers.end.min(start + 2_000)).map(new).collect();
        for stored in store.enqueue(Arc::new(batch)).await {
            // The first one brings the lane: it is the engine's.
            if let Stored::New { place, before: Place(0), lane: LaneNow::Mine { fence, .. }, .. } =
                stored.unwrap()
            {
                let release = Some(Release::Free { known: place, unread: true });
                let lease = Lease { webhook_id: lane, fence };
                given =
                    Some(Settle { lane: lease, deliveries: vec![], done_to: Place(0), memo: None, release });
            }
        }
    }
    if let Some(settle) = given {
        store.settle(Arc::new(vec![settle])).await.unwrap();
    }
}

/// When each open delivery is due, ms.
async fn dues(store: &DiskQueue) -> HashMap<String, i64> {
    let mut dues = HashMap::new();
    let states = vec![State::Pending, State::Retrying];
    let mut query = Query { license_code: account(0), states, limit: 500, ..Query::default() };
    loop {
        let listed = store.list(query.clone()).await.unwrap();
        for (head, place) in listed.deliveries {
            let due = if head.next_attempt_ms > 0 { head.next_attempt_ms } else { place.time().0 };
            dues.insert(head.id().to_string(), due);
        }
        let Some(next) = listed.next else { return dues };
        query.after = Some(next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_receiver_is_left_alone_and_its_backlog_drains_in_order_of_due_time() {
    let backlog = if std::env::var_os("HOOKLINE_LONG").is_some() { 100_000 } else { 3_000 };
    let lives = Arc::new(AtomicBool::new(false));
    let up = lives.clone();
    let receiver = Receiver::answering(move |_| {
        let status = if up.load(Ordering::Relaxed) { 200 } else { 500 };
        async move { answer(status) }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::by_hand(Time(1_800_000_000_000));
    let store = DiskQueue::open(folder.path(), clock.clone(), queue::Limits::default(), 0).unwrap();
    let mut route = route(0, &receiver.url("/"));
    let minutes = |n: u64| Duration::from_secs(60 * n);
    route.policy = Policy {
        // One at a time arrive as they were sent.
        max_in_flight: 1,
        retry_delays: [minutes(3), minutes(8), minutes(16), minutes(24)].into(),
        order: Order::Unordered,
        ..Policy::default()
    };
    let lane = route.webhook_id;
    accept(&store, lane, 0..backlog / 2).await;
    let stop = CancellationToken::new();
    let (_lanes, done, _) =
        engine(store.clone(), vec![route], clock.clone(), Limits::default(), stop.clone());

    let mut requests = vec![0; MINUTES];
    for (minute, count) in requests.iter_mut().enumerate() {
        for _ in 0..60 {
            clock.advance(STEP);
            tokio::time::sleep(HEARS).await;
            *count += receiver.arrived().await.len();
        }
        if minute == 5 {
            accept(&store, lane, backlog / 2..backlog).await;
        }
    }
    println!("requests in each minute: {requests:?}");
    let late: usize = requests[10..].iter().sum();
    assert!(late > 0 && late < (MINUTES - 10) / 3, "under one a minute: {requests:?}");
    assert!(requests[1..].iter().all(|count| *count <= 4), "{requests:?}");

    let dues = dues(&store).await;
    assert_eq!(dues.len() as u64, backlog, "none has been given up, and each is there");
    lives.store(true, Ordering::Relaxed);
    let (mut order, mut seen) = (Vec::new(), HashSet::new());
    while seen.len() < dues.len() {
        match tokio::time::timeout(5 * HEARS, receiver.next()).await {
            Ok(received) => {
                let id = received.header("webhook-id").to_owned();
                order.push(dues[&id]);
                seen.insert(id);
            }
            // Nothing happens but by time.
            Err(_) => clock.advance(STEP),
        }
    }
    assert_eq!(order.len(), dues.len(), "each once");
    // A retry's time counts from when its outcome was stored, up to a few steps after its attempt.
    let slack = 3 * STEP.as_millis() as i64;
    let late = order.windows(2).position(|pair| pair[0] > pair[1] + slack);
    assert_eq!(late, None, "{:?}", late.map(|at| &order[at.saturating_sub(3)..at + 3]));
    stop.cancel();
    while !done.is_finished() {
        clock.advance(STEP);
        tokio::time::sleep(HEARS).await;
    }
}
