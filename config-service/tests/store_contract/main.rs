//! What every store promises, run on each backend: embedded, one Redis server, a Redis Cluster of three.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot go on has failed")]

mod embedded;
mod redis_store;
#[allow(dead_code, reason = "shared with the scenarios, which use more of it")]
#[path = "../../../tests/src/redis.rs"]
mod servers;

use std::{collections::HashSet, sync::Arc};

use common::{clock::Time, ids::WebhookId};
use config_service::store::{
    Change, Changed, Changes, Created, Deleted, REQUEST_ID_KEPT, Record, Request, Store, Updated,
};
use proto::v1::{SigningKey, Webhook};

/// How many changes the stores here keep.
const LOG: u64 = 100;
const NOW: Time = Time(1_700_000_000_000);

/// Makes stores, each of its own.
#[async_trait::async_trait]
trait Backend {
    async fn store(&self) -> Arc<dyn Store>;
}

async fn contract(backend: &dyn Backend) {
    a_webhook_is_created_read_updated_and_deleted(&*backend.store().await).await;
    a_change_of_what_has_changed_is_refused(&*backend.store().await).await;
    lists_are_in_order_and_paged(&*backend.store().await).await;
    a_repeated_request_answers_what_it_made(&*backend.store().await).await;
    a_request_id_runs_out_after_a_day(&*backend.store().await).await;
    concurrent_repeats_make_one_webhook(backend.store().await).await;
    an_account_is_made_once(backend.store().await).await;
    a_rotated_key_is_a_change(&*backend.store().await).await;
    every_change_is_in_the_log_once_and_in_order(backend.store().await).await;
    the_log_is_bounded(&*backend.store().await).await;
    a_waiter_is_woken(&*backend.store().await).await;
    concurrent_updates_of_one_revision_have_one_winner(backend.store().await).await;
}

async fn a_webhook_is_created_read_updated_and_deleted(store: &dyn Store) {
    store.ping().await.unwrap();
    let made = record("~acc", 1);
    let id = made.id().unwrap();
    assert_eq!(store.get(id).await, Ok(None));
    let created = create(store, made.clone()).await;
    assert_eq!(Record { revision: 0, ..created.clone() }, made, "kept as given");
    assert_eq!(store.revision().await, Ok(created.revision));
    assert_eq!(store.get(id).await, Ok(Some(created.clone())));
    let unknown = record("~acc", 2).id().unwrap();
    assert_eq!(store.get_many(&[unknown, id]).await, Ok(vec![None, Some(created.clone())]));
    assert_eq!(store.get_many(&[]).await, Ok(vec![]));

    let mut changed = created.clone();
    changed.webhook.description = "changed".into();
    let Updated::Done(updated) = store.update(changed, created.revision).await.unwrap() else { panic!() };
    assert!(updated.revision > created.revision);
    assert_eq!(store.get(id).await, Ok(Some(updated.clone())));

    assert_eq!(store.delete(id, Some(updated.revision)).await, Ok(Deleted::Done));
    assert_eq!(store.get(id).await, Ok(None));
    assert_eq!(store.list("~acc", None, 10).await, Ok(vec![]));
    assert_eq!(store.scan(None, 10).await, Ok(vec![]));
    assert_eq!(store.delete(id, None).await, Ok(Deleted::Gone));
    assert_eq!(store.update(updated.clone(), updated.revision).await, Ok(Updated::Gone));
}

async fn a_change_of_what_has_changed_is_refused(store: &dyn Store) {
    let first = create(store, record("~acc", 1)).await;
    let id = first.id().unwrap();
    let Updated::Done(second) = store.update(first.clone(), first.revision).await.unwrap() else { panic!() };
    let before = store.revision().await.unwrap();
    assert_eq!(store.update(first.clone(), first.revision).await, Ok(Updated::Changed));
    assert_eq!(store.delete(id, Some(first.revision)).await, Ok(Deleted::Changed));
    assert_eq!(store.revision().await, Ok(before), "what is refused is no change");
    assert_eq!(store.get(id).await, Ok(Some(second)));
    assert_eq!(store.delete(id, None).await, Ok(Deleted::Done), "unguarded");
}

