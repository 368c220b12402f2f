//! Storing: places, leases on the way, deduplication, full lanes.

use std::{sync::Arc, time::Duration};

use delivery_service::{
    delivery::{Fault, Place, State},
    queue::{Fate, LaneNow, Limits, Release, Settle, Stored},
};
use futures_util::future::join_all;

use crate::bench::{Backend, Bench, MINUTE, ids, lane, page, put_ids};

pub async fn places_grow_and_before_chains<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let mut last = Place(0);
    for put in bench.put_many(lane(1), 5).await {
        assert_eq!(put.before, last);
        assert!(put.place > last);
        last = put.place;
    }
    bench.advance(MINUTE).await;
    let later = bench.put(lane(1)).await;
    assert_eq!(later.before, last);
    assert!(later.place.time() > last.time(), "a place tells its time");
    assert_eq!(bench.put(lane(2)).await.before, Place(0), "another lane");
}

pub async fn a_free_lane_is_given_to_who_enqueues<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let first = bench.put(lane(1)).await;
    let second = bench.put(lane(1)).await;
    assert_eq!(first.lease(), second.lease(), "it had it before");
    bench.nothing_is_due().await;
    bench
        .settle(first.lease(), vec![first.settled(Fate::Succeeded), second.settled(Fate::Succeeded)], None)
        .await;
    bench.free(first.lease(), second.place).await;
    let third = bench.put(lane(1)).await;
    assert!(third.lease().fence > first.lease().fence, "a fence grows with every grant");
}

pub async fn a_lane_with_other_deliveries_or_a_memo_becomes_due<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let first = bench.put(lane(1)).await;
    let retry = first.settled(Fate::Retry { after: 10 * MINUTE });
    let known = Release::Free { known: first.place, unread: false };
    bench.settle(first.lease(), vec![retry], Some(known)).await;
    let second = bench.put(lane(1)).await;
    assert_eq!(second.now, LaneNow::Due, "a retry waits there");
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), [second.id]);

    let first = bench.put(lane(2)).await;
    let settle = Settle {
        lane: first.lease(),
        deliveries: vec![first.settled(Fate::Succeeded)],
        done_to: first.place,
        memo: Some("memo".into()),
        release: Some(Release::Free { known: first.place, unread: false }),
    };
    bench.queue.settle(Arc::new(vec![settle])).await.unwrap().remove(0).unwrap();
    assert_eq!(bench.put(lane(2)).await.now, LaneNow::Due, "a memo is to be read");
    assert_eq!(bench.claim_one().await.memo, "memo");
}

pub async fn a_lane_on_hold_or_parked_is_left_alone<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let held = bench.put(lane(1)).await;
    let hold = Release::Hold { duration: MINUTE };
    bench.settle(held.lease(), vec![held.settled(Fate::Succeeded)], Some(hold)).await;
    let parked = bench.put(lane(2)).await;
    bench.settle(parked.lease(), vec![parked.settled(Fate::Succeeded)], Some(Release::Park)).await;
    let later = [bench.put(lane(1)).await, bench.put(lane(2)).await];
    assert_eq!(later.each_ref().map(|put| put.now), [LaneNow::NotNow, LaneNow::NotNow]);
    bench.nothing_is_due().await;
    bench.advance(MINUTE).await;
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), [later[0].id]);
}

pub async fn an_event_id_is_stored_once_in_its_window<B: Backend>() {
    let window = 10 * MINUTE;
    let bench = Bench::<B>::with(Limits { dedupe_window: window, ..Limits::default() }).await;
    let new = bench.new_for(lane(1));
    let first = bench.put_as(new.clone()).await;
    let mut again = bench.new_for(lane(1));
    again.head.event_id.clone_from(&new.head.event_id);
    assert_eq!(bench.enqueue(again.clone()).await, Stored::Duplicate { id: first.id });
    bench.settle(first.lease(), vec![first.settled(Fate::Succeeded)], None).await;
    bench.free(first.lease(), first.place).await;
    bench.advance(window - MINUTE).await;
    assert_eq!(bench.enqueue(again.clone()).await, Stored::Duplicate { id: first.id }, "also once it ended");
    bench.advance(2 * MINUTE).await;
    let again = bench.put_as(again).await;
    assert_eq!(again.before, first.place, "duplicates took no place");
    let mut third = bench.new_for(lane(1));
    third.head.event_id.clone_from(&new.head.event_id);
    assert_eq!(bench.enqueue(third).await, Stored::Duplicate { id: again.id }, "a new window");
}

pub async fn an_event_id_counts_for_its_lane_alone<B: Backend>() {
    let bench = Bench::<B>::start().await;
    for number in 1..=2 {
        let mut new = bench.new_for(lane(number));
        new.head.event_id = "the same".into();
        bench.put_as(new).await;
    }
    for _ in 0..2 {
        let mut new = bench.new_for(lane(3));
        (new.head.event_id, new.dedupe) = ("ours".into(), false);
        bench.put_as(new).await;
    }
}

