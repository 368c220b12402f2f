//! What an operator does to a lane that waits: a mended webhook, a delivery that is withdrawn or asked for.
//! What comes after is held back by nothing that is over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    address::Rules,
    clock::{Clock, Time},
    ids::{DeliveryId, WebhookId},
};
use delivery_service::{
    api::deliveries::Deliveries,
    delivery::{Fault, Head, Place, State},
    intake::Intake,
    lanes::{Input, Lanes, Limits},
    queue::{self, Bulk, New, Queue, disk::DiskQueue, group::Group},
    retrying,
    routes::{
        Batching, Order, Policy, Route,
        table::{Edit, Table},
    },
    send::{self, Sender},
};
use hyper::header::RETRY_AFTER;
use proto::v1::{self, delivery_service_server::DeliveryService};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    PATIENCE, account, engine, event,
    late::Late,
    receiver::{Receiver, answer},
    route,
};

const HOUR: Duration = Duration::from_secs(3_600);
const STEP: Duration = Duration::from_millis(100);
/// For the engine to hear of a step, and to have done what follows from it.
const HEARS: Duration = Duration::from_millis(4);

fn ordered(url: &str, order: Order) -> Route {
    let mut route = route(0, url);
    route.policy =
        Policy { timeout: PATIENCE, retry_delays: [10 * HOUR; 3].into(), order, ..Policy::default() };
    route
}

/// An engine with one webhook.
struct World {
    lane: WebhookId,
    store: Arc<Late>,
    lanes: Lanes,
    routes: Arc<Table>,
    intake: Intake,
    stop: CancellationToken,
    done: JoinHandle<()>,
    clock: Clock,
    _folder: tempfile::TempDir,
}

impl World {
    fn start(url: &str, order: Order) -> Self {
        Self::of(ordered(url, order), Clock::System)
    }

    fn of(route: Route, clock: Clock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskQueue::open(folder.path(), clock.clone(), queue::Limits::default(), 0).unwrap();
        let store = Arc::new(Late::over(disk, false));
        let (lane, stop) = (route.webhook_id, CancellationToken::new());
        let (lanes, done, routes) =
            engine(store.clone(), vec![route], clock.clone(), Limits::default(), stop.clone());
        let group = Group::start(store.clone(), lanes.clone());
        let intake = Intake::new(routes.clone(), group, clock.clone(), 1);
        Self { lane, store, lanes, routes, intake, stop, done, clock, _folder: folder }
    }

    /// Lets time by hand pass until that is done.
    async fn passing<T>(&self, done: impl Future<Output = T>) -> T {
        tokio::pin!(done);
        loop {
            tokio::select! {
                done = &mut done => return done,
                () = tokio::time::sleep(HEARS) => self.clock.advance(STEP),
            }
        }
    }

    async fn publish(&self, id: usize) -> DeliveryId {
        let mut results = self.intake.accept(vec![event(&account(0), id)], None).await;
        results.remove(0).unwrap().delivery_ids[0]
    }

    /// Waits until an attempt has failed and that is stored.
    async fn waits_for_its_retry(&self, id: DeliveryId) {
        let stored = async {
            while self.store.get(id).await.unwrap().unwrap().head.state != State::Retrying as i32 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stored).await.expect("it should be stored");
    }

    fn times_given_back(&self) -> usize {
        self.store.settled.lock().unwrap().iter().filter(|(_, given_back)| *given_back).count()
    }

    /// Publishes two, of which the first is to fail, and waits until they wait in the store.
    async fn publish_two(&self) -> [DeliveryId; 2] {
        let ids = [self.publish(1).await, self.publish(2).await];
        self.waits_for_its_retry(ids[0]).await;
        while self.times_given_back() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ids
    }

    /// What callers ask.
    fn api(&self) -> Deliveries {
        let (due, told, rules) = (self.lanes.clone(), self.lanes.clone(), Rules::default());
        Deliveries {
            queue: self.store.clone(),
            routes: self.routes.clone(),
            sender: Arc::new(Sender::new(rules, send::Settings::default(), Clock::System).unwrap()),
            nudge: Arc::new(move |_| due.hint_due()),
            withdrawn: Arc::new(move |lane| {
                let lanes = told.clone();
                Box::pin(async move { lanes.withdrawn(lane).await })
            }),
            lane_status: Arc::new(|_| Box::pin(async { None })),
            retrying: Arc::default(),
            watch: Arc::default(),
            stop: self.stop.clone(),
            clock: self.clock.clone(),
        }
    }