async fn lists_are_in_order_and_paged(store: &dyn Store) {
    for n in [5, 1, 4, 2, 3] {
        create(store, record("~a", n)).await;
        create(store, record("~b", 10 + n)).await;
    }
    let ids = |records: &[Record]| records.iter().map(|r| r.id().unwrap()).collect::<Vec<_>>();
    let a: Vec<_> = (1..=5).map(|n| record("~a", n).id().unwrap()).collect();
    let b: Vec<_> = (11..=15).map(|n| record("~b", n).id().unwrap()).collect();
    assert_eq!(ids(&store.list("~a", None, 100).await.unwrap()), a);
    assert_eq!(ids(&store.list("~a", None, 2).await.unwrap()), a[..2]);
    assert_eq!(ids(&store.list("~a", Some(a[1]), 2).await.unwrap()), a[2..4]);
    assert_eq!(ids(&store.list("~a", Some(a[3]), 2).await.unwrap()), a[4..]);
    assert_eq!(store.list("~a", Some(a[4]), 2).await, Ok(vec![]));
    assert_eq!(store.list("~", None, 2).await, Ok(vec![]), "a prefix is another account");
    assert_eq!(ids(&store.scan(None, 100).await.unwrap()), [a.clone(), b.clone()].concat());
    assert_eq!(ids(&store.scan(Some(a[3]), 3).await.unwrap()), [a[4], b[0], b[1]]);
    let last = WebhookId::from_bytes([255; 16]);
    assert_eq!(store.scan(Some(last), 3).await, Ok(vec![]));
    store.delete(a[2], None).await.unwrap();
    assert_eq!(ids(&store.list("~a", Some(a[1]), 2).await.unwrap()), a[3..]);
    assert_eq!(ids(&store.list("~a", Some(a[2]), 2).await.unwrap()), a[3..], "after one that is gone");
}

async fn a_repeated_request_answers_what_it_made(store: &dyn Store) {
    let asked = |fingerprint: &[u8]| request("r {1}\0:é", fingerprint, NOW);
    let made = store.create(record("~a", 1), asked(b"x:\0")).await.unwrap();
    let Created::New(first) = made else { panic!("{made:?}") };
    let repeat = store.create(record("~a", 2), asked(b"x:\0")).await;
    assert_eq!(repeat, Ok(Created::Repeat(first.clone())));
    assert_eq!(store.create(record("~a", 3), asked(b"y")).await, Ok(Created::Conflict));
    assert_eq!(store.revision().await, Ok(first.revision));
    assert_eq!(store.scan(None, 10).await, Ok(vec![first.clone()]));

    store.delete(first.id().unwrap(), None).await.unwrap();
    let repeat = store.create(record("~a", 4), asked(b"x:\0")).await;
    assert_eq!(repeat, Ok(Created::Repeat(first)), "as first made, whatever has become of it");
    let other = store.create(record("~b", 5), asked(b"y")).await.unwrap();
    assert!(matches!(other, Created::New(_)), "another account's request ids are its own");
    let without = store.create(record("~a", 6), None).await.unwrap();
    assert!(matches!(without, Created::New(_)));
}

async fn a_request_id_runs_out_after_a_day(store: &dyn Store) {
    let at = |now| request("r", b"x", now);
    let next_day = NOW + REQUEST_ID_KEPT;
    store.create(record("~a", 1), at(NOW)).await.unwrap();
    let late = store.create(record("~a", 2), at(Time(next_day.0 - 1))).await.unwrap();
    assert!(matches!(late, Created::Repeat(_)), "{late:?}");
    let Created::New(again) = store.create(record("~a", 3), at(next_day)).await.unwrap() else { panic!() };
    let repeat = store.create(record("~a", 4), at(next_day + REQUEST_ID_KEPT / 2)).await;
    assert_eq!(repeat, Ok(Created::Repeat(again)), "known anew");
}

async fn concurrent_repeats_make_one_webhook(store: Arc<dyn Store>) {
    let tasks = (0..16).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.create(record("~a", n), request("r", b"x", NOW)).await.unwrap() })
    });
    let (mut new, mut ids) = (0, HashSet::new());
    for task in tasks.collect::<Vec<_>>() {
        let created = task.await.unwrap();
        new += usize::from(matches!(created, Created::New(_)));
        let (Created::New(record) | Created::Repeat(record)) = created else { panic!("the same request") };
        ids.insert(record.id().unwrap());
    }
    assert_eq!((new, ids.len()), (1, 1));
    assert_eq!(store.list("~a", None, 100).await.unwrap().len(), 1);
}

async fn an_account_is_made_once(store: Arc<dyn Store>) {
    let before = store.revision().await.unwrap();
    let tasks = (0..16).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.account("~a", &format!("key{n}"), Time(NOW.0 + n)).await.unwrap() })
    });
    let mut seen = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        seen.push(task.await.unwrap());
    }
    assert!(seen.iter().all(|account| *account == seen[0]), "one key for all");
    assert_eq!(seen[0].license_code, "~a");
    let found = store.accounts(&["~a".into(), "~b".into()]).await;
    assert_eq!(found, Ok(vec![Some(seen[0].clone()), None]));
    assert_eq!(store.accounts(&["~b".into()]).await, Ok(vec![None]), "reading makes none");
    assert_eq!(store.accounts(&[]).await, Ok(vec![]));
    assert_eq!(store.revision().await, Ok(before), "a new account is no change");
}

