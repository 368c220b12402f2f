//! The request that a delivery makes: route and delivery in, URL and headers out. Pure.
//!
//! Everything but the body is made anew for each attempt, from the route as it is then. `mask` is
//! how a request is shown to people: no credential, secret or signature in it.

use bytes::Bytes;
use common::clock::Time;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT},
};

use crate::{
    auth::signature,
    delivery::Head,
    routes::{Route, UrlParameters},
    send::Request,
};

/// What is shown for what is secret.
pub const MASK: &str = "********";

const AGENT: HeaderValue = HeaderValue::from_static(concat!("hookline/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const XML: HeaderValue = HeaderValue::from_static("application/xml; charset=utf-8");

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
static EVENT_ID: HeaderName = HeaderName::from_static("x-event-id");
static FEEDBACK_ID: HeaderName = HeaderName::from_static("x-event-feedback-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How many headers there are at most beside the webhook's own.
const OURS: usize = 11;

/// The request of an attempt that starts `now`. Its content-length is left to the client.
pub fn build(route: &Route, head: &Head, body: Bytes, now: Time) -> Request {
    let mut headers = HeaderMap::with_capacity(OURS + route.headers.len());
    headers.insert(CONTENT_TYPE, if head.xml { XML } else { JSON });
    headers.insert(USER_AGENT, AGENT);
    let mut digits = [0; 32];
    // Cannot fail: 16 bytes are 32 digits, and digits are a header's value.
    let _ = hex::encode_to_slice(head.id().bytes(), &mut digits);
    let id = std::str::from_utf8(&digits).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID.clone(), value.clone());
        headers.insert(WEBHOOK_ID.clone(), value);
    }
    let timestamp = HeaderValue::from(now.seconds());
    let signed = timestamp.to_str().unwrap_or_default();
    let signature = signature::sign(&route.signing_keys, id, signed, &body, now);
    headers.insert(WEBHOOK_TIMESTAMP.clone(), timestamp);
    if let Some(signature) = signature {
        headers.insert(WEBHOOK_SIGNATURE.clone(), signature);
    }
    if let Ok(value) = HeaderValue::from_str(&head.event_id) {
        headers.insert(EVENT_ID.clone(), value);
    }
    if let Some(id) = &head.feedback_id {
        let mut text = String::with_capacity(id.len());
        percent_encode(id, &mut text);
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(FEEDBACK_ID.clone(), value);
        }
    }
    if let Some(value) = head.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(TRACEPARENT.clone(), value);
    }
    if let Some(value) = &route.authorization {
        headers.insert(AUTHORIZATION, value.clone());
    }
    for (name, value) in &route.headers {
        headers.insert(name.clone(), value.clone());
    }
    Request { url: url(route, &head.event_type), headers, body, timeout: route.policy.timeout }
}

/// A request as people may see it: its URL and its headers, with secret values masked. `route` is
/// the one that it was built from.
pub fn mask(request: &Request, route: &Route) -> (String, Vec<(String, String)>) {
    let url = match &route.url_parameters {
        // The secret is what the URL ends with.
        UrlParameters::EventAndSecret { secret } => {
            let shown = request.url.strip_suffix(&**secret).unwrap_or_default();
            format!("{shown}{MASK}")
        }
        UrlParameters::None | UrlParameters::Event => request.url.clone(),
    };
    let secret = |name: &HeaderName| {
        *name == AUTHORIZATION
            || *name == WEBHOOK_SIGNATURE
            || route.headers.iter().any(|(own, _)| own == name)
    };
    let length = HeaderValue::from(request.body.len());
    let length = (!request.headers.contains_key(CONTENT_LENGTH)).then_some((&CONTENT_LENGTH, &length));
    let headers = request.headers.iter().chain(length).map(|(name, value)| {
        let value = if secret(name) { MASK } else { value.to_str().unwrap_or(MASK) };
        (name.as_str().to_owned(), value.to_owned())
    });
    (url, headers.collect())
}

/// The route's URL without its fragment, with its parameters appended.
fn url(route: &Route, event_type: &str) -> String {
    let given = route.post_url.split_once('#').map_or(&*route.post_url, |(before, _)| before);
    let secret = match &route.url_parameters {
        UrlParameters::None => return given.to_owned(),
        UrlParameters::Event => None,
        UrlParameters::EventAndSecret { secret } => Some(secret),
    };
    let names = "?eventType=&licenseCode=&secret=".len();
    let values = event_type.len() + route.license_code.len() + secret.map_or(0, |text| text.len());
    let mut url = String::with_capacity(given.len() + names + values);
    url.push_str(given);
    url.push(if given.contains('?') { '&' } else { '?' });
    url.push_str("eventType=");
    percent_encode(event_type, &mut url);
    url.push_str("&licenseCode=");
    percent_encode(&route.license_code, &mut url);
    if let Some(secret) = secret {
        url.push_str("&secret=");
        percent_encode(secret, &mut url);
    }
    url
}

/// Appends `text` to `to`: A-Z a-z 0-9 - . _ ~ as they are, all else as %XX of UTF-8.
fn percent_encode(text: &str, to: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => to.push(byte.into()),
            _ => {
                to.push('%');
                to.push(DIGITS[usize::from(byte >> 4)].into());
                to.push(DIGITS[usize::from(byte & 15)].into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
