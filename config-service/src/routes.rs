//! RouteService: feeds delivery-service with webhooks, secrets included, and turns webhooks off for it.
//!
//! A stream reads the store page by page, as fast as its receiver takes it, and holds one page. Revisions
//! of messages are such that a receiver may resume after any it has seen since the first `synced`:
//!
//! - a change goes out under its place in the log, even when what is read by then is newer (a later change
//!   brings it again);
//! - what a start from 0 finds goes out under its own revision, but not above the one it started at, which
//!   the first `synced` names: later changes follow and are higher;
//! - an account's new key takes two revisions: its webhooks go out under the first, and only a message
//!   after all of them carries the second, so half of them are never taken for all.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use common::{
    clock::{Clock, Time},
    ids::WebhookId,
    metrics::Gauge,
    settings::Secret,
    status,
};
use futures_util::{TryStreamExt, stream, stream::BoxStream};
use proto::v1::{
    DisableWebhookRequest, DisableWebhookResponse, Route, SigningKey, WatchRoutesRequest,
    WatchRoutesResponse, WebhookState,
    route_service_server::RouteService,
    watch_routes_response::{Change as Sent, Synced},
};
use subtle::ConstantTimeEq;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    store::{Change, Changed, Changes, Record, Store, Updated},
    unavailable,
};

/// How many webhooks a stream holds at once.
const PAGE: usize = 256;
/// The longest silence on a stream.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// The longest `disabled_reason`, in characters.
const REASON: usize = 500;

/// Serves routes from a store.
pub struct Routes {
    store: Arc<dyn Store>,
    clock: Clock,
    /// What callers show; without one, everyone is let in.
    token: Option<Secret>,
    watchers: Gauge,
    stop: CancellationToken,
    sign_of_life: Duration,
}

impl Routes {
    /// Streams end when `stop` is cancelled. `watchers`: how many there are.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        token: Option<Secret>,
        watchers: Gauge,
        stop: CancellationToken,
    ) -> Self {
        Self { store, clock, token, watchers, stop, sign_of_life: SIGN_OF_LIFE }
    }

    fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown = metadata.get("authorization").and_then(|value| value.as_bytes().split_at_checked(7));
        match shown {
            Some((scheme, shown))
                if scheme.eq_ignore_ascii_case(b"bearer ")
                    && bool::from(shown.ct_eq(token.expose().as_bytes())) =>
            {
                Ok(())
            }
            Some(_) => Err(status::unauthenticated("the route token is not the one that is asked for")),
            None => Err(status::unauthenticated("the route token is missing: authorization: Bearer TOKEN")),
        }
    }
}

#[tonic::async_trait]
impl RouteService for Routes {
    type WatchRoutesStream = BoxStream<'static, Result<WatchRoutesResponse, Status>>;

    async fn watch_routes(
        &self,
        request: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        self.admit(request.metadata())?;
        let after = request.into_inner().after_revision;
        // Interest first, then a look: nothing is missed in between.
        let changed = self.store.changed();
        let (revision, step) = match after {
            0 => (self.store.revision().await.map_err(unavailable)?, Step::Scan { after: None }),
            _ => (after, Step::Follow),
        };
        tracing::info!(after_revision = after, revision, "routes are being watched");
        let watch = Watch {
            store: self.store.clone(),
            clock: self.clock.clone(),
            changed,
            revision,
            step,
            is_synced: false,
            last_synced: Instant::now(),
            sign_of_life: self.sign_of_life,
            _present: Present::new(self.watchers.clone()),
        };
        let stop = self.stop.clone();
        let pages = stream::try_unfold((watch, stop), |(mut watch, stop)| async move {
            let Some(page) = stop.run_until_cancelled(watch.page()).await else {
                return Err(status::unavailable("STOPPING", "the service stops", Duration::from_secs(1)));
            };
            Ok(Some((stream::iter(page?.into_iter().map(Ok)), (watch, stop))))
        });
        Ok(Response::new(Box::pin(pages.try_flatten())))
    }

    async fn disable_webhook(
        &self,
        request: Request<DisableWebhookRequest>,
    ) -> Result<Response<DisableWebhookResponse>, Status> {
        self.admit(request.metadata())?;
        let DisableWebhookRequest { webhook_id, revision, reason } = request.into_inner();
        if webhook_id.is_empty() {
            return Err(status::invalid("webhook_id", "required"));
        }
        let disabled = match webhook_id.parse() {
            Ok(id) => self.disable(id, revision, &reason).await?,
            Err(_) => false,
        };
        Ok(Response::new(DisableWebhookResponse { disabled }))
    }
}

