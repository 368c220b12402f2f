//! Bulk retries in the background: one that cannot go on is no other's matter.

use std::sync::Arc;

use common::{clock::Clock, ids::DeliveryId};
use delivery_service::{
    delivery::{Fault, Head, Place},
    lanes::Limits,
    queue::{Bulk, New},
    retrying,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, account, engine, late::World, route};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_retry_that_cannot_go_on_leaves_those_behind_it_alone() {
    let world = World::new().await;
    let routes = [0, 1].map(|n| route(n, &world.receiver.url("/")));
    for (route, n) in routes.iter().zip(0..) {
        let mut head = Head::new(DeliveryId::new(0, 1_700_000_000_000, n), route.webhook_id);
        (head.license_code, head.event_id) = (account(n), n.to_string());
        let new = New { head, body: "{}".into(), dedupe: false, failed: Some(Fault::Disabled) };
        world.disk.enqueue(Arc::new(vec![new])).await.remove(0).unwrap();
        let begun = world.disk.retry_bulk(route.webhook_id, Place(0), Place((1 << 53) - 1)).await;
        assert!(matches!(begun, Ok(Bulk::Started(1))), "{begun:?}");
    }
    let lanes = world.disk.bulk_retries().await.unwrap();
    assert_eq!(lanes, routes.each_ref().map(|route| route.webhook_id), "in this order");
    *world.late.damaged.lock().unwrap() = Some(lanes[0]);

    let stop = CancellationToken::new();
    let (_lanes, _done, table) =
        engine(world.disk.clone(), routes.into(), Clock::System, Limits::default(), stop.clone());
    let due = Arc::new(Notify::new());
    let is_due = due.clone();
    let _begun = retrying::start(world.late.clone(), table, move || is_due.notify_one(), stop.clone());
    tokio::time::timeout(PATIENCE, due.notified()).await.expect("the other one goes on");
    stop.cancel();
}
