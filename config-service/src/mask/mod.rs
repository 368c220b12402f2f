//! What an update takes, and how secrets travel: answers show "********" in their place, and a caller
//! who sends that back keeps what is stored. Pure.

#[cfg(test)]
mod tests;

use common::status::Violations;
use prost_types::FieldMask;
use proto::v1::{DeliveryPolicy, Webhook, WebhookState, authentication::Method};

use crate::validate::entry;

/// Paths in a mask: more than there are fields.
const MAX_PATHS: usize = 64;

/// What stands in the place of a secret.
pub const MASKED: &str = "********";

/// Puts `MASKED` in the place of every secret.
pub fn hide(webhook: &mut Webhook) {
    webhook.headers.values_mut().for_each(|value| *value = MASKED.into());
    match webhook.authentication.as_mut().and_then(|authentication| authentication.method.as_mut()) {
        None => {}
        Some(Method::Basic(basic)) => {
            basic.username = MASKED.into();
            basic.password = MASKED.into();
        }
        Some(Method::Bearer(bearer)) => bearer.token = MASKED.into(),
        Some(Method::Oauth2(oauth2)) => {
            oauth2.client_id = MASKED.into();
            oauth2.client_secret = MASKED.into();
        }
        Some(Method::ClientCertificate(certificate)) => {
            certificate.certificate_chain = MASKED.into();
            certificate.private_key = MASKED.into();
        }
    }
}

/// Puts what is stored in the place of every mask: of headers by name ignoring case, of credentials
/// field by field within the same method. A mask that nothing is stored for is a violation.
pub fn restore(webhook: &mut Webhook, stored: Option<&Webhook>, found: &mut Violations) {
    for (name, value) in webhook.headers.iter_mut().filter(|(_, value)| *value == MASKED) {
        let known = stored
            .and_then(|stored| stored.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)));
        match known {
            Some((_, known)) => value.clone_from(known),
            None => nothing_stored(entry("webhook.headers", name), found),
        }
    }
    let stored = stored.and_then(|stored| stored.authentication.as_ref()?.method.as_ref());
    match webhook.authentication.as_mut().and_then(|authentication| authentication.method.as_mut()) {
        Some(Method::Basic(basic)) => {
            let stored = match stored {
                Some(Method::Basic(stored)) => Some(stored),
                _ => None,
            };
            credential(&mut basic.username, stored.map(|s| &s.username), "basic.username", found);
            credential(&mut basic.password, stored.map(|s| &s.password), "basic.password", found);
        }
        Some(Method::Bearer(bearer)) => {
            let stored = match stored {
                Some(Method::Bearer(stored)) => Some(&stored.token),
                _ => None,
            };
            credential(&mut bearer.token, stored, "bearer.token", found);
        }
        // Refused by `validate` until they are built.
        Some(Method::Oauth2(_) | Method::ClientCertificate(_)) | None => {}
    }
}

fn credential(value: &mut String, stored: Option<&String>, field: &str, found: &mut Violations) {
    if value == MASKED {
        match stored {
            Some(stored) => value.clone_from(stored),
            None => nothing_stored(format!("webhook.authentication.{field}"), found),
        }
    }
}

fn nothing_stored(field: String, found: &mut Violations) {
    found.add(field, format!("\"{MASKED}\" keeps what is stored, and nothing is: send the value"));
}

/// What `stored` becomes when the fields that `mask` names are taken from `given`, secrets in the
/// clear. What only the system sets stays as stored. Not yet validated.
pub fn merge(stored: &Webhook, given: Webhook, mask: Option<&FieldMask>, found: &mut Violations) -> Webhook {
    let paths: Vec<&str> = mask.iter().flat_map(|mask| &mask.paths).map(String::as_str).collect();
    let mut merged = match paths.as_slice() {
        [] | ["*"] => whole(stored, given, found),
        _ if paths.len() > MAX_PATHS => {
            found.add("update_mask.paths", format!("at most {MAX_PATHS} paths: {} were given", paths.len()));
            stored.clone()
        }
        _ => parts(stored, given, &paths, found),
    };
    restore(&mut merged, Some(stored), found);
    if merged.state != i32::from(WebhookState::Disabled) {
        merged.disabled_reason.clear();
    }
    merged
}

