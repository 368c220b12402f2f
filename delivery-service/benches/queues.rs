//! The verbs that a delivery takes through a store, a batch at a time: on the embedded one, each synced to
//! disk, and on a Redis of its own. Throughput is in deliveries.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot run has failed"
)]

#[path = "../tests/queue_contract/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
mod subject;

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use common::{clock::Clock, ids::WebhookId, redis};
use delivery_service::{
    delivery::Place,
    payload,
    queue::{
        Fate, LaneNow, Lease, Limits, New, PageLimit, Queue, Release, Settle, Settled, Stored,
        disk::DiskQueue, redis::RedisQueue,
    },
};
use divan::{Bencher, counter::ItemsCount};
use redis_server::Server;
use tokio::runtime::Runtime;

const BATCHES: [u64; 3] = [1, 64, 512];
const STORES: [Name; 2] = [Name::Embedded, Name::Redis];
const PAGE: PageLimit = PageLimit { deliveries: 128, bytes: 1 << 20, early: false };

fn main() {
    divan::main();
}

#[derive(Debug, Clone, Copy)]
enum Name {
    Embedded,
    Redis,
}

/// A store, and lanes in it that are used once each.
struct Store {
    runtime: Runtime,
    queue: Arc<dyn Queue>,
    body: Bytes,
    lane: Cell<u128>,
    number: AtomicU64,
    _folder: tempfile::TempDir,
    _server: Option<Server>,
}

impl Store {
    fn start(name: Name) -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (queue, server): (Arc<dyn Queue>, _) = match name {
            Name::Embedded => {
                (DiskQueue::open(folder.path(), Clock::System, Limits::default(), 0).unwrap(), None)
            }
            Name::Redis => {
                let server = Server::start();
                let open = async {
                    let connection = redis::connect(&server.address().parse().unwrap(), None).unwrap();
                    RedisQueue::open(connection, "bench", Limits::default()).await.unwrap()
                };
                (runtime.block_on(open), Some(server))
            }
        };
        let body = payload::json::render(&subject::event(&subject::published()));
        let (lane, number) = (Cell::new(0), AtomicU64::new(0));
        Self { runtime, queue, body, lane, number, _folder: folder, _server: server }
    }

    fn lane(&self) -> WebhookId {
        self.lane.set(self.lane.get() + 1);
        subject::lane(self.lane.get())
    }

    fn made(&self, lane: WebhookId, count: u64) -> Arc<Vec<New>> {
        let first = self.number.fetch_add(count, Ordering::Relaxed);
        // A sign of life: leases are good for less than two seconds.
        self.runtime.block_on(self.queue.claim(0, PAGE)).unwrap();
        Arc::new(subject::new(lane, first..first + count, &self.body))
    }

    fn enqueue(&self, new: Arc<Vec<New>>) -> Vec<(Place, Lease)> {
        let lane = new[0].head.webhook_id();
        let stored = self.runtime.block_on(self.queue.enqueue(new));
        let ours = |stored| match stored {
            Ok(Stored::New { place, lane: LaneNow::Mine { fence, .. }, .. }) => {
                (place, Lease { webhook_id: lane, fence })
            }
            other => panic!("not ours: {other:?}"),
        };
        stored.into_iter().map(ours).collect()
    }

    fn settle(&self, settle: Arc<Vec<Settle>>) {
        self.runtime.block_on(self.queue.settle(settle)).unwrap()[0].unwrap();
    }

    /// Deliveries that were stored and sent, on their way back.
    fn sent(&self, count: u64) -> Arc<Vec<Settle>> {
        let new = self.made(self.lane(), count);
        let stored = self.enqueue(new.clone());
        let (done_to, lane) = stored[stored.len() - 1];
        let settled = new.iter().zip(stored).map(|(new, (place, _))| Settled {
            head: subject::tried(new.head.clone()),
            place,
            fate: Fate::Succeeded,
        });
        Arc::new(vec![Settle { lane, deliveries: settled.collect(), done_to, memo: None, release: None }])
    }

    /// A lane with so many deliveries that anyone may claim.
    fn due(&self, count: u64) {
        let stored = self.enqueue(self.made(self.lane(), count));
        let release = Some(Release::Free { known: Place(0), unread: true });
        let (done_to, lane) = (Place(0), stored[0].1);
        self.settle(Arc::new(vec![Settle { lane, deliveries: vec![], done_to, memo: None, release }]));
    }
}

fn each() -> impl Iterator<Item = (Name, u64)> {
    STORES.into_iter().flat_map(|store| BATCHES.map(|count| (store, count)))
}

#[divan::bench(args = each())]
fn enqueue(bencher: Bencher, (name, count): (Name, u64)) {
    let store = Store::start(name);
    let lane = store.lane();
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| store.made(lane, count))
        .bench_local_values(|new| store.enqueue(new));
}

#[divan::bench(args = each())]
fn settle(bencher: Bencher, (name, count): (Name, u64)) {
    let store = Store::start(name);
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| store.sent(count))
        .bench_local_values(|sent| store.settle(sent));
}

/// A lane and its first page.
#[divan::bench(args = STORES)]
fn claim(bencher: Bencher, name: Name) {
    let store = Store::start(name);
    let count = PAGE.deliveries as u64;
    bencher.counter(ItemsCount::new(count)).with_inputs(|| store.due(count)).bench_local_values(|()| {
        let claimed = store.runtime.block_on(store.queue.claim(1, PAGE)).unwrap();
        assert_eq!(claimed.lanes[0].page.deliveries.len() as u64, count);
    });
}
