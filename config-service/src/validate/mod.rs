//! What a webhook must be before it is stored: every rule of the contract's comments. Pure.
//!
//! Takes a webhook as a caller sent it (secrets in the clear, see `mask`) and gives it as it will be
//! in force, defaults filled in. All violations are found in one pass; what is wrong is left as it was.

mod policy;
mod sending;
#[cfg(test)]
mod tests;

use common::{address::Rules, filter::Filter, intake, matching::UNDELIVERABLE, status::Violations};
use proto::v1::{
    EventCategory, PayloadFormat, SignatureScheme, UrlParameters, Webhook, WebhookState, WebhookType,
};

const MAX_EVENT_NAMES: usize = 100;
const MAX_EVENT_NAME_CHARS: usize = 100;
const MAX_DESCRIPTION_CHARS: usize = 500;
const MAX_LABELS: usize = 32;
const MAX_LABEL_KEY_CHARS: usize = 63;
const MAX_LABEL_VALUE_CHARS: usize = 255;
const MAX_FILTER_BYTES: usize = 2_048;
const MAX_REQUEST_ID_CHARS: usize = 64;

/// Checks `webhook` and fills in its defaults. `stored` is what an update starts from: what it does
/// not change is not held against it, such as a URL that was allowed when it was stored.
pub fn webhook(webhook: Webhook, stored: Option<&Webhook>, rules: &Rules, found: &mut Violations) -> Webhook {
    let mut webhook = webhook;
    license_code(&webhook.license_code, "webhook.license_code", found);
    events(&webhook, found);
    if stored.is_none_or(|stored| stored.post_url != webhook.post_url) {
        post_url(&webhook.post_url, rules, found);
    }
    format(&mut webhook, found);
    words(&webhook, found);
    if !webhook.filter.is_empty() && stored.is_none_or(|stored| stored.filter != webhook.filter) {
        filter(&webhook.filter, found);
    }
    sending::headers(&webhook, found);
    sending::authentication(webhook.authentication.as_ref(), found);
    modes(&mut webhook, stored, found);
    let given = webhook.delivery_policy.take().unwrap_or_default();
    let policy = policy::policy(given, found);
    if policy.batch.is_some() && webhook.format == i32::from(PayloadFormat::Xml) {
        found.add(
            "webhook.delivery_policy.batch",
            "batches are JSON only: leave it unset, or set format to PAYLOAD_FORMAT_JSON",
        );
    }
    webhook.delivery_policy = Some(policy);
    webhook
}

/// An account's name, at the path `field`.
pub fn license_code(code: &str, field: &str, found: &mut Violations) {
    if code.is_empty() {
        found.add(field, "required: the license code of an account, such as \"~99199077\"");
    } else if let Some(fault) = intake::license_code_fault(code) {
        found.add(field, fault);
    }
}

/// The caller's own name for a request; empty is none.
pub fn request_id(id: &str, found: &mut Violations) {
    let printable = id.chars().all(|c| !c.is_control() && !c.is_whitespace() || c == ' ');
    if id.chars().count() > MAX_REQUEST_ID_CHARS || !printable {
        found.add("request_id", "use 1 to 64 printable characters");
    }
}

fn events(webhook: &Webhook, found: &mut Violations) {
    let category = match EventCategory::try_from(webhook.event_category) {
        Ok(category) => Some(category),
        Err(_) => {
            unknown(found, "webhook.event_category", "EVENT_CATEGORY_SYSTEM or EVENT_CATEGORY_APPLICATION");
            None
        }
    };
    match WebhookType::try_from(webhook.r#type) {
        Ok(WebhookType::Unspecified) => {
            found.add("webhook.type", "required: what fires the webhook, such as WEBHOOK_TYPE_EVENT");
        }
        Err(_) => unknown(found, "webhook.type", "a value of WebhookType, such as WEBHOOK_TYPE_EVENT"),
        Ok(WebhookType::Event) => event_names(&webhook.event_names, category, found),
        Ok(kind) => {
            if !webhook.event_names.is_empty() {
                found.add(
                    "webhook.event_names",
                    format!("only WEBHOOK_TYPE_EVENT takes names: leave it empty for {}", kind.as_str_name()),
                );
            }
            if !matches!(category, None | Some(EventCategory::Unspecified)) {
                found.add(
                    "webhook.event_category",
                    format!(
                        "only WEBHOOK_TYPE_EVENT takes a category: leave it out for {}",
                        kind.as_str_name()
                    ),
                );
            }
        }
    }
}

fn event_names(names: &[String], category: Option<EventCategory>, found: &mut Violations) {
    if names.is_empty() {
        found.add("webhook.event_names", "required for WEBHOOK_TYPE_EVENT: name 1 to 100 events");
    }
    if names.len() > MAX_EVENT_NAMES {
        let problem = format!("at most {MAX_EVENT_NAMES} names: {} were given", names.len());
        return found.add("webhook.event_names", problem);
    }
    for (at, name) in names.iter().enumerate() {
        let field = || format!("webhook.event_names[{at}]");
        let length = name.chars().count();
        if length == 0 || length > MAX_EVENT_NAME_CHARS {
            found.add(field(), format!("use 1 to 100 characters: it has {length}"));
        } else if UNDELIVERABLE.contains(&name.as_str()) && category != Some(EventCategory::Application) {
            found.add(
                field(),
                format!(
                    "{name} is a system event that webhooks never carry: leave it out, or set event_category \
                     to EVENT_CATEGORY_APPLICATION for a custom event of that name"
                ),
            );
        }
    }
}

