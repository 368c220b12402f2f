//! Settling: every fate, every way to give a lane back, and history.

use std::{sync::Arc, time::Duration};

use delivery_service::{
    delivery::{Place, State},
    queue::{Cancel, Fate, LaneNow, Lanes, Lease, LeaseLost, Limits, PageLimit, Release, Settle},
};

use crate::bench::{Backend, Bench, MINUTE, Put, ids, lane, page, put_ids, retry_in, settle_waiting};

const UNREAD: Option<Release> = Some(Release::Free { known: Place(0), unread: true });

/// Gives a lane back of which all is known.
fn known(put: &Put) -> Option<Release> {
    Some(Release::Free { known: put.place, unread: false })
}

pub async fn a_success_ends_in_history_without_its_body<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], known(&put)).await;
    let found = bench.get(put.id).await;
    assert_eq!((found.head.state(), found.head.attempt_count, found.body), (State::Succeeded, 1, None));
    assert_eq!(found.place, put.place);
    bench.nothing_is_due().await;
    assert_eq!(bench.claim(0).await.next_due, None);
}

pub async fn a_failure_ends_in_history_with_its_body<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let new = bench.new_for(lane(1));
    let body = new.body.clone();
    let put = bench.put_as(new).await;
    bench.settle(put.lease(), vec![put.settled(Fate::Failed)], known(&put)).await;
    let found = bench.get(put.id).await;
    assert_eq!((found.head.state(), found.body), (State::Failed, Some(body)));
    bench.nothing_is_due().await;
}

pub async fn a_cancelled_one_ends_without_its_body<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![put.settled(Fate::Cancelled)], known(&put)).await;
    let found = bench.get(put.id).await;
    assert_eq!((found.head.state(), found.body), (State::Cancelled, None));
    bench.nothing_is_due().await;
}

pub async fn a_retry_is_due_after_its_time<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![put.settled(retry_in(MINUTE))], None).await;
    let read = bench.queue.read(put.lease(), put.place, 0, page(10)).await.unwrap().unwrap();
    assert!(read.deliveries.is_empty() && !read.more);
    let next = read.next_scheduled.unwrap();
    assert!(next <= MINUTE && next > MINUTE / 2, "{next:?}");
    bench.settle(put.lease(), vec![], known(&put)).await;
    bench.advance(MINUTE / 2).await;
    bench.nothing_is_due().await;
    bench.advance(MINUTE / 2).await;
    let grant = bench.claim_one().await;
    let waiting = &grant.page.deliveries[0];
    assert_eq!((waiting.head.id(), waiting.place, waiting.scheduled), (put.id, put.place, true));
    assert_eq!((waiting.head.state(), waiting.head.attempt_count), (State::Retrying, 1));
    assert!(!waiting.body.is_empty());
    bench.settle(grant.lane, vec![settle_waiting(waiting, Fate::Succeeded)], known(&put)).await;
    assert_eq!(bench.state(put.id).await, State::Succeeded);
    bench.nothing_is_due().await;
}

pub async fn due_retries_come_before_fresh_ones<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 5).await;
    let retries = vec![puts[1].settled(retry_in(MINUTE * 2)), puts[3].settled(retry_in(MINUTE))];
    bench.settle(puts[0].lease(), retries, UNREAD).await;
    bench.advance(MINUTE * 3).await;
    let page = bench.claim_one().await.page;
    let order = [3, 1, 0, 2, 4].map(|i| puts[i].id);
    assert_eq!(ids(&page.deliveries), order, "by their time, then the fresh ones by place");
    assert_eq!(page.deliveries.iter().filter(|waiting| waiting.scheduled).count(), 2);
    assert!(page.read_to >= puts[4].place && !page.more);
}

