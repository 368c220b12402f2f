//! History in Redis: how it is cut where many have ended, and what damage to it comes to.

use std::{sync::Arc, time::Duration};

use delivery_service::{
    delivery::State,
    queue::{Fate, LeaseLost, Limits, Query, Release, Settle},
};
use redis::Value;

use crate::{
    bench::{ACCOUNT, Bench, MINUTE, Put, lane, put_ids},
    redis::Single,
    redis_alone::ask,
};

fn all_succeed(puts: &[Put]) -> Settle {
    let deliveries = puts.iter().map(|put| put.settled(Fate::Succeeded)).collect();
    Settle { lane: puts[0].lease(), deliveries, done_to: puts[0].place, memo: None, release: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_very_long_history_the_newest_stay_whatever_else_is_in_a_call() {
    let bench = Bench::<Single>::start().await;
    let others = bench.put_many(lane(2), 2).await;
    bench.queue.settle(Arc::new(vec![all_succeed(&others)])).await.unwrap();
    let mut ended = Vec::new();
    for round in 0..170 {
        let new: Vec<_> = (0..1 + round % 13).map(|_| bench.new_for(lane(1))).collect();
        let stored = bench.queue.enqueue(Arc::new(new.clone())).await;
        let puts: Vec<_> =
            new.into_iter().zip(stored).map(|(new, stored)| Put::of(new, stored.unwrap())).collect();
        let mut lanes = vec![all_succeed(&puts)];
        // A lane that is settled again has all of a call looked at one by one.
        if round % 3 == 0 {
            lanes.push(all_succeed(&others));
        }
        let settled = bench.queue.settle(Arc::new(lanes)).await.unwrap();
        assert!(settled.iter().all(Result::is_ok), "{settled:?}");
        ended.extend(put_ids(&puts));
        let heads = format!("{}:{{q0}}:heads", bench.backend.prefix());
        let Value::Int(kept) = ask(&bench, &[b"HLEN", heads.as_bytes()]).await else { panic!("no hash") };
        let kept = kept as usize - others.len();
        assert!((ended.len().min(1_000)..=1_066).contains(&kept), "{kept} of {}", ended.len());
        assert!(bench.queue.get(ended[ended.len() - kept]).await.unwrap().is_some(), "the newest are there");
    }
    let query =
        Query { webhook_id: Some(lane(1)), license_code: ACCOUNT.into(), limit: 2_000, ..Query::default() };
    let listed = bench.queue.list(query).await.unwrap().deliveries;
    let newest: Vec<_> = listed.iter().rev().map(|(head, _)| head.id()).collect();
    assert_eq!(newest, ended[ended.len() - newest.len()..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_cut_to_what_is_kept_and_ages_out() {
    let (kept, age) = (100, 60 * MINUTE);
    let bench = Bench::<Single>::with(Limits { ended_kept: kept, ended_age: age, ..Limits::default() }).await;
    let mut newest = Vec::new();
    for round in [1, 3, 70, 150, 5, 200, 9, 1, 1, 30] {
        let puts = bench.put_many(lane(1), round).await;
        // The last one ends first.
        let settled = puts.iter().rev().map(|put| put.settled(Fate::Succeeded)).collect();
        bench.settle(puts[0].lease(), settled, None).await;
        newest.extend(put_ids(&puts));
        let query = Query { license_code: ACCOUNT.into(), limit: 1_000, ..Query::default() };
        let listed = bench.queue.list(query.clone()).await.unwrap().deliveries;
        let at_least = newest.len().min(kept as usize);
        assert!((at_least..=kept as usize + kept as usize / 16).contains(&listed.len()), "{}", listed.len());
        assert!(listed.is_sorted_by(|(_, newer), (_, older)| newer > older));
        let first = bench.queue.list(Query { limit: 7, ..query }).await.unwrap();
        assert_eq!(first.deliveries[..], listed[..first.deliveries.len()], "and page by page");
        assert_eq!(first.deliveries.len(), listed.len().min(7));
        bench.advance(MINUTE).await;
    }
    // Ten minutes have gone by: the rounds of the first six are too old.
    bench.advance(age - 5 * MINUTE).await;
    bench.claim(0).await;
    let heads = format!("{}:{{q0}}:heads", bench.backend.prefix());
    assert_eq!(ask(&bench, &[b"HLEN", heads.as_bytes()]).await, Value::Int(9 + 1 + 1 + 30));
    bench.advance(age).await;
    bench.claim(0).await;
    assert_eq!(ask(&bench, &[b"HLEN", heads.as_bytes()]).await, Value::Int(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_history_harms_no_other_lane() {
    let bench = Bench::<Single>::start().await;
    let list = [format!("{}:{{q0}}:ok:", bench.backend.prefix()).as_bytes(), &lane(1).bytes()].concat();
    ask(&bench, &[b"SET", &list, b"no list"]).await;
    let puts = [bench.put_many(lane(1), 10).await, bench.put_many(lane(2), 10).await];
    let all = puts.iter().map(|puts| Settle {
        lane: puts[0].lease(),
        deliveries: puts.iter().map(|put| put.settled(Fate::Succeeded)).collect(),
        done_to: puts[9].place,
        memo: None,
        release: None,
    });
    let answers = bench.queue.settle(Arc::new(all.collect())).await.unwrap();
    assert_eq!(answers, [Err(LeaseLost), Ok(())]);
    for put in puts.iter().flatten() {
        assert_eq!(bench.state(put.id).await, State::Succeeded);
    }
    let query =
        Query { webhook_id: Some(lane(2)), license_code: ACCOUNT.into(), limit: 20, ..Query::default() };
    assert_eq!(bench.queue.list(query).await.unwrap().deliveries.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_history_that_is_to_be_cut_harms_no_other_lane() {
    let bench = Bench::<Single>::start().await;
    let list = [format!("{}:{{q0}}:ok:", bench.backend.prefix()).as_bytes(), &lane(1).bytes()].concat();
    let first = bench.put(lane(1)).await;
    bench.settle(first.lease(), vec![first.settled(Fate::Succeeded)], None).await;
    ask(&bench, &[b"SET", &list, b"no list"]).await;
    bench.advance(Limits::default().ended_age + MINUTE).await;
    let puts = [bench.put_many(lane(1), 1).await, bench.put_many(lane(2), 1).await];
    let all: Vec<_> = puts.iter().map(|puts| all_succeed(puts)).collect();
    assert_eq!(bench.queue.settle(Arc::new(all)).await.unwrap(), [Ok(()), Ok(())]);
    for put in puts.iter().flatten() {
        assert_eq!(bench.state(put.id).await, State::Succeeded);
    }
    let known = Some(Release::Free { known: puts[0][0].place, unread: false });
    bench.settle(puts[0][0].lease(), vec![], known).await;
    bench.put(lane(1)).await.lease();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_that_are_damaged_keep_no_other_from_ageing_out() {
    let bench = Bench::<Single>::start().await;
    let mut whole = Vec::new();
    for n in 1..=20 {
        let put = bench.put(lane(n)).await;
        let known = Some(Release::Free { known: put.place, unread: false });
        bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], known).await;
        if n % 5 == 0 {
            whole.push(put.id);
        } else {
            let list =
                [format!("{}:{{q0}}:ok:", bench.backend.prefix()).as_bytes(), &lane(n).bytes()].concat();
            ask(&bench, &[b"SET", &list, b"no list"]).await;
        }
    }
    bench.advance(Limits::default().ended_age + MINUTE).await;
    // Of each look four are swept.
    for _ in 0..10 {
        bench.claim(0).await;
        bench.advance(Duration::from_millis(1)).await;
    }
    for id in whole {
        assert!(bench.queue.get(id).await.unwrap().is_none());
    }
}

/// What keeps a lane when its history is gone: it goes when that is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_lane_that_was_on_hold_when_its_history_went_nothing_stays() {
    let age = 10 * MINUTE;
    let bench = Bench::<Single>::with(Limits { ended_age: age, failed_age: age, ..Limits::default() }).await;
    let put = bench.put(lane(1)).await;
    let hold = Some(Release::Hold { duration: 2 * age });
    bench.settle(put.lease(), vec![put.settled(Fate::Succeeded)], hold).await;
    let states = format!("{}:{{q0}}:states", bench.backend.prefix());
    for left in [1, 0] {
        bench.advance(age + Duration::from_millis(1)).await;
        bench.claim(0).await;
        assert_eq!(ask(&bench, &[b"HLEN", states.as_bytes()]).await, Value::Int(left));
    }
}