    async fn cancel(&self, id: DeliveryId) {
        let (webhook_id, delivery_ids) = (self.lane.to_string(), vec![id.to_string()]);
        let request = v1::CancelDeliveriesRequest { webhook_id, delivery_ids };
        let cancelled = self.api().cancel_deliveries(Request::new(request)).await.unwrap();
        assert_eq!(cancelled.into_inner().cancelled_count, 1);
    }

    async fn retry(&self, id: DeliveryId) {
        let request = v1::RetryDeliveryRequest { id: id.to_string() };
        self.api().retry_delivery(Request::new(request)).await.unwrap();
    }

    async fn end(mut self) {
        self.stop.cancel();
        let done = std::mem::replace(&mut self.done, tokio::spawn(async {}));
        let ended = self.passing(tokio::time::timeout(PATIENCE, done)).await;
        ended.expect("the engine should stop").unwrap();
    }
}

/// Answers the first request with this; after 429 it wants to be left alone for an hour.
async fn fails_once(status: u16) -> Receiver {
    fails_once_for(status, "3600").await
}

async fn fails_once_for(status: u16, retry_after: &'static str) -> Receiver {
    let count = AtomicUsize::new(0);
    Receiver::answering(move |_| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let mut answer = answer(if first { status } else { 200 });
        if status == 429 {
            answer.headers_mut().insert(RETRY_AFTER, retry_after.parse().unwrap());
        }
        async move { answer }
    })
    .await
}

