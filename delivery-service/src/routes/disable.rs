//! Turns webhooks off at config-service, and does not let go before it has answered. The lane of one whose
//! receiver is gone stands still until its route has changed: that is the engine's to see to.
//!
//! What waits to be asked is one entry a webhook. When config-service is away, one call finds out, not
//! one a webhook.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use common::ids::WebhookId;
use parking_lot::Mutex;
use proto::v1::DisableWebhookRequest;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{info, warn};

use super::{
    table::Table,
    upstream::{Backoff, Client, Upstream},
};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Webhooks that are to be turned off.
#[derive(Debug)]
pub struct Disabling {
    asked: Mutex<HashMap<WebhookId, Asked>>,
    more: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    revision: u64,
    reason: String,
}

impl Disabling {
    /// Works until `stop`.
    pub fn start(upstream: Upstream, table: Arc<Table>, stop: CancellationToken) -> Arc<Self> {
        let disabling = Arc::new(Self { asked: Mutex::default(), more: Notify::new() });
        let working = Arc::clone(&disabling);
        tokio::spawn(async move { stop.run_until_cancelled(working.work(&upstream, &table)).await });
        disabling
    }

    /// Turns a webhook off unless it has changed after `revision`. `reason`, in words, becomes its
    /// `disabled_reason`. Asked twice, the later revision stands.
    pub fn disable(&self, id: WebhookId, revision: u64, reason: impl Into<String>) {
        let asked = Asked { revision, reason: reason.into() };
        let mut all = self.asked.lock();
        if all.get(&id).is_none_or(|before| before.revision < revision) {
            all.insert(id, asked);
            self.more.notify_one();
        }
    }

    /// Whether it was asked for and not answered yet.
    pub fn is_asked(&self, id: WebhookId) -> bool {
        self.asked.lock().contains_key(&id)
    }

    async fn work(&self, upstream: &Upstream, table: &Table) {
        let mut backoff = Backoff::default();
        loop {
            let all: Vec<_> = self.asked.lock().iter().map(|(id, asked)| (*id, asked.clone())).collect();
            if all.is_empty() {
                self.more.notified().await;
                continue;
            }
            match self.ask_all(upstream, table, all).await {
                Ok(()) => backoff.reset(),
                Err(status) => {
                    let wait = backoff.next_wait();
                    warn!(
                        code = %status.code(),
                        message = status.message(),
                        webhooks = self.asked.lock().len(),
                        wait_ms = wait.as_millis() as u64,
                        "webhooks are to be turned off and config-service does not answer"
                    );
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Asks for each; the first failure of config-service, if any, after all have been tried or it
    /// could not be reached at all.
    async fn ask_all(
        &self,
        upstream: &Upstream,
        table: &Table,
        all: Vec<(WebhookId, Asked)>,
    ) -> Result<(), Status> {
        let mut client = upstream.client().await?;
        let failure = OnceLock::new();
        for (id, asked) in all {
            let overtaken = table.route(id).is_some_and(|route| route.revision > asked.revision);
            if overtaken || table.is_deleted(id) {
                self.answered(id, &asked);
                continue;
            }
            match ask(&mut client, id, &asked).await {
                Ok(disabled) => {
                    info!(webhook_id = %id, disabled, reason = asked.reason, "asked for a webhook to be turned off");
                    self.answered(id, &asked);
                }
                Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => {
                    warn!(webhook_id = %id, message = status.message(), "a webhook could not be turned off");
                    self.answered(id, &asked);
                }
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                    return Err(status);
                }
                Err(status) => drop(failure.set(status)),
            }
        }
        failure.into_inner().map_or(Ok(()), Err)
    }

    fn answered(&self, id: WebhookId, asked: &Asked) {
        let mut all = self.asked.lock();
        if all.get(&id) == Some(asked) {
            all.remove(&id);
        }
    }
}

async fn ask(client: &mut Client, id: WebhookId, asked: &Asked) -> Result<bool, Status> {
    let request = DisableWebhookRequest {
        webhook_id: id.to_string(),
        revision: asked.revision,
        reason: asked.reason.clone(),
    };
    match tokio::time::timeout(CALL_TIMEOUT, client.disable_webhook(request)).await {
        Ok(answer) => Ok(answer?.into_inner().disabled),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}
