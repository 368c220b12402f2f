//! Answers that come late: a lane is given back, or claimed, between a delivery's being stored in it and the
//! engine's hearing of that. Nothing is sent twice, and nothing waits for long. And wakes that fail, which go again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use common::{
    clock::Clock,
    ids::{DeliveryId, WebhookId},
};
use delivery_service::{
    delivery::{Head, Place, State},
    intake::Intake,
    lanes::{Input, Limits},
    queue::{
        self, Bulk, Cancel, Cancelled, Claimed, Found, LaneNow, Lanes, Lease, LeaseLost, Listed, New, Page,
        PageLimit, Query, Queue, QueueError, Release, Retried, Scan, Settle, Slice, Standing, Stored,
        Waiting, disk::DiskQueue, group::Group,
    },
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, Running, account, engine, event, receiver::Receiver, route, start};

/// How much later an answer comes than what it waits for: the engine has heard of that by then.
const LATER: Duration = Duration::from_millis(100);

/// A store whose answers are late when something is stored in a lane that was held already.
pub struct Late {
    inner: Arc<dyn Queue>,
    /// Whether what is stored in lanes that are held is answered late.
    enqueues_late: bool,
    /// A lane was given back.
    given_back: Notify,
    /// Claims are answered late.
    pub claims_late: AtomicBool,
    /// Lanes were claimed, and the engine does not know.
    claimed: Notify,
    /// Lanes of what is stored become due: nobody has them.
    pub leaves_due: AtomicBool,
    /// Lanes are put on hold only after some more claims.
    pub holds_late: AtomicBool,
    /// A lane is to be put on hold.
    pub holds: Notify,
    /// The next wake fails.
    wake_fails: AtomicBool,
    /// What the store answers to a claim.
    pub claims: Mutex<fn(Claimed) -> Claimed>,
    /// A lane whose bulk retry cannot go on.
    pub damaged: Mutex<Option<WebhookId>>,
    /// Pages that were read.
    pub reads: AtomicUsize,
    /// A claim was answered.
    pub answered: Notify,
    /// What was settled, lane by lane: how many outcomes, and whether the lane was given back with them.
    pub settled: Mutex<Vec<(usize, bool)>>,
}

impl Late {
    pub fn over(inner: Arc<dyn Queue>, enqueues_late: bool) -> Self {
        Self {
            inner,
            enqueues_late,
            given_back: Notify::new(),
            claims_late: AtomicBool::new(false),
            claimed: Notify::new(),
            leaves_due: AtomicBool::new(false),
            holds_late: AtomicBool::new(false),
            holds: Notify::new(),
            wake_fails: AtomicBool::new(false),
            claims: Mutex::new(|claimed| claimed),
            damaged: Mutex::default(),
            reads: AtomicUsize::new(0),
            answered: Notify::new(),
            settled: Mutex::default(),
        }
    }
}

#[async_trait]
impl Queue for Late {
    async fn enqueue(&self, new: Arc<Vec<New>>) -> Vec<Result<Stored, QueueError>> {
        let stored = self.inner.enqueue(new.clone()).await;
        let held = |one: &Result<Stored, QueueError>| {
            matches!(one, Ok(Stored::New { lane: LaneNow::Mine { given: false, .. }, .. }))
        };
        if self.leaves_due.load(Ordering::SeqCst) {
            let given = new.iter().zip(&stored).filter_map(|(new, stored)| match stored {
                Ok(Stored::New { lane: LaneNow::Mine { fence, given: true }, .. }) => {
                    Some(Lease { webhook_id: new.head.webhook_id(), fence: *fence })
                }
                _ => None,
            });
            let release = Some(Release::Free { known: Place::default(), unread: true });
            let settle =
                |lane| Settle { lane, deliveries: vec![], done_to: Place::default(), memo: None, release };
            self.inner.settle(Arc::new(given.map(settle).collect())).await.unwrap();
        } else if self.enqueues_late && stored.iter().any(held) && !self.claims_late.load(Ordering::SeqCst) {
            self.given_back.notified().await;
            tokio::time::sleep(LATER).await;
        }
        stored
    }

    async fn claim(&self, lanes: usize, page: PageLimit) -> Result<Claimed, QueueError> {
        let claimed = self.inner.claim(lanes, page).await?;
        if !claimed.lanes.is_empty() && self.claims_late.load(Ordering::SeqCst) {
            self.claimed.notify_one();
            tokio::time::sleep(LATER).await;
        }
        let claims = *self.claims.lock().unwrap();
        self.answered.notify_one();
        Ok(claims(claimed))
    }

