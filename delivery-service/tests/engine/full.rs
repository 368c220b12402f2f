//! A process that has started as many attempts as it may: who has waited longest for room is next, and
//! lanes that became due in the store have their share.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{clock::Clock, ids::WebhookId};
use delivery_service::{
    intake::Intake,
    lanes::{Lanes, Limits},
    queue::{self, Queue, disk::DiskQueue, group::Group},
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
            route
        };
        let (all, stop) = ((0..LANES).map(plain).collect(), CancellationToken::new());
        let limits = Limits { attempts: 1, ..Limits::default() };
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
