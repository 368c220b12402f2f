//! What a holder reads of a lane that is kept in order: open deliveries by place, and bodies by id.

use std::time::Duration;

use delivery_service::{
    delivery::Place,
    queue::{Fate, LeaseLost, Release, Scan},
};

use crate::bench::{Backend, Bench, MINUTE, Put, lane, retry_in};

fn places(scan: &Scan) -> Vec<Place> {
    scan.open.iter().map(|open| open.place).collect()
}

fn places_of(puts: &[Put]) -> Vec<Place> {
    puts.iter().map(|put| put.place).collect()
}

pub async fn open_ones_are_named_in_order_of_place<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 5).await;
    let settled = vec![
        puts[0].settled(retry_in(3 * MINUTE)),
        puts[1].settled(Fate::Succeeded),
        puts[2].settled(Fate::Failed),
        puts[3].settled(retry_in(MINUTE)),
    ];
    let unread = Some(Release::Free { known: Place(0), unread: true });
    bench.settle(puts[0].lease(), settled, unread).await;
    bench.put(lane(2)).await;
    bench.advance(2 * MINUTE).await;
    let claimed = bench.claim(9).await.lanes;
    let lease = claimed.iter().map(|grant| grant.lane).find(|lease| lease.webhook_id == lane(1)).unwrap();
    let scan = bench.queue.scan(lease, Place(0), 100).await.unwrap().unwrap();
    assert_eq!(places(&scan), [puts[0].place, puts[3].place, puts[4].place]);
    assert!(!scan.more && scan.read_to >= puts[4].place);
    let due: Vec<_> = scan.open.iter().map(|open| open.due).collect();
    assert!(due[0].is_some_and(|due| due <= MINUTE && due > Duration::ZERO), "{due:?}");
    assert_eq!(due[1..], [Some(Duration::ZERO), None]);
    assert_eq!(scan.open[0].head.id(), puts[0].id);

    // One that was asked for again is due and says so.
    bench.queue.retry(puts[2].id).await.unwrap();
    let scan = bench.queue.scan(lease, puts[0].place, 1).await.unwrap().unwrap();
    assert_eq!((places(&scan), scan.open[0].due), (vec![puts[2].place], Some(Duration::ZERO)));
    assert!(scan.open[0].head.asked_again);
}

pub async fn a_scan_goes_on_where_the_last_one_ended<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 5).await;
    let lease = puts[0].lease();
    let retries = [1, 2].map(|i: usize| puts[i].settled(retry_in(MINUTE)));
    bench.settle(lease, retries.into(), None).await;
    let (mut seen, mut after) = (Vec::new(), Place(0));
    loop {
        let scan = bench.queue.scan(lease, after, 2).await.unwrap().unwrap();
        seen.extend(places(&scan));
        after = scan.read_to;
        if !scan.more {
            break;
        }
    }
    assert_eq!(seen, places_of(&puts));
    let none = bench.queue.scan(lease, after, 2).await.unwrap().unwrap();
    assert!(none.open.is_empty() && !none.more && none.read_to >= after);
}

pub async fn bodies_are_fetched_as_they_fit<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 3).await;
    let lease = puts[0].lease();
    bench.settle(lease, vec![puts[1].settled(retry_in(MINUTE))], None).await;
    let ids = || vec![puts[2].id, puts[1].id, puts[0].id];
    let all = bench.queue.fetch(lease, ids(), 1 << 20).await.unwrap().unwrap();
    let found: Vec<_> = all.iter().flatten().map(|w| (w.head.id(), w.place, w.scheduled)).collect();
    assert_eq!(found, [2, 1, 0].map(|i: usize| (puts[i].id, puts[i].place, i == 1)));
    assert!(all.iter().flatten().all(|waiting| waiting.body.starts_with(b"body ")));
    assert_eq!(all[1].as_ref().map(|waiting| waiting.head.attempt_count), Some(1));
    let one = all[0].as_ref().map_or(0, |waiting| waiting.body.len());
    let two = bench.queue.fetch(lease, ids(), 2 * one).await.unwrap().unwrap();
    assert_eq!(two.len(), 2, "as many as fit");
    assert_eq!(bench.queue.fetch(lease, ids(), 0).await.unwrap().unwrap().len(), 1, "at least one");
    assert!(bench.queue.fetch(lease, Vec::new(), 0).await.unwrap().unwrap().is_empty());
}

pub async fn what_is_not_open_is_not_fetched<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 3).await;
    let lease = puts[0].lease();
    let ended = vec![puts[0].settled(Fate::Succeeded), puts[1].settled(Fate::Failed)];
    bench.settle(lease, ended, None).await;
    let unknown = bench.new_for(lane(1)).head.id();
    let ids = vec![puts[0].id, puts[1].id, unknown, puts[2].id];
    let found = bench.queue.fetch(lease, ids, 1 << 20).await.unwrap().unwrap();
    let found: Vec<_> = found.iter().map(|found| found.as_ref().map(|w| w.head.id())).collect();
    assert_eq!(found, [None, None, None, Some(puts[2].id)]);
}

pub async fn without_the_lease_nothing_is_scanned_or_fetched<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.free(put.lease(), Place(0)).await;
    assert_eq!(bench.queue.scan(put.lease(), Place(0), 9).await.unwrap().err(), Some(LeaseLost));
    assert_eq!(bench.queue.fetch(put.lease(), vec![put.id], 9).await.unwrap().err(), Some(LeaseLost));
}
