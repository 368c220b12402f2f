//! A record in the middle of a lane that cannot be read: what is before it is delivered once, and no attempt is
//! forgotten, whatever the lane's order.

use std::{collections::HashMap, sync::Arc, time::Duration};

use common::{clock::Clock, ids::DeliveryId};
use delivery_service::{
    delivery::{Head, State},
    lanes,
    queue::{self, New, Queue, disk::DiskQueue},
};
use redb::TableDefinition;
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE, WEBHOOKS, account, engine,
    receiver::{Receiver, answer},
    route,
};

const HEADS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("heads");
/// Of each lane: more than a claim's page before the one that cannot be read.
const EACH: u64 = 80;
const DAMAGED: u64 = 70;

fn id(lane: u64, number: u64) -> DeliveryId {
    DeliveryId::new(0, 1_700_000_000_000, lane * EACH + number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_before_damage_is_delivered_once() {
    let receiver = Receiver::answering(|_| async {
        // Long enough for the next page to be read while it is under way.
        tokio::time::sleep(Duration::from_millis(2)).await;
        answer(200)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let open = || DiskQueue::open(folder.path(), Clock::System, queue::Limits::default(), 0).unwrap();
    // Of each order, on their own and in batches.
    let lanes = [0, 1, 2].into_iter().flat_map(|n| [n, n + WEBHOOKS / 2]);
    let routes: Vec<_> = lanes.clone().map(|n| route(n, &receiver.url("/"))).collect();
    let store = open();
    for (lane, route) in lanes.clone().zip(&routes) {
        let new = (0..EACH).map(|number| {
            let mut head = Head::new(id(lane, number), route.webhook_id);
            (head.license_code, head.event_id) = (account(lane), number.to_string());
            New { head, body: "{}".into(), dedupe: false, failed: None }
        });
        assert!(store.enqueue(Arc::new(new.collect())).await.iter().all(Result::is_ok));
    }
    drop(store);
    let file = std::fs::read_dir(folder.path())
        .unwrap()
        .find_map(|entry| redb::Database::open(entry.unwrap().path()).ok());
    let file = file.unwrap();
    let txn = file.begin_write().unwrap();
    for lane in lanes.clone() {
        let mut heads = txn.open_table(HEADS).unwrap();
        heads.insert(&id(lane, DAMAGED).bytes(), [0xff; 60].as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(file);

    let store = open();
    let stop = CancellationToken::new();
    let (_lanes, done, _routes) =
        engine(store.clone(), routes, Clock::System, lanes::Limits::default(), stop.clone());
    for lane in lanes.clone() {
        for number in 0..DAMAGED {
            let settled = async {
                while store.get(id(lane, number)).await.unwrap().unwrap().head.state() != State::Succeeded {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let what = format!("{number} of lane {lane} is settled");
            tokio::time::timeout(PATIENCE / 3, settled).await.expect(&what);
        }
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE, done).await.expect("the engine should stop").unwrap();
    let mut arrived = HashMap::<String, usize>::new();
    for request in receiver.arrived().await {
        let one = request.header("webhook-id").to_owned();
        let members = request.headers.get("webhook-delivery-ids").map(|ids| ids.to_str().unwrap());
        for member in members.unwrap_or(&one).split(',') {
            *arrived.entry(member.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(arrived.len() as u64, lanes.count() as u64 * DAMAGED);
    assert!(arrived.values().all(|count| *count == 1), "{arrived:?}");
}