pub async fn known_due_retries_leave_room_for_others<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 6).await;
    let retries = puts.iter().take(5).map(|put| put.settled(retry_in(MINUTE))).collect();
    bench.settle(puts[0].lease(), retries, UNREAD).await;
    bench.advance(MINUTE).await;
    let claimed = bench.queue.claim(1, page(2)).await.unwrap();
    let grant = &claimed.lanes[0];
    assert_eq!(ids(&grant.page.deliveries), put_ids(&puts[..2]));
    assert!(grant.page.more);
    let second = bench.queue.read(grant.lane, grant.page.read_to, 2, page(2)).await.unwrap().unwrap();
    assert_eq!(ids(&second.deliveries), put_ids(&puts[..4]), "what is known comes again");
    let third = bench.queue.read(grant.lane, second.read_to, 4, page(2)).await.unwrap().unwrap();
    assert_eq!(ids(&third.deliveries), put_ids(&puts[..6]), "then the fresh one");
    assert!(!third.more && third.read_to >= puts[5].place);
}

pub async fn retries_come_early_when_asked_for<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    bench.settle(puts[0].lease(), vec![puts[0].settled(retry_in(10 * MINUTE))], None).await;
    let early = PageLimit { early: true, ..page(10) };
    let read = bench.queue.read(puts[0].lease(), Place(0), 0, early).await.unwrap().unwrap();
    assert_eq!(ids(&read.deliveries), put_ids(&puts));
}

pub async fn a_lost_lease_settles_nothing<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![], UNREAD).await;
    let all = || vec![put.settled(Fate::Succeeded)];
    assert_eq!(bench.try_settle(put.lease(), all(), None).await, Err(LeaseLost), "it was given back");
    let grant = bench.claim_one().await;
    assert_eq!(bench.try_settle(put.lease(), all(), known(&put)).await, Err(LeaseLost));
    let future = Lease { fence: grant.lane.fence + 1, ..grant.lane };
    assert_eq!(bench.try_settle(future, all(), None).await, Err(LeaseLost));
    let other = Lease { webhook_id: lane(2), ..grant.lane };
    assert_eq!(bench.try_settle(other, all(), None).await, Err(LeaseLost));
    assert_eq!(bench.state(put.id).await, State::Pending, "nothing was stored");
    bench.settle(grant.lane, all(), None).await;
}

pub async fn settling_twice_is_settling_once<B: Backend>() {
    let bench = Bench::<B>::with(Limits { backlog_deliveries: 3, ..Limits::default() }).await;
    let puts = bench.put_many(lane(1), 3).await;
    for _ in 0..3 {
        bench.settle(puts[0].lease(), vec![puts[0].settled(Fate::Succeeded)], None).await;
    }
    bench.settle(puts[0].lease(), vec![puts[0].settled(Fate::Failed)], None).await;
    assert_eq!(bench.state(puts[0].id).await, State::Succeeded, "what ended stays ended");
    bench.put(lane(1)).await;
    let full = bench.enqueue(bench.new_for(lane(1))).await;
    assert!(matches!(full, delivery_service::queue::Stored::Ended { .. }), "it was counted once: {full:?}");
}

pub async fn a_released_lane_with_unread_deliveries_is_due_at_once<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 3).await;
    bench.settle(puts[0].lease(), vec![puts[0].settled(Fate::Succeeded)], UNREAD).await;
    assert_eq!(bench.claim(0).await.next_due, Some(Duration::ZERO));
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), put_ids(&puts[1..]));
}

pub async fn what_comes_after_the_last_known_place_makes_a_lane_due<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let first = bench.put(lane(1)).await;
    let second = bench.put(lane(1)).await;
    bench.settle(first.lease(), vec![first.settled(Fate::Succeeded)], known(&first)).await;
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), [second.id]);
}

pub async fn a_released_lane_is_due_with_its_next_retry<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    let retries = vec![puts[0].settled(retry_in(4 * MINUTE)), puts[1].settled(retry_in(2 * MINUTE))];
    bench.settle(puts[0].lease(), retries, known(&puts[1])).await;
    let due = bench.claim(10).await;
    assert!(due.lanes.is_empty());
    assert!(due.next_due.unwrap() <= 2 * MINUTE && due.next_due.unwrap() > MINUTE, "{:?}", due.next_due);
    bench.advance(2 * MINUTE).await;
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [puts[1].id]);
    assert!(grant.page.next_scheduled.unwrap() <= 2 * MINUTE);
}