impl Routes {
    async fn disable(&self, id: WebhookId, revision: u64, reason: &str) -> Result<bool, Status> {
        let Some(mut record) = self.store.get(id).await.map_err(unavailable)? else { return Ok(false) };
        if record.revision > revision {
            return Ok(false);
        }
        if record.webhook.state() == WebhookState::Disabled {
            return Ok(true);
        }
        let license_code = record.webhook.license_code.clone();
        record.webhook.set_state(WebhookState::Disabled);
        record.webhook.disabled_reason = reason.chars().take(REASON).collect();
        record.webhook.update_time = Some(self.clock.now().into());
        let expected = record.revision;
        // Changed meanwhile is changed after any revision that a caller knew.
        let done = self.store.update(record, expected).await.map_err(unavailable)?;
        let disabled = matches!(done, Updated::Done(_));
        if disabled {
            tracing::warn!(webhook_id = %id, account = license_code, reason, "a webhook has been disabled");
        }
        Ok(disabled)
    }
}

/// One receiver's stream.
struct Watch {
    store: Arc<dyn Store>,
    clock: Clock,
    changed: watch::Receiver<u64>,
    /// All up to here has been sent, or is being sent by `Step::Scan`.
    revision: u64,
    step: Step,
    /// Whether the receiver has been told `revision`.
    is_synced: bool,
    last_synced: Instant,
    sign_of_life: Duration,
    _present: Present,
}

/// Counts a stream as long as it lives.
struct Present(Gauge);

impl Present {
    fn new(watchers: Gauge) -> Self {
        watchers.inc();
        Self(watchers)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.dec();
    }
}

enum Step {
    /// All webhooks, after one that has been sent.
    Scan { after: Option<WebhookId> },
    /// An account's webhooks, for the change of its key at `revision`.
    Account { license_code: String, revision: u64, after: Option<WebhookId> },
    /// The log.
    Follow,
}

impl Watch {
    /// What is to be sent next; waits until there is something.
    async fn page(&mut self) -> Result<Vec<WatchRoutesResponse>, Status> {
        loop {
            let page = match &self.step {
                Step::Scan { after } => self.scan(*after).await?,
                Step::Account { license_code, revision, after } => {
                    self.account(license_code.clone(), *revision, *after).await?
                }
                Step::Follow => self.follow().await?,
            };
            if !page.is_empty() {
                return Ok(page);
            }
        }
    }

    async fn scan(&mut self, after: Option<WebhookId>) -> Result<Vec<WatchRoutesResponse>, Status> {
        let records = self.store.scan(after, PAGE).await.map_err(unavailable)?;
        let is_last = records.len() < PAGE;
        if let (false, Some(last)) = (is_last, records.last()) {
            self.step = Step::Scan { after: Some(last.id().map_err(unavailable)?) };
        }
        let start = self.revision;
        let revisions: Vec<_> = records.iter().map(|record| record.revision.min(start)).collect();
        let mut page = self.puts(records, revisions).await?;
        if is_last {
            self.step = Step::Follow;
            page.push(self.synced());
        }
        Ok(page)
    }

    async fn account(
        &mut self,
        license_code: String,
        revision: u64,
        after: Option<WebhookId>,
    ) -> Result<Vec<WatchRoutesResponse>, Status> {
        let records = self.store.list(&license_code, after, PAGE).await.map_err(unavailable)?;
        match records.last() {
            Some(last) if records.len() == PAGE => {
                let after = Some(last.id().map_err(unavailable)?);
                self.step = Step::Account { license_code, revision, after };
            }
            _ => self.step = Step::Follow,
        }
        if matches!(self.step, Step::Follow) {
            self.revision = revision;
        }
        let revisions = vec![revision - 1; records.len()];
        self.puts(records, revisions).await
    }

