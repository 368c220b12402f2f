//! What callers and a watcher of routes may rely on while calls to the store fail by chance: callers that
//! repeat what was UNAVAILABLE get what they asked for, once, and the watcher knows what is stored.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{
    clock::{Clock, Time},
    metrics::Gauge,
    service::{self, Services},
};
use config_service::{
    accounts::Accounts,
    routes::Routes,
    store::{Changes, LOG_KEPT, Store, disk::DiskStore},
    webhooks::Webhooks,
};
use futures_util::future::join_all;
use proto::v1::{
    DeleteWebhookRequest, DisableWebhookRequest, GetAccountRequest, ListWebhooksRequest,
    RotateSecretKeyRequest, RotateSigningSecretRequest, Route, UpdateWebhookRequest, WebhookState,
    account_service_server::AccountServiceServer, route_service_client::RouteServiceClient,
    route_service_server::RouteServiceServer, webhook_service_server::WebhookServiceServer,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::watch;
use tonic::Response;

use super::*;
use crate::{faulty::Faulty, watcher::Watcher};

const CALLERS: u64 = 4;
const CALLS: u32 = 120;
/// Of calls to the store, in each way that they can fail.
const PERCENT: u32 = 6;
/// How long the watcher may take to hear of the last change.
const PATIENCE: Duration = Duration::from_secs(20);

/// The services on one store.
async fn serve(store: Arc<dyn Store>, stop: CancellationToken) -> Started {
    let clock = Clock::System;
    let webhooks = Webhooks::new(store.clone(), Arc::new(Rules::default()), clock.clone());
    let accounts = Accounts::new(store.clone(), clock.clone());
    let routes = Routes::new(store, clock, None, Gauge::default(), stop.clone());
    let services = Services::default()
        .with(WebhookServiceServer::new(webhooks))
        .with(AccountServiceServer::new(accounts))
        .with(RouteServiceServer::new(routes));
    let ready = service::ready_when(|| async { true }, stop.clone());
    service::serve("127.0.0.1:0".parse().unwrap(), services, ready, stop).await.unwrap()
}

/// That it is UNAVAILABLE and says when to come again.
pub fn is_away(status: &Status) -> bool {
    let retry = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
    status.code() == Code::Unavailable && retry.is_some_and(|delay| delay > Duration::ZERO)
}

/// Repeats a call until it is answered otherwise than by UNAVAILABLE; whether it was repeated.
async fn repeated<T>(
    mut call: impl AsyncFnMut() -> Result<Response<T>, Status>,
) -> (Result<T, Status>, bool) {
    let mut repeated = false;
    loop {
        match call().await {
            Err(status) if is_away(&status) => repeated = true,
            answer => return (answer.map(Response::into_inner), repeated),
        }
    }
}

/// One who changes webhooks of its own, in an account that others share.
struct Caller {
    webhooks: WebhookServiceClient<Channel>,
    accounts: AccountServiceClient<Channel>,
    routes: RouteServiceClient<Channel>,
    license_code: String,
    name: u64,
    chance: StdRng,
    /// As last answered.
    own: BTreeMap<String, Webhook>,
    rotated: Vec<String>,
}

impl Caller {
    fn new(channel: Channel, name: u64, seed: u64) -> Self {
        Self {
            webhooks: WebhookServiceClient::new(channel.clone()),
            accounts: AccountServiceClient::new(channel.clone()),
            routes: RouteServiceClient::new(channel),
            license_code: format!("~{}", name % 2),
            name,
            chance: StdRng::seed_from_u64(seed.wrapping_add(name)),
            own: BTreeMap::new(),
            rotated: Vec::new(),
        }
    }

    /// Calls at random; gives back what should be stored.
    async fn run(mut self) -> BTreeMap<String, Webhook> {
        for n in 0..CALLS {
            let count = self.own.len();
            let some = self.own.values().nth(self.chance.random_range(0..count.max(1))).cloned();
            match (self.chance.random_range(0..100), some) {
                (0..25, _) | (_, None) => self.create(n).await,
                (25..60, Some(webhook)) => self.update(webhook, n).await,
                (60..75, Some(webhook)) => self.delete(webhook).await,
                (75..85, Some(webhook)) => self.disable(webhook).await,
                (85..91, Some(webhook)) => self.rotate(webhook).await,
                (91..94, _) => self.rotate_account().await,
                (_, Some(webhook)) => self.read(&webhook.id).await,
            }
        }
        self.own
    }

    async fn create(&mut self, n: u32) {
        let asked = Webhook {
            license_code: self.license_code.clone(),
            description: format!("{} made {n}", self.name),
            headers: BTreeMap::from([("x-key".into(), format!("secret {n}"))]),
            ..webhook()
        };
        let request = CreateWebhookRequest {
            webhook: Some(asked.clone()),
            request_id: format!("{} {n}", self.name),
            validate_only: false,
        };
        let made = repeated(async || self.webhooks.create_webhook(request.clone()).await).await.0.unwrap();
        assert_eq!(made.description, asked.description);
        let other = Webhook { description: "other".into(), ..asked };
        let other = CreateWebhookRequest { webhook: Some(other), ..request };
        let refused =
            repeated(async || self.webhooks.create_webhook(other.clone()).await).await.0.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
        assert_eq!(self.own.insert(made.id.clone(), made), None, "made once");
    }

    async fn update(&mut self, known: Webhook, n: u32) {
        let guarded = self.chance.random_bool(0.5);
        let webhook = Webhook {
            id: known.id.clone(),
            etag: if guarded { known.etag.clone() } else { String::new() },
            description: format!("{} changed {n}", self.name),
            state: WebhookState::Active.into(),
            ..Webhook::default()
        };
        let paths = ["description", "state"].map(String::from).to_vec();
        let request = UpdateWebhookRequest {
            webhook: Some(webhook.clone()),
            update_mask: Some(prost_types::FieldMask { paths }),
            validate_only: false,
        };
        let (answer, again) = repeated(async || self.webhooks.update_webhook(request.clone()).await).await;
        let now = match answer {
            Ok(now) => now,
            Err(status) => {
                // Performed, and the answer was lost: a repeat meets the new etag.
                assert!(status.code() == Code::Aborted && guarded && again, "{status:?}");
                self.get(&known.id).await
            }
        };
        assert_eq!((&now.description, now.state()), (&webhook.description, WebhookState::Active));
        assert_ne!(now.etag, known.etag);
        self.own.insert(known.id, now);
    }

    async fn delete(&mut self, known: Webhook) {
        let etag = if self.chance.random_bool(0.5) { known.etag } else { String::new() };
        let request = DeleteWebhookRequest { id: known.id.clone(), etag };
        let (answer, again) = repeated(async || self.webhooks.delete_webhook(request.clone()).await).await;
        if let Err(status) = answer {
            assert!(status.code() == Code::NotFound && again, "{status:?}");
        }
        let request = GetWebhookRequest { id: known.id.clone() };
        let gone = repeated(async || self.webhooks.get_webhook(request.clone()).await).await.0.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound);
        self.own.remove(&known.id);
    }

    /// As delivery-service does it.
    async fn disable(&mut self, known: Webhook) {
        let revision = u64::from_str_radix(&known.etag, 16).unwrap();
        let request =
            DisableWebhookRequest { webhook_id: known.id.clone(), revision, reason: "410 Gone".into() };
        let (answer, again) = repeated(async || self.routes.disable_webhook(request.clone()).await).await;
        assert!(answer.unwrap().disabled || again, "nobody else has changed it");
        let now = self.get(&known.id).await;
        assert_eq!((now.state(), now.disabled_reason.as_str()), (WebhookState::Disabled, "410 Gone"));
        self.own.insert(known.id, now);
    }

    /// Once a webhook: each repeat may be a key more, and there are five at most.
    async fn rotate(&mut self, known: Webhook) {
        if self.rotated.contains(&known.id) {
            return;
        }
        self.rotated.push(known.id.clone());
        let request = RotateSigningSecretRequest { webhook_id: known.id.clone() };
        let (answer, again) =
            repeated(async || self.webhooks.rotate_signing_secret(request.clone()).await).await;
        match answer {
            Ok(keys) => assert!(keys.previous.len() == 1 || again, "{} before it", keys.previous.len()),
            Err(status) => {
                assert!(status.code() == Code::FailedPrecondition && again, "{status:?}");
            }
        }
        let now = self.get(&known.id).await;
        self.own.insert(known.id, now);
    }

    async fn rotate_account(&mut self) {
        let request = RotateSecretKeyRequest { license_code: self.license_code.clone() };
        let rotated =
            repeated(async || self.accounts.rotate_secret_key(request.clone()).await).await.0.unwrap();
        assert_eq!(rotated.secret_key.len(), 32);
    }

    /// What only this one changes is as it left it.
    async fn read(&mut self, id: &str) {
        assert_eq!(self.get(id).await, self.own[id]);
        let request = GetAccountRequest { license_code: self.license_code.clone() };
        repeated(async || self.accounts.get_account(request.clone()).await).await.0.unwrap();
        let request = ListWebhooksRequest {
            license_code: self.license_code.clone(),
            page_size: 1_000,
            ..Default::default()
        };
        let listed =
            repeated(async || self.webhooks.list_webhooks(request.clone()).await).await.0.unwrap().webhooks;
        let mine = format!("{} ", self.name);
        let listed = listed.into_iter().filter(|webhook| webhook.description.starts_with(&mine));
        assert!(listed.eq(self.own.values().cloned()), "as they were left, in the order of creation");
    }

    async fn get(&mut self, id: &str) -> Webhook {
        let request = GetWebhookRequest { id: id.into() };
        repeated(async || self.webhooks.get_webhook(request.clone()).await).await.0.unwrap()
    }
}

