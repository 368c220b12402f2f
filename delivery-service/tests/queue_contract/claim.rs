//! Leases and pages: who gets which lane, and what is read in it.

use std::{sync::Arc, time::Duration};

use delivery_service::{
    delivery::Place,
    queue::{Fate, LaneNow, LeaseLost, Page, PageLimit, Release, Stored},
};

use crate::bench::{ACCOUNT, Backend, Bench, ids, lane, page, put_ids};

const UNREAD: Option<Release> = Some(Release::Free { known: Place(0), unread: true });

pub async fn nothing_is_due_in_an_empty_store<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let claimed = bench.claim(10).await;
    assert!(claimed.lanes.is_empty() && claimed.news.is_empty());
    assert_eq!(claimed.next_due, None);
    assert!(claimed.lease >= Duration::from_secs(1));
    bench.queue.ping().await.unwrap();
    assert!(bench.queue.shards().is_power_of_two());
}

pub async fn a_page_is_bounded_by_count_and_bytes<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let mut puts = Vec::new();
    for _ in 0..6 {
        let mut new = bench.new_for(lane(1));
        new.body = vec![b'x'; 1_000].into();
        puts.push(bench.put_as(new).await);
    }
    bench.settle(puts[0].lease(), vec![], UNREAD).await;
    let claimed = bench.queue.claim(1, page(4)).await.unwrap();
    let grant = &claimed.lanes[0];
    assert_eq!(ids(&grant.page.deliveries), put_ids(&puts[..4]));
    assert!(grant.page.more && grant.page.read_to == puts[3].place);
    assert_eq!((grant.license_code.as_str(), grant.held, grant.memo.len()), (ACCOUNT, Duration::ZERO, 0));
    let waiting = &grant.page.deliveries[0];
    assert_eq!((waiting.place, waiting.scheduled, waiting.body.len()), (puts[0].place, false, 1_000));
    assert_eq!(waiting.head.event_id, puts[0].head.event_id);

    let small = PageLimit { deliveries: 4, bytes: 1_500, early: false };
    let read = bench.queue.read(grant.lane, Place(0), 0, small).await.unwrap().unwrap();
    assert!((1..=2).contains(&read.deliveries.len()) && read.more, "{read:?}");
    let tiny = PageLimit { deliveries: 4, bytes: 1, early: false };
    let read = bench.queue.read(grant.lane, Place(0), 0, tiny).await.unwrap().unwrap();
    assert_eq!(read.deliveries.len(), 1, "never none");
}

pub async fn pages_have_no_gap_and_repeat_nothing<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let mut puts = bench.put_many(lane(1), 10).await;
    bench.settle(puts[0].lease(), vec![puts[4].settled(Fate::Succeeded)], UNREAD).await;
    puts.remove(4);
    let claimed = bench.queue.claim(1, page(3)).await.unwrap();
    let grant = &claimed.lanes[0];
    let mut read = ids(&grant.page.deliveries);
    let mut last = Page { read_to: grant.page.read_to, more: grant.page.more, ..Page::default() };
    while last.more {
        last = bench.queue.read(grant.lane, last.read_to, 0, page(3)).await.unwrap().unwrap();
        read.extend(ids(&last.deliveries));
    }
    assert_eq!(read, put_ids(&puts));
    let next = bench.put(lane(1)).await;
    assert!(last.read_to >= next.before, "a holder that has read all sees that it knows all");
    let page = bench.queue.read(grant.lane, last.read_to, 0, page(3)).await.unwrap().unwrap();
    assert_eq!(ids(&page.deliveries), [next.id]);
}

pub async fn lanes_are_claimed_up_to_the_number_asked_for<B: Backend>() {
    let bench = Bench::<B>::start().await;
    for number in 1..=5 {
        let put = bench.put(lane(number)).await;
        bench.settle(put.lease(), vec![], UNREAD).await;
    }
    let first = bench.claim(2).await;
    assert_eq!(first.lanes.len(), 2);
    assert_eq!(first.next_due, Some(Duration::ZERO), "others are due");
    let rest = bench.claim(10).await;
    assert_eq!((rest.lanes.len(), rest.next_due), (3, None));
    let mut lanes: Vec<_> =
        first.lanes.iter().chain(&rest.lanes).map(|grant| grant.lane.webhook_id).collect();
    lanes.sort();
    assert_eq!(lanes, (1..=5).map(lane).collect::<Vec<_>>());
}

pub async fn a_lane_is_leased_once_at_a_time<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![], UNREAD).await;
    let grant = bench.claim_one().await;
    assert!(grant.lane.fence > put.lease().fence);
    bench.nothing_is_due().await;
    assert_eq!(bench.put(lane(1)).await.now, LaneNow::Mine { fence: grant.lane.fence, given: false });
    bench.nothing_is_due().await;
}

pub async fn a_lease_lapses_when_its_holder_is_silent<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let lease = bench.claim(0).await.lease;
    let put = bench.put(lane(1)).await;
    bench.advance(lease + Duration::from_secs(5)).await;
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [put.id]);
    assert!(grant.lane.fence > put.lease().fence);
    assert_eq!(bench.try_settle(put.lease(), vec![put.settled(Fate::Succeeded)], None).await, Err(LeaseLost));
    assert_eq!(bench.queue.read(put.lease(), Place(0), 0, page(1)).await.unwrap().unwrap_err(), LeaseLost);
    bench.settle(grant.lane, vec![put.settled(Fate::Succeeded)], None).await;
}

pub async fn a_lease_lives_while_its_holder_claims<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let lease = bench.claim(0).await.lease;
    let put = bench.put(lane(1)).await;
    for _ in 0..9 {
        bench.advance(lease / 3).await;
        assert!(bench.claim(0).await.lanes.is_empty());
    }
    bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], None).await;
    bench.nothing_is_due().await;
}

pub async fn of_two_holders_one_has_the_lane<B: Backend>() {
    let bench = Bench::<B>::start().await;
    if B::HOLDERS < 2 {
        let put = bench.put(lane(1)).await;
        assert_eq!(bench.put(lane(1)).await.lease(), put.lease(), "there is one");
        return;
    }
    let other = bench.backend.open().await;
    let first = bench.put(lane(1)).await;
    assert!(other.claim(10, page(10)).await.unwrap().lanes.is_empty());
    let new = bench.new_for(lane(1));
    let id = new.head.id();
    let stored = other.enqueue(Arc::new(vec![new])).await.remove(0).unwrap();
    assert!(matches!(stored, Stored::New { lane: LaneNow::NotNow, .. }), "{stored:?}");
    assert_eq!(bench.claim(0).await.news, [lane(1)], "its holder hears of it");
    let read = bench.queue.read(first.lease(), first.place, 0, page(10)).await.unwrap().unwrap();
    assert_eq!(ids(&read.deliveries), [id]);
    bench.settle(first.lease(), vec![first.settled(Fate::Succeeded)], UNREAD).await;
    let claimed = other.claim(10, page(10)).await.unwrap();
    assert_eq!(ids(&claimed.lanes[0].page.deliveries), [id]);
    assert_eq!(bench.try_settle(first.lease(), vec![], None).await, Err(LeaseLost));
}