    async fn settle(&self, lanes: Arc<Vec<Settle>>) -> Result<Vec<Result<(), LeaseLost>>, QueueError> {
        let release = lanes.iter().any(|settle| settle.release.is_some());
        let each = lanes.iter().map(|settle| (settle.deliveries.len(), settle.release.is_some()));
        self.settled.lock().unwrap().extend(each);
        let holds = lanes.iter().any(|settle| matches!(settle.release, Some(Release::Hold { .. })));
        if holds && self.holds_late.load(Ordering::SeqCst) {
            self.holds.notify_one();
            for _ in 0..3 {
                self.answered.notified().await;
            }
        }
        let settled = self.inner.settle(lanes).await;
        if release {
            self.given_back.notify_one();
        }
        settled
    }

    fn shards(&self) -> u16 {
        self.inner.shards()
    }

    async fn read(
        &self,
        lane: Lease,
        after: Place,
        known: usize,
        page: PageLimit,
    ) -> Result<Result<Page, LeaseLost>, QueueError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.read(lane, after, known, page).await
    }

    async fn scan(
        &self,
        lane: Lease,
        after: Place,
        limit: usize,
    ) -> Result<Result<Scan, LeaseLost>, QueueError> {
        self.inner.scan(lane, after, limit).await
    }

    async fn fetch(
        &self,
        lane: Lease,
        ids: Vec<DeliveryId>,
        bytes: usize,
    ) -> Result<Result<Vec<Option<Waiting>>, LeaseLost>, QueueError> {
        self.inner.fetch(lane, ids, bytes).await
    }

    async fn wake(&self, lanes: Lanes) -> Result<(), QueueError> {
        if self.wake_fails.swap(false, Ordering::SeqCst) {
            return Err(QueueError::Unavailable("a wake fails".into()));
        }
        self.inner.wake(lanes).await
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<Found>, QueueError> {
        self.inner.get(id).await
    }

    async fn list(&self, query: Query) -> Result<Listed, QueueError> {
        self.inner.list(query).await
    }

    async fn retry(&self, id: DeliveryId) -> Result<Retried, QueueError> {
        self.inner.retry(id).await
    }

    async fn lane_status(&self, lane: WebhookId) -> Result<Standing, QueueError> {
        self.inner.lane_status(lane).await
    }

    async fn cancel(&self, lane: WebhookId, which: Cancel) -> Result<Cancelled, QueueError> {
        self.inner.cancel(lane, which).await
    }

    async fn retry_bulk(&self, lane: WebhookId, from: Place, to: Place) -> Result<Bulk, QueueError> {
        self.inner.retry_bulk(lane, from, to).await
    }

    async fn bulk_retries(&self) -> Result<Vec<WebhookId>, QueueError> {
        self.inner.bulk_retries().await
    }

    async fn retry_slice(&self, lane: WebhookId, most: usize) -> Result<Slice, QueueError> {
        if *self.damaged.lock().unwrap() == Some(lane) {
            return Err(QueueError::Damaged("a record cannot be read".into()));
        }
        self.inner.retry_slice(lane, most).await
    }

    async fn stop_bulk(&self, lane: WebhookId) -> Result<(), QueueError> {
        self.inner.stop_bulk(lane).await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        self.inner.ping().await
    }
}