    async fn follow(&mut self) -> Result<Vec<WatchRoutesResponse>, Status> {
        self.changed.mark_unchanged();
        let changes = match self.store.changes(self.revision, PAGE).await.map_err(unavailable)? {
            Changes::Page(changes) => changes,
            Changes::OutOfRange => {
                let message = "the revision is no longer kept, or not reached: start anew at 0";
                return Err(status::out_of_range("REVISION_OUT_OF_RANGE", message));
            }
        };
        if !changes.is_empty() {
            self.is_synced = false;
            return self.changes(changes).await;
        }
        let sign_at = self.last_synced + self.sign_of_life;
        if !self.is_synced || Instant::now() >= sign_at {
            return Ok(vec![self.synced()]);
        }
        match timeout_at(sign_at, self.changed.changed()).await {
            Ok(Ok(())) | Err(_) => Ok(Vec::new()),
            Ok(Err(_)) => Err(status::unavailable("STOPPING", "the store is closed", Duration::from_secs(1))),
        }
    }

    /// The changes up to an account's, whose webhooks come page by page.
    async fn changes(&mut self, mut changes: Vec<Change>) -> Result<Vec<WatchRoutesResponse>, Status> {
        if let Some(Change { revision, of: Changed::Account(license_code) }) = changes.first() {
            let (license_code, revision) = (license_code.clone(), *revision);
            self.step = Step::Account { license_code, revision, after: None };
            return Ok(Vec::new());
        }
        if let Some(end) = changes.iter().position(|change| matches!(change.of, Changed::Account(_))) {
            changes.truncate(end);
        }
        if let Some(last) = changes.last() {
            self.revision = last.revision;
        }
        // Of several changes of a webhook, the last one says it all.
        let mut seen = HashSet::new();
        let (mut page, mut puts) = (Vec::new(), Vec::new());
        for Change { revision, of } in changes.into_iter().rev() {
            match of {
                Changed::Webhook(id) if seen.insert(id) => puts.push((revision, id)),
                Changed::Deleted(id) if seen.insert(id) => {
                    page.push(message(revision, Sent::DeletedWebhookId(id.to_string())));
                }
                Changed::Webhook(_) | Changed::Deleted(_) | Changed::Account(_) => {}
            }
        }
        let ids: Vec<_> = puts.iter().map(|(_, id)| *id).collect();
        let found = self.store.get_many(&ids).await.map_err(unavailable)?;
        // One that is gone by now was deleted later in the log.
        let present = puts.iter().zip(found).filter_map(|((revision, _), found)| Some((found?, *revision)));
        let (records, revisions) = present.unzip();
        page.extend(self.puts(records, revisions).await?);
        page.sort_by_key(|message| message.revision);
        Ok(page)
    }

    /// Webhooks as routes, each under the revision in its place.
    async fn puts(
        &self,
        records: Vec<Record>,
        revisions: Vec<u64>,
    ) -> Result<Vec<WatchRoutesResponse>, Status> {
        let license_codes: HashSet<_> = records.iter().map(|record| &record.webhook.license_code).collect();
        let license_codes: Vec<_> = license_codes.into_iter().cloned().collect();
        let accounts = self.store.accounts(&license_codes).await.map_err(unavailable)?;
        let keys: HashMap<_, _> = accounts
            .into_iter()
            .flatten()
            .map(|account| (account.license_code, account.secret_key))
            .collect();
        let now = self.clock.now();
        let put = |(record, revision): (Record, u64)| {
            let account_secret_key = keys.get(&record.webhook.license_code).cloned().unwrap_or_default();
            let signing_keys = record.signing_keys.into_iter().filter(|key| signs(key, now)).collect();
            let route = Route { webhook: Some(record.webhook), signing_keys, account_secret_key };
            message(revision, Sent::Put(route))
        };
        Ok(records.into_iter().zip(revisions).map(put).collect())
    }

    fn synced(&mut self) -> WatchRoutesResponse {
        self.is_synced = true;
        self.last_synced = Instant::now();
        message(self.revision, Sent::Synced(Synced {}))
    }
}

/// Whether a key still signs.
fn signs(key: &SigningKey, now: Time) -> bool {
    let now = prost_types::Timestamp::from(now);
    key.expire_time.as_ref().is_none_or(|end| (end.seconds, end.nanos) > (now.seconds, now.nanos))
}

fn message(revision: u64, change: Sent) -> WatchRoutesResponse {
    WatchRoutesResponse { revision, change: Some(change) }
}

#[cfg(test)]
mod tests;
