//! Joining a batch: who is in one is known to every later holder, and nothing else changes.

use std::time::Duration;

use common::ids::DeliveryId;
use delivery_service::{
    delivery::{Head, Place, State},
    queue::{Cancel, Fate, LeaseLost, Release, Retried, Settled},
};

use crate::bench::{Backend, Bench, MINUTE, Put, ids, lane, page, retry_in, settle_waiting};

const UNREAD: Option<Release> = Some(Release::Free { known: Place(0), unread: true });

fn batch(number: u64) -> DeliveryId {
    DeliveryId::new(0, 7, number)
}

/// What says that this one joins a batch, as a holder says it that knows no more of it.
fn joins(put: &Put, number: u64) -> Settled {
    let mut head = Head::new(put.id, put.head.webhook_id());
    head.join(batch(number), Place(77));
    Settled { head, place: put.place, fate: Fate::Batch }
}

fn member(number: u64) -> Option<(DeliveryId, Place)> {
    Some((batch(number), Place(77)))
}

async fn batch_of<B: Backend>(bench: &Bench<B>, id: DeliveryId) -> Option<(DeliveryId, Place)> {
    bench.get(id).await.head.batch()
}

pub async fn who_joins_a_batch_stays_where_it_is<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 4).await;
    let lease = puts[0].lease();
    bench.settle(lease, vec![puts[0].settled(retry_in(MINUTE))], None).await;
    let joining = puts.iter().take(3).map(|put| joins(put, 1)).collect();
    bench.settle(lease, joining, None).await;
    // Another batch takes the place of the one before; an answer may be lost.
    for _ in 0..2 {
        bench.settle(lease, vec![joins(&puts[2], 2)], None).await;
    }
    let scan = bench.queue.scan(lease, Place(0), 9).await.unwrap().unwrap();
    let found: Vec<_> = scan.open.iter().map(|open| (open.head.id(), open.head.batch())).collect();
    let expected = [(0, member(1)), (1, member(1)), (2, member(2)), (3, None)];
    assert_eq!(found, expected.map(|(i, batch): (usize, _)| (puts[i].id, batch)));
    let due: Vec<bool> = scan.open.iter().map(|open| open.due.is_some()).collect();
    assert_eq!(due, [true, false, false, false], "what is scheduled stays so, and what is fresh");
    assert_eq!(scan.open[0].head.attempt_count, 1);

    let bodies = bench.queue.fetch(lease, vec![puts[1].id], 99).await.unwrap().unwrap();
    assert_eq!(bodies[0].as_ref().and_then(|waiting| waiting.head.batch()), member(1));
    bench.settle(lease, vec![], UNREAD).await;
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [1, 2, 3].map(|i: usize| puts[i].id), "the fresh ones");
    bench.settle(grant.lane, vec![], UNREAD).await;
    bench.advance(MINUTE).await;
    let grant = bench.claim_one().await;
    assert_eq!(grant.page.deliveries.len(), 4);
    let settled = grant.page.deliveries.iter().map(|waiting| settle_waiting(waiting, Fate::Succeeded));
    bench.settle(grant.lane, settled.collect(), None).await;
    assert_eq!(bench.state(puts[1].id).await, State::Succeeded);
    assert_eq!(batch_of(&bench, puts[1].id).await, member(1), "history shows it");
    assert_eq!(bench.queue.lane_status(lane(1)).await.unwrap().open, 0);
}

pub async fn what_has_ended_joins_no_batch<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 4).await;
    let lease = puts[0].lease();
    let ended = vec![puts[0].settled(Fate::Succeeded), puts[1].settled(Fate::Failed)];
    bench.settle(lease, ended, None).await;
    bench.queue.cancel(lane(1), Cancel::These(vec![puts[2].id])).await.unwrap();
    bench.settle(lease, puts.iter().map(|put| joins(put, 1)).collect(), None).await;
    let states = [State::Succeeded, State::Failed, State::Cancelled, State::Pending];
    for (put, state) in puts.iter().zip(states) {
        assert_eq!(bench.state(put.id).await, state);
        let expected = if state == State::Pending { member(1) } else { None };
        assert_eq!(batch_of(&bench, put.id).await, expected, "{state:?}");
    }
}

