//! Watchers of deliveries at another replica, over a real server: one that missed something is told so, however
//! little happens afterwards.

use std::{sync::Arc, time::Duration};

use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
    redis::connect,
};
use delivery_service::{
    delivery::{Fault, Head, State},
    queue::redis_watch::Wire,
    watchers::{Change, Ended, Filter, Watch, follow},
};
use redis::cmd;
use tokio_util::sync::CancellationToken;

use crate::redis_server::Server;

const PATIENCE: Duration = Duration::from_secs(20);

fn change(number: u64) -> Change {
    let mut head = Head::new(DeliveryId::new(0, 1, number), WebhookId::new(0, 1));
    head.license_code = "acme".into();
    head.end(State::Succeeded, Fault::None, Time(5));
    Change { head, place: number }
}

fn replica(server: &Server, stop: &CancellationToken) -> Arc<Watch> {
    let watch = Arc::new(Watch::default());
    let connection = connect(&server.address().parse().unwrap(), None).unwrap();
    follow(&watch, Wire::new(connection, "test"), stop.clone());
    watch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_missed_the_first_and_last_change_is_told_so() {
    let (server, stop) = (Server::start(), CancellationToken::new());
    let (here, there) = (replica(&server, &stop), replica(&server, &stop));
    let mut watching = here.begin("acme".into(), Filter::default()).await.unwrap();
    assert!(there.watches("acme"), "every replica has heard of it");

    // Nothing can be posted, and nothing read.
    server.ask(cmd("SET").arg("test:changes:acme").arg("no stream")).await;
    there.tell(vec![change(1)]);
    let early = tokio::time::timeout(Duration::from_millis(300), watching.next()).await;
    assert!(early.is_err(), "{early:?}");
    server.ask(cmd("DEL").arg("test:changes:acme")).await;
    let ended = tokio::time::timeout(PATIENCE, watching.next()).await.expect("it is ended");
    assert_eq!(ended.unwrap_err(), Ended::Behind);

    // Who watches anew hears what happens from then on.
    let mut watching = here.begin("acme".into(), Filter::default()).await.unwrap();
    there.tell((2..2_002).map(change).collect());
    for number in 2..2_002 {
        let next = tokio::time::timeout(PATIENCE, watching.next()).await.expect("it is told");
        assert_eq!(next.unwrap().place, number);
    }
    stop.cancel();
}
