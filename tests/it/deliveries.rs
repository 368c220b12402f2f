//! What operators do with a webhook's deliveries: see how they stand, withdraw what waits, retry what
//! has failed, watch what changes. On the embedded store and on Redis.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    process::Process,
    receiver::{Receiver, answer},
    redis::{Cluster, Redis},
};
use proto::v1::{
    CancelDeliveriesRequest, Delivery, DeliveryPolicy, DeliveryState, GetWebhookStatusRequest,
    ListDeliveriesRequest, RetryDeliveriesRequest, WatchDeliveriesRequest, Webhook, WebhookState,
    WebhookStatus, WebhookType,
};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

const ACCOUNT: &str = "~99199077";

/// config-service, delivery-services on one store, and a receiver that answers what `status` says, as
/// long as `passes` lets it.
struct Stage {
    api: Api,
    receiver: Receiver,
    status: Arc<AtomicU16>,
    passes: Arc<Semaphore>,
    store: Vec<String>,
    config: Process,
    deliveries: Vec<Process>,
}

impl Stage {
    async fn set(store: &[&str], replicas: usize) -> Self {
        let (status, passes) = (Arc::new(AtomicU16::new(200)), Arc::new(Semaphore::new(1_000)));
        let (now, gate) = (status.clone(), passes.clone());
        let receiver = Receiver::answering(move |_| {
            let (now, gate) = (now.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                answer(now.load(Ordering::SeqCst))
            }
        })
        .await;
        let config = Process::config("127.0.0.1:0", store).await;
        let mut deliveries = Vec::new();
        for _ in 0..replicas {
            deliveries.push(Process::delivery("127.0.0.1:0", config.config_address(), store).await);
        }
        let api = Api::new(config.config_address(), deliveries[0].delivery_address());
        let store = store.iter().map(ToString::to_string).collect();
        Self { api, receiver, status, passes, store, config, deliveries }
    }

    async fn webhook(&mut self, policy: DeliveryPolicy) -> String {
        let hook = webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &self.receiver.url("/"));
        self.api.create(Webhook { delivery_policy: Some(policy), ..hook }).await.id
    }

    async fn publish(&mut self, count: usize, prefix: &str) -> Vec<String> {
        let mut ids = Vec::new();
        for n in 0..count {
            let event = added_to_cart(ACCOUNT, &format!("{prefix}{n}"));
            ids.push(self.api.publish_patiently(event).await.delivery_ids[0].clone());
        }
        ids
    }

    async fn all_until(&mut self, ids: &[String], state: DeliveryState) -> Vec<Delivery> {
        let mut all = Vec::new();
        for id in ids {
            all.push(self.api.until(id, state).await);
        }
        all
    }

    async fn cancel(&mut self, hook: &str, ids: &[&str]) -> i64 {
        let request = CancelDeliveriesRequest {
            webhook_id: hook.into(),
            delivery_ids: ids.iter().map(ToString::to_string).collect(),
        };
        self.api.deliveries.cancel_deliveries(request).await.unwrap().into_inner().cancelled_count
    }

    async fn retry_all(&mut self, hook: &str) -> Result<i64, Status> {
        let request = RetryDeliveriesRequest { webhook_id: hook.into(), start_time: None, end_time: None };
        Ok(self.api.deliveries.retry_deliveries(request).await?.into_inner().retried_count)
    }

    async fn stands(&mut self, hook: &str) -> WebhookStatus {
        let request = GetWebhookStatusRequest { webhook_id: hook.into() };
        self.api.deliveries.get_webhook_status(request).await.unwrap().into_inner()
    }

    async fn state(&mut self, hook: &str, state: WebhookState) {
        let webhook = Webhook { id: hook.into(), state: state as i32, ..Default::default() };
        self.api.update(webhook, &["state"]).await;
    }
}

/// Retries after a minute, so many under way at once.
fn policy(max_in_flight: i32) -> DeliveryPolicy {
    let minute = prost_types::Duration { seconds: 60, nanos: 0 };
    DeliveryPolicy { retry_delays: vec![minute], max_in_flight, ..Default::default() }
}