async fn arrives(receiver: &Receiver, id: DeliveryId) -> String {
    let received = tokio::time::timeout(PATIENCE, receiver.next()).await.expect("it should arrive");
    assert_eq!(received.header("webhook-id"), id.to_string());
    received.target.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_address_asked_for_does_not_hold_the_new_one() {
    let answers = Arc::new(Semaphore::new(0));
    let let_go = answers.clone();
    let receiver = Receiver::answering(move |request| {
        let let_go = let_go.clone();
        async move {
            if request.target != "/old" {
                return answer(200);
            }
            let_go.acquire().await.unwrap().forget();
            let mut answer = answer(429);
            answer.headers_mut().insert(RETRY_AFTER, "86400".parse().unwrap());
            answer
        }
    })
    .await;
    let world = World::start(&receiver.url("/old"), Order::Unordered);
    let first = world.publish(1).await;
    assert_eq!(arrives(&receiver, first).await, "/old");
    let mended = Route { revision: 2, ..ordered(&receiver.url("/new"), Order::Unordered) };
    world.routes.apply(vec![Edit::Put(Arc::new(mended))]);
    world.lanes.tell(Input::Route(world.lane)).await;
    let second = world.publish(2).await;
    assert_eq!(arrives(&receiver, second).await, "/new");
    answers.add_permits(1);
    world.waits_for_its_retry(first).await;
    let third = world.publish(3).await;
    assert_eq!(arrives(&receiver, third).await, "/new");
    world.end().await;
}

/// Also when the lane is given back before it has heard of the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_address_asked_for_is_not_left_to_the_next_holder() {
    let answers = Arc::new(Semaphore::new(0));
    let (let_go, count) = (answers.clone(), AtomicUsize::new(0));
    let receiver = Receiver::answering(move |_| {
        let (let_go, number) = (let_go.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            let mut response = answer(if number == 1 { 429 } else { 200 });
            match number {
                0 => let_go.acquire().await.unwrap().forget(),
                1 => drop(response.headers_mut().insert(RETRY_AFTER, "86400".parse().unwrap())),
                _ => {}
            }
            response
        }
    })
    .await;
    let world = World::start(&receiver.url("/old"), Order::Unordered);
    let first = world.publish(1).await;
    arrives(&receiver, first).await;
    let limited = world.publish(2).await;
    arrives(&receiver, limited).await;
    world.waits_for_its_retry(limited).await;
    let mended = Route { revision: 2, ..ordered(&receiver.url("/new"), Order::Unordered) };
    world.routes.apply(vec![Edit::Put(Arc::new(mended))]);
    answers.add_permits(1);
    while world.times_given_back() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.lanes.tell(Input::Route(world.lane)).await;
    let third = world.publish(3).await;
    assert_eq!(arrives(&receiver, third).await, "/new");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_behind_one_that_is_withdrawn_go_at_once() {
    let receiver = fails_once(500).await;
    let world = World::start(&receiver.url("/"), Order::Strict);
    let [first, second] = world.publish_two().await;
    arrives(&receiver, first).await;
    world.cancel(first).await;
    arrives(&receiver, second).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_behind_one_that_is_withdrawn_wait_for_what_the_receiver_asked_for() {
    let receiver = fails_once(429).await;
    let world = World::start(&receiver.url("/"), Order::Strict);
    let [first, _] = world.publish_two().await;
    arrives(&receiver, first).await;
    let before = world.times_given_back();
    world.cancel(first).await;
    while world.times_given_back() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(receiver.arrived().await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_behind_one_that_is_retried_by_hand_go_after_it() {
    let receiver = fails_once(500).await;
    let world = World::start(&receiver.url("/"), Order::Strict);
    let [first, second] = world.publish_two().await;
    arrives(&receiver, first).await;
    world.retry(first).await;
    arrives(&receiver, first).await;
    arrives(&receiver, second).await;
    world.end().await;
}

/// What is asked for goes past a lane's hold in the store, but not past those before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_asked_for_behind_another_waits_without_being_claimed_again_and_again() {
    let receiver = fails_once(500).await;
    let world = World::start(&receiver.url("/"), Order::Strict);
    let [first, second] = world.publish_two().await;
    arrives(&receiver, first).await;
    let before = world.times_given_back();
    world.retry(second).await;
    // Time is what this is about.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(world.times_given_back() <= before + 1, "{}", world.times_given_back());
    assert!(receiver.arrived().await.is_empty());
    world.cancel(first).await;
    arrives(&receiver, second).await;
    world.end().await;
}

/// Its batch waits for that of the one before, which goes once the receiver is to be left alone no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_asked_for_behind_another_s_batch_keeps_that_from_nothing() {
    for order in [Order::ByUser, Order::Strict] {
        let receiver = fails_once_for(429, "5").await;
        let mut route = ordered(&receiver.url("/"), order);
        route.policy.batch = Some(Batching { max_events: 1, max_delay: STEP, one_type: false });
        let world = World::of(route, Clock::by_hand(Time(1_800_000_000_000)));
        let limited = world.publish(1).await;
        world.passing(receiver.next()).await;
        world.waits_for_its_retry(limited).await;
        // Two of one user.
        let both = [world.publish(7).await, world.publish(14).await];
        world.cancel(limited).await;
        world.retry(both[1]).await;
        for id in both {
            let received = world.passing(tokio::time::timeout(PATIENCE, receiver.next())).await;
            let received = received.unwrap_or_else(|_| panic!("nothing comes with {order:?}"));
            assert_eq!(received.header("webhook-delivery-ids"), id.to_string());
        }
        world.end().await;
    }
}

/// However far back it stands, and whatever stands before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_asked_for_in_a_long_lane_of_batches_goes_past_the_receiver_s_wish() {
    let receiver = fails_once(429).await;
    let mut route = ordered(&receiver.url("/"), Order::Unordered);
    route.policy.batch = Some(Batching { max_events: 1, max_delay: STEP, one_type: false });
    let world = World::of(route, Clock::System);
    let limited = world.publish(0).await;
    receiver.next().await;
    world.waits_for_its_retry(limited).await;
    let many = (1..1_200).map(|id| event(&account(0), id)).collect();
    let last = world.intake.accept(many, None).await.pop().unwrap().unwrap().delivery_ids[0];
    let before = world.times_given_back();
    world.retry(last).await;
    let received = tokio::time::timeout(PATIENCE, receiver.next()).await.expect("it should arrive");
    assert_eq!(received.header("webhook-delivery-ids"), last.to_string());
    assert!(world.times_given_back() <= before + 2, "{}", world.times_given_back());
    world.end().await;
}

/// A lane whose deliveries wait for one that is retried later goes on with those before that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_ones_that_are_retried_do_not_wait_for_a_later_one() {
    let receiver = fails_once(500).await;
    let world = World::start(&receiver.url("/"), Order::Strict);
    let failed = DeliveryId::new(0, 1_700_000_000_000, 1);
    let mut head = Head::new(failed, world.lane);
    (head.license_code, head.event_id) = (account(0), "0".into());
    let new = New { head, body: "{}".into(), dedupe: false, failed: Some(Fault::Disabled) };
    world.store.enqueue(Arc::new(vec![new])).await.remove(0).unwrap();
    let [first, _] = world.publish_two().await;
    arrives(&receiver, first).await;
    let begun = world.store.retry_bulk(world.lane, Place(0), Place((1 << 53) - 1)).await;
    assert!(matches!(begun, Ok(Bulk::Started(1))), "{begun:?}");
    let due = world.lanes.clone();
    let _begun = retrying::start(
        world.store.clone(),
        world.routes.clone(),
        move || due.hint_due(),
        world.stop.clone(),
    );
    arrives(&receiver, failed).await;
    world.end().await;
}