fn post_url(url: &str, rules: &Rules, found: &mut Violations) {
    if let Err(problem) = rules.check_url(url) {
        found.add("webhook.post_url", problem);
    }
}

fn format(webhook: &mut Webhook, found: &mut Violations) {
    use WebhookType::{Feedback, FeedbackReply, SurveyResponse, Unspecified};
    match PayloadFormat::try_from(webhook.format) {
        Ok(PayloadFormat::Unspecified) => webhook.format = PayloadFormat::Json.into(),
        Ok(PayloadFormat::Json) => {}
        // Of a type that is missing or unknown, nothing can be said.
        Ok(PayloadFormat::Xml) => match WebhookType::try_from(webhook.r#type) {
            Err(_) | Ok(Unspecified | Feedback | FeedbackReply | SurveyResponse) => {}
            Ok(kind) => found.add("webhook.format", format!("{} supports JSON only", kind.as_str_name())),
        },
        Err(_) => unknown(found, "webhook.format", "PAYLOAD_FORMAT_JSON or PAYLOAD_FORMAT_XML"),
    }
}

fn words(webhook: &Webhook, found: &mut Violations) {
    let length = webhook.description.chars().count();
    if length > MAX_DESCRIPTION_CHARS {
        let problem = format!("at most {MAX_DESCRIPTION_CHARS} characters: it has {length}");
        found.add("webhook.description", problem);
    }
    if webhook.labels.len() > MAX_LABELS {
        let problem = format!("at most {MAX_LABELS} labels: {} were given", webhook.labels.len());
        return found.add("webhook.labels", problem);
    }
    for (key, value) in &webhook.labels {
        if key.is_empty() || key.chars().count() > MAX_LABEL_KEY_CHARS {
            found.add(entry("webhook.labels", key), "a label's key has 1 to 63 characters");
        }
        if value.chars().count() > MAX_LABEL_VALUE_CHARS {
            found.add(entry("webhook.labels", key), "a label's value has at most 255 characters");
        }
    }
}

fn filter(filter: &str, found: &mut Violations) {
    if filter.len() > MAX_FILTER_BYTES {
        let problem = format!("at most {MAX_FILTER_BYTES} bytes: it has {}", filter.len());
        found.add("webhook.filter", problem);
    } else if let Err(problem) = Filter::compile(filter) {
        found.add("webhook.filter", problem.to_string());
    }
}

/// The plain choices: query parameters, state, signature.
fn modes(webhook: &mut Webhook, stored: Option<&Webhook>, found: &mut Violations) {
    match UrlParameters::try_from(webhook.url_parameters) {
        Ok(UrlParameters::Unspecified) => webhook.url_parameters = UrlParameters::Event.into(),
        Ok(_) => {}
        Err(_) => unknown(found, "webhook.url_parameters", "a value of UrlParameters"),
    }
    match WebhookState::try_from(webhook.state) {
        Ok(WebhookState::Unspecified) => webhook.state = WebhookState::Active.into(),
        Ok(WebhookState::Active | WebhookState::Paused) => {}
        // Sent back as read, it is no change.
        Ok(WebhookState::Disabled) if stored.is_some_and(|stored| stored.state == webhook.state) => {}
        Ok(WebhookState::Disabled) => found.add(
            "webhook.state",
            "only the system disables a webhook: set WEBHOOK_STATE_ACTIVE or WEBHOOK_STATE_PAUSED",
        ),
        Err(_) => unknown(found, "webhook.state", "WEBHOOK_STATE_ACTIVE or WEBHOOK_STATE_PAUSED"),
    }
    match SignatureScheme::try_from(webhook.signature_scheme) {
        Ok(SignatureScheme::Unspecified) => webhook.signature_scheme = SignatureScheme::HmacSha256.into(),
        Ok(SignatureScheme::HmacSha256) => {}
        Ok(SignatureScheme::Ed25519) => not_yet(
            found,
            "webhook.signature_scheme",
            "SIGNATURE_SCHEME_ED25519",
            "SIGNATURE_SCHEME_HMAC_SHA256",
        ),
        Err(_) => unknown(found, "webhook.signature_scheme", "SIGNATURE_SCHEME_HMAC_SHA256"),
    }
}

/// An enum number that the contract does not know.
fn unknown(found: &mut Violations, field: &str, instead: &str) {
    found.add(field, format!("unknown value: use {instead}"));
}

/// What the contract names and is not built.
fn not_yet(found: &mut Violations, field: &str, what: &str, instead: &str) {
    found.add(field, format!("{what} is not supported yet: use {instead}"));
}

/// The path of a map's entry: `webhook.headers["X"]`. A key as long as a page is cut.
pub fn entry(map: &str, key: &str) -> String {
    let shown: String = key.chars().take(64).collect();
    format!("{map}[{shown:?}]")
}
