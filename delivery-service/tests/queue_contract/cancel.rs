//! CancelDeliveries: in every state, and while an attempt is under way; and how a lane stands.

use std::{sync::Arc, time::Duration};

use delivery_service::{
    delivery::State,
    queue::{CANCEL_MOST, Cancel, Cancelled, Fate, Release, Standing, Stored},
};

use crate::bench::{Backend, Bench, MINUTE, Put, lane, page, retry_in};

async fn cancel<B: Backend>(bench: &Bench<B>, which: Cancel) -> Cancelled {
    bench.queue.cancel(lane(1), which).await.unwrap()
}

fn ids_of(cancelled: &Cancelled) -> Vec<common::ids::DeliveryId> {
    cancelled.deliveries.iter().map(|(head, _)| head.id()).collect()
}

async fn is_cancelled<B: Backend>(bench: &Bench<B>, put: &Put, attempts: u32) {
    let found = bench.get(put.id).await;
    assert_eq!((found.head.state(), found.head.attempt_count), (State::Cancelled, attempts));
    assert!(found.body.is_none() && found.head.end_ms > 0);
}

pub async fn all_that_waits_ends_cancelled<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 3).await;
    let other = bench.put(lane(2)).await;
    bench.settle(puts[0].lease(), vec![puts[1].settled(retry_in(MINUTE))], None).await;
    let cancelled = cancel(&bench, Cancel::All(None)).await;
    assert_eq!(ids_of(&cancelled), [puts[0].id, puts[1].id, puts[2].id], "oldest first");
    assert!(cancelled.rest.is_none());
    assert!(cancelled.deliveries.iter().all(|(head, _)| head.state() == State::Cancelled));
    for (put, attempts) in puts.iter().zip([0, 1, 0]) {
        is_cancelled(&bench, put, attempts).await;
    }
    assert_eq!(bench.state(other.id).await, State::Pending);
    bench.advance(2 * MINUTE).await;
    let lease = puts[0].lease();
    let read = bench.queue.read(lease, puts[0].before, 0, page(10)).await.unwrap();
    // Where leases lapse by the clock, this one has.
    assert!(read.is_err() || read.unwrap().deliveries.is_empty());
    assert!(cancel(&bench, Cancel::All(None)).await.deliveries.is_empty(), "once");
    assert!(bench.queue.cancel(lane(9), Cancel::All(None)).await.unwrap().deliveries.is_empty());
}

pub async fn only_those_named_are_withdrawn<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 3).await;
    let other = bench.put(lane(2)).await;
    let unknown = bench.new_for(lane(1)).head.id();
    let named = vec![puts[2].id, other.id, unknown, puts[0].id];
    let mut cancelled = ids_of(&cancel(&bench, Cancel::These(named)).await);
    cancelled.sort_unstable();
    let mut expected = [puts[0].id, puts[2].id];
    expected.sort_unstable();
    assert_eq!(cancelled, expected);
    assert_eq!(bench.state(puts[1].id).await, State::Pending);
    assert_eq!(bench.state(other.id).await, State::Pending, "of another lane");
    bench.free(puts[0].lease(), puts[0].before).await;
    let waiting = bench.claim_one().await.page.deliveries;
    assert_eq!(crate::bench::ids(&waiting), [puts[1].id]);
    assert!(cancel(&bench, Cancel::These(vec![])).await.deliveries.is_empty());
}

pub async fn a_long_backlog_takes_several_calls_and_spares_what_comes_later<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let new: Vec<_> = (0..CANCEL_MOST + 2).map(|_| bench.new_for(lane(1))).collect();
    let stored = bench.queue.enqueue(Arc::new(new)).await;
    assert!(stored.iter().all(|stored| matches!(stored, Ok(Stored::New { .. }))));
    let first = cancel(&bench, Cancel::All(None)).await;
    assert_eq!(first.deliveries.len(), CANCEL_MOST);
    let later = bench.put(lane(1)).await;
    let second = cancel(&bench, Cancel::All(first.rest)).await;
    assert_eq!((second.deliveries.len(), second.rest), (2, None));
    assert!(first.deliveries.last().unwrap().1 < second.deliveries[0].1);
    assert_eq!(bench.state(later.id).await, State::Pending);
}

pub async fn what_has_ended_stays_as_it_is<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    let settled = vec![puts[0].settled(Fate::Succeeded), puts[1].settled(Fate::Failed)];
    bench.settle(puts[0].lease(), settled, None).await;
    assert!(cancel(&bench, Cancel::All(None)).await.deliveries.is_empty());
    let named = vec![puts[0].id, puts[1].id];
    assert!(cancel(&bench, Cancel::These(named)).await.deliveries.is_empty());
    assert_eq!(bench.state(puts[0].id).await, State::Succeeded);
    assert_eq!(bench.state(puts[1].id).await, State::Failed);
    // What succeeded is not undone by a settle that comes again.
    bench.settle(puts[0].lease(), vec![puts[0].settled(Fate::Failed)], None).await;
    assert_eq!(bench.state(puts[0].id).await, State::Succeeded);
}

pub async fn a_success_under_way_stands<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    cancel(&bench, Cancel::All(None)).await;
    let release = Some(Release::Free { known: put.place, unread: false });
    bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], release).await;
    let found = bench.get(put.id).await;
    assert_eq!((found.head.state(), found.head.attempt_count), (State::Succeeded, 1));
    let status = bench.queue.lane_status(lane(1)).await.unwrap();
    assert_eq!((status.open, status.failed, status.oldest), (0, 0, None));
    bench.nothing_is_due().await;
}

pub async fn a_failure_under_way_ends_cancelled<B: Backend>() {
    for fate in [Fate::Failed, retry_in(Duration::from_secs(1))] {
        let bench = Bench::<B>::start().await;
        let put = bench.put(lane(1)).await;
        cancel(&bench, Cancel::These(vec![put.id])).await;
        let release = Some(Release::Free { known: put.place, unread: false });
        bench.settle(put.lease(), vec![put.settled(fate)], release).await;
        is_cancelled(&bench, &put, 1).await;
        bench.advance(MINUTE).await;
        bench.nothing_is_due().await;
        assert_eq!(bench.queue.lane_status(lane(1)).await.unwrap().open, 0);
    }
}

pub async fn another_holder_hears_of_it<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    if B::HOLDERS < 2 {
        cancel(&bench, Cancel::All(None)).await;
        assert!(bench.claim(0).await.withdrawn.is_empty(), "there is no other");
        return;
    }
    let other = bench.backend.open().await;
    other.cancel(lane(1), Cancel::All(None)).await.unwrap();
    assert_eq!(bench.claim(0).await.withdrawn, [lane(1)]);
    assert!(bench.claim(0).await.withdrawn.is_empty(), "once");
    is_cancelled(&bench, &put, 0).await;
}

pub async fn a_lane_says_how_it_stands<B: Backend>() {
    let bench = Bench::<B>::start().await;
    assert_eq!(bench.queue.lane_status(lane(1)).await.unwrap(), Standing::default());
    let puts = bench.put_many(lane(1), 4).await;
    let settled = vec![
        puts[0].settled(Fate::Succeeded),
        puts[1].settled(retry_in(90 * MINUTE)),
        puts[3].settled(Fate::Failed),
    ];
    bench.settle(puts[0].lease(), settled, None).await;
    bench.advance(MINUTE).await;
    let status = bench.queue.lane_status(lane(1)).await.unwrap();
    assert_eq!((status.known, status.open, status.failed), (true, 2, 1));
    let age = status.oldest.unwrap();
    assert!(age >= MINUTE && age < 2 * MINUTE, "{age:?}");
}