pub async fn joining_takes_no_retry_back<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    let lease = puts[0].lease();
    bench.settle(lease, vec![puts[0].settled(retry_in(MINUTE))], None).await;
    assert!(matches!(bench.queue.retry(puts[0].id).await.unwrap(), Retried::Now(_)));
    bench.settle(lease, puts.iter().map(|put| joins(put, 1)).collect(), None).await;
    let found = bench.get(puts[0].id).await.head;
    assert_eq!((found.asked_again, found.renewed_at, found.batch()), (true, 1, member(1)));
    let read = bench.queue.read(lease, puts[1].place, 0, page(9)).await.unwrap().unwrap();
    assert_eq!(ids(&read.deliveries), [puts[0].id], "it is due");
    // A retry of one that waits leaves it where it is.
    assert!(matches!(bench.queue.retry(puts[1].id).await.unwrap(), Retried::Now(_)));
    assert_eq!(batch_of(&bench, puts[1].id).await, member(1));
}

pub async fn a_failed_one_leaves_its_batch_when_it_is_asked_for<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    let lease = puts[0].lease();
    bench.settle(lease, puts.iter().map(|put| joins(put, 1)).collect(), None).await;
    let failed = puts.iter().map(|put| {
        let mut settled = put.settled(Fate::Failed);
        settled.head.join(batch(1), Place(77));
        settled
    });
    bench.settle(lease, failed.collect(), None).await;
    assert_eq!(batch_of(&bench, puts[0].id).await, member(1));
    let Retried::Now(found) = bench.queue.retry(puts[0].id).await.unwrap() else { panic!("not retried") };
    assert_eq!(found.head.batch(), None);
    bench.queue.retry_bulk(lane(1), Place(0), Place((1 << 53) - 1)).await.unwrap();
    assert_eq!(bench.queue.retry_slice(lane(1), 9).await.unwrap().retried[0].0.batch(), None);
    for put in &puts {
        assert_eq!(batch_of(&bench, put.id).await, None);
    }
    // And joins another one.
    bench.settle(lease, puts.iter().map(|put| joins(put, 2)).collect(), None).await;
    let scan = bench.queue.scan(lease, Place(0), 9).await.unwrap().unwrap();
    assert!(scan.open.iter().all(|open| open.head.batch() == member(2)), "{scan:?}");
}

pub async fn asked_for_during_an_attempt_it_leaves_its_batch_if_that_fails_for_good<B: Backend>() {
    let bench = Bench::<B>::start().await;
    for (fate, stays) in [(Fate::Failed, false), (retry_in(MINUTE), true)] {
        let put = bench.put(lane(1)).await;
        let lease = put.lease();
        bench.settle(lease, vec![joins(&put, 1)], None).await;
        let mut settled = put.settled(fate);
        settled.head.join(batch(1), Place(77));
        assert!(matches!(bench.queue.retry(put.id).await.unwrap(), Retried::Now(_)));
        bench.settle(lease, vec![settled], None).await;
        let head = bench.get(put.id).await.head;
        assert_eq!((head.state(), head.asked_again), (State::Retrying, true));
        assert_eq!(head.batch().is_some(), stays, "{fate:?}");
        // What it joins next stands.
        bench.settle(lease, vec![joins(&put, 2)], None).await;
        let scan = bench.queue.scan(lease, Place(0), 9).await.unwrap().unwrap();
        let last = scan.open.last().unwrap();
        assert_eq!((last.head.batch(), last.head.asked_again), (member(2), true), "{fate:?}");
        bench.settle(lease, vec![settled_of(&last.head, last.place)], None).await;
        assert_eq!(bench.state(put.id).await, State::Succeeded);
    }
}

fn settled_of(head: &Head, place: Place) -> Settled {
    crate::bench::settled(head, place, Fate::Succeeded)
}

pub async fn a_lost_lease_joins_nothing<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![], UNREAD).await;
    let grant = bench.claim_one().await;
    assert_eq!(bench.try_settle(put.lease(), vec![joins(&put, 1)], None).await, Err(LeaseLost));
    assert_eq!(batch_of(&bench, put.id).await, None);
    bench.settle(grant.lane, vec![joins(&put, 1)], None).await;
    assert_eq!(batch_of(&bench, put.id).await, member(1));
}

pub async fn batches_outlive_a_crash<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    bench.settle(puts[0].lease(), puts.iter().map(|put| joins(put, 1)).collect(), None).await;
    let bench = bench.crash().await;
    bench.advance(Duration::from_secs(1)).await;
    let grant = bench.claim_one().await;
    let batches: Vec<_> = grant.page.deliveries.iter().map(|waiting| waiting.head.batch()).collect();
    assert_eq!(batches, [member(1), member(1)]);
}