async fn a_rotated_key_is_a_change(store: &dyn Store) {
    let first = store.account("~a", "one", NOW).await.unwrap();
    let before = store.revision().await.unwrap();
    let second = store.rotate_account_key("~a", "two", Time(NOW.0 + 5)).await.unwrap();
    assert_eq!((second.secret_key.as_str(), second.create_time), ("two", first.create_time));
    assert_eq!(store.account("~a", "three", NOW).await, Ok(second));
    let change = Change { revision: before + 2, of: Changed::Account("~a".into()) };
    assert_eq!(store.revision().await, Ok(before + 2));
    assert_eq!(store.changes(before, 10).await, Ok(Changes::Page(vec![change.clone()])));
    assert_eq!(store.changes(before + 1, 10).await, Ok(Changes::Page(vec![change])));
    assert_eq!(store.changes(before + 2, 10).await, Ok(Changes::Page(vec![])));
    let made = store.rotate_account_key("~new", "four", NOW).await.unwrap();
    assert_eq!((made.secret_key.as_str(), made.create_time), ("four", NOW));
}

async fn every_change_is_in_the_log_once_and_in_order(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    assert_eq!(store.changes(start, 10).await, Ok(Changes::Page(vec![])));
    let tasks = (0..10).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let made = create(&*store, record("~a", n)).await;
            let id = made.id().unwrap();
            let updated = update(&*store, &made).await;
            assert_eq!(store.delete(id, None).await, Ok(Deleted::Done));
            [(made.revision, Changed::Webhook(id)), (updated.revision, Changed::Webhook(id))]
        })
    });
    let mut expected = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        expected.extend(task.await.unwrap());
    }
    let (mut seen, mut after) = (Vec::new(), start);
    loop {
        let Changes::Page(page) = store.changes(after, 7).await.unwrap() else { panic!("out of range") };
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        after = last.revision;
        seen.extend(page);
    }
    assert_eq!(after, store.revision().await.unwrap());
    let revisions: Vec<_> = seen.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, (start + 1..=start + 30).collect::<Vec<_>>(), "strictly growing, no gap");
    for (revision, of) in expected {
        assert!(seen.contains(&Change { revision, of }));
    }
    assert_eq!(seen.iter().filter(|change| matches!(change.of, Changed::Deleted(_))).count(), 10);
}

async fn the_log_is_bounded(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    assert!(start > 0, "a store starts beyond 0, which asks for everything");
    for after in [0, start - 1, start + 1, u64::MAX] {
        assert_eq!(store.changes(after, 10).await, Ok(Changes::OutOfRange), "{after}");
    }
    let mut last = create(store, record("~a", 1)).await;
    for _ in 1..LOG {
        last = update(store, &last).await;
    }
    let Changes::Page(all) = store.changes(start, 1_000).await.unwrap() else { panic!("all are kept") };
    assert_eq!(all.len() as u64, LOG);
    store.rotate_account_key("~a", "key", NOW).await.unwrap();
    assert_eq!(store.changes(start, 10).await, Ok(Changes::OutOfRange));
    let Changes::Page(kept) = store.changes(start + 1, 1_000).await.unwrap() else { panic!("still kept") };
    assert_eq!(kept.len() as u64, LOG);
}

async fn a_waiter_is_woken(store: &dyn Store) {
    let mut changed = store.changed();
    let before = *changed.borrow_and_update();
    let made = create(store, record("~a", 1)).await;
    changed.wait_for(|revision| *revision >= made.revision).await.unwrap();
    assert!(made.revision > before);
}

async fn concurrent_updates_of_one_revision_have_one_winner(store: Arc<dyn Store>) {
    let made = create(&*store, record("~a", 1)).await;
    let tasks = (0..16).map(|n| {
        let (store, mut record) = (store.clone(), made.clone());
        record.webhook.description = n.to_string();
        tokio::spawn(async move { store.update(record.clone(), record.revision).await.unwrap() })
    });
    let mut won = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Updated::Done(record) => won.push(record),
            other => assert_eq!(other, Updated::Changed),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(store.get(made.id().unwrap()).await, Ok(won.pop()));
}

/// A webhook with the `n`th id.
fn record(license_code: &str, n: u128) -> Record {
    let webhook = Webhook {
        id: WebhookId::new(NOW.0, n).to_string(),
        license_code: license_code.into(),
        post_url: "https://example.com/ä?:\r\n".into(),
        headers: [("x-key".to_string(), "secret".to_string())].into(),
        ..Webhook::default()
    };
    let present = SigningKey { secret: "whsec_one".into(), expire_time: None };
    let previous = SigningKey { secret: "whsec_two".into(), expire_time: Some(NOW.into()) };
    Record { webhook, signing_keys: vec![present, previous], revision: 0 }
}

fn request(request_id: &str, fingerprint: &[u8], now: Time) -> Option<Request> {
    Some(Request { request_id: request_id.into(), fingerprint: fingerprint.into(), now })
}

async fn create(store: &dyn Store, record: Record) -> Record {
    match store.create(record, None).await.unwrap() {
        Created::New(record) => record,
        other => panic!("{other:?}"),
    }
}

/// A change of nothing but the revision.
async fn update(store: &dyn Store, record: &Record) -> Record {
    match store.update(record.clone(), record.revision).await.unwrap() {
        Updated::Done(record) => record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_without_an_id_is_damaged_and_debug_shows_no_secret() {
    assert!(Record::default().id().is_err());
    let shown = format!("{:?}", record("~a", 1));
    assert!(!shown.contains("secret") && !shown.contains("whsec"), "{shown}");
}
