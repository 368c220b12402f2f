//! What the tests of the contract stand on: a store under test, and short words for what they do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};
use delivery_service::{
    delivery::{Attempt, Fault, Head, Place, State},
    queue::{
        Claimed, Fate, Found, LaneGrant, LaneNow, Lease, LeaseLost, Limits, New, PageLimit, Queue, Release,
        Settle, Settled, Stored, Waiting,
    },
};

/// A store under test, empty at its start.
#[async_trait]
pub trait Backend: Send + Sync + Sized {
    /// How many holders it can have at a time (2 stands for many).
    const HOLDERS: usize;
    /// Random runs in one test.
    const RUNS: u64;

    async fn start(limits: Limits) -> Self;

    /// Another store, empty, in place of this one: quicker than a start. It need not outlive a loss of power.
    async fn renew(&mut self);

    /// A holder on the store; another one with each call, where it can have many.
    async fn open(&self) -> Arc<dyn Queue>;

    /// Lets the store's time pass.
    async fn advance(&self, by: Duration);

    /// The holder dies without a word, and another one opens the store.
    async fn crash(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue>;
}

pub struct Bench<B> {
    pub backend: B,
    pub queue: Arc<dyn Queue>,
    made: AtomicU64,
}

/// A delivery that was stored.
#[derive(Clone)]
pub struct Put {
    pub id: DeliveryId,
    pub head: Head,
    pub place: Place,
    pub before: Place,
    pub now: LaneNow,
}

pub const ACCOUNT: &str = "acme";
pub const MINUTE: Duration = Duration::from_secs(60);

/// So many deliveries, of any size.
pub fn page(deliveries: usize) -> PageLimit {
    PageLimit { deliveries, bytes: 1 << 20, early: false }
}

pub fn lane(number: u64) -> WebhookId {
    WebhookId::new(1_700_000_000_000 + number as i64, number.into())
}

/// The delivery of this number for a lane, with an event id of its own.
pub fn new_for(queue: &dyn Queue, lane: WebhookId, number: u64) -> New {
    sharing(queue, lane, number, 0)
}

/// The same, the nth of those that share its body.
pub fn sharing(queue: &dyn Queue, lane: WebhookId, number: u64, n: u8) -> New {
    let id = DeliveryId::new(lane.shard(queue.shards()), 1_700_000_000_000, number).sharing(n);
    let body = Bytes::from(format!("body {number}"));
    let mut head = Head::new(id, lane);
    head.license_code = ACCOUNT.into();
    head.event_id = format!("event {number}");
    head.event_type = "SURVEY_RESPONSE_SUBMIT".into();
    head.body_bytes = body.len() as u32;
    New { head, body, dedupe: true, failed: None }
}

impl<B: Backend> Bench<B> {
    pub async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        let backend = B::start(limits).await;
        let queue = backend.open().await;
        Self { backend, queue, made: AtomicU64::new(0) }
    }

    pub async fn crash(self) -> Self {
        let Self { backend, queue, made } = self;
        let lease = queue.claim(0, page(1)).await.unwrap().lease;
        let queue = backend.crash(queue).await;
        // Where the store has leases, those of the dead run out.
        backend.advance(lease + Duration::from_secs(1)).await;
        Self { backend, queue, made }
    }

    pub async fn advance(&self, by: Duration) {
        self.backend.advance(by).await;
    }