/// What waits is withdrawn, in memory and in the store; what is under way is decided by its outcome.
async fn withdraws(mut stage: Stage, other: Option<Api>) {
    let remote = other.is_some();
    let hook = stage.webhook(policy(1)).await;
    stage.passes.forget_permits(1_000);
    let ids = stage.publish(6, "a").await;
    let first = stage.receiver.next().await;
    assert_eq!(first.header("webhook-id"), ids[0]);
    let status = stage.stands(&hook).await;
    assert_eq!((status.backlog_count, status.failed_count), (6, 0));
    assert!(status.oldest_age.is_some());

    assert_eq!(stage.cancel(&hook, &[&ids[1], "no-id", &ids[2]]).await, 2);
    let mut at_holder = stage.api.clone();
    if let Some(other) = other {
        stage.api = other;
    }
    assert_eq!(stage.cancel(&hook, &[]).await, 4, "the one that is under way too");
    stage.all_until(&ids, DeliveryState::Cancelled).await;
    if remote {
        // The replica that has them in memory has heard of it.
        stage.deliveries[0].line("withdrawn at another replica").await;
    }
    stage.passes.add_permits(100);
    // The attempt that was under way has succeeded after all.
    stage.api.until(&ids[0], DeliveryState::Succeeded).await;
    let later = at_holder.publish(added_to_cart(ACCOUNT, "later")).await.unwrap().delivery_ids[0].clone();
    assert_eq!(stage.receiver.next().await.header("webhook-id"), later, "no other was sent");
    stage.api.until(&later, DeliveryState::Succeeded).await;
    stage.all_until(&ids[1..], DeliveryState::Cancelled).await;
    assert_eq!(stage.stands(&hook).await.backlog_count, 0);

    // One that failed once and waits for its retry; one that fails while it is withdrawn.
    stage.status.store(500, Ordering::SeqCst);
    let waits = stage.publish(1, "b").await;
    stage.all_until(&waits, DeliveryState::Retrying).await;
    stage.passes.forget_permits(1_000);
    stage.receiver.arrived().await;
    let fails = stage.publish(1, "c").await;
    assert_eq!(stage.receiver.next().await.header("webhook-id"), fails[0]);
    assert_eq!(stage.cancel(&hook, &[]).await, 2);
    stage.passes.add_permits(100);
    let ended = async {
        while stage.api.delivery(&fails[0]).await.attempt_count == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the attempt is shown");
    let ended = stage.all_until(&[fails[0].clone(), waits[0].clone()], DeliveryState::Cancelled).await;
    assert!(ended.iter().all(|d| d.attempt_count == 1 && d.end_time.is_some()));

    let unknown = CancelDeliveriesRequest { webhook_id: "wh_none".into(), ..Default::default() };
    let refused = stage.api.deliveries.cancel_deliveries(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

/// All that has failed is retried, through a kill -9, one call at a time.
async fn retries(mut stage: Stage) {
    let hook = stage.webhook(policy(50)).await;
    // Gone: what waits fails, and so does what comes.
    stage.status.store(410, Ordering::SeqCst);
    let ids = stage.publish(230, "a").await;
    stage.all_until(&ids, DeliveryState::Failed).await;
    assert_eq!(stage.stands(&hook).await.failed_count, 230);
    assert_eq!(stage.retry_all(&hook).await.unwrap_err().code(), Code::FailedPrecondition, "disabled");

    // Nothing goes on while the webhook is paused.
    stage.status.store(200, Ordering::SeqCst);
    stage.state(&hook, WebhookState::Paused).await;
    let paused = async {
        loop {
            match stage.retry_all(&hook).await {
                Ok(count) => return count,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), paused).await.expect("paused"), 230);
    let second = stage.retry_all(&hook).await.unwrap_err();
    assert_eq!(second.code(), Code::FailedPrecondition);
    let store: Vec<_> = stage.store.iter().map(String::as_str).collect();
    stage.deliveries.remove(0).kill();
    let config = stage.config.config_address();
    stage.deliveries.push(Process::delivery("127.0.0.1:0", config, &store).await);
    stage.api = Api::new(config, stage.deliveries[0].delivery_address());
    stage.state(&hook, WebhookState::Active).await;

    let first = std::time::Instant::now();
    // Live ones have room meanwhile.
    let live = stage.publish(1, "live").await;
    stage.all_until(&live, DeliveryState::Succeeded).await;
    let list = ListDeliveriesRequest { license_code: ACCOUNT.into(), page_size: 1_000, ..Default::default() };
    let over = async {
        loop {
            let all = stage.api.all(list.clone()).await;
            if all.iter().all(|d| d.state() == DeliveryState::Succeeded) {
                return all.len();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), over).await.expect("all succeed"), 231);
    assert!(first.elapsed() > Duration::from_secs(1), "in three steps, a second apart");
    assert_eq!(stage.stands(&hook).await.failed_count, 0);
    assert_eq!(stage.retry_all(&hook).await.unwrap(), 0);
    let unknown = RetryDeliveriesRequest { webhook_id: "wh_none".into(), ..Default::default() };
    let refused = stage.api.deliveries.retry_deliveries(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

/// What changes at one replica is seen at another, until that one stops.
async fn watches(mut stage: Stage) {
    let hook = stage.webhook(policy(50)).await;
    let asked = stage.deliveries.last().unwrap().delivery_address();
    let mut other = Api::new(stage.config.config_address(), asked);
    let request = |webhook_id: &str| WatchDeliveriesRequest {
        license_code: ACCOUNT.into(),
        webhook_id: webhook_id.into(),
        ..Default::default()
    };
    let mut changes = other.deliveries.watch_deliveries(request(&hook)).await.unwrap().into_inner();
    let ids = stage.publish(300, "a").await;
    let mut seen = std::collections::HashMap::<String, Vec<DeliveryState>>::new();
    let all = async {
        while seen.values().filter(|states| states.contains(&DeliveryState::Succeeded)).count() < ids.len() {
            let change = changes.message().await.unwrap().unwrap();
            assert!(change.body.is_empty() && change.webhook_id == hook);
            seen.entry(change.id.clone()).or_default().push(change.state());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("every change is seen");
    for id in &ids {
        assert!(seen[id].contains(&DeliveryState::Pending), "{:?}", seen[id]);
    }
    let stopping = stage.deliveries.pop().unwrap();
    stopping.signal("TERM");
    let end = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Err(status) = changes.message().await {
                return status;
            }
        }
    });
    assert_eq!(end.await.expect("the watch ends").code(), Code::Unavailable);
}

#[tokio::test]
async fn changes_are_watched_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    watches(Stage::set(&["--data-dir", data.path().to_str().unwrap()], 1).await).await;
}

#[tokio::test]
async fn changes_at_another_replica_are_watched_on_redis() {
    let redis = Redis::start().await;
    watches(Stage::set(&["--redis-url", &redis.url()], 2).await).await;
}

#[tokio::test]
async fn changes_at_another_replica_are_watched_on_a_cluster() {
    let cluster = Cluster::start(3).await;
    watches(Stage::set(&["--redis-url", &cluster.url()], 2).await).await;
}

#[tokio::test]
async fn what_waits_is_withdrawn_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    withdraws(Stage::set(&["--data-dir", data.path().to_str().unwrap()], 1).await, None).await;
}

#[tokio::test]
async fn what_waits_is_withdrawn_on_redis() {
    let redis = Redis::start().await;
    withdraws(Stage::set(&["--redis-url", &redis.url()], 1).await, None).await;
}

#[tokio::test]
async fn what_waits_is_withdrawn_by_another_replica() {
    let redis = Redis::start().await;
    let stage = Stage::set(&["--redis-url", &redis.url()], 2).await;
    let other = Api::new(stage.config.config_address(), stage.deliveries[1].delivery_address());
    withdraws(stage, Some(other)).await;
}

#[tokio::test]
async fn what_has_failed_is_retried_on_the_embedded_store() {
    let data = tempfile::tempdir().unwrap();
    retries(Stage::set(&["--data-dir", data.path().to_str().unwrap()], 1).await).await;
}

#[tokio::test]
async fn what_has_failed_is_retried_on_redis() {
    let redis = Redis::start().await;
    retries(Stage::set(&["--redis-url", &redis.url()], 2).await).await;
}
