//! RetryDelivery: in every state, and while an attempt is under way.

use std::time::Duration;

use common::ids::DeliveryId;
use delivery_service::{
    delivery::{Fault, Place, State},
    queue::{Fate, Found, Lanes, Limits, Release, Retried},
};

use crate::bench::{Backend, Bench, MINUTE, Put, ids, lane, page, retry_in, settle_waiting};

const UNREAD: Option<Release> = Some(Release::Free { known: Place(0), unread: true });

fn known(put: &Put) -> Option<Release> {
    Some(Release::Free { known: put.place, unread: false })
}

async fn retry<B: Backend>(bench: &Bench<B>, id: DeliveryId) -> Found {
    match bench.queue.retry(id).await.unwrap() {
        Retried::Now(found) => *found,
        other => panic!("not retried: {other:?}"),
    }
}

pub async fn a_failed_one_is_due_at_once_and_renewed<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![put.settled(Fate::Failed)], known(&put)).await;
    let found = retry(&bench, put.id).await;
    assert_eq!((found.head.state(), found.place, found.body.is_some()), (State::Retrying, put.place, true));
    let grant = bench.claim_one().await;
    let waiting = &grant.page.deliveries[0];
    assert_eq!((waiting.head.id(), waiting.scheduled, waiting.place), (put.id, true, put.place));
    let head = &waiting.head;
    assert_eq!((head.attempt_count, head.retries_used(), head.asked_again), (1, 0, true));
    assert_eq!((head.end_ms, head.end_reason(), head.state()), (0, Fault::None, State::Retrying));
    bench.settle(grant.lane, vec![settle_waiting(waiting, Fate::Failed)], known(&put)).await;
    let found = bench.get(put.id).await;
    assert_eq!((found.head.state(), found.head.attempt_count), (State::Failed, 2), "its attempts count on");
    retry(&bench, put.id).await;
    bench.claim_one().await;
}

pub async fn a_waiting_one_is_due_at_once_ahead_of_others<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 4).await;
    let retries = vec![puts[0].settled(retry_in(MINUTE)), puts[1].settled(retry_in(90 * MINUTE))];
    bench.settle(puts[0].lease(), retries, UNREAD).await;
    bench.advance(2 * MINUTE).await;
    retry(&bench, puts[1].id).await;
    retry(&bench, puts[3].id).await;
    let page = bench.claim_one().await.page;
    let order = ids(&page.deliveries);
    assert_eq!(order.len(), 4);
    assert!(order[..2].contains(&puts[1].id) && order[..2].contains(&puts[3].id), "those asked for");
    assert_eq!(order[2..], [puts[0].id, puts[2].id], "then the due one, then the fresh one");
    assert!(page.deliveries.iter().all(|w| w.head.asked_again == order[..2].contains(&w.head.id())));

    let put = bench.put(lane(2)).await;
    bench.settle(put.lease(), vec![put.settled(retry_in(90 * MINUTE))], known(&put)).await;
    bench.nothing_is_due().await;
    retry(&bench, put.id).await;
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), [put.id]);
}

pub async fn what_has_ended_or_is_unknown_is_not_retried<B: Backend>() {
    let bench = Bench::<B>::with(Limits { backlog_deliveries: 2, ..Limits::default() }).await;
    let puts = bench.put_many(lane(1), 2).await;
    let full = bench.new_for(lane(1));
    let full_id = full.head.id();
    bench.enqueue(full).await;
    let settled = vec![puts[0].settled(Fate::Succeeded), puts[1].settled(Fate::Cancelled)];
    bench.settle(puts[0].lease(), settled, known(&puts[1])).await;
    let unknown = bench.new_for(lane(1)).head.id();
    assert!(matches!(bench.queue.retry(unknown).await.unwrap(), Retried::NotFound));
    assert!(matches!(bench.queue.retry(puts[0].id).await.unwrap(), Retried::Ended(State::Succeeded)));
    assert!(matches!(bench.queue.retry(puts[1].id).await.unwrap(), Retried::Ended(State::Cancelled)));
    assert!(matches!(bench.queue.retry(full_id).await.unwrap(), Retried::NoBody));
    assert!(bench.queue.get(unknown).await.unwrap().is_none());
    bench.nothing_is_due().await;
}

