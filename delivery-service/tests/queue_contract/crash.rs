//! A holder dies without a word: what was answered stands, and nothing comes twice.

use std::time::Duration;

use delivery_service::{
    delivery::{Place, State},
    queue::{Fate, LaneNow, Lanes, LeaseLost, Release, Stored},
};

use crate::bench::{Backend, Bench, MINUTE, ids, lane, put_ids, retry_in};

pub async fn what_was_stored_is_there_after_a_crash<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 5).await;
    let other = bench.put(lane(2)).await;
    let bench = bench.crash().await;
    let mut lanes = bench.claim(10).await.lanes;
    lanes.sort_by_key(|grant| grant.lane.webhook_id);
    assert_eq!(lanes.len(), 2);
    assert_eq!(ids(&lanes[0].page.deliveries), put_ids(&puts));
    assert_eq!(ids(&lanes[1].page.deliveries), [other.id]);
    assert!(lanes.iter().all(|grant| grant.page.deliveries.iter().all(|w| !w.body.is_empty())));
    bench.nothing_is_due().await;
}

pub async fn what_was_settled_is_settled_after_a_crash<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 5).await;
    let fates = [Fate::Succeeded, Fate::Failed, Fate::Cancelled, retry_in(90 * MINUTE)];
    let settled = puts.iter().zip(fates).map(|(put, fate)| put.settled(fate)).collect();
    bench.settle(puts[0].lease(), settled, None).await;
    let bench = bench.crash().await;
    let mut states = Vec::new();
    for put in &puts {
        states.push(bench.state(put.id).await);
    }
    let expected = [State::Succeeded, State::Failed, State::Cancelled, State::Retrying, State::Pending];
    assert_eq!(states, expected);
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [puts[4].id]);
    assert!(grant.page.next_scheduled.unwrap() > MINUTE);
    let released = Some(Release::Free { known: puts[4].place, unread: false });
    bench.settle(grant.lane, vec![puts[4].settled(Fate::Succeeded)], released).await;
    bench.advance(90 * MINUTE).await;
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), [puts[3].id]);
}

pub async fn event_ids_are_known_after_a_crash<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let new = bench.new_for(lane(1));
    let put = bench.put_as(new.clone()).await;
    bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], None).await;
    let bench = bench.crash().await;
    assert_eq!(bench.enqueue(new).await, Stored::Duplicate { id: put.id });
}

pub async fn holds_and_parking_outlive_a_crash<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let (held, parked) = (bench.put(lane(1)).await, bench.put(lane(2)).await);
    bench.settle(held.lease(), vec![], Some(Release::Hold { duration: 60 * MINUTE })).await;
    bench.settle(parked.lease(), vec![], Some(Release::Park)).await;
    let empty = bench.put(lane(3)).await;
    bench.settle(empty.lease(), vec![empty.settled(Fate::Succeeded)], Some(Release::Park)).await;
    let bench = bench.crash().await;
    bench.nothing_is_due().await;
    assert_eq!(bench.put(lane(3)).await.now, LaneNow::NotNow);
    bench.advance(60 * MINUTE).await;
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), [held.id]);
    bench.queue.wake(Lanes::Parked).await.unwrap();
    let bench = bench.crash().await;
    assert_eq!(bench.claim(10).await.lanes.len(), 3, "waking outlives one too");
}

pub async fn places_grow_over_a_crash<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 3).await;
    let bench = bench.crash().await;
    let put = bench.put(lane(1)).await;
    assert_eq!(put.before, puts[2].place);
    assert!(put.place > put.before);
}

pub async fn leases_from_before_a_crash_are_lost<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    let bench = bench.crash().await;
    let grant = bench.claim_one().await;
    assert!(grant.lane.fence > put.lease().fence);
    assert_eq!(bench.try_settle(put.lease(), vec![put.settled(Fate::Succeeded)], None).await, Err(LeaseLost));
    bench.settle(grant.lane, vec![put.settled(Fate::Succeeded)], None).await;
    let known = Release::Free { known: Place(u64::MAX >> 11), unread: false };
    bench.settle(grant.lane, vec![], Some(known)).await;
    bench.advance(Duration::from_secs(1)).await;
    bench.nothing_is_due().await;
}
