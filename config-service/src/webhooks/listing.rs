//! Which webhooks an account has, and which of them an event would fire.

use std::collections::BTreeMap;

use common::{
    body::Body,
    filter::Subject,
    ids::WebhookId,
    intake,
    matching::Rule,
    page,
    status::{self, Violations},
};
use prost::Message;
use proto::v1::{
    ListWebhooksRequest, ListWebhooksResponse, MatchWebhooksRequest, MatchWebhooksResponse, Webhook,
    WebhookState, WebhookType, match_webhooks_response::Mismatch,
};
use tonic::Status;

use super::{Webhooks, present};
use crate::{store::Record, unavailable, validate};

/// Records read from the store at once.
const CHUNK: usize = 200;
/// Types, states or labels to narrow a list by: more than there are.
const MAX_WANTED: usize = 32;
/// A page ends here, however few of these many match.
const MAX_EXAMINED: usize = 10_000;
/// Bytes of webhooks on a page: what any gRPC client takes (4 MiB) with room to spare.
const MAX_PAGE_BYTES: usize = 3 << 20;

impl Webhooks {
    pub(super) async fn list(&self, request: ListWebhooksRequest) -> Result<ListWebhooksResponse, Status> {
        let mut found = Violations::default();
        validate::license_code(&request.license_code, "license_code", &mut found);
        let size = page::size(request.page_size, &mut found);
        kinds(&request, &mut found);
        let bound = ListWebhooksRequest { page_size: 0, page_token: String::new(), ..request.clone() }
            .encode_to_vec();
        let mut after = match page::start(&request.page_token, &bound) {
            Ok(cursor) => cursor.and_then(|cursor| Some(WebhookId::from_bytes(cursor.try_into().ok()?))),
            Err(_) => {
                found.add("page_token", "not a page token of this request: send what its last answer gave");
                None
            }
        };
        found.check()?;

        let mut answer = ListWebhooksResponse::default();
        let (mut examined, mut bytes) = (0, 0);
        loop {
            let records = self.store.list(&request.license_code, after, CHUNK).await.map_err(unavailable)?;
            let last = records.len() < CHUNK;
            for record in records {
                let id = record.id().map_err(unavailable)?;
                if wanted(&record.webhook, &request) {
                    let webhook = present(record);
                    bytes += webhook.encoded_len();
                    let full = answer.webhooks.len() == size || bytes > MAX_PAGE_BYTES;
                    if let (true, Some(after)) = (full && !answer.webhooks.is_empty(), after) {
                        answer.next_page_token = page::token(&bound, &after.bytes());
                        return Ok(answer);
                    }
                    answer.webhooks.push(webhook);
                }
                after = Some(id);
                examined += 1;
            }
            if let (false, true, Some(after)) = (last, examined >= MAX_EXAMINED, after) {
                answer.next_page_token = page::token(&bound, &after.bytes());
            }
            if last || examined >= MAX_EXAMINED {
                return Ok(answer);
            }
        }
    }

    pub(super) async fn matching(
        &self,
        request: MatchWebhooksRequest,
    ) -> Result<MatchWebhooksResponse, Status> {
        let mut found = Violations::default();
        let event = match request.event {
            Some(event) => intake::event(event, self.clock.now(), "event", &mut found),
            None => {
                found.add("event", "required");
                None
            }
        };
        found.check()?;
        let event = event.ok_or_else(|| status::internal("an event without a violation was not taken"))?;
        let body = serde_json::to_vec(&Body::of(&event)).map_err(|error| {
            tracing::error!(%error, "an event that was taken could not be written");
            status::internal("the event could not be written")
        })?;
        let subject = Subject::parse(&body);

        let mut answer = MatchWebhooksResponse::default();
        let mut after = None;
        loop {
            let records = self.store.list(&event.license_code, after, CHUNK).await.map_err(unavailable)?;
            let last = records.len() < CHUNK;
            for record in records {
                after = Some(record.id().map_err(unavailable)?);
                match mismatch(&record, |rule| rule.mismatch(&event, &subject)) {
                    None => answer.webhooks.push(present(record)),
                    Some(reason) => {
                        answer.mismatches.push(Mismatch { webhook_id: record.webhook.id, reason })
                    }
                }
            }
            if last {
                return Ok(answer);
            }
            // Compiling filters takes its time: others come first.
            tokio::task::yield_now().await;
        }
    }
}

/// Why the webhook does not fire: what the event lacks, or that the webhook is disabled.
fn mismatch(record: &Record, of_rule: impl Fn(&Rule) -> Option<String>) -> Option<String> {
    if record.webhook.state == i32::from(WebhookState::Disabled) {
        return Some(format!("disabled: {}", record.webhook.disabled_reason));
    }
    match Rule::of(&record.webhook) {
        Ok(rule) => of_rule(&rule),
        // It compiled when it was stored.
        Err(error) => Some(format!("its filter is no longer understood: {error}")),
    }
}

fn kinds(request: &ListWebhooksRequest, found: &mut Violations) {
    for (field, given) in
        [("types", request.types.len()), ("states", request.states.len()), ("labels", request.labels.len())]
    {
        if given > MAX_WANTED {
            return found.add(field, format!("at most {MAX_WANTED}: {given} were given"));
        }
    }
    for (at, kind) in request.types.iter().enumerate() {
        if !matches!(WebhookType::try_from(*kind), Ok(kind) if kind != WebhookType::Unspecified) {
            found.add(format!("types[{at}]"), "unknown value: use a value of WebhookType");
        }
    }
    for (at, state) in request.states.iter().enumerate() {
        if !matches!(WebhookState::try_from(*state), Ok(state) if state != WebhookState::Unspecified) {
            found.add(format!("states[{at}]"), "unknown value: use a value of WebhookState");
        }
    }
}

fn wanted(webhook: &Webhook, request: &ListWebhooksRequest) -> bool {
    let labelled = |labels: &BTreeMap<String, String>| {
        request.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    (request.types.is_empty() || request.types.contains(&webhook.r#type))
        && (request.states.is_empty() || request.states.contains(&webhook.state))
        && labelled(&webhook.labels)
}
