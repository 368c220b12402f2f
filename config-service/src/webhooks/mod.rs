//! WebhookService: webhooks as their owners see them. Checks a request in full before it stores
//! anything, masks secrets in every answer, and guards changes by etag.
//!
//! An etag is the record's revision in the store, so it changes whenever the webhook or its keys do.

mod listing;
mod signing;

use std::sync::Arc;

use common::{
    address::Rules,
    clock::{Clock, Time},
    ids::WebhookId,
    status::{self, Violations},
};
use parking_lot::Mutex;
use prost::Message;
use proto::v1::{
    CreateWebhookRequest, DeleteWebhookRequest, GetSigningSecretRequest, GetWebhookRequest,
    ListWebhooksRequest, ListWebhooksResponse, MatchWebhooksRequest, MatchWebhooksResponse,
    RotateSigningSecretRequest, SigningSecret, UpdateWebhookRequest, Webhook, WebhookState,
    webhook_service_server::WebhookService,
};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use crate::{
    accounts, mask,
    store::{self, Created, Deleted, Record, Store, Updated},
    unavailable, validate,
};

/// How often a change is tried anew that another one came before, when the caller named no etag.
const TRIES: usize = 64;

/// Serves webhooks from a store.
pub struct Webhooks {
    store: Arc<dyn Store>,
    rules: Arc<Rules>,
    clock: Clock,
    last_id: Mutex<Option<WebhookId>>,
}

impl Webhooks {
    pub fn new(store: Arc<dyn Store>, rules: Arc<Rules>, clock: Clock) -> Self {
        Self { store, rules, clock, last_id: Mutex::new(None) }
    }

    /// Ids of one process grow, also within a millisecond: lists are in the order of creation.
    fn new_id(&self, now: Time) -> WebhookId {
        let fresh = WebhookId::new(now.0, rand::random());
        let mut last = self.last_id.lock();
        let id = match *last {
            Some(last) if fresh <= last => {
                WebhookId::from_bytes(u128::from_be_bytes(last.bytes()).saturating_add(1).to_be_bytes())
            }
            _ => fresh,
        };
        *last = Some(id);
        id
    }

    /// The webhook that `field` of a request names.
    async fn find(&self, id: &str, field: &str) -> Result<Record, Status> {
        let id = named(id, field)?;
        self.store.get(id).await.map_err(unavailable)?.ok_or_else(|| status::not_found("webhook", id))
    }

    /// A webhook as it would be created, checked, without what only the system sets.
    fn candidate(&self, request: &CreateWebhookRequest) -> Result<Webhook, Status> {
        let mut found = Violations::default();
        validate::request_id(&request.request_id, &mut found);
        let Some(given) = request.webhook.clone() else {
            found.add("webhook", "required");
            return Err(found.into());
        };
        let mut webhook = Webhook {
            id: String::new(),
            disabled_reason: String::new(),
            create_time: None,
            update_time: None,
            etag: String::new(),
            ..given
        };
        mask::restore(&mut webhook, None, &mut found);
        let webhook = validate::webhook(webhook, None, &self.rules, &mut found);
        found.check()?;
        Ok(webhook)
    }

    async fn create(&self, request: CreateWebhookRequest) -> Result<Webhook, Status> {
        let mut webhook = self.candidate(&request)?;
        if request.validate_only {
            mask::hide(&mut webhook);
            return Ok(webhook);
        }
        let now = self.clock.now();
        let known = (!request.request_id.is_empty()).then(|| store::Request {
            request_id: request.request_id.clone(),
            fingerprint: Sha256::digest(webhook.encode_to_vec()).to_vec(),
            now,
        });
        let id = self.new_id(now);
        webhook.id = id.to_string();
        webhook.create_time = Some(now.into());
        webhook.update_time = Some(now.into());
        let account = &webhook.license_code;
        self.store.account(account, &accounts::fresh_key(), now).await.map_err(unavailable)?;
        let record = Record { webhook, signing_keys: vec![signing::fresh_key()], revision: 0 };
        match self.store.create(record, known).await.map_err(unavailable)? {
            Created::New(record) => {
                tracing::info!(webhook = %id, account = record.webhook.license_code, "a webhook was created");
                Ok(present(record))
            }
            Created::Repeat(record) => Ok(present(record)),
            Created::Conflict => Err(status::already_exists(
                "request_id was used for another webhook within 24 h: use a new one, or repeat that request",
            )),
        }
    }

