//! What becomes of a delivery when its receiver fails, asks for time, is gone for good, or its webhook
//! is paused, disabled, mended or deleted.

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
};
use proto::v1::{
    AttemptError, DeleteWebhookRequest, DeliveryPolicy, DeliveryState, GetWebhookRequest,
    PreviewDeliveryRequest, RetryDeliveryRequest, TestWebhookRequest, Webhook, WebhookState, WebhookType,
};
use tempfile::TempDir;
use tonic::Code;

const ACCOUNT: &str = "~99199077";

/// A hookline, its folder, and a receiver that answers what `status` says.
struct Stage {
    api: Api,
    receiver: Receiver,
    status: Arc<AtomicU16>,
    _hookline: Process,
    _data: TempDir,
}

impl Stage {
    async fn set(status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let now = status.clone();
        let receiver = Receiver::answering(move |_| {
            let now = now.load(Ordering::SeqCst);
            async move {
                let mut answer = answer(now);
                if now == 503 {
                    answer.headers_mut().insert("retry-after", "1".parse().unwrap());
                }
                answer
            }
        })
        .await;
        let data = tempfile::tempdir().unwrap();
        let hookline = Process::hookline(data.path(), &[]).await;
        Self { api: Api::of(&hookline), receiver, status, _hookline: hookline, _data: data }
    }

    async fn webhook(&mut self, policy: DeliveryPolicy) -> Webhook {
        let hook = webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &self.receiver.url("/"));
        self.api.create(Webhook { delivery_policy: Some(policy), ..hook }).await
    }

    async fn publish(&mut self, id: &str) -> String {
        self.api.publish(added_to_cart(ACCOUNT, id)).await.unwrap().delivery_ids[0].clone()
    }

    async fn state_of(&mut self, id: &str) -> Webhook {
        self.api.webhooks.get_webhook(GetWebhookRequest { id: id.into() }).await.unwrap().into_inner()
    }

    /// Waits until the webhook is in a state.
    async fn until(&mut self, id: &str, state: WebhookState) -> Webhook {
        let came = async {
            loop {
                let webhook = self.state_of(id).await;
                if webhook.state() == state {
                    return webhook;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), came)
            .await
            .expect("the webhook should change its state")
    }
}

fn retries(millis: &[u64]) -> DeliveryPolicy {
    let delay = |ms: &u64| prost_types::Duration {
        seconds: (*ms / 1000) as i64,
        nanos: (*ms % 1000) as i32 * 1_000_000,
    };
    DeliveryPolicy { retry_delays: millis.iter().map(delay).collect(), ..Default::default() }
}

