//! A lane's only open delivery, which a store may keep in another way than several: to whoever asks it is one
//! like all others.

use std::sync::Arc;

use delivery_service::{
    delivery::{Fault, Place, State},
    queue::{Cancel, Fate, Query, Release, Settle, Settled},
};

use crate::bench::{ACCOUNT, Backend, Bench, MINUTE, Put, ids, lane, put_ids};

fn settle(put: &Put, settled: Vec<Settled>) -> Settle {
    let release = Some(Release::Free { known: put.place, unread: false });
    Settle { lane: put.lease(), deliveries: settled, done_to: Place(0), memo: None, release }
}

async fn open<B: Backend>(bench: &Bench<B>, number: u64) -> u64 {
    bench.queue.lane_status(lane(number)).await.unwrap().open
}

pub async fn it_is_listed_counted_and_withdrawn<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.advance(MINUTE).await;
    let status = bench.queue.lane_status(lane(1)).await.unwrap();
    assert_eq!((status.known, status.open), (true, 1));
    assert!(status.oldest.is_some_and(|oldest| oldest >= MINUTE && oldest < 2 * MINUTE), "{status:?}");
    let list = async |query: Query| {
        let query = Query { license_code: ACCOUNT.into(), states: vec![State::Pending], limit: 1, ..query };
        let listed = bench.queue.list(query).await.unwrap().deliveries;
        listed.into_iter().map(|(head, place)| (head.id(), place)).collect::<Vec<_>>()
    };
    assert_eq!(list(Query::default()).await, [(put.id, put.place)]);
    assert_eq!(list(Query { from: put.place, ..Query::default() }).await.len(), 1);
    assert_eq!(list(Query { from: Place(put.place.0 + 1), ..Query::default() }).await, []);
    assert_eq!(list(Query { to: Some(put.place), ..Query::default() }).await, []);
    let cancelled = bench.queue.cancel(lane(1), Cancel::These(vec![put.id])).await.unwrap();
    assert_eq!(cancelled.deliveries.iter().map(|(head, _)| head.id()).collect::<Vec<_>>(), [put.id]);
    assert_eq!((bench.state(put.id).await, open(&bench, 1).await), (State::Cancelled, 0));
    assert_eq!(list(Query::default()).await, []);
}

pub async fn another_one_stands_behind_it<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 3).await;
    assert_eq!(open(&bench, 1).await, 3);
    bench.settle(puts[0].lease(), vec![puts[0].settled(Fate::Succeeded)], None).await;
    bench.free(puts[0].lease(), Place(0)).await;
    let grant = bench.claim_one().await;
    assert_eq!(put_ids(&puts[1..]), ids(&grant.page.deliveries));
}

pub async fn one_that_fails_at_once_leaves_it_where_it_is<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    let mut new = bench.new_for(lane(1));
    new.failed = Some(Fault::Disabled);
    bench.enqueue(new).await;
    bench.free(put.lease(), Place(0)).await;
    let grant = bench.claim_one().await;
    let page: Vec<_> =
        grant.page.deliveries.iter().map(|waiting| (waiting.head.id(), waiting.place)).collect();
    assert_eq!(page, [(put.id, put.place)]);
}

pub async fn it_ends_beside_lanes_that_are_settled_again<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let again = bench.put_many(lane(1), 2).await;
    let settled: Vec<_> = again.iter().map(|put| put.settled(Fate::Succeeded)).collect();
    bench.settle(again[0].lease(), settled.clone(), None).await;
    let put = bench.put(lane(2)).await;
    let both = vec![settle(&again[1], settled), settle(&put, vec![put.settled(Fate::Succeeded)])];
    assert_eq!(bench.queue.settle(Arc::new(both)).await.unwrap(), [Ok(()), Ok(())]);
    for put in [&again[0], &again[1], &put] {
        let found = bench.get(put.id).await;
        assert_eq!((found.head.state(), found.body), (State::Succeeded, None));
    }
    assert_eq!((open(&bench, 1).await, open(&bench, 2).await), (0, 0));
    bench.nothing_is_due().await;
}

pub async fn it_is_there_after_a_crash<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    let bench = bench.crash().await;
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [put.id]);
    bench.settle(grant.lane, vec![put.settled(Fate::Succeeded)], None).await;
    assert_eq!((bench.state(put.id).await, open(&bench, 1).await), (State::Succeeded, 0));
}