pub async fn of_many_at_once_with_one_event_id_one_is_new<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let news: Vec<_> = (0..20).map(|_| bench.new_for(lane(1))).collect();
    let stored = join_all(news.into_iter().map(|mut new| {
        new.head.event_id = "the same".into();
        async { (new.head.id(), bench.enqueue(new).await) }
    }))
    .await;
    let new: Vec<_> =
        stored.iter().filter(|(_, s)| matches!(s, Stored::New { .. })).map(|(id, _)| *id).collect();
    assert_eq!(new.len(), 1);
    let duplicate = |stored: &Stored| *stored == Stored::Duplicate { id: new[0] };
    assert_eq!(stored.iter().filter(|(_, stored)| duplicate(stored)).count(), 19);
}

pub async fn one_call_answers_each_in_order<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let mut batch: Vec<_> = [1, 2, 1, 3, 1].into_iter().map(|number| bench.new_for(lane(number))).collect();
    let known = batch[0].head.event_id.clone();
    batch[4].head.event_id = known;
    let first = batch[0].head.id();
    let shared = Arc::new(batch);
    let stored = bench.queue.enqueue(Arc::clone(&shared)).await;
    assert_eq!(Arc::strong_count(&shared), 1, "the store has dropped its share");
    let stored: Vec<_> = stored.into_iter().map(Result::unwrap).collect();
    assert_eq!(stored.len(), 5);
    let Stored::New { place, before: Place(0), lane: LaneNow::Mine { fence, given: true } } = stored[0]
    else {
        panic!("{stored:?}")
    };
    let Stored::New { before, lane: LaneNow::Mine { fence: also, .. }, .. } = stored[2] else {
        panic!("{stored:?}")
    };
    assert_eq!((before, also), (place, fence));
    assert!(matches!(stored[1], Stored::New { before: Place(0), .. }));
    assert!(matches!(stored[3], Stored::New { before: Place(0), .. }));
    assert_eq!(stored[4], Stored::Duplicate { id: first });
}

pub async fn a_full_lane_fails_its_own_deliveries<B: Backend>() {
    let bench = Bench::<B>::with(Limits { backlog_deliveries: 3, ..Limits::default() }).await;
    let puts = bench.put_many(lane(1), 3).await;
    let new = bench.new_for(lane(1));
    let id = new.head.id();
    let Stored::Ended { place, reason: Fault::BacklogFull } = bench.enqueue(new.clone()).await else {
        panic!("the lane is full")
    };
    let found = bench.get(id).await;
    assert_eq!(
        (found.head.state(), found.head.end_reason(), found.place),
        (State::Failed, Fault::BacklogFull, place)
    );
    assert_eq!(found.body, None);
    assert_eq!(bench.enqueue(new).await, Stored::Duplicate { id }, "its end has been said");
    bench.put(lane(2)).await;
    bench.settle(puts[0].lease(), vec![puts[0].settled(Fate::Succeeded)], None).await;
    assert_eq!(bench.put(lane(1)).await.before, place, "there is room again");
}

pub async fn a_lane_is_full_by_bytes_too<B: Backend>() {
    let bench = Bench::<B>::with(Limits { backlog_bytes: 2_500, ..Limits::default() }).await;
    let large = |_| {
        let mut new = bench.new_for(lane(1));
        new.body = vec![b'x'; 1_000].into();
        new.head.body_bytes = 1_000;
        new
    };
    let [first, second, third, fourth] = [0; 4].map(large);
    let first = bench.put_as(first).await;
    bench.put_as(second).await;
    assert!(matches!(bench.enqueue(third).await, Stored::Ended { reason: Fault::BacklogFull, .. }));
    bench.put(lane(1)).await;
    bench.settle(first.lease(), vec![first.settled(Fate::Failed)], None).await;
    bench.put_as(fourth).await;
}

pub async fn a_delivery_can_fail_as_it_is_stored<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let mut new = bench.new_for(lane(1));
    new.failed = Some(Fault::Disabled);
    let (id, body) = (new.head.id(), new.body.clone());
    let Stored::Ended { place, reason: Fault::Disabled } = bench.enqueue(new.clone()).await else {
        panic!("it has ended")
    };
    let found = bench.get(id).await;
    assert_eq!((found.head.state(), found.head.end_reason()), (State::Failed, Fault::Disabled));
    assert!(found.head.end_ms > 0);
    assert_eq!(found.body, Some(body), "it can be retried");
    assert_eq!(bench.enqueue(new).await, Stored::Duplicate { id });
    bench.nothing_is_due().await;
    let next = bench.put(lane(1)).await;
    assert_eq!(next.before, place, "it has a place");
    bench.settle(next.lease(), vec![], Some(Release::Free { known: Place(0), unread: true })).await;
    let claimed = bench.queue.claim(1, page(10)).await.unwrap();
    assert_eq!(ids(&claimed.lanes[0].page.deliveries), put_ids(&[next]));
    assert!(claimed.lease > Duration::ZERO);
}