/// One engine after another over one store, and what its receiver has had.
pub struct World {
    pub disk: Arc<dyn Queue>,
    pub late: Arc<Late>,
    pub receiver: Receiver,
    accepted: Vec<DeliveryId>,
    _folder: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Queue> =
            DiskQueue::open(folder.path(), Clock::System, queue::Limits::default(), 0).unwrap();
        let late = Late::over(disk.clone(), true);
        let receiver = Receiver::start().await;
        Self { disk, late: Arc::new(late), receiver, accepted: Vec::new(), _folder: folder }
    }

    pub fn start(&self) -> Running {
        start(self.late.clone(), &self.receiver.url("/"))
    }

    /// Publishes to an unordered webhook, and to the two kinds of ordered ones.
    pub async fn publish(&mut self, intake: &Intake, id: usize) {
        for n in 0..3 {
            let mut results = intake.accept(vec![event(&account(n), id)], None).await;
            self.accepted.extend(results.remove(0).unwrap().delivery_ids.iter().copied());
        }
    }

    /// All that was accepted is settled; then the engine stops, and each has arrived once.
    pub async fn each_arrives_once(&self, running: Running) {
        for id in &self.accepted {
            let settled = async {
                while State::try_from(self.disk.get(*id).await.unwrap().unwrap().head.state)
                    != Ok(State::Succeeded)
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(PATIENCE, settled).await.expect("all that was accepted is settled");
        }
        running.stop.cancel();
        tokio::time::timeout(PATIENCE, running.done).await.expect("the engine should stop").unwrap();
        let mut arrived = HashMap::<String, usize>::new();
        for request in self.receiver.arrived().await {
            *arrived.entry(request.header("webhook-id").to_owned()).or_default() += 1;
        }
        assert_eq!(arrived.len(), self.accepted.len());
        assert!(arrived.values().all(|count| *count == 1), "{arrived:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_while_its_lane_is_given_back_is_sent_once() {
    let mut world = World::new().await;
    let running = world.start();
    for id in 0..3 {
        world.publish(&running.intake, id).await;
    }
    world.each_arrives_once(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_while_its_lane_is_being_claimed_is_sent_once() {
    let mut world = World::new().await;
    // What was stored before stands in lanes that nobody has.
    let before = world.start();
    before.stop.cancel();
    tokio::time::timeout(PATIENCE, before.done).await.expect("the engine should stop").unwrap();
    world.late.leaves_due.store(true, Ordering::SeqCst);
    world.publish(&before.intake, 1).await;
    world.late.leaves_due.store(false, Ordering::SeqCst);

    world.late.claims_late.store(true, Ordering::SeqCst);
    let running = world.start();
    world.late.claimed.notified().await;
    for id in 2..4 {
        world.publish(&running.intake, id).await;
    }
    world.each_arrives_once(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lane_of_a_lone_delivery_is_given_back_with_its_outcome() {
    let mut world = World::new().await;
    let running = world.start();
    let results = running.intake.accept(vec![event(&account(0), 1)], None).await;
    world.accepted.extend(results[0].as_ref().unwrap().delivery_ids.iter().copied());
    world.each_arrives_once(running).await;
    let mut settled = world.late.settled.lock().unwrap().clone();
    // Before its first claim is answered the engine asks whether the lease is good.
    settled.retain(|call| *call != (0, false));
    assert_eq!(settled, [(1, true)]);
}

/// A mended webhook's backlog goes at once, also when the store is away as the route changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_that_fails_goes_again_and_ends_a_hold() {
    let world = World::new().await;
    let mended = route(0, &world.receiver.url("/"));
    let lane = mended.webhook_id;
    let mut head = Head::new(DeliveryId::new(0, 1_700_000_000_000, 1), lane);
    (head.license_code, head.event_id) = (account(0), "1".into());
    let new = New { head, body: "{}".into(), dedupe: false, failed: None };
    let stored = world.disk.enqueue(Arc::new(vec![new])).await.remove(0).unwrap();
    let Stored::New { lane: LaneNow::Mine { fence, .. }, .. } = stored else { panic!("{stored:?}") };
    let release = Some(Release::Hold { duration: Duration::from_secs(3_600) });
    let lease = Lease { webhook_id: lane, fence };
    let held = Settle { lane: lease, deliveries: vec![], done_to: Place(0), memo: None, release };
    world.disk.settle(Arc::new(vec![held])).await.unwrap()[0].unwrap();

    let stop = CancellationToken::new();
    world.late.wake_fails.store(true, Ordering::SeqCst);
    let (lanes, done, _routes) =
        engine(world.late.clone(), vec![mended], Clock::System, Limits::default(), stop.clone());
    lanes.tell(Input::Route(lane)).await;
    tokio::time::timeout(PATIENCE, world.receiver.next()).await.expect("it should arrive");
    assert!(!world.late.wake_fails.load(Ordering::SeqCst));
    stop.cancel();
    tokio::time::timeout(PATIENCE, done).await.expect("the engine should stop").unwrap();
}

/// A lane that is idle is given back after a moment; one that has a pace to keep is kept until it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pace_outlasts_a_pause_between_events() {
    let pause = Duration::from_millis(800);
    let world = World::new().await;
    let mut paced = route(0, &world.receiver.url("/"));
    paced.policy.max_rate = 1.0 / pause.as_secs_f64();
    let stop = CancellationToken::new();
    let (lanes, done, routes) =
        engine(world.disk.clone(), vec![paced], Clock::System, Limits::default(), stop.clone());
    let intake = Intake::new(routes, Group::start(world.disk.clone(), lanes), Clock::System, 1);
    let mut arrivals = Vec::new();
    for id in 0..3 {
        // Time is what this is about: long enough for the lane to be given back if it were not paced.
        tokio::time::sleep(pause / 2).await;
        assert!(intake.accept(vec![event(&account(0), id)], None).await[0].is_ok());
        tokio::time::timeout(PATIENCE, world.receiver.next()).await.expect("it should arrive");
        arrivals.push(Instant::now());
    }
    for pair in arrivals.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart > pause * 9 / 10, "{apart:?} apart");
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE, done).await.expect("the engine should stop").unwrap();
}