pub async fn a_hold_keeps_back_all_until_it_is_over<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    let hold = Some(Release::Hold { duration: 3 * MINUTE });
    bench.settle(puts[0].lease(), vec![puts[0].settled(retry_in(MINUTE))], hold).await;
    bench.advance(2 * MINUTE).await;
    bench.nothing_is_due().await;
    bench.advance(MINUTE).await;
    let grant = bench.claim_one().await;
    assert_eq!((ids(&grant.page.deliveries), grant.held), (put_ids(&puts), Duration::ZERO));
    bench.settle(grant.lane, vec![], UNREAD).await;
    bench.claim_one().await;

    let put = bench.put(lane(2)).await;
    bench.settle(put.lease(), vec![], hold).await;
    bench.queue.wake(Lanes::These(vec![lane(2)])).await.unwrap();
    let grant = bench.claim_one().await;
    assert_eq!((ids(&grant.page.deliveries), grant.held), (vec![put.id], Duration::ZERO), "the hold is over");
}

pub async fn waking_ends_a_hold<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = bench.put_many(lane(1), 2).await;
    let hold = Some(Release::Hold { duration: 30 * MINUTE });
    bench.settle(puts[0].lease(), vec![puts[0].settled(Fate::Succeeded)], hold).await;
    bench.queue.wake(Lanes::These(vec![lane(1)])).await.unwrap();
    let grant = bench.claim_one().await;
    assert_eq!((ids(&grant.page.deliveries), grant.held), (vec![puts[1].id], Duration::ZERO));
    bench.settle(grant.lane, vec![puts[1].settled(Fate::Succeeded)], hold).await;
    bench.queue.wake(Lanes::These(vec![lane(1)])).await.unwrap();
    bench.put(lane(1)).await.lease();
}

pub async fn what_comes_on_hold_is_due_when_that_is_over<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    let hold = |duration| Some(Release::Hold { duration });
    bench.settle(put.lease(), vec![], hold(10 * MINUTE)).await;
    // Found due, for it was asked for, and empty, for it was withdrawn.
    bench.queue.retry(put.id).await.unwrap();
    bench.queue.cancel(lane(1), Cancel::All(None)).await.unwrap();
    for grant in bench.claim(10).await.lanes {
        bench.settle(grant.lane, vec![], hold(grant.held)).await;
    }
    let put = bench.put(lane(1)).await;
    assert_eq!(put.now, LaneNow::NotNow);
    bench.nothing_is_due().await;
    bench.advance(10 * MINUTE).await;
    assert_eq!(ids(&bench.claim_one().await.page.deliveries), [put.id]);
}

pub async fn a_lane_woken_while_it_is_held_is_due_whatever_it_waits_for<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.queue.wake(Lanes::These(vec![lane(1)])).await.unwrap();
    bench.settle(put.lease(), vec![put.settled(retry_in(90 * MINUTE))], known(&put)).await;
    let grant = bench.claim_one().await;
    assert!(grant.page.deliveries.is_empty(), "it is the lane that is due");
    bench.settle(grant.lane, vec![], known(&put)).await;
    bench.nothing_is_due().await;
}

pub async fn a_parked_lane_waits_until_it_is_woken<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.settle(put.lease(), vec![put.settled(retry_in(MINUTE))], Some(Release::Park)).await;
    bench.advance(1_000 * MINUTE).await;
    bench.nothing_is_due().await;
    assert_eq!(bench.claim(0).await.next_due, None);
    bench.queue.wake(Lanes::These(vec![lane(2)])).await.unwrap();
    bench.nothing_is_due().await;
    bench.queue.wake(Lanes::These(vec![lane(1)])).await.unwrap();
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [put.id]);
    bench
        .settle(grant.lane, vec![settle_waiting(&grant.page.deliveries[0], Fate::Succeeded)], known(&put))
        .await;
    bench.put(lane(1)).await.lease();
}

pub async fn waking_all_parked_lanes_leaves_holds<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let mut parked = Vec::new();
    for number in 1..=3 {
        let put = bench.put(lane(number)).await;
        let release = if number == 3 { Release::Hold { duration: 9 * MINUTE } } else { Release::Park };
        bench.settle(put.lease(), vec![], Some(release)).await;
        parked.push(lane(number));
    }
    bench.queue.wake(Lanes::Parked).await.unwrap();
    let mut woken: Vec<_> = bench.claim(10).await.lanes.iter().map(|grant| grant.lane.webhook_id).collect();
    woken.sort();
    assert_eq!(woken, parked[..2]);
}