    /// A delivery for a lane, with an event id of its own, not yet stored.
    pub fn new_for(&self, lane: WebhookId) -> New {
        new_for(&*self.queue, lane, self.made.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub async fn enqueue(&self, new: New) -> Stored {
        let mut stored = self.queue.enqueue(Arc::new(vec![new])).await;
        assert_eq!(stored.len(), 1);
        stored.remove(0).unwrap()
    }

    /// Stores a new delivery, which has to succeed.
    pub async fn put(&self, lane: WebhookId) -> Put {
        self.put_as(self.new_for(lane)).await
    }

    pub async fn put_as(&self, new: New) -> Put {
        let stored = self.enqueue(new.clone()).await;
        Put::of(new, stored)
    }

    pub async fn put_many(&self, lane: WebhookId, count: usize) -> Vec<Put> {
        let mut puts = Vec::new();
        for _ in 0..count {
            puts.push(self.put(lane).await);
        }
        puts
    }

    pub async fn claim(&self, lanes: usize) -> Claimed {
        self.queue.claim(lanes, page(100)).await.unwrap()
    }

    /// The one lane that is due.
    pub async fn claim_one(&self) -> LaneGrant {
        let mut claimed = self.claim(10).await;
        assert_eq!(claimed.lanes.len(), 1, "one lane is due: {claimed:?}");
        claimed.lanes.remove(0)
    }

    pub async fn nothing_is_due(&self) {
        let claimed = self.claim(10).await;
        assert!(claimed.lanes.is_empty(), "nothing is due: {claimed:?}");
    }

    /// Settles in one lane, which is still held.
    pub async fn settle(&self, lease: Lease, deliveries: Vec<Settled>, release: Option<Release>) {
        self.try_settle(lease, deliveries, release).await.unwrap();
    }

    pub async fn try_settle(
        &self,
        lane: Lease,
        deliveries: Vec<Settled>,
        release: Option<Release>,
    ) -> Result<(), LeaseLost> {
        let settle = Settle { lane, deliveries, done_to: Place(0), memo: None, release };
        let mut settled = self.queue.settle(Arc::new(vec![settle])).await.unwrap();
        assert_eq!(settled.len(), 1);
        settled.remove(0)
    }

    /// Gives a lane back that holds nothing unread up to `known`.
    pub async fn free(&self, lease: Lease, known: Place) {
        self.settle(lease, vec![], Some(Release::Free { known, unread: false })).await;
    }

    pub async fn get(&self, id: DeliveryId) -> Found {
        self.queue.get(id).await.unwrap().expect("it is known")
    }

    pub async fn state(&self, id: DeliveryId) -> State {
        self.get(id).await.head.state()
    }
}

impl Put {
    pub fn of(New { head, .. }: New, stored: Stored) -> Self {
        match stored {
            Stored::New { place, before, lane: now } => Self { id: head.id(), head, place, before, now },
            other => panic!("not stored: {other:?}"),
        }
    }

    /// The lease that storing it brought or found.
    pub fn lease(&self) -> Lease {
        match self.now {
            LaneNow::Mine { fence, .. } => Lease { webhook_id: self.head.webhook_id(), fence },
            other => panic!("the lane is not the caller's: {other:?}"),
        }
    }

    pub fn settled(&self, fate: Fate) -> Settled {
        settled(&self.head, self.place, fate)
    }
}

/// A delivery after an attempt that came to this.
pub fn settled(head: &Head, place: Place, fate: Fate) -> Settled {
    let mut head = head.clone();
    let now = Time(1_700_000_000_000);
    if fate != Fate::Cancelled {
        head.add(Attempt { number: head.attempt_count + 1, ..Attempt::default() });
    }
    match fate {
        Fate::Succeeded => head.end(State::Succeeded, Fault::None, now),
        Fate::Failed => head.end(State::Failed, Fault::None, now),
        Fate::Cancelled => head.end(State::Cancelled, Fault::None, now),
        Fate::Retry { after } => head.reschedule(after, now),
        Fate::Batch => head.join(DeliveryId::new(1, 1, 1), place),
    }
    Settled { head, place, fate }
}

pub fn settle_waiting(waiting: &Waiting, fate: Fate) -> Settled {
    settled(&waiting.head, waiting.place, fate)
}

pub fn ids(waiting: &[Waiting]) -> Vec<DeliveryId> {
    waiting.iter().map(|waiting| waiting.head.id()).collect()
}

pub fn put_ids(puts: &[Put]) -> Vec<DeliveryId> {
    puts.iter().map(|put| put.id).collect()
}

pub fn retry_in(after: Duration) -> Fate {
    Fate::Retry { after }
}
