//! What a cluster alone does to the queue: it moves slots from node to node, and loses connections.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use common::redis::slot;
use delivery_service::{
    delivery::State,
    queue::{Fate, Limits, New, Queue, QueueError, Release, Settle, Stored, redis::RedisQueue},
};
use redis::{Value, cmd};
use tokio::time::{sleep, timeout};

use crate::{
    bench::{Put, lane, new_for},
    redis::open,
    redis_server::{Cluster, Server},
};

const SOON: Duration = Duration::from_secs(10);

async fn start() -> (Cluster, Arc<RedisQueue>) {
    let cluster = Cluster::start().await;
    let queue = open(&cluster.address(), "p", &Limits::default(), &Arc::new(AtomicI64::new(0))).await;
    (cluster, queue)
}

async fn try_put(queue: &RedisQueue, new: &New) -> Result<Stored, QueueError> {
    queue.enqueue(Arc::new(vec![new.clone()])).await.remove(0)
}

/// Without an event id: a repeat would not be seen.
fn new(queue: &RedisQueue, number: u64) -> New {
    New { dedupe: false, ..new_for(queue, lane(1), number) }
}

async fn success(queue: &RedisQueue, put: &Put) -> Result<(), QueueError> {
    let settle = Settle {
        lane: put.lease(),
        deliveries: vec![put.settled(Fate::Succeeded)],
        done_to: put.place,
        memo: None,
        release: Some(Release::Free { known: put.place, unread: false }),
    };
    queue.settle(Arc::new(vec![settle])).await.map(|settled| assert_eq!(settled, [Ok(())]))
}

/// A slot on its way.
struct Moving<'a> {
    slot: u16,
    from: &'a Server,
    to: &'a Server,
}

impl<'a> Moving<'a> {
    async fn begin(cluster: &'a Cluster, slot: u16, from: usize) -> Self {
        let (from, to) = (&cluster.nodes[from], &cluster.nodes[(from + 1) % 3]);
        let moving = Self { slot, from, to };
        moving.set(to, &["IMPORTING", &id(from).await]).await;
        moving.set(from, &["MIGRATING", &id(to).await]).await;
        moving
    }

    async fn set(&self, node: &Server, how: &[&str]) {
        node.ask(cmd("CLUSTER").arg("SETSLOT").arg(self.slot).arg(how)).await;
    }

    /// So many of its keys go, in no order.
    async fn keys(&self, count: usize) {
        let keys = self.from.ask(cmd("CLUSTER").arg("GETKEYSINSLOT").arg(self.slot).arg(count)).await;
        let keys: Vec<Vec<u8>> = redis::from_redis_value(keys).unwrap();
        assert!(!keys.is_empty());
        let mut migrate = cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.to.port()).arg("").arg(0).arg(5_000).arg("KEYS").arg(keys);
        self.from.ask(&migrate).await;
    }

    async fn end(self) {
        let new = id(self.to).await;
        for node in [self.to, self.from] {
            self.set(node, &["NODE", &new]).await;
        }
    }

    async fn call_off(self) {
        for node in [self.to, self.from] {
            self.set(node, &["STABLE"]).await;
        }
    }
}

async fn id(node: &Server) -> String {
    redis::from_redis_value(node.ask(cmd("CLUSTER").arg("MYID")).await).unwrap()
}

/// Where what is stored of the lane lies: its slot and its node.
fn place_of(queue: &RedisQueue) -> (u16, usize) {
    let slot = slot(&format!("p:{{q{}}}:", lane(1).shard(queue.shards())));
    (slot, Cluster::owner(slot))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_slot_is_moved_its_shard_waits_and_nothing_is_done_by_halves() {
    let (cluster, queue) = start().await;
    let (slot, at) = place_of(&queue);
    let first = new(&queue, 1);
    let stored = try_put(&queue, &first).await.unwrap();
    let first = Put::of(first, stored);

    let refused = async |number| {
        let refused = try_put(&queue, &new(&queue, number)).await;
        assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
        let refused = success(&queue, &first).await;
        assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    };
    let moving = Moving::begin(&cluster, slot, at).await;
    refused(2).await;
    moving.call_off().await;
    let stored = try_put(&queue, &new(&queue, 3)).await.unwrap();
    assert!(matches!(stored, Stored::New { before, .. } if before == first.place), "{stored:?}");

    let moving = Moving::begin(&cluster, slot, at).await;
    for _ in 0..2 {
        moving.keys(1).await;
        refused(4).await;
    }
    moving.keys(1_000).await;
    refused(5).await;
    moving.end().await;
    let last = timeout(SOON, async {
        loop {
            if let Ok(stored) = try_put(&queue, &new(&queue, 6)).await {
                return stored;
            }
        }
    });
    let Stored::New { before, .. } = last.await.unwrap() else { panic!("not stored") };
    assert!(before > first.place);
    success(&queue, &first).await.unwrap();
    assert_eq!(queue.get(first.id).await.unwrap().unwrap().head.state(), State::Succeeded);
    let standing = queue.lane_status(lane(1)).await.unwrap();
    assert_eq!(standing.open, 2, "each that was stored, once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_a_connection_broke_is_not_sent_again_behind_the_callers_back() {
    let (cluster, queue) = start().await;
    try_put(&queue, &new(&queue, 1)).await.unwrap();
    let node = &cluster.nodes[place_of(&queue).1];
    node.ask(cmd("CLIENT").arg("PAUSE").arg(60_000).arg("WRITE")).await;
    let asked = {
        let queue = queue.clone();
        tokio::spawn(async move { try_put(&queue, &new(&queue, 2)).await })
    };
    let waits = async {
        loop {
            let clients = node.ask(cmd("CLIENT").arg("LIST")).await;
            let clients = redis::from_redis_value::<String>(clients).unwrap();
            let mut flags = clients.split(' ').filter_map(|field| field.strip_prefix("flags="));
            if flags.any(|flags| flags.contains('b')) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, waits).await.unwrap();
    assert_ne!(node.ask(cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal")).await, Value::Int(0));
    node.ask(cmd("CLIENT").arg("UNPAUSE")).await;
    let answer = asked.await.unwrap();
    assert!(matches!(answer, Err(QueueError::Unavailable(_))), "{answer:?}");
    timeout(SOON, async { while try_put(&queue, &new(&queue, 3)).await.is_err() {} }).await.unwrap();
    assert_eq!(queue.lane_status(lane(1)).await.unwrap().open, 2);
}