/// All routes as the store has them.
async fn stored(store: &dyn Store) -> BTreeMap<String, Route> {
    let mut routes = BTreeMap::new();
    for record in store.scan(None, usize::MAX).await.unwrap() {
        let account = store.accounts(std::slice::from_ref(&record.webhook.license_code)).await.unwrap();
        let account_secret_key = account[0].as_ref().unwrap().secret_key.clone();
        let id = record.webhook.id.clone();
        let (webhook, signing_keys) = (Some(record.webhook), record.signing_keys);
        routes.insert(id, Route { webhook, signing_keys, account_secret_key });
    }
    routes
}

async fn nothing_is_missed(seed: u64) {
    println!("seed {seed} (SEED={seed} repeats it)");
    let folder = tempfile::tempdir().unwrap();
    let (at, clock) = (folder.path().to_owned(), Clock::by_hand(Time(1_700_000_000_000)));
    let opens = move || common::disk::open(&at, "db");
    let disk: Arc<dyn Store> = Arc::new(DiskStore::new(opens, clock, LOG_KEPT).unwrap());
    let born = disk.revision().await.unwrap();
    let stop = CancellationToken::new();
    let started = serve(Arc::new(Faulty::new(disk.clone(), seed, PERCENT)), stop.clone()).await;
    let url = format!("http://{}", started.address);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();

    let (ended, end) = watch::channel(0);
    let client = RouteServiceClient::new(channel.clone());
    let watching = tokio::spawn(Watcher::default().follow(client.clone(), end.clone()));
    let callers = (0..CALLERS).map(|name| Caller::new(channel.clone(), name, seed).run());
    let expected: BTreeMap<_, _> = join_all(callers).await.into_iter().flatten().collect();
    ended.send_replace(disk.revision().await.unwrap());

    let late = Watcher::default().follow(client, end);
    let (watcher, late) = tokio::time::timeout(PATIENCE, async { (watching.await.unwrap(), late.await) })
        .await
        .expect("watchers should hear of the last change");
    let stored = stored(&*disk).await;
    for watcher in [&watcher, &late] {
        assert!(watcher.routes == stored, "what is known is not what is stored");
    }
    assert!(stored.keys().eq(expected.keys()), "what was made and not deleted, once");
    let Changes::Page(log) = disk.changes(born, usize::MAX).await.unwrap() else { panic!("a whole log") };
    watcher.check(&log);
    println!("{} changes, {} came, over {} breaks", log.len(), watcher.came.len(), watcher.breaks);
    assert!(watcher.breaks > 0 && !watcher.came.is_empty());
    drop(channel);
    stop.cancel();
    started.finished().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_repeat_themselves_and_watchers_that_resume_have_what_is_stored() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        return nothing_is_missed(seed).await;
    }
    let runs = if std::env::var_os("HOOKLINE_LONG").is_some() { 100 } else { 3 };
    for _ in 0..runs {
        nothing_is_missed(rand::random()).await;
    }
}
