//! A lane that is given back while it may not go on: whoever holds it next, this process or another, keeps to
//! its pace and to what its receiver asked for.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::clock::{Clock, Time};
use delivery_service::{
    intake::Intake,
    lanes::{Input, Limits},
    queue::{self, PageLimit, Queue, disk::DiskQueue, group::Group},
    routes::{Order, Policy, Route, table::Edit},
};
use hyper::header::RETRY_AFTER;
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE, account, engine, event,
    late::Late,
    receiver::{Receiver, answer},
    route,
};

const STEP: Duration = Duration::from_millis(100);
/// For the engine to hear of a step, and to have done what follows from it.
const HEARS: Duration = Duration::from_millis(4);
const HOUR: Duration = Duration::from_secs(3_600);

/// Answers the first request with 503 and this wish, if any, and all others well; tells when each came.
async fn fails_once(clock: Clock, retry_after: &'static str) -> (Receiver, Arc<Mutex<Vec<Time>>>) {
    let (times, count) = (Arc::new(Mutex::new(Vec::new())), AtomicUsize::new(0));
    let told = times.clone();
    let receiver = Receiver::answering(move |_| {
        told.lock().unwrap().push(clock.now());
        let fails = count.fetch_add(1, Ordering::SeqCst) == 0;
        let mut answer = answer(if fails { 503 } else { 200 });
        if fails && !retry_after.is_empty() {
            answer.headers_mut().insert(RETRY_AFTER, retry_after.parse().unwrap());
        }
        async move { answer }
    })
    .await;
    (receiver, times)
}

fn one(url: &str, policy: Policy) -> Route {
    let mut route = route(0, url);
    route.policy = Policy { timeout: Duration::from_secs(5), ..policy };
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_given_back_keeps_its_pace_and_short_holds() {
    let seconds = Duration::from_secs;
    // Requests a second, how long the receiver wants to be left alone, when the first one's retry is, the order,
    // and how long after the first request the next one comes.
    let table = [
        (0.1, "5", seconds(1), Order::Unordered, seconds(10)),
        (0.1, "", seconds(5), Order::Strict, seconds(10)),
        (0.0, "1", HOUR, Order::Unordered, seconds(1)),
    ];
    for (max_rate, retry_after, delay, order, apart) in table {
        let clock = Clock::by_hand(Time(1_800_000_000_000));
        let (receiver, times) = fails_once(clock.clone(), retry_after).await;
        let policy = Policy { max_rate, retry_delays: [delay].into(), order, ..Policy::default() };
        let folder = tempfile::tempdir().unwrap();
        let store = DiskQueue::open(folder.path(), clock.clone(), queue::Limits::default(), 0).unwrap();
        let stop = CancellationToken::new();
        let routes = vec![one(&receiver.url("/"), policy)];
        let (lanes, done, routes) =
            engine(store.clone(), routes, clock.clone(), Limits::default(), stop.clone());
        let intake = Intake::new(routes, Group::start(store, lanes), clock.clone(), 1);
        assert!(intake.accept(vec![event(&account(0), 1)], None).await[0].is_ok());
        receiver.next().await;
        for step in 0.. {
            // By now a lane that has nothing to do was given back.
            if step == 4 {
                assert!(intake.accept(vec![event(&account(0), 2)], None).await[0].is_ok());
            }
            tokio::time::sleep(HEARS).await;
            if times.lock().unwrap().len() > 1 {
                break;
            }
            assert!(STEP * step < 3 * apart, "nothing comes");
            clock.advance(STEP);
        }
        let times = times.lock().unwrap().clone();
        let were = times[0].until(times[1]);
        assert!(were >= apart, "{were:?} apart, at {max_rate} a second and Retry-After {retry_after:?}");
        stop.cancel();
        while !done.is_finished() {
            clock.advance(STEP);
            tokio::time::sleep(HEARS).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_leaves_the_next_process_what_the_receiver_asked_for() {
    let (receiver, _) = fails_once(Clock::System, "1000").await;
    let folder = tempfile::tempdir().unwrap();
    let store = DiskQueue::open(folder.path(), Clock::System, queue::Limits::default(), 0).unwrap();
    let stop = CancellationToken::new();
    let policy = Policy { retry_delays: [HOUR].into(), max_in_flight: 1, ..Policy::default() };
    let routes = vec![one(&receiver.url("/"), policy)];
    let (lanes, done, routes) = engine(store.clone(), routes, Clock::System, Limits::default(), stop.clone());
    let intake = Intake::new(routes, Group::start(store.clone(), lanes), Clock::System, 1);
    let both = vec![event(&account(0), 1), event(&account(0), 2)];
    assert!(intake.accept(both, None).await.iter().all(Result::is_ok));
    receiver.next().await;
    stop.cancel();
    tokio::time::timeout(PATIENCE, done).await.expect("the engine should stop").unwrap();
    let claimed = store.claim(1, PageLimit { deliveries: 1, bytes: 1, early: false }).await.unwrap();
    assert!(claimed.lanes.is_empty(), "the second one is not due");
    let due = claimed.next_due.unwrap();
    assert!(due > Duration::from_secs(900) && due <= Duration::from_secs(1_000), "{due:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_on_its_way_into_the_store_ends_with_a_change_of_the_webhook() {
    for by_another in [false, true] {
        a_hold_ends(by_another).await;
    }
}

/// Whether another replica hears of the change first, and wakes the lane.
async fn a_hold_ends(by_another: bool) {
    let (receiver, _) = fails_once(Clock::System, "86400").await;
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskQueue::open(folder.path(), Clock::System, queue::Limits::default(), 0).unwrap();
    let store = Arc::new(Late::over(disk, false));
    store.holds_late.store(true, Ordering::SeqCst);
    let stop = CancellationToken::new();
    let policy = Policy { retry_delays: [HOUR].into(), max_in_flight: 1, ..Policy::default() };
    let old = one(&receiver.url("/old"), policy.clone());
    let new = Route { revision: 2, ..one(&receiver.url("/new"), policy) };
    let (lanes, done, routes) =
        engine(store.clone(), vec![old], Clock::System, Limits::default(), stop.clone());
    let intake = Intake::new(routes.clone(), Group::start(store.clone(), lanes.clone()), Clock::System, 1);
    let both = vec![event(&account(0), 1), event(&account(0), 2)];
    assert!(intake.accept(both, None).await.iter().all(Result::is_ok));
    assert_eq!(receiver.next().await.target, "/old");
    tokio::time::timeout(PATIENCE, store.holds.notified()).await.expect("the lane should be put on hold");
    let id = new.webhook_id;
    routes.apply(vec![Edit::Put(Arc::new(new))]);
    match by_another {
        true => store.wake(queue::Lanes::These(vec![id])).await.unwrap(),
        false => lanes.tell(Input::Route(id)).await,
    }
    assert_eq!(receiver.next().await.target, "/new", "by another: {by_another}");
    stop.cancel();
    tokio::time::timeout(PATIENCE, done).await.expect("the engine should stop").unwrap();
}
