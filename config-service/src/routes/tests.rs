//! What receivers of the feed rely on, against the embedded store.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use tempfile::TempDir;
use tonic::{Code, metadata::MetadataValue};

use super::*;
use crate::store::{Created, Deleted, disk::DiskStore};

const NOW: Time = Time(1_700_000_000_000);

struct Feed {
    routes: Routes,
    store: Arc<dyn Store>,
    stop: CancellationToken,
    _folder: TempDir,
}

type Messages = BoxStream<'static, Result<WatchRoutesResponse, Status>>;

impl Feed {
    fn new(log_kept: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        let opens = move || common::disk::open(&at, "db");
        let store: Arc<dyn Store> = Arc::new(DiskStore::new(opens, Clock::by_hand(NOW), log_kept).unwrap());
        let stop = CancellationToken::new();
        let routes = Routes::new(store.clone(), Clock::by_hand(NOW), None, Gauge::default(), stop.clone());
        Self { routes, store, stop, _folder: folder }
    }

    async fn watch(&self, after_revision: u64) -> Messages {
        self.routes
            .watch_routes(Request::new(WatchRoutesRequest { after_revision }))
            .await
            .unwrap()
            .into_inner()
    }

    async fn create(&self, license_code: &str, n: u128) -> Record {
        create(&*self.store, license_code, n).await
    }

    async fn update(&self, record: &Record) -> Record {
        match self.store.update(record.clone(), record.revision).await.unwrap() {
            Updated::Done(record) => record,
            other => panic!("{other:?}"),
        }
    }

    async fn disable(&self, webhook_id: &str, revision: u64) -> bool {
        let (webhook_id, reason) = (webhook_id.to_string(), "410 Gone".to_string());
        let request = Request::new(DisableWebhookRequest { webhook_id, revision, reason });
        self.routes.disable_webhook(request).await.unwrap().into_inner().disabled
    }
}

async fn create(store: &dyn Store, license_code: &str, n: u128) -> Record {
    store.account(license_code, "account key", NOW).await.unwrap();
    let mut record = Record::default();
    record.webhook.id = WebhookId::new(NOW.0, n).to_string();
    record.webhook.license_code = license_code.into();
    record.webhook.headers.insert("x-key".into(), "in the clear".into());
    match store.create(record, None).await.unwrap() {
        Created::New(record) => record,
        other => panic!("{other:?}"),
    }
}

/// What a receiver knows: routes as the higher revision has them, and the last revision it has seen.
#[derive(Default)]
struct Receiver {
    routes: BTreeMap<String, (u64, Option<Route>)>,
    last: u64,
}

impl Receiver {
    /// Takes one message; gives the revision if it is `synced`.
    fn take(&mut self, message: WatchRoutesResponse) -> Option<u64> {
        let revision = message.revision;
        self.last = self.last.max(revision);
        let (id, route) = match message.change.unwrap() {
            Sent::Put(route) => (route.webhook.as_ref().unwrap().id.clone(), Some(route)),
            Sent::DeletedWebhookId(id) => (id, None),
            Sent::Synced(_) => return Some(revision),
            other => panic!("{other:?}"),
        };
        let known = self.routes.entry(id).or_default();
        if revision > known.0 {
            *known = (revision, route);
        }
        None
    }

    async fn until_synced(&mut self, messages: &mut Messages) -> u64 {
        loop {
            if let Some(revision) = self.take(messages.next().await.unwrap().unwrap()) {
                return revision;
            }
        }
    }

    fn ids(&self) -> Vec<String> {
        self.routes.iter().filter(|(_, (_, route))| route.is_some()).map(|(id, _)| id.clone()).collect()
    }
}

#[tokio::test]
async fn a_start_from_0_sends_all_routes_with_their_secrets_and_then_synced() {
    let feed = Feed::new(10);
    let mut messages = feed.watch(0).await;
    let empty = Receiver::default().until_synced(&mut messages).await;
    assert_eq!(Ok(empty), feed.store.revision().await, "an empty store is synced too");

    let mut record = feed.create("~a", 1).await;
    let key = |secret: &str, end: Option<i64>| SigningKey {
        secret: secret.into(),
        expire_time: end.map(|end| Time(end).into()),
    };
    let keys = [key("present", None), key("still", Some(NOW.0 + 1)), key("ended", Some(NOW.0))];
    record.signing_keys = keys.to_vec();
    let record = feed.update(&record).await;
    // More than two pages, and more than the log keeps.
    for n in 2..=2 * PAGE as u128 + 1 {
        feed.create("~b", n).await;
    }
    let (mut receiver, mut messages) = (Receiver::default(), feed.watch(0).await);
    let synced = receiver.until_synced(&mut messages).await;
    assert_eq!(Ok(synced), feed.store.revision().await);
    assert_eq!(receiver.routes.len(), 2 * PAGE + 1);
    let (revision, route) = &receiver.routes[&record.webhook.id];
    let route = route.as_ref().unwrap();
    assert_eq!(*revision, record.revision);
    assert_eq!(route.webhook.as_ref(), Some(&record.webhook));
    assert_eq!(route.signing_keys, keys[..2]);
    assert_eq!(route.account_secret_key, "account key");
}