#[tokio::test]
async fn a_failing_receiver_is_tried_again_as_the_policy_says_then_the_delivery_is_kept() {
    let mut stage = Stage::set(500).await;
    stage.webhook(retries(&[100, 200])).await;
    let id = stage.publish("one").await;
    let first = stage.receiver.next().await;
    let second = stage.receiver.next().await;
    let third = stage.receiver.next().await;
    for (earlier, later, delay) in [(&first, &second, 100), (&second, &third, 200)] {
        assert_eq!(earlier.body, later.body, "every retry sends the same bytes");
        assert_eq!(earlier.header("webhook-id"), later.header("webhook-id"));
        assert!(later.at - earlier.at >= Duration::from_millis(delay), "never early");
    }
    let failed = stage.api.until(&id, DeliveryState::Failed).await;
    assert_eq!(failed.attempt_count, 3);
    assert_eq!(
        failed.attempts.iter().map(|a| (a.number, a.http_status)).collect::<Vec<_>>(),
        [(1, 500), (2, 500), (3, 500)]
    );
    assert!(failed.attempts.iter().all(|a| a.error() == AttemptError::Status));
    assert!(failed.end_time.is_some() && failed.next_attempt_time.is_none());
    assert_eq!(failed.body, first.body, "a failed delivery keeps its body");

    // Mended, it is asked for again: its attempts count on.
    stage.status.store(200, Ordering::SeqCst);
    stage.api.deliveries.retry_delivery(RetryDeliveryRequest { id: id.clone() }).await.unwrap();
    assert_eq!(stage.receiver.next().await.body, first.body);
    let succeeded = stage.api.until(&id, DeliveryState::Succeeded).await;
    assert_eq!(succeeded.attempt_count, 4);
    let again = stage.api.deliveries.retry_delivery(RetryDeliveryRequest { id }).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn no_retries_is_one_attempt_and_no_more() {
    let mut stage = Stage::set(404).await;
    stage.webhook(DeliveryPolicy { no_retries: true, ..Default::default() }).await;
    let id = stage.publish("one").await;
    let failed = stage.api.until(&id, DeliveryState::Failed).await;
    assert_eq!(failed.attempt_count, 1);
}

#[tokio::test]
async fn retry_after_holds_the_whole_lane() {
    let mut stage = Stage::set(503).await;
    stage.webhook(retries(&[100])).await;
    let id = stage.publish("one").await;
    let first = stage.receiver.next().await;
    stage.api.until(&id, DeliveryState::Retrying).await;
    stage.status.store(200, Ordering::SeqCst);
    stage.publish("two").await;
    let next = stage.receiver.next().await;
    assert!(next.at - first.at >= Duration::from_secs(1), "{:?}", next.at - first.at);
    stage.receiver.next().await;
    stage.api.until(&id, DeliveryState::Succeeded).await;
}

#[tokio::test]
async fn gone_disables_the_webhook_and_what_waits_ends_failed_until_it_is_active_again() {
    let mut stage = Stage::set(410).await;
    let hook = stage.webhook(retries(&[60_000])).await;
    let gone = stage.publish("one").await;
    stage.receiver.next().await;
    let disabled = stage.until(&hook.id, WebhookState::Disabled).await;
    assert!(disabled.disabled_reason.contains("410"), "{}", disabled.disabled_reason);
    stage.api.until(&gone, DeliveryState::Failed).await;

    // Meanwhile events end FAILED at once, with their bodies.
    let mut n = 0;
    let late = loop {
        n += 1;
        let id = stage.publish(&format!("late{n}")).await;
        if stage.api.delivery(&id).await.end_reason() == AttemptError::Disabled {
            break id;
        }
    };
    let failed = stage.api.delivery(&late).await;
    assert_eq!(failed.state(), DeliveryState::Failed);
    assert!(!failed.body.is_empty());
    let refused =
        stage.api.deliveries.retry_delivery(RetryDeliveryRequest { id: late.clone() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "while the webhook is disabled");

    stage.status.store(200, Ordering::SeqCst);
    let active = Webhook { id: hook.id.clone(), state: WebhookState::Active as i32, ..Default::default() };
    let active = stage.api.update(active, &["state"]).await;
    assert_eq!(active.disabled_reason, "");
    let request = RetryDeliveryRequest { id: late.clone() };
    while stage.api.deliveries.retry_delivery(request.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.api.until(&late, DeliveryState::Succeeded).await;
}

#[tokio::test]
async fn a_mended_url_mends_the_backlog_and_a_deleted_webhook_cancels_it() {
    let mut stage = Stage::set(500).await;
    let hook = stage.webhook(retries(&[500, 500, 500, 500, 60_000])).await;
    let id = stage.publish("one").await;
    stage.receiver.next().await;
    let mended = Receiver::start().await;
    let change = Webhook { id: hook.id.clone(), post_url: mended.url("/mended"), ..Default::default() };
    stage.api.update(change, &["post_url"]).await;
    assert!(mended.next().await.target.starts_with("/mended?"));
    stage.api.until(&id, DeliveryState::Succeeded).await;

    let back = Webhook { id: hook.id.clone(), post_url: stage.receiver.url("/"), ..Default::default() };
    stage.api.update(back, &["post_url"]).await;
    let mut n = 0;
    let waits = loop {
        n += 1;
        let id = stage.publish(&format!("w{n}")).await;
        let delivery = stage.api.delivery(&id).await;
        if delivery.state() != DeliveryState::Succeeded && mended.arrived().await.is_empty() {
            break id;
        }
    };
    stage.api.until(&waits, DeliveryState::Retrying).await;
    let delete = DeleteWebhookRequest { id: hook.id.clone(), etag: String::new() };
    stage.api.webhooks.delete_webhook(delete).await.unwrap();
    let cancelled = stage.api.until(&waits, DeliveryState::Cancelled).await;
    assert!(cancelled.end_time.is_some());
}

#[tokio::test]
async fn a_dead_receiver_is_told_apart_from_a_failing_one() {
    let mut stage = Stage::set(200).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let policy = DeliveryPolicy { no_retries: true, ..Default::default() };
    let hook = webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &format!("http://{nobody}/"));
    stage.api.create(Webhook { delivery_policy: Some(policy), ..hook }).await;
    let id = stage.publish("one").await;
    let failed = stage.api.until(&id, DeliveryState::Failed).await;
    assert_eq!(failed.attempts[0].error(), AttemptError::Connect);
    assert!(failed.attempts[0].error_message.contains(&nobody.to_string()), "{:?}", failed.attempts[0]);
}

#[tokio::test]
async fn a_preview_shows_the_request_and_a_test_sends_it() {
    let mut stage = Stage::set(202).await;
    let mut hook = webhook(ACCOUNT, WebhookType::Feedback, &stage.receiver.url("/?a=b"));
    hook.headers.insert("x-key".into(), "a secret".into());
    let hook = stage.api.create(hook).await;
    let request = PreviewDeliveryRequest { webhook_id: hook.id.clone(), event: None };
    let preview = stage.api.deliveries.preview_delivery(request).await.unwrap().into_inner().request.unwrap();
    assert!(preview.url.contains("?a=b&eventType=FEEDBACK_SUBMIT&licenseCode=~99199077"), "{}", preview.url);
    assert_eq!(preview.headers["x-key"], "********");
    assert_eq!(preview.headers["webhook-signature"], "********");
    assert!(stage.receiver.arrived().await.is_empty(), "unsent");

    let request = TestWebhookRequest { webhook_id: hook.id, event: None };
    let tested = stage.api.deliveries.test_webhook(request).await.unwrap().into_inner();
    let received = stage.receiver.next().await;
    assert_eq!(received.header("x-key"), "a secret");
    assert_eq!(tested.request.unwrap().body, received.body);
    assert_eq!(tested.attempt.unwrap().http_status, 202);
}
