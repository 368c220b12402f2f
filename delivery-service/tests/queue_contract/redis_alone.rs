//! What Redis alone can do to the queue: forget scripts or everything, restart, fill up, hold what is no
//! queue's; and what several processes on it are to each other.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::{Duration, Instant},
};

use common::ids::WebhookId;
use delivery_service::{
    delivery::Place,
    queue::{
        Fate, LaneNow, Lanes, LeaseLost, Limits, Query, Queue, QueueError, Release, Stored, redis::RedisQueue,
    },
};
use redis::{Value, cmd};

use crate::{
    bench::{ACCOUNT, Backend, Bench, MINUTE, Put, lane, page, sharing},
    redis::{Single, open},
    redis_server::Server,
};

const UNREAD: Option<Release> = Some(Release::Free { known: Place(0), unread: true });

pub async fn ask(bench: &Bench<Single>, words: &[&[u8]]) -> Value {
    let mut command = cmd(std::str::from_utf8(words[0]).unwrap());
    for word in &words[1..] {
        command.arg(*word);
    }
    bench.backend.server().ask(&command).await
}

fn states(bench: &Bench<Single>) -> String {
    format!("{}:{{q0}}:states", bench.backend.prefix())
}

/// What is kept of the lane breaks off in the middle.
pub async fn damage(bench: &Bench<Single>, lane: WebhookId) {
    ask(bench, &[b"HSET", states(bench).as_bytes(), &lane.bytes(), &[b' '; 50]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_a_server_forgot_are_sent_again() {
    let bench = Bench::<Single>::start().await;
    let first = bench.put(lane(1)).await;
    ask(&bench, &[b"SCRIPT", b"FLUSH"]).await;
    bench.settle(first.lease(), vec![first.settled(Fate::Succeeded)], UNREAD).await;
    ask(&bench, &[b"SCRIPT", b"FLUSH"]).await;
    bench.put(lane(1)).await;
    assert_eq!(bench.get(first.id).await.place, first.place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_server_is_a_new_store() {
    let bench = Bench::<Single>::start().await;
    let lost = bench.put(lane(1)).await;
    ask(&bench, &[b"FLUSHALL"]).await;
    assert_eq!(
        bench.try_settle(lost.lease(), vec![lost.settled(Fate::Succeeded)], None).await,
        Err(LeaseLost)
    );
    assert!(bench.queue.get(lost.id).await.unwrap().is_none());
    bench.nothing_is_due().await;
    let put = bench.put(lane(1)).await;
    assert!(put.lease().fence > lost.lease().fence, "what still holds the lane from before is told apart");
    let query = Query { license_code: ACCOUNT.into(), limit: 10, ..Query::default() };
    let listed = bench.queue.list(query).await.unwrap();
    assert_eq!(listed.deliveries.iter().map(|(head, _)| head.id()).collect::<Vec<_>>(), [put.id]);
    bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], UNREAD).await;
    let shards = format!("{}:shards", bench.backend.prefix());
    assert_eq!(ask(&bench, &[b"GET", shards.as_bytes()]).await, Value::BulkString(b"layout-4 1".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lags_grants_lanes_with_newer_fences() {
    let bench = Bench::<Single>::start().await;
    let states = states(&bench);
    let (key, id) = (states.as_bytes(), lane(1).bytes());
    let grant = async || {
        let put = bench.put(lane(1)).await;
        let free = Release::Free { known: put.place, unread: false };
        bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], Some(free)).await;
        put.lease().fence
    };
    let first = grant().await;
    let Value::BulkString(older) = ask(&bench, &[b"HGET", key, &id]).await else { panic!("not known") };
    let newest = [grant().await, grant().await];
    assert!(first < newest[0] && newest[0] < newest[1], "{first}, {newest:?}");
    // What a replica has that takes over from its master.
    ask(&bench, &[b"HSET", key, &id, &older]).await;
    assert!(grant().await > newest[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_nothing_and_is_recovered_from() {
    let mut server = Server::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let offset = Arc::new(AtomicI64::new(0));
    let queue = open(&server.address(), "p", &Limits::default(), &offset).await;
    let new = crate::bench::new_for(&*queue, lane(1), 1);
    let id = new.head.id();
    queue.enqueue(Arc::new(vec![new])).await.remove(0).unwrap();
    server.kill();
    let start = Instant::now();
    let new = crate::bench::new_for(&*queue, lane(1), 2);
    let refused = queue.enqueue(Arc::new(vec![new.clone()])).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    assert!(matches!(queue.claim(1, page(1)).await, Err(QueueError::Unavailable(_))));
    assert!(start.elapsed() < Duration::from_secs(5));
    server.start_again();
    let again = Instant::now();
    while queue.ping().await.is_err() {
        assert!(again.elapsed() < Duration::from_secs(10), "it connects again");
    }
    assert_eq!(queue.get(id).await.unwrap().unwrap().body.unwrap(), "body 1");
    let stored = queue.enqueue(Arc::new(vec![new])).await.remove(0).unwrap();
    assert!(matches!(stored, Stored::New { lane: LaneNow::Mine { .. }, .. }), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_holders_lanes_go_to_another() {
    let bench = Bench::<Single>::start().await;
    let other = bench.backend.open().await;
    let lease = bench.claim(0).await.lease;
    let puts = [bench.put(lane(1)).await, bench.put(lane(2)).await];
    let stored = other.enqueue(Arc::new(vec![bench.new_for(lane(1))])).await.remove(0).unwrap();
    assert!(matches!(stored, Stored::New { lane: LaneNow::NotNow, .. }), "{stored:?}");
    other.wake(Lanes::These(vec![lane(2)])).await.unwrap();
    let mut news = bench.claim(0).await.news;
    news.sort();
    assert_eq!(news, [lane(1), lane(2)], "of both it hears once");
    assert!(other.claim(10, page(10)).await.unwrap().lanes.is_empty());
    bench.advance(lease + Duration::from_millis(1)).await;
    let taken = other.claim(10, page(10)).await.unwrap();
    assert_eq!(taken.lanes.iter().map(|grant| grant.page.deliveries.len()).sum::<usize>(), 3);
    for put in &puts {
        let settled = bench.try_settle(put.lease(), vec![put.settled(Fate::Succeeded)], UNREAD).await;
        assert_eq!(settled, Err(LeaseLost));
        assert_eq!(
            bench.queue.read(put.lease(), Place(0), 0, page(1)).await.unwrap().unwrap_err(),
            LeaseLost
        );
    }
    assert!(bench.claim(10).await.lanes.is_empty());
}

/// Its engine is dead, or stands still: it lives by its claims alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_claims_no_more_loses_its_lanes_although_it_still_accepts() {
    let bench = Bench::<Single>::start().await;
    let other = bench.backend.open().await;
    let lease = bench.claim(0).await.lease;
    let first = bench.put(lane(1)).await;
    bench.advance(lease * 2 / 3).await;
    bench.put(lane(2)).await.lease();
    bench.advance(lease * 2 / 3).await;
    let taken = other.claim(10, page(10)).await.unwrap().lanes;
    assert_eq!(taken.len(), 2, "{taken:?}");
    // What it is granted after that, before it has claimed again, is found as well.
    bench.put(lane(3)).await.lease();
    bench.advance(lease * 2 / 3).await;
    other.claim(0, page(10)).await.unwrap();
    bench.advance(lease * 2 / 3).await;
    let taken = other.claim(10, page(10)).await.unwrap().lanes;
    assert_eq!(taken.iter().map(|grant| grant.lane.webhook_id).collect::<Vec<_>>(), [lane(3)]);
    // It was alive after all: what it lost is lost, and what it is granted from now on is its own.
    bench.claim(0).await;
    assert_eq!(bench.try_settle(first.lease(), vec![], None).await, Err(LeaseLost));
    let put = bench.put(lane(4)).await;
    bench.advance(lease * 2 / 3).await;
    bench.claim(0).await;
    other.claim(0, page(10)).await.unwrap();
    bench.advance(lease * 2 / 3).await;
    assert!(other.claim(10, page(10)).await.unwrap().lanes.is_empty());
    bench.settle(put.lease(), vec![], None).await;
    let stored = bench.put(lane(1)).await;
    assert_eq!(stored.now, LaneNow::NotNow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_lane_harms_no_other_and_keeps_no_event_id() {
    let bench = Bench::<Single>::start().await;
    damage(&bench, lane(1)).await;
    let batch = Arc::new(vec![bench.new_for(lane(1)), bench.new_for(lane(2))]);
    let stored = bench.queue.enqueue(Arc::clone(&batch)).await;
    assert!(matches!(stored[0], Err(QueueError::Damaged(_))), "{stored:?}");
    assert!(matches!(stored[1], Ok(Stored::New { .. })), "{stored:?}");
    assert!(bench.queue.get(batch[0].head.id()).await.unwrap().is_none(), "nothing of it stays");
    ask(&bench, &[b"HDEL", states(&bench).as_bytes(), &lane(1).bytes()]).await;
    let stored = bench.queue.enqueue(batch).await;
    assert!(matches!(stored[0], Ok(Stored::New { .. })), "not taken for a duplicate: {stored:?}");
    assert!(matches!(stored[1], Ok(Stored::Duplicate { .. })), "{stored:?}");

    for (number, put) in [(3, bench.put(lane(3)).await), (4, bench.put(lane(4)).await)] {
        bench.settle(put.lease(), vec![], UNREAD).await;
        if number == 3 {
            damage(&bench, lane(3)).await;
        }
    }
    let query = Query { license_code: ACCOUNT.into(), limit: 10, ..Query::default() };
    let listed = bench.queue.list(query).await.unwrap().deliveries;
    assert!(listed.iter().any(|(head, _)| head.webhook_id() == lane(4)), "{listed:?}");
    assert!(bench.queue.lane_status(lane(3)).await.unwrap().known);
    assert_eq!(bench.claim_one().await.lane.webhook_id, lane(4));
    bench.nothing_is_due().await;

    let held = bench.put(lane(5)).await;
    bench.settle(held.lease(), vec![], Some(Release::Hold { duration: MINUTE })).await;
    bench.queue.wake(Lanes::These(vec![lane(3), lane(5)])).await.unwrap();
    assert_eq!(bench.claim_one().await.lane.webhook_id, lane(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_lane_keeps_no_other_of_a_dead_holder() {
    let bench = Bench::<Single>::start().await;
    let other = bench.backend.open().await;
    let lease = bench.claim(0).await.lease;
    bench.put_many(lane(1), 1).await;
    bench.put_many(lane(2), 1).await;
    damage(&bench, lane(1)).await;
    bench.advance(lease + Duration::from_millis(1)).await;
    let taken = other.claim(10, page(10)).await.unwrap().lanes;
    assert_eq!(taken.iter().map(|grant| grant.lane.webhook_id).collect::<Vec<_>>(), [lane(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_refuses_what_is_new_and_settles_what_is_there() {
    let bench = Bench::<Single>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    ask(&bench, &[b"CONFIG", b"SET", b"maxmemory", b"1"]).await;
    let new = bench.new_for(lane(1));
    let refused = bench.queue.enqueue(Arc::new(vec![new.clone()])).await.remove(0);
    assert!(matches!(refused, Err(QueueError::Full(_))), "{refused:?}");
    let settled = vec![puts[0].settled(Fate::Succeeded), puts[1].settled(Fate::Retry { after: MINUTE })];
    bench.settle(puts[0].lease(), settled, UNREAD).await;
    assert_eq!(bench.claim(1).await.lanes.len(), 1);
    ask(&bench, &[b"CONFIG", b"SET", b"maxmemory", b"0"]).await;
    // A look at its memory may have come in between: the next one lets it in.
    let again = Instant::now();
    while let Err(error) = bench.queue.enqueue(Arc::new(vec![new.clone()])).await.remove(0) {
        assert!(matches!(error, QueueError::Full(_)) && again.elapsed() < Duration::from_secs(5), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_lanes_history_ages_out_to_nothing() {
    let bench = Bench::<Single>::start().await;
    let put = bench.put(lane(1)).await;
    let known = Some(Release::Free { known: put.place, unread: false });
    bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], known).await;
    bench.advance(Limits::default().ended_age + MINUTE).await;
    bench.nothing_is_due().await;
    assert!(bench.queue.get(put.id).await.unwrap().is_none());
    assert_eq!(ask(&bench, &[b"HLEN", states(&bench).as_bytes()]).await, Value::Int(0));
    bench.put(lane(1)).await.lease();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_ids_go_with_their_window_also_where_nothing_is_stored() {
    let bench = Bench::<Single>::start().await;
    let window = Limits::default().dedupe_window;
    let buckets = format!("{}:{{q0}}:ev*", bench.backend.prefix());
    for left in [2, 3, 3, 0] {
        if left > 0 {
            bench.put(lane(1)).await;
        }
        bench.advance(if left > 0 { window / 2 } else { window }).await;
        bench.claim(0).await;
        let Value::Array(keys) = ask(&bench, &[b"KEYS", buckets.as_bytes()]).await else { panic!("no list") };
        assert_eq!(keys.len(), left, "the buckets and their index");
    }
}

/// History stands in blobs, which are cut and go by age; the newest of it stands with the lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_what_is_not_kept_do_not_stay() {
    let bench = Bench::<Single>::with(Limits { backlog_deliveries: 1, ..Limits::default() }).await;
    let (mut duplicate, full) = (bench.new_for(lane(1)), bench.new_for(lane(1)));
    let put = bench.put(lane(1)).await;
    duplicate.head.event_id.clone_from(&put.head.event_id);
    damage(&bench, lane(2)).await;
    let batch = vec![duplicate, full, bench.new_for(lane(2))];
    let stored = bench.queue.enqueue(Arc::new(batch)).await;
    assert!(matches!(stored[0], Ok(Stored::Duplicate { .. })), "{stored:?}");
    assert!(matches!(stored[1], Ok(Stored::Ended { .. })), "{stored:?}");
    assert!(matches!(stored[2], Err(QueueError::Damaged(_))), "{stored:?}");
    let bodies = format!("{}:{{q0}}:bodies", bench.backend.prefix());
    assert_eq!(ask(&bench, &[b"HLEN", bodies.as_bytes()]).await, Value::Int(1));
    assert!(bench.get(put.id).await.body.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_size_keeps_its_shards() {
    let server = Server::start();
    server.ask(cmd("SET").arg("p:shards").arg("layout-4 16")).await;
    let offset = Arc::new(AtomicI64::new(0));
    let queue = open(&server.address(), "p", &Limits::default(), &offset).await;
    assert_eq!(queue.shards(), 16);
    let batch: Vec<_> = (1..=40).map(|n| crate::bench::new_for(&*queue, lane(n), n)).collect();
    assert!(queue.enqueue(Arc::new(batch)).await.iter().all(Result::is_ok));
    // A number that is none, a store of another layout, one of before there was a layout.
    for fixed in ["layout-4 3", "layout-3 16", "16"] {
        server.ask(cmd("SET").arg("q:shards").arg(fixed)).await;
        let connection = crate::redis::connection(&server.address());
        let refused = RedisQueue::open(connection, "q", Limits::default()).await;
        assert!(matches!(refused, Err(QueueError::Damaged(_))), "{fixed}");
    }
}

/// Whoever claims looks at all lanes in turn, and takes away a little of what is old at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_lanes_in_which_nothing_happens_any_more_nothing_stays() {
    let limits = Limits { ended_age: 10 * MINUTE, failed_age: 10 * MINUTE, ..Limits::default() };
    let bench = Bench::<Single>::with(limits).await;
    let news: Vec<_> = (1..=250).map(|n| bench.new_for(lane(n))).collect();
    for new in news {
        let put = bench.put_as(new).await;
        let release = Some(Release::Free { known: put.place, unread: false });
        bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], release).await;
    }
    let left = async |command: &[u8], key: &str| {
        let key = format!("{}:{{q0}}:{key}", bench.backend.prefix());
        ask(&bench, &[command, key.as_bytes()]).await
    };
    bench.advance(9 * MINUTE).await;
    bench.claim(0).await;
    assert_eq!(left(b"HLEN", "states").await, Value::Int(250));
    bench.advance(2 * MINUTE).await;
    for _ in 0..100 {
        bench.claim(0).await;
        bench.advance(Duration::from_millis(1)).await;
    }
    for (command, key) in [(b"HLEN", "states"), (b"HLEN", "heads")] {
        assert_eq!(left(command, key).await, Value::Int(0), "{key}");
    }
    assert_eq!(left(b"ZCARD", "accounts").await, Value::Int(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_body_is_stored_once_and_leaves_nothing() {
    let bench = Bench::<Single>::start().await;
    let new: Vec<_> = (1..=255).map(|n| sharing(&*bench.queue, lane(n.into()), 1_000, n)).collect();
    let stored = bench.queue.enqueue(Arc::new(new.clone())).await;
    let puts = new.into_iter().zip(stored).map(|(new, stored)| Put::of(new, stored.unwrap()));
    let puts: Vec<_> = puts.collect();
    let left = async |key: &str| {
        let key = format!("{}:{{q0}}:{key}", bench.backend.prefix());
        ask(&bench, &[b"HLEN", key.as_bytes()]).await
    };
    assert_eq!((left("bodies").await, left("shares").await), (Value::Int(1), Value::Int(1)));
    for put in &puts {
        assert!(bench.get(put.id).await.body.is_some());
        bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], None).await;
        // A call whose answer was lost is repeated.
        bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], None).await;
    }
    assert_eq!((left("bodies").await, left("shares").await), (Value::Int(0), Value::Int(0)));
}

/// So many answers as asked for, and no verb without one: the bound of what one call takes is passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_beyond_one_call_are_stored_and_settled_whole() {
    let bench = Bench::<Single>::start().await;
    let news: Vec<_> = (0..3_000_u64).map(|n| bench.new_for(lane(1 + n / 2_500))).collect();
    let stored = bench.queue.enqueue(Arc::new(news.clone())).await;
    let mut settled = [Vec::new(), Vec::new()];
    let mut fences = [0, 0];
    for (n, stored) in stored.into_iter().enumerate() {
        let Stored::New { place, lane: LaneNow::Mine { fence, .. }, .. } = stored.unwrap() else {
            panic!("not ours")
        };
        let fate = if n % 2 == 0 { Fate::Succeeded } else { Fate::Retry { after: MINUTE } };
        settled[n / 2_500].push(crate::bench::settled(&news[n].head, place, fate));
        fences[n / 2_500] = fence;
    }
    for (i, settled) in settled.into_iter().enumerate() {
        let lease = delivery_service::queue::Lease { webhook_id: lane(1 + i as u64), fence: fences[i] };
        bench
            .settle(lease, settled, Some(Release::Free { known: Place(u64::MAX >> 12), unread: false }))
            .await;
    }
    bench.nothing_is_due().await;
    bench.advance(MINUTE).await;
    let claimed = bench.queue.claim(2, page(2_000)).await.unwrap();
    assert_eq!(claimed.lanes.iter().map(|grant| grant.page.deliveries.len()).sum::<usize>(), 1_500);
}