    async fn update(&self, request: UpdateWebhookRequest) -> Result<Webhook, Status> {
        let Some(given) = request.webhook else { return Err(status::invalid("webhook", "required")) };
        for _ in 0..TRIES {
            let stored = self.find(&given.id, "webhook.id").await?;
            guard(&given.etag, &stored)?;
            let mut found = Violations::default();
            let webhook =
                mask::merge(&stored.webhook, given.clone(), request.update_mask.as_ref(), &mut found);
            let mut webhook = validate::webhook(webhook, Some(&stored.webhook), &self.rules, &mut found);
            found.check()?;
            if request.validate_only {
                return Ok(present(Record { webhook, ..stored }));
            }
            webhook.update_time = Some(self.clock.now().into());
            let record = Record { webhook, ..stored };
            let expected = record.revision;
            match self.store.update(record, expected).await.map_err(unavailable)? {
                Updated::Done(record) => {
                    tracing::info!(
                        webhook = record.webhook.id,
                        account = record.webhook.license_code,
                        state = WebhookState::try_from(record.webhook.state).map_or("", |s| s.as_str_name()),
                        "a webhook was updated"
                    );
                    return Ok(present(record));
                }
                Updated::Changed if !given.etag.is_empty() => return Err(changed()),
                Updated::Changed => {}
                Updated::Gone => return Err(status::not_found("webhook", &given.id)),
            }
        }
        Err(changed())
    }

    async fn delete(&self, request: DeleteWebhookRequest) -> Result<(), Status> {
        let id = named(&request.id, "id")?;
        let expected = if request.etag.is_empty() {
            None
        } else {
            let stored = self.find(&request.id, "id").await?;
            guard(&request.etag, &stored)?;
            Some(stored.revision)
        };
        match self.store.delete(id, expected).await.map_err(unavailable)? {
            Deleted::Done => {
                tracing::info!(webhook = %id, "a webhook was deleted");
                Ok(())
            }
            Deleted::Changed => Err(changed()),
            Deleted::Gone => Err(status::not_found("webhook", id)),
        }
    }
}

#[tonic::async_trait]
impl WebhookService for Webhooks {
    async fn create_webhook(
        &self,
        request: Request<CreateWebhookRequest>,
    ) -> Result<Response<Webhook>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?))
    }

    async fn get_webhook(&self, request: Request<GetWebhookRequest>) -> Result<Response<Webhook>, Status> {
        Ok(Response::new(present(self.find(&request.get_ref().id, "id").await?)))
    }

    async fn list_webhooks(
        &self,
        request: Request<ListWebhooksRequest>,
    ) -> Result<Response<ListWebhooksResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn update_webhook(
        &self,
        request: Request<UpdateWebhookRequest>,
    ) -> Result<Response<Webhook>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn delete_webhook(&self, request: Request<DeleteWebhookRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.delete(request.into_inner()).await?))
    }

    async fn match_webhooks(
        &self,
        request: Request<MatchWebhooksRequest>,
    ) -> Result<Response<MatchWebhooksResponse>, Status> {
        Ok(Response::new(self.matching(request.into_inner()).await?))
    }

    async fn get_signing_secret(
        &self,
        request: Request<GetSigningSecretRequest>,
    ) -> Result<Response<SigningSecret>, Status> {
        let record = self.find(&request.get_ref().webhook_id, "webhook_id").await?;
        Ok(Response::new(signing::secret(&record.signing_keys, self.clock.now())))
    }

    async fn rotate_signing_secret(
        &self,
        request: Request<RotateSigningSecretRequest>,
    ) -> Result<Response<SigningSecret>, Status> {
        Ok(Response::new(self.rotate(&request.get_ref().webhook_id).await?))
    }
}

/// A webhook as its owner may see it.
fn present(record: Record) -> Webhook {
    let mut webhook = record.webhook;
    mask::hide(&mut webhook);
    webhook.etag = etag(record.revision);
    webhook
}

fn etag(revision: u64) -> String {
    format!("{revision:x}")
}

fn guard(etag_given: &str, stored: &Record) -> Result<(), Status> {
    if etag_given.is_empty() || etag_given == etag(stored.revision) { Ok(()) } else { Err(changed()) }
}

fn changed() -> Status {
    status::aborted("the webhook has changed since it was read: read it again and repeat")
}

/// An id that a request must name; text that is no id names nothing.
fn named(id: &str, field: &str) -> Result<WebhookId, Status> {
    if id.is_empty() {
        return Err(status::invalid(field, "required: the id of a webhook"));
    }
    id.parse().map_err(|_| {
        let shown: String = id.chars().take(64).collect();
        status::not_found("webhook", shown)
    })
}
