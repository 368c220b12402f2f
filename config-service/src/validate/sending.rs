//! The rules of what a request carries beside its body: headers and credentials. Pure. No message
//! repeats a value: all of them are secrets.

use std::collections::BTreeSet;

use common::status::Violations;
use http::{HeaderName, HeaderValue};
use proto::v1::{Authentication, Webhook, authentication::Method};

use super::{entry, not_yet};

const MAX_HEADERS: usize = 32;
const MAX_HEADER_NAME_BYTES: usize = 256;
const MAX_SECRET_BYTES: usize = 4_096;

/// What a request says by itself, and what concerns one connection alone (RFC 9110, 7.6.1).
const FORBIDDEN: [&str; 17] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-request-id",
];
const FORBIDDEN_PREFIXES: [&str; 2] = ["webhook-", "x-event-"];

/// Checks the extra headers.
pub fn headers(webhook: &Webhook, found: &mut Violations) {
    if webhook.headers.len() > MAX_HEADERS {
        let problem = format!("at most {MAX_HEADERS} headers: {} were given", webhook.headers.len());
        return found.add("webhook.headers", problem);
    }
    let mut seen = BTreeSet::new();
    for (name, value) in &webhook.headers {
        let mut wrong = |problem: &str| found.add(entry("webhook.headers", name), problem);
        let lower = name.to_ascii_lowercase();
        if name.len() > MAX_HEADER_NAME_BYTES || HeaderName::from_bytes(name.as_bytes()).is_err() {
            wrong("not a header name: use 1 to 256 letters, digits and - _ . ~ ! # $ % & ' * + ^ ` |");
        } else if FORBIDDEN.contains(&lower.as_str())
            || FORBIDDEN_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
        {
            wrong("not allowed: the sender sets this header itself, or it concerns the connection alone");
        } else if lower == "authorization" && webhook.authentication.is_some() {
            wrong("authentication sets this header too: leave one of them out");
        }
        if value.len() > MAX_SECRET_BYTES {
            wrong("a value has at most 4,096 bytes");
        } else if HeaderValue::from_str(value).is_err() || value.trim() != value {
            wrong("a value is visible ASCII, with spaces or tabs only inside");
        }
        if !seen.insert(lower) {
            wrong("names are unique ignoring case: leave one of them out");
        }
    }
}

/// Checks the credentials.
pub fn authentication(authentication: Option<&Authentication>, found: &mut Violations) {
    let path = |rest: &str| format!("webhook.authentication.{rest}");
    let instead = "basic or bearer";
    let Some(authentication) = authentication else { return };
    match &authentication.method {
        None => found.add(path("method"), "required: set basic or bearer, or leave authentication out"),
        Some(Method::Basic(basic)) => {
            if basic.username.is_empty() && basic.password.is_empty() {
                found.add(path("basic"), "required: a username, a password, or both");
            }
            if basic.username.len() + basic.password.len() > MAX_SECRET_BYTES {
                found.add(path("basic"), "username and password have at most 4,096 bytes together");
            }
            if basic.username.contains(':') || basic.username.chars().any(char::is_control) {
                found.add(path("basic.username"), "not allowed: a colon, or control characters");
            }
            if basic.password.chars().any(char::is_control) {
                found.add(path("basic.password"), "not allowed: control characters");
            }
        }
        Some(Method::Bearer(bearer)) => {
            if bearer.token.is_empty() {
                found.add(path("bearer.token"), "required");
            } else if bearer.token.len() > MAX_SECRET_BYTES {
                found.add(path("bearer.token"), "a token has at most 4,096 bytes");
            } else if !bearer.token.bytes().all(|b| b.is_ascii_graphic()) {
                found.add(path("bearer.token"), "a token is visible ASCII without spaces");
            }
        }
        Some(Method::Oauth2(_)) => not_yet(found, &path("oauth2"), "oauth2", instead),
        Some(Method::ClientCertificate(_)) => {
            not_yet(found, &path("client_certificate"), "client_certificate", instead);
        }
    }
}
