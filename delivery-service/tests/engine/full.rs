//! A process that has started as many attempts as it may, or has as much in memory: who has waited longest for
//! room is next, lanes that became due in the store have their share, and what waits is not read back meanwhile,
//! but for what is asked for again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{
    clock::Clock,
    ids::{DeliveryId, WebhookId},
};
use delivery_service::{
    delivery::{Fault, Head},
    intake::Intake,
    lanes::{Lanes, Limits},
    queue::{self, New, Queue, Retried, disk::DiskQueue, group::Group},
    routes::{Order, Route},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE, account, engine, event,
    late::World,
    receiver::{Receiver, answer},
    route,
};

/// More lanes than attempts that may be under way.
const LANES: u64 = 6;

/// An engine with room for one attempt, and its receiver, which answers so many requests as it is let.
struct Full {
    receiver: Receiver,
    answers: Arc<Semaphore>,
    lanes: Lanes,
    intake: Intake,
    stop: CancellationToken,
}

impl Full {
    async fn start(store: Arc<dyn Queue>) -> Self {
        Self::with(store, Limits { attempts: 1, ..Limits::default() }, |_| {}).await
    }

    async fn with(store: Arc<dyn Queue>, limits: Limits, change: fn(&mut Route)) -> Self {
        let answers = Arc::new(Semaphore::new(0));
        let let_go = answers.clone();
        let receiver = Receiver::answering(move |_| {
            let let_go = let_go.clone();
            async move {
                let_go.acquire().await.unwrap().forget();
                answer(200)
            }
        })
        .await;
        let plain = |n: u64| {
            let mut route: Route = route(n, &receiver.url(&format!("/{n}")));
            (route.policy.order, route.policy.batch) = (Order::Unordered, None);
            route.policy.timeout = PATIENCE;
            change(&mut route);
            route
        };
        let (all, stop) = ((0..LANES).map(plain).collect(), CancellationToken::new());
        let (lanes, _, routes) = engine(store.clone(), all, Clock::System, limits, stop.clone());
        let intake = Intake::new(routes, Group::start(store, lanes.clone()), Clock::System, 1);
        Self { receiver, answers, lanes, intake, stop }
    }

    /// Waits until the engine has this webhook's lane.
    async fn has(&self, n: u64) {
        let known = async {
            while self.lanes.status(WebhookId::new(1, n.into())).await.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, known).await.expect("the engine should have the lane");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_waited_longest_for_room_is_next() {
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskQueue::open(folder.path(), Clock::System, queue::Limits::default(), 0).unwrap();
    let full = Full::start(disk).await;
    for n in 0..LANES {
        assert!(full.intake.accept(vec![event(&account(n), 1)], None).await[0].is_ok());
        full.has(n).await;
    }
    for n in 0..LANES {
        assert_eq!(full.receiver.next().await.target, format!("/{n}"));
        full.answers.add_permits(1);
    }
    full.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_are_due_have_their_share_of_a_full_process() {
    let world = World::new().await;
    // What this one takes in stands in lanes that nobody has.
    let elsewhere = world.start();
    elsewhere.stop.cancel();
    tokio::time::timeout(PATIENCE, elsewhere.done).await.expect("the engine should stop").unwrap();

    let full = Full::start(world.late.clone()).await;
    assert!(full.intake.accept(vec![event(&account(0), 1)], None).await[0].is_ok());
    assert_eq!(full.receiver.next().await.target, "/0");
    world.late.leaves_due.store(true, Ordering::SeqCst);
    assert!(elsewhere.intake.accept(vec![event(&account(3), 1)], None).await[0].is_ok());
    full.has(3).await;
    full.answers.add_permits(2);
    assert_eq!(full.receiver.next().await.target, "/3");
    full.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_are_due_have_their_share_of_a_process_whose_memory_is_full() {
    let world = World::new().await;
    let elsewhere = world.start();
    elsewhere.stop.cancel();
    tokio::time::timeout(PATIENCE, elsewhere.done).await.expect("the engine should stop").unwrap();

    // The second of this webhook's waits in memory for an hour.
    let limits = Limits { memory_bytes: 1_000, ..Limits::default() };
    let slow = |route: &mut Route| {
        if &*route.license_code == "account-0" {
            route.policy.max_rate = 1.0 / 3_600.0;
        }
    };
    let full = Full::with(world.late.clone(), limits, slow).await;
    // Else the store would keep the second one's answer until the lane is given back.
    world.late.claims_late.store(true, Ordering::SeqCst);
    full.answers.add_permits(9);
    for id in 0..9 {
        assert!(full.intake.accept(vec![event(&account(0), id)], None).await[0].is_ok());
    }
    assert_eq!(full.receiver.next().await.target, "/0");
    world.late.leaves_due.store(true, Ordering::SeqCst);
    assert!(elsewhere.intake.accept(vec![event(&account(3), 1)], None).await[0].is_ok());
    assert_eq!(full.receiver.next().await.target, "/3");
    // Some wait in memory, and no others are read beside them.
    assert_eq!(world.late.reads.load(Ordering::SeqCst), 0);
    full.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_in_which_many_are_asked_for_is_kept_though_memory_is_full() {
    let world = World::new().await;
    // A body that waits fills it.
    let limits = Limits { memory_bytes: 1, ..Limits::default() };
    let full = Full::with(world.late.clone(), limits, |route| route.policy.order = Order::Strict).await;
    // Else the store would keep the second one's answer until the lane is given back.
    world.late.claims_late.store(true, Ordering::SeqCst);
    let failed: Vec<_> = (1..20).map(|n| DeliveryId::new(0, 1_700_000_000_000, n)).collect();
    let new = failed.iter().map(|id| {
        let mut head = Head::new(*id, WebhookId::new(1, 0));
        (head.license_code, head.event_id) = (account(0), id.to_string());
        New { head, body: "{}".into(), dedupe: false, failed: Some(Fault::Disabled) }
    });
    world.disk.enqueue(Arc::new(new.collect())).await;
    for id in 0..2 {
        assert!(full.intake.accept(vec![event(&account(0), id)], None).await[0].is_ok());
    }
    full.receiver.next().await;
    for id in &failed {
        assert!(matches!(world.disk.retry(*id).await, Ok(Retried::Now(_))));
    }
    while world.late.reads.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    full.answers.add_permits(1 + failed.len());
    for id in &failed {
        assert_eq!(full.receiver.next().await.header("webhook-id"), id.to_string());
    }
    let settled = world.late.settled.lock().unwrap().clone();
    assert!(settled.iter().all(|(_, given_back)| !given_back), "{settled:?}");
    full.stop.cancel();
}