pub async fn a_lane_woken_while_it_is_held_does_not_park<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    bench.queue.wake(Lanes::These(vec![lane(1)])).await.unwrap();
    bench.settle(put.lease(), vec![], Some(Release::Park)).await;
    let grant = bench.claim_one().await;
    assert_eq!(ids(&grant.page.deliveries), [put.id], "its holder had not heard of it");
    bench.queue.wake(Lanes::These(vec![lane(1)])).await.unwrap();
    assert_eq!(bench.claim(0).await.news, [lane(1)]);
    assert!(bench.claim(0).await.news.is_empty(), "news are told once");
    bench.settle(grant.lane, vec![], Some(Release::Park)).await;
    bench.nothing_is_due().await;
}

pub async fn a_memo_is_kept_for_the_next_holder<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let put = bench.put(lane(1)).await;
    let settle = |lane, memo: Option<&'static str>| {
        let memo = memo.map(Into::into);
        Arc::new(vec![Settle { lane, deliveries: vec![], done_to: Place(0), memo, release: UNREAD }])
    };
    bench.queue.settle(settle(put.lease(), Some("circuit open"))).await.unwrap().remove(0).unwrap();
    let grant = bench.claim_one().await;
    assert_eq!(grant.memo, "circuit open");
    bench.queue.settle(settle(grant.lane, None)).await.unwrap().remove(0).unwrap();
    let grant = bench.claim_one().await;
    assert_eq!(grant.memo, "circuit open", "None leaves what is there");
    bench.queue.settle(settle(grant.lane, Some(""))).await.unwrap().remove(0).unwrap();
    assert_eq!(bench.claim_one().await.memo, "");
}

pub async fn history_is_bounded_by_count<B: Backend>() {
    let limits = Limits { ended_kept: 3, failed_kept: 2, ..Limits::default() };
    let bench = Bench::<B>::with(limits).await;
    let puts = bench.put_many(lane(1), 12).await;
    for (number, put) in puts.iter().enumerate() {
        let fate = if number % 2 == 0 { Fate::Succeeded } else { Fate::Failed };
        bench.settle(puts[0].lease(), vec![put.settled(fate)], None).await;
    }
    let mut kept = Vec::new();
    for (number, put) in puts.iter().enumerate() {
        if bench.queue.get(put.id).await.unwrap().is_some() {
            kept.push(number);
        }
    }
    assert_eq!(kept, [6, 8, 9, 10, 11], "the newest of each");
}

pub async fn history_is_bounded_by_age<B: Backend>() {
    let limits = Limits { ended_age: 10 * MINUTE, failed_age: 20 * MINUTE, ..Limits::default() };
    let bench = Bench::<B>::with(limits).await;
    let old = bench.put_many(lane(1), 2).await;
    let settled = vec![old[0].settled(Fate::Succeeded), old[1].settled(Fate::Failed)];
    bench.settle(old[0].lease(), settled, known(&old[1])).await;
    for (minutes, left) in [(9, [true, true]), (2, [false, true]), (10, [false, false])] {
        bench.advance(minutes * MINUTE).await;
        let put = bench.put(lane(1)).await;
        bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], known(&put)).await;
        for (put, left) in old.iter().zip(left) {
            assert_eq!(bench.queue.get(put.id).await.unwrap().is_some(), left);
        }
    }
}

pub async fn lanes_are_settled_one_by_one<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = [bench.put(lane(1)).await, bench.put(lane(2)).await, bench.put(lane(3)).await];
    bench.free(puts[1].lease(), Place(0)).await;
    let settles = puts.iter().map(|put| Settle {
        lane: put.lease(),
        deliveries: vec![put.settled(Fate::Succeeded)],
        done_to: put.place,
        memo: None,
        release: known(put),
    });
    let settled = bench.queue.settle(Arc::new(settles.collect())).await.unwrap();
    assert_eq!(settled, [Ok(()), Err(LeaseLost), Ok(())]);
    let mut states = Vec::new();
    for put in &puts {
        states.push(bench.state(put.id).await);
    }
    assert_eq!(states, [State::Succeeded, State::Pending, State::Succeeded]);
}
