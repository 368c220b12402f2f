//! Answers of Redis that nobody hears: what was done all the same is found, and what was told is told again.

use std::{sync::Arc, time::Duration};

use delivery_service::{
    delivery::Place,
    queue::{Cancel, LaneGrant, QueueError, Release},
};
use redis::Value;
use tokio::time::{sleep, timeout};

use crate::{
    bench::{Backend, Bench, MINUTE, ids, lane, page, retry_in},
    redis::Single,
    redis_alone::{ask, damage},
};

const SOON: Duration = Duration::from_secs(20);

/// A claim that is done after its caller has given up. The server knows the script already: one has been done.
async fn lose_a_claim(bench: &Bench<Single>, lanes: usize) {
    ask(bench, &[b"CLIENT", b"PAUSE", b"60000", b"WRITE"]).await;
    let lost = bench.queue.claim(lanes, page(10)).await;
    assert!(matches!(lost, Err(QueueError::Unavailable(_))), "{lost:?}");
    ask(bench, &[b"CLIENT", b"UNPAUSE"]).await;
}

/// The first lane that is granted from now on.
async fn granted(bench: &Bench<Single>) -> LaneGrant {
    let granting = async {
        loop {
            if let Some(grant) = bench.claim(1).await.lanes.pop() {
                return grant;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, granting).await.expect("the lane is given back, and granted again")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_withdrew_is_heard_of_although_the_answer_that_said_so_was_lost() {
    let bench = Bench::<Single>::start().await;
    let other = bench.backend.open().await;
    for n in 1..=3 {
        bench.put(lane(n)).await;
    }
    assert!(bench.claim(0).await.withdrawn.is_empty());
    other.cancel(lane(1), Cancel::All(None)).await.unwrap();
    lose_a_claim(&bench, 0).await;
    other.cancel(lane(2), Cancel::All(None)).await.unwrap();
    let mut heard = bench.claim(0).await;
    heard.withdrawn.sort_unstable();
    assert_eq!((heard.news, heard.withdrawn), (vec![], vec![lane(1), lane(2)]), "and no lane beside these");
    let heard = bench.claim(0).await;
    assert_eq!((heard.news, heard.withdrawn), (vec![], vec![]), "it is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_a_lost_answer_granted_past_its_hold_is_on_hold_still() {
    let bench = Bench::<Single>::start().await;
    bench.claim(0).await;
    let put = bench.put(lane(1)).await;
    let hold = Some(Release::Hold { duration: 10 * MINUTE });
    bench.settle(put.lease(), vec![put.settled(retry_in(MINUTE))], hold).await;
    bench.queue.retry(put.id).await.unwrap();
    lose_a_claim(&bench, 1).await;
    let grant = granted(&bench).await;
    assert_eq!(ids(&grant.page.deliveries), [put.id], "what was asked for goes past it");
    assert!(grant.held > 9 * MINUTE && grant.held <= 10 * MINUTE, "{:?}", grant.held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_lane_keeps_nobody_from_what_a_lost_answer_granted() {
    let bench = Bench::<Single>::start().await;
    bench.claim(0).await;
    bench.put(lane(1)).await;
    damage(&bench, lane(1)).await;
    let put = bench.put(lane(2)).await;
    bench.settle(put.lease(), vec![], Some(Release::Free { known: Place(0), unread: true })).await;
    lose_a_claim(&bench, 1).await;
    assert_eq!(granted(&bench).await.lane.webhook_id, lane(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_lanes_that_are_damaged_or_gone_are_not_looked_for_without_end() {
    let bench = Bench::<Single>::start().await;
    bench.claim(0).await;
    for number in 1..=3 {
        bench.put(lane(number)).await;
    }
    damage(&bench, lane(1)).await;
    let key = |key: &str| format!("{}:{{q0}}:{key}", bench.backend.prefix());
    ask(&bench, &[b"HDEL", key("states").as_bytes(), &lane(2).bytes()]).await;
    lose_a_claim(&bench, 0).await;
    bench.claim(0).await;
    let Value::Array(held) = ask(&bench, &[b"KEYS", key("held:*").as_bytes()]).await else {
        panic!("no list")
    };
    let [Value::BulkString(held)] = held.as_slice() else { panic!("{held:?}") };
    let members = ask(&bench, &[b"SMEMBERS", held]).await;
    assert_eq!(members, Value::Array(vec![Value::BulkString(lane(3).bytes().to_vec())]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_an_enqueue_granted_before_it_failed_is_given_back() {
    let bench = Bench::<Single>::start().await;
    let holders = format!("{}:{{q0}}:holders", bench.backend.prefix());
    ask(&bench, &[b"SET", holders.as_bytes(), b"no zset"]).await;
    let failed = bench.queue.enqueue(Arc::new(vec![bench.new_for(lane(1))])).await.remove(0);
    assert!(matches!(failed, Err(QueueError::Damaged(_))), "{failed:?}");
    ask(&bench, &[b"DEL", holders.as_bytes()]).await;
    assert_eq!(granted(&bench).await.lane.webhook_id, lane(1));
}
