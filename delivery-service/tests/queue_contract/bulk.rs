//! RetryDeliveries: slices of what has failed become due again, one bulk retry of a lane at a time.

use delivery_service::{
    delivery::{Place, State},
    queue::{Bulk, Fate, Lease, Limits, Release, Slice},
};

use crate::bench::{Backend, Bench, MINUTE, Put, ids, lane, page, settle_waiting};

const END: Place = Place((1 << 53) - 1);

/// A lane of which so many have failed, free.
async fn failed<B: Backend>(bench: &Bench<B>, count: usize) -> Vec<Put> {
    let puts = bench.put_many(lane(1), count).await;
    let settled = puts.iter().map(|put| put.settled(Fate::Failed)).collect();
    bench.settle(puts[0].lease(), settled, known(&puts)).await;
    puts
}

fn known(puts: &[Put]) -> Option<Release> {
    Some(Release::Free { known: puts.last().unwrap().place, unread: false })
}

async fn begin<B: Backend>(bench: &Bench<B>, from: Place, to: Place) -> Bulk {
    bench.queue.retry_bulk(lane(1), from, to).await.unwrap()
}

async fn slice<B: Backend>(bench: &Bench<B>, most: usize) -> Slice {
    bench.queue.retry_slice(lane(1), most).await.unwrap()
}

pub async fn failed_ones_of_a_time_are_due_again_in_line<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = failed(&bench, 4).await;
    assert_eq!(begin(&bench, puts[1].place, puts[3].place).await, Bulk::Started(2));
    assert_eq!(bench.queue.bulk_retries().await.unwrap(), [lane(1)]);
    bench.nothing_is_due().await;
    let done = slice(&bench, 10).await;
    assert!(done.over);
    assert_eq!(
        done.retried.iter().map(|(_, place)| *place).collect::<Vec<_>>(),
        [puts[1].place, puts[2].place]
    );
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [puts[1].id, puts[2].id]);
    for waiting in &grant.page.deliveries {
        let head = &waiting.head;
        assert_eq!((head.state(), head.attempt_count, head.retries_used()), (State::Retrying, 1, 0));
        assert!(!head.asked_again && waiting.scheduled, "not ahead of others");
    }
    let again = grant.page.deliveries.iter().map(|w| settle_waiting(w, Fate::Failed)).collect();
    bench.settle(grant.lane, again, known(&puts)).await;
    assert_eq!(bench.state(puts[1].id).await, State::Failed, "once is once");
    bench.nothing_is_due().await;
    bench.advance(MINUTE).await;
    assert!(bench.queue.bulk_retries().await.unwrap().is_empty());
    assert_eq!(bench.queue.lane_status(lane(1)).await.unwrap().failed, 4);
}

pub async fn slices_wait_for_those_before<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = failed(&bench, 5).await;
    assert_eq!(begin(&bench, Place(0), END).await, Bulk::Started(5));
    let first = slice(&bench, 2).await;
    assert_eq!((first.retried.len(), first.over), (2, false));
    let second = slice(&bench, 2).await;
    assert_eq!((second.retried.len(), second.over), (0, false), "they still wait for their turn");
    let grant = bench.claim_one().await;
    let settled = grant.page.deliveries.iter().map(|w| settle_waiting(w, Fate::Succeeded)).collect();
    bench.settle(grant.lane, settled, known(&puts)).await;
    let second = slice(&bench, 2).await;
    assert_eq!((second.retried.len(), second.over), (2, false));
    assert_eq!(second.retried[0].1, puts[2].place);
    let third = slice(&bench, 3).await;
    assert_eq!((third.retried.len(), third.over), (1, true));
    assert!(slice(&bench, 3).await.over, "and stays so");
}

pub async fn one_at_a_time_and_it_can_be_stopped<B: Backend>() {
    let bench = Bench::<B>::start().await;
    assert_eq!(begin(&bench, Place(0), END).await, Bulk::Started(0), "an unknown lane");
    let puts = failed(&bench, 2).await;
    assert_eq!(begin(&bench, puts[1].place, puts[1].place).await, Bulk::Started(0), "no time at all");
    assert_eq!(begin(&bench, Place(0), END).await, Bulk::Started(2));
    assert_eq!(begin(&bench, Place(0), END).await, Bulk::UnderWay);
    bench.queue.stop_bulk(lane(1)).await.unwrap();
    assert!(slice(&bench, 1).await.over);
    assert_eq!(bench.state(puts[0].id).await, State::Failed);
    assert_eq!(begin(&bench, Place(0), END).await, Bulk::Started(2));
    if B::HOLDERS > 1 {
        assert_eq!(bench.queue.bulk_retries().await.unwrap(), [lane(1)]);
        let other = bench.backend.open().await;
        assert!(other.bulk_retries().await.unwrap().is_empty(), "the first one's for a second");
        bench.advance(MINUTE).await;
        assert_eq!(other.bulk_retries().await.unwrap(), [lane(1)]);
    }
}

pub async fn without_a_body_a_failed_one_stays<B: Backend>() {
    let bench = Bench::<B>::with(Limits { backlog_deliveries: 1, ..Limits::default() }).await;
    let put = bench.put(lane(1)).await;
    let full = bench.new_for(lane(1));
    let full_id = full.head.id();
    bench.enqueue(full).await;
    bench.settle(put.lease(), vec![put.settled(Fate::Failed)], known(std::slice::from_ref(&put))).await;
    assert_eq!(begin(&bench, Place(0), END).await, Bulk::Started(2));
    let done = slice(&bench, 10).await;
    assert_eq!((done.retried.len(), done.over), (1, true));
    assert_eq!(bench.state(full_id).await, State::Failed);
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), [put.id]);
}

pub async fn it_goes_on_after_a_crash<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = failed(&bench, 3).await;
    begin(&bench, Place(0), END).await;
    assert_eq!(slice(&bench, 1).await.retried.len(), 1);
    let bench = bench.crash().await;
    assert_eq!(begin(&bench, Place(0), END).await, Bulk::UnderWay);
    assert_eq!(bench.queue.bulk_retries().await.unwrap(), [lane(1)]);
    let next = slice(&bench, 2).await;
    assert_eq!(next.retried.iter().map(|(head, _)| head.id()).collect::<Vec<_>>(), [puts[1].id, puts[2].id]);
    assert_eq!(bench.claim_one().await.page.deliveries.len(), 3);
}

pub async fn its_holder_hears_of_a_slice<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    let lease: Lease = puts[0].lease();
    bench.settle(lease, vec![puts[0].settled(Fate::Failed)], None).await;
    begin(&bench, Place(0), END).await;
    slice(&bench, 5).await;
    assert_eq!(bench.claim(0).await.news, [lane(1)]);
    let read = bench.queue.read(lease, puts[1].place, 0, page(10)).await.unwrap().unwrap();
    assert_eq!(ids(&read.deliveries), [puts[0].id]);
    let settled = vec![settle_waiting(&read.deliveries[0], Fate::Succeeded)];
    bench.settle(lease, settled, None).await;
    assert_eq!(bench.state(puts[0].id).await, State::Succeeded);
}