fn whole(stored: &Webhook, given: Webhook, found: &mut Violations) -> Webhook {
    let changed = "cannot be changed: leave it out, or send it as stored";
    if !given.license_code.is_empty() && given.license_code != stored.license_code {
        found.add("webhook.license_code", changed);
    }
    if given.r#type != 0 && given.r#type != stored.r#type {
        found.add("webhook.type", changed);
    }
    Webhook {
        id: stored.id.clone(),
        license_code: stored.license_code.clone(),
        r#type: stored.r#type,
        disabled_reason: stored.disabled_reason.clone(),
        create_time: stored.create_time,
        update_time: stored.update_time,
        etag: stored.etag.clone(),
        ..given
    }
}

fn parts(stored: &Webhook, given: Webhook, paths: &[&str], found: &mut Violations) -> Webhook {
    let mut merged = stored.clone();
    let policy = given.delivery_policy.clone().unwrap_or_default();
    for (at, path) in paths.iter().enumerate() {
        match *path {
            "event_names" => merged.event_names.clone_from(&given.event_names),
            "event_category" => merged.event_category = given.event_category,
            "post_url" => merged.post_url.clone_from(&given.post_url),
            "format" => merged.format = given.format,
            "description" => merged.description.clone_from(&given.description),
            "labels" => merged.labels.clone_from(&given.labels),
            "filter" => merged.filter.clone_from(&given.filter),
            "headers" => merged.headers.clone_from(&given.headers),
            "authentication" => merged.authentication.clone_from(&given.authentication),
            "url_parameters" => merged.url_parameters = given.url_parameters,
            "delivery_policy" => merged.delivery_policy = Some(policy.clone()),
            "state" => merged.state = given.state,
            "signature_scheme" => merged.signature_scheme = given.signature_scheme,
            "id" | "disabled_reason" | "create_time" | "update_time" | "etag" => {}
            "license_code" | "type" => {
                found.add(
                    format!("update_mask.paths[{at}]"),
                    format!("{path} cannot be changed: leave it out"),
                );
            }
            "*" => found.add(format!("update_mask.paths[{at}]"), "\"*\" stands alone: leave the others out"),
            _ => {
                let into = merged.delivery_policy.get_or_insert_default();
                if !policy_part(path, into, &policy) {
                    let shown: String = path.chars().take(64).collect();
                    found.add(
                        format!("update_mask.paths[{at}]"),
                        format!(
                            "no field {shown:?}: name fields of webhook, such as post_url or \
                             delivery_policy.timeout"
                        ),
                    );
                }
            }
        }
    }
    let takes = |path: &str| paths.contains(&path) || paths.contains(&"delivery_policy");
    if let Some(merged) = merged.delivery_policy.as_mut() {
        // The two exclude each other: the one that is named takes the place of the stored one.
        if takes("delivery_policy.no_retries") && policy.no_retries && !takes("delivery_policy.retry_delays")
        {
            merged.retry_delays.clear();
        }
        if takes("delivery_policy.retry_delays")
            && !policy.retry_delays.is_empty()
            && !takes("delivery_policy.no_retries")
        {
            merged.no_retries = false;
        }
    }
    merged
}

/// Takes one field of the policy; false when there is none of that name.
fn policy_part(path: &str, into: &mut DeliveryPolicy, given: &DeliveryPolicy) -> bool {
    match path {
        "delivery_policy.timeout" => into.timeout = given.timeout,
        "delivery_policy.retry_delays" => into.retry_delays.clone_from(&given.retry_delays),
        "delivery_policy.max_in_flight" => into.max_in_flight = given.max_in_flight,
        "delivery_policy.max_rate" => into.max_rate = given.max_rate,
        "delivery_policy.order" => into.order = given.order,
        "delivery_policy.batch" => into.batch = given.batch,
        "delivery_policy.no_retries" => into.no_retries = given.no_retries,
        _ => return false,
    }
    true
}
