//! Deliveries that share a body: each has it as long as it needs it, whatever becomes of the others.

use std::sync::Arc;

use delivery_service::{
    delivery::{Fault, Place, State},
    queue::{Cancel, Fate, Limits, New, Release, Retried, Stored},
};

use crate::bench::{Backend, Bench, MINUTE, Put, lane, sharing};

/// In lanes of one shard, wherever there are several.
fn alike<B: Backend>(bench: &Bench<B>, count: u8) -> Vec<New> {
    let lane = |n: u8| lane(1 + u64::from(n) * 64);
    (1..=count).map(|n| sharing(&*bench.queue, lane(n), 1_000, n)).collect()
}

async fn put_all<B: Backend>(bench: &Bench<B>, new: Vec<New>) -> Vec<Put> {
    let stored = bench.queue.enqueue(Arc::new(new.clone())).await;
    new.into_iter().zip(stored).map(|(new, stored)| Put::of(new, stored.unwrap())).collect()
}

async fn has_body<B: Backend>(bench: &Bench<B>, put: &Put) -> bool {
    match bench.get(put.id).await.body {
        Some(body) => {
            assert_eq!(body, "body 1000");
            true
        }
        None => false,
    }
}

async fn end<B: Backend>(bench: &Bench<B>, put: &Put, fate: Fate) {
    let release = Some(Release::Free { known: put.place, unread: false });
    bench.settle(put.lease(), vec![put.settled(fate)], release).await;
}

pub async fn a_shared_body_stays_until_the_last_has_ended<B: Backend>() {
    let bench = Bench::<B>::start().await;
    let puts = put_all(&bench, alike(&bench, 6)).await;
    let [succeeds, withdrawn, late, fails, waits, read] = &puts[..] else { unreachable!() };
    end(&bench, succeeds, Fate::Succeeded).await;
    bench.queue.cancel(withdrawn.head.webhook_id(), Cancel::These(vec![withdrawn.id])).await.unwrap();
    // Withdrawn while its attempt is under way, which succeeds: it needs its body once, and no other's.
    bench.queue.cancel(late.head.webhook_id(), Cancel::These(vec![late.id, late.id])).await.unwrap();
    bench.settle(late.lease(), vec![late.settled(Fate::Succeeded)], None).await;
    end(&bench, late, Fate::Succeeded).await;
    end(&bench, fails, Fate::Failed).await;
    bench.free(read.lease(), Place(0)).await;
    let grant = bench.claim_one().await;
    assert_eq!(grant.page.deliveries[0].body, "body 1000");
    for (put, has) in puts.iter().zip([false, false, false, true, true, true]) {
        assert_eq!(has_body(&bench, put).await, has, "{}", put.id);
    }
    assert!(
        matches!(bench.queue.retry(fails.id).await.unwrap(), Retried::Now(found) if found.body.is_some())
    );
    let again = bench.claim_one().await;
    let settled = crate::bench::settle_waiting(&again.page.deliveries[0], Fate::Succeeded);
    bench.settle(again.lane, vec![settled], None).await;
    end(&bench, waits, Fate::Succeeded).await;
    assert!(has_body(&bench, read).await, "the last one");
    bench.settle(grant.lane, vec![read.settled(Fate::Succeeded)], None).await;
    for put in &puts {
        assert!(!has_body(&bench, put).await);
    }
}

pub async fn some_that_share_may_not_be_stored<B: Backend>() {
    let bench = Bench::<B>::with(Limits { backlog_deliveries: 1, ..Limits::default() }).await;
    let mut new = alike(&bench, 4);
    // The first one's lane had its event, the second one's is full, the third one fails at once.
    let mut had = sharing(&*bench.queue, new[0].head.webhook_id(), 7, 0);
    had.head.event_id.clone_from(&new[0].head.event_id);
    bench.put_as(had).await;
    bench.put_as(sharing(&*bench.queue, new[1].head.webhook_id(), 8, 0)).await;
    new[2].failed = Some(Fault::Disabled);
    let stored = bench.queue.enqueue(Arc::new(new.clone())).await;
    let [Ok(first), Ok(second), Ok(third), Ok(fourth)] = &stored[..] else { panic!("{stored:?}") };
    assert!(matches!(first, Stored::Duplicate { .. }), "{first:?}");
    assert!(matches!(second, Stored::Ended { reason: Fault::BacklogFull, .. }), "{second:?}");
    assert!(matches!(third, Stored::Ended { reason: Fault::Disabled, .. }), "{third:?}");
    let fourth = Put::of(new[3].clone(), fourth.clone());
    assert!(bench.queue.get(new[0].head.id()).await.unwrap().is_none());
    assert!(bench.get(new[1].head.id()).await.body.is_none());
    assert_eq!(bench.get(new[2].head.id()).await.body.unwrap(), "body 1000");
    end(&bench, &fourth, Fate::Succeeded).await;
    assert_eq!(bench.get(new[2].head.id()).await.body.unwrap(), "body 1000");
    assert_eq!(bench.get(fourth.id).await.body, None);
}

pub async fn history_gives_its_part_of_a_body_back<B: Backend>() {
    let limits = Limits { failed_age: 10 * MINUTE, ..Limits::default() };
    let bench = Bench::<B>::with(limits).await;
    let puts = put_all(&bench, alike(&bench, 2)).await;
    end(&bench, &puts[0], Fate::Failed).await;
    bench.advance(11 * MINUTE).await;
    // The lane is looked at, and what was in its history is gone; the other one's body is not.
    let later = bench.put(puts[0].head.webhook_id()).await;
    end(&bench, &later, Fate::Succeeded).await;
    assert!(bench.queue.get(puts[0].id).await.unwrap().is_none());
    assert!(has_body(&bench, &puts[1]).await);
    assert_eq!(bench.state(puts[1].id).await, State::Pending);
}