pub async fn a_retry_goes_past_a_hold_and_not_past_parking<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let held = bench.put(lane(1)).await;
    let hold = Some(Release::Hold { duration: 10 * MINUTE });
    bench.settle(held.lease(), vec![held.settled(retry_in(MINUTE))], hold).await;
    retry(&bench, held.id).await;
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [held.id]);
    assert!(grant.held > 9 * MINUTE && grant.held <= 10 * MINUTE, "its holder knows of the hold");

    let parked = bench.put(lane(2)).await;
    bench.settle(parked.lease(), vec![parked.settled(retry_in(MINUTE))], Some(Release::Park)).await;
    retry(&bench, parked.id).await;
    bench.nothing_is_due().await;
    bench.queue.wake(Lanes::These(vec![lane(2)])).await.unwrap();
    assert!(bench.claim_one().await.page.deliveries[0].head.asked_again);
}

/// A retry is asked for during an attempt; the attempt comes to `fate`; what the store makes of it.
async fn during_an_attempt<B: Backend>(attempts_before: u32, fate: Fate) -> (Bench<B>, Found) {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    let (mut lease, mut under_way) = (put.lease(), put.settled(fate));
    for _ in 0..attempts_before {
        let retry = put.settled(retry_in(Duration::from_secs(1)));
        bench.settle(lease, vec![retry], known(&put)).await;
        bench.advance(Duration::from_secs(1)).await;
        let grant = bench.claim_one().await;
        (lease, under_way) = (grant.lane, settle_waiting(&grant.page.deliveries[0], fate));
    }
    retry(&bench, put.id).await;
    bench.settle(lease, vec![under_way], known(&put)).await;
    let found = bench.get(put.id).await;
    (bench, found)
}

async fn follows_a_failure<B: Backend>(attempts_before: u32) {
    for fate in [retry_in(90 * MINUTE), Fate::Failed] {
        let (bench, found) = during_an_attempt::<B>(attempts_before, fate).await;
        assert_eq!(found.head.state(), State::Retrying, "after {fate:?}");
        let grant = bench.claim_one().await;
        let waiting = &grant.page.deliveries[0];
        assert_eq!(waiting.head.attempt_count, attempts_before + 1);
        assert_eq!((waiting.head.retries_used(), waiting.head.asked_again), (0, true), "after {fate:?}");
        bench.settle(grant.lane, vec![settle_waiting(waiting, Fate::Failed)], UNREAD).await;
        assert_eq!(bench.state(waiting.head.id()).await, State::Failed, "asked for once, done once");
        bench.nothing_is_due().await;
    }
}

pub async fn asked_for_during_an_attempt_it_follows_a_failure<B: Backend>() {
    follows_a_failure::<B>(1).await;
}

pub async fn asked_for_during_a_first_attempt_it_follows_a_failure<B: Backend>() {
    follows_a_failure::<B>(0).await;
}

pub async fn asked_for_before_a_first_attempt_it_is_that_attempt<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    retry(&bench, put.id).await;
    let read = bench.queue.read(put.lease(), put.place, 0, page(10)).await.unwrap().unwrap();
    assert!(read.deliveries[0].head.asked_again);
    let failed = settle_waiting(&read.deliveries[0], Fate::Failed);
    bench.settle(put.lease(), vec![failed], known(&put)).await;
    assert_eq!(bench.state(put.id).await, State::Failed, "its holder knew");
    bench.nothing_is_due().await;
}

pub async fn asked_for_during_an_attempt_a_success_stands<B: Backend>() {
    for attempts_before in 0..2 {
        let (bench, found) = during_an_attempt::<B>(attempts_before, Fate::Succeeded).await;
        assert_eq!((found.head.state(), found.body), (State::Succeeded, None));
        bench.nothing_is_due().await;
    }
}

pub async fn its_holder_hears_of_it<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![put.settled(retry_in(90 * MINUTE))], None).await;
    retry(&bench, put.id).await;
    assert_eq!(bench.claim(0).await.news, [lane(1)]);
    let read = bench.queue.read(put.lease(), put.place, 0, page(10)).await.unwrap().unwrap();
    assert_eq!(ids(&read.deliveries), [put.id]);
    assert!(read.deliveries[0].head.asked_again);
    bench.settle(put.lease(), vec![settle_waiting(&read.deliveries[0], retry_in(MINUTE))], known(&put)).await;
    bench.nothing_is_due().await;
    bench.advance(MINUTE).await;
    bench.claim_one().await;
}