#[tokio::test]
async fn changes_are_sent_as_they_happen() {
    let feed = Feed::new(100);
    let (mut receiver, mut messages) = (Receiver::default(), feed.watch(0).await);
    receiver.until_synced(&mut messages).await;
    let made = feed.create("~a", 1).await;
    assert_eq!(receiver.until_synced(&mut messages).await, made.revision);
    assert_eq!(receiver.ids(), std::slice::from_ref(&made.webhook.id));
    let updated = feed.update(&made).await;
    assert_eq!(receiver.until_synced(&mut messages).await, updated.revision);
    assert_eq!(receiver.routes[&made.webhook.id].0, updated.revision);
    assert_eq!(feed.store.delete(made.id().unwrap(), None).await, Ok(Deleted::Done));
    assert_eq!(receiver.until_synced(&mut messages).await, updated.revision + 1);
    assert_eq!(receiver.ids(), Vec::<String>::new());
}

#[tokio::test]
async fn a_resumed_stream_sends_what_has_changed_since_and_synced() {
    let feed = Feed::new(100);
    let (kept, dropped) = (feed.create("~a", 1).await, feed.create("~a", 2).await);
    let seen = feed.store.revision().await.unwrap();
    let kept = feed.update(&kept).await;
    let kept = feed.update(&kept).await;
    feed.store.delete(dropped.id().unwrap(), None).await.unwrap();
    let (mut receiver, mut messages) = (Receiver::default(), feed.watch(seen).await);
    let synced = receiver.until_synced(&mut messages).await;
    assert_eq!(synced, seen + 3);
    assert_eq!(receiver.routes[&kept.webhook.id].0, kept.revision);
    assert_eq!(receiver.routes[&dropped.webhook.id], (seen + 3, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_cut_off_anywhere_misses_nothing_while_writes_go_on() {
    let feed = Feed::new(100_000);
    for n in 0..5 {
        feed.create("~a", n).await;
    }
    let store = feed.store.clone();
    let writing = tokio::spawn(async move {
        for n in 5..60 {
            let record = create(&*store, "~a", n).await;
            store.update(record.clone(), record.revision).await.unwrap();
            if n % 3 == 0 {
                store.delete(record.id().unwrap(), None).await.unwrap();
            }
            if n % 5 == 0 {
                store.rotate_account_key("~a", &format!("key {n}"), NOW).await.unwrap();
            }
        }
    });
    let (mut receiver, mut messages) = (Receiver::default(), feed.watch(0).await);
    receiver.until_synced(&mut messages).await;
    let mut cut = 1;
    while !writing.is_finished() {
        // Cut off after 1, 2, 3 … messages; resumed at the highest revision seen.
        messages = feed.watch(receiver.last).await;
        for _ in 0..cut {
            if receiver.take(messages.next().await.unwrap().unwrap()).is_some() {
                break;
            }
        }
        cut = cut % 7 + 1;
    }
    writing.await.unwrap();
    messages = feed.watch(receiver.last).await;
    let synced = receiver.until_synced(&mut messages).await;
    assert_eq!(Ok(synced), feed.store.revision().await);
    let stored = feed.store.list("~a", None, 1_000).await.unwrap();
    assert_eq!(receiver.ids(), stored.iter().map(|record| record.webhook.id.clone()).collect::<Vec<_>>());
    for record in stored {
        let route = receiver.routes[&record.webhook.id].1.clone().unwrap();
        assert_eq!(route.webhook, Some(record.webhook));
        assert_eq!(route.account_secret_key, "key 55");
    }
}

#[tokio::test]
async fn a_rotated_account_key_comes_as_puts_of_its_webhooks_that_are_resumed_whole() {
    let feed = Feed::new(100);
    let routes = PAGE as u128 + 10;
    let other = feed.create("~b", 0).await;
    for n in 1..=routes {
        feed.create("~a", n).await;
    }
    let seen = feed.store.revision().await.unwrap();
    feed.store.rotate_account_key("~a", "another", NOW).await.unwrap();
    let (mut receiver, mut messages) = (Receiver::default(), feed.watch(seen).await);
    receiver.take(messages.next().await.unwrap().unwrap());
    assert!(receiver.last > seen && receiver.routes.len() == 1);

    messages = feed.watch(receiver.last).await;
    assert_eq!(receiver.until_synced(&mut messages).await, seen + 2);
    assert_eq!(receiver.routes.len(), routes as usize);
    assert!(!receiver.routes.contains_key(&other.webhook.id));
    for (_, route) in receiver.routes.values() {
        assert_eq!(route.as_ref().unwrap().account_secret_key, "another");
    }
}

#[tokio::test]
async fn a_revision_that_is_not_kept_or_not_reached_is_out_of_range() {
    let feed = Feed::new(3);
    let start = feed.store.revision().await.unwrap();
    for n in 0..4 {
        feed.create("~a", n).await;
    }
    for after in [1, start, start + 5, u64::MAX] {
        let status = feed.watch(after).await.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{after}");
    }
    let (mut receiver, mut messages) = (Receiver::default(), feed.watch(start + 1).await);
    assert_eq!(receiver.until_synced(&mut messages).await, start + 4);
}

#[tokio::test]
async fn a_quiet_stream_shows_that_it_lives_and_ends_with_the_service() {
    let mut feed = Feed::new(10);
    feed.routes.sign_of_life = Duration::from_millis(20);
    let (mut receiver, mut messages) = (Receiver::default(), feed.watch(0).await);
    let first = receiver.until_synced(&mut messages).await;
    assert_eq!(receiver.until_synced(&mut messages).await, first);
    assert_eq!(receiver.until_synced(&mut messages).await, first);
    feed.stop.cancel();
    let last = loop {
        if let Err(status) = messages.next().await.unwrap() {
            break status;
        }
    };
    assert_eq!(last.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_webhook_is_disabled_unless_it_has_changed_since() {
    let feed = Feed::new(10);
    let made = feed.create("~a", 1).await;
    let (id, name) = (made.id().unwrap(), made.webhook.id.as_str());
    let changed = feed.update(&made).await;
    assert!(!feed.disable(name, made.revision).await, "changed since");
    assert_eq!(feed.store.get(id).await, Ok(Some(changed.clone())));
    assert!(feed.disable(name, changed.revision).await);
    let stored = feed.store.get(id).await.unwrap().unwrap();
    assert_eq!(stored.webhook.state(), WebhookState::Disabled);
    assert_eq!(stored.webhook.disabled_reason, "410 Gone");
    assert_eq!(stored.webhook.update_time, Some(NOW.into()));
    assert!(feed.disable(name, stored.revision).await, "it is");
    assert_eq!(feed.store.get(id).await, Ok(Some(stored)), "and is not changed again");
    feed.store.delete(id, None).await.unwrap();
    assert!(!feed.disable(name, u64::MAX).await, "gone");
    assert!(!feed.disable("no id", u64::MAX).await);
    let status = feed.routes.disable_webhook(Request::new(DisableWebhookRequest::default())).await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn where_there_is_a_token_it_is_asked_for() {
    let mut feed = Feed::new(10);
    feed.routes.token = Some("right".parse().unwrap());
    for (shown, expected) in [
        (None, Code::Unauthenticated),
        (Some("Bearer wrong"), Code::Unauthenticated),
        (Some("Bearer rightly"), Code::Unauthenticated),
        (Some("Bearer "), Code::Unauthenticated),
        (Some("right"), Code::Unauthenticated),
        (Some("Basic right"), Code::Unauthenticated),
        (Some("Bearer right"), Code::Ok),
        (Some("bearer right"), Code::Ok),
    ] {
        let mut watch = Request::new(WatchRoutesRequest::default());
        let mut disable =
            Request::new(DisableWebhookRequest { webhook_id: "x".into(), ..Default::default() });
        if let Some(shown) = shown {
            watch.metadata_mut().insert("authorization", MetadataValue::from_static(shown));
            disable.metadata_mut().insert("authorization", MetadataValue::from_static(shown));
        }
        let code = |refused: Option<Status>| refused.map_or(Code::Ok, |status| status.code());
        assert_eq!(code(feed.routes.watch_routes(watch).await.err()), expected, "{shown:?}");
        assert_eq!(code(feed.routes.disable_webhook(disable).await.err()), expected, "{shown:?}");
    }
}
