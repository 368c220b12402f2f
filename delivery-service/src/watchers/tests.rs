//! Watches of this process: filters, falling behind, and that nobody is told when nobody watches.

use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};

use super::*;
use crate::delivery::{Attempt, Fault, Place};

fn change(account: &str, webhook: u128, state: State) -> Change {
    let mut head = Head::new(DeliveryId::new(0, 1, 2), WebhookId::new(0, webhook));
    head.license_code = account.into();
    for number in 1..=3 {
        head.add(Attempt { number, ..Attempt::default() });
    }
    head.end(state, Fault::None, Time(5));
    Change { head, place: Place(7).0 }
}

#[tokio::test]
async fn a_watcher_is_told_what_it_asked_for() {
    let watch = Arc::new(Watch::default());
    assert!(!watch.any() && !watch.watches("a"));
    let filter = Filter { webhook_id: Some(WebhookId::new(0, 1)), states: vec![State::Failed] };
    let mut some = watch.begin("a".into(), filter).await.unwrap();
    let mut all = watch.begin("a".into(), Filter::default()).await.unwrap();
    assert!(watch.watches("a") && !watch.watches("b"));
    let told = [
        ("a", 1, State::Succeeded),
        ("a", 2, State::Failed),
        ("b", 1, State::Failed),
        ("a", 1, State::Failed),
    ];
    watch.tell(told.iter().map(|(account, webhook, state)| change(account, *webhook, *state)).collect());
    let next = some.next().await.unwrap();
    assert_eq!((next.head.webhook_id(), next.head.state()), (WebhookId::new(0, 1), State::Failed));
    assert_eq!(next.head.attempts.iter().map(|a| a.number).collect::<Vec<_>>(), [3], "the last one");
    assert!(some.changes.try_recv().is_err(), "and nothing else");
    for state in [State::Succeeded, State::Failed, State::Failed] {
        assert_eq!(all.next().await.unwrap().head.state(), state, "in order");
    }
    drop(some);
    assert!(watch.watches("a"));
    drop(all);
    assert!(!watch.any(), "nobody watches any more");
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_ended_and_others_go_on() {
    let watch = Arc::new(Watch::default());
    let mut slow = watch.begin("a".into(), Filter::default()).await.unwrap();
    let picky = Filter { states: vec![State::Failed], ..Filter::default() };
    let mut picky = watch.begin("a".into(), picky).await.unwrap();
    for _ in 0..BEHIND + 1 {
        watch.tell(vec![change("a", 1, State::Succeeded)]);
    }
    watch.tell(vec![change("a", 1, State::Failed)]);
    for _ in 0..BEHIND {
        assert!(slow.next().await.is_ok(), "what it was told before");
    }
    assert_eq!(slow.next().await.unwrap_err(), Ended::Behind);
    assert_eq!(picky.next().await.unwrap().head.state(), State::Failed);
    watch.end(None, Ended::Away);
    assert_eq!(picky.next().await.unwrap_err(), Ended::Away);
}
