//! Looking: one delivery, and an account's, page by page.

use common::ids::{DeliveryId, WebhookId};
use delivery_service::{
    delivery::{Place, State},
    queue::{Fate, Query, Release},
};

use crate::bench::{ACCOUNT, Backend, Bench, MINUTE, Put, lane, put_ids, retry_in};

fn all() -> Query {
    Query { license_code: ACCOUNT.into(), limit: 100, ..Query::default() }
}

/// All that a query finds, over as many pages as it takes.
async fn found<B: Backend>(bench: &Bench<B>, mut query: Query) -> Vec<(Place, WebhookId, DeliveryId)> {
    let mut found = Vec::new();
    for _ in 0..1_000 {
        let page = bench.queue.list(query.clone()).await.unwrap();
        assert!(page.deliveries.len() <= query.limit);
        found.extend(page.deliveries.iter().map(|(head, place)| (*place, head.webhook_id(), head.id())));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return found,
        }
    }
    panic!("a list without an end")
}

async fn found_ids<B: Backend>(bench: &Bench<B>, query: Query) -> Vec<DeliveryId> {
    found(bench, query).await.into_iter().map(|(_, _, id)| id).collect()
}

/// Deliveries in every state, over three lanes, oldest first.
async fn some<B: Backend>(bench: &Bench<B>) -> Vec<Put> {
    let mut puts = Vec::new();
    for _ in 0..6 {
        for number in 1..=3 {
            puts.push(bench.put(lane(number)).await);
        }
        bench.advance(MINUTE / 12).await;
    }
    let fates = [Fate::Succeeded, Fate::Failed, Fate::Cancelled, retry_in(MINUTE)];
    for (number, put) in puts.iter().take(15).enumerate() {
        if let Some(&fate) = fates.get(number % 5) {
            bench.settle(put.lease(), vec![put.settled(fate)], None).await;
        }
    }
    puts
}

pub async fn the_newest_place_comes_first_over_all_lanes<B: Backend>() {
    let bench = Bench::<B>::start().await;
    assert!(found(&bench, all()).await.is_empty());
    let puts = some(&bench).await;
    let found = found(&bench, all()).await;
    let mut expected: Vec<_> = puts.iter().map(|put| (put.place, put.head.webhook_id(), put.id)).collect();
    expected.sort_unstable();
    expected.reverse();
    assert_eq!(found, expected);
}

pub async fn pages_go_on_where_the_last_one_ended<B: Backend>() {
    let bench = Bench::<B>::start().await;
    some(&bench).await;
    let whole = found(&bench, all()).await;
    for limit in [1, 2, 5, 18] {
        assert_eq!(found(&bench, Query { limit, ..all() }).await, whole, "in pages of {limit}");
    }
    let first = bench.queue.list(Query { limit: 5, ..all() }).await.unwrap();
    bench.put(lane(1)).await;
    let rest = found(&bench, Query { after: first.next, ..all() }).await;
    assert_eq!(rest, whole[first.deliveries.len()..], "what is new comes before");
}

pub async fn every_filter_narrows<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = some(&bench).await;
    let newest_first = |puts: Vec<&Put>| {
        let mut puts: Vec<_> = puts.iter().map(|put| (put.place, put.head.webhook_id(), put.id)).collect();
        puts.sort_unstable();
        puts.reverse();
        puts.into_iter().map(|(_, _, id)| id).collect::<Vec<_>>()
    };
    let of_lane = puts.iter().filter(|put| put.head.webhook_id() == lane(2)).collect();
    let query = Query { webhook_id: Some(lane(2)), limit: 4, ..all() };
    assert_eq!(found_ids(&bench, query).await, newest_first(of_lane));
    assert!(found_ids(&bench, Query { webhook_id: Some(lane(9)), ..all() }).await.is_empty());

    for (number, state) in
        [State::Succeeded, State::Failed, State::Cancelled, State::Retrying].into_iter().enumerate()
    {
        let such = (0..15).filter(|i| i % 5 == number).map(|i| &puts[i]).collect();
        let query = Query { states: vec![state], limit: 2, ..all() };
        assert_eq!(found_ids(&bench, query).await, newest_first(such), "{state:?}");
    }
    let such = (0..18).filter(|i| *i >= 15 || i % 5 >= 3).map(|i| &puts[i]).collect();
    let query = Query { states: vec![State::Pending, State::Retrying], ..all() };
    assert_eq!(found_ids(&bench, query).await, newest_first(such));

    let query = Query { event_id: puts[7].head.event_id.clone(), ..all() };
    assert_eq!(found_ids(&bench, query).await, [puts[7].id]);
    let query = Query { event_type: "FEEDBACK_SUBMIT".into(), ..all() };
    assert!(found_ids(&bench, query).await.is_empty());
    let mut other = bench.new_for(lane(1));
    other.head.event_type = "FEEDBACK_SUBMIT".into();
    let other = bench.put_as(other).await;
    let query = Query { event_type: "FEEDBACK_SUBMIT".into(), ..all() };
    assert_eq!(found_ids(&bench, query).await, put_ids(&[other]));

    let (from, to) = (puts[6].place, puts[12].place);
    let between = puts.iter().filter(|put| put.place >= from && put.place < to).collect();
    let query = Query { from, to: Some(to), limit: 2, ..all() };
    assert_eq!(found_ids(&bench, query).await, newest_first(between));
}

pub async fn a_delivery_is_found_in_every_state<B: Backend>() {
    let bench = Bench::<B>::start().await;
    for put in some(&bench).await {
        let found = bench.get(put.id).await;
        assert_eq!((found.head.id(), found.place), (put.id, put.place));
        assert_eq!(found.head.event_id, put.head.event_id);
        let keeps_body = !matches!(found.head.state(), State::Succeeded | State::Cancelled);
        assert_eq!(found.body.is_some(), keeps_body, "{:?}", found.head.state());
        assert!(found.body.is_none_or(|body| body.len() == put.head.body_bytes as usize));
    }
    let unknown = bench.new_for(lane(1)).head.id();
    assert!(bench.queue.get(unknown).await.unwrap().is_none());
}

pub async fn accounts_see_their_own<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let mut puts = Vec::new();
    for (number, account) in ["a", "ab", "a\u{1}", "A"].into_iter().enumerate() {
        let mut new = bench.new_for(lane(number as u64));
        new.head.license_code = account.into();
        let put = bench.put_as(new).await;
        bench.settle(put.lease(), vec![], Some(Release::Free { known: Place(0), unread: true })).await;
        puts.push((account, put));
    }
    for (account, put) in &puts {
        let query = Query { license_code: (*account).into(), ..all() };
        assert_eq!(found_ids(&bench, query).await, [put.id], "{account:?}");
    }
    assert!(found_ids(&bench, Query { license_code: "b".into(), ..all() }).await.is_empty());
    let (_, first) = &puts[0];
    let query = Query { license_code: "ab".into(), webhook_id: Some(first.head.webhook_id()), ..all() };
    assert!(found_ids(&bench, query).await.is_empty(), "another's webhook");
    for grant in bench.claim(10).await.lanes {
        let owner = puts.iter().find(|(_, put)| put.head.webhook_id() == grant.lane.webhook_id);
        assert_eq!(grant.license_code, owner.unwrap().0);
    }
}
