//! The request that a delivery makes: route and delivery in, URL and headers out. Pure.
//!
//! Everything but the body is made anew for each attempt, from the route as it is then. `mask` is
//! how a request is shown to people: no credential, secret or signature in it.

use std::io::Write;

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
static SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The headers whose values are written anew for each attempt, in this order.
static WRITTEN: [HeaderName; 6] = [
    HeaderName::from_static("webhook-id"),
    HeaderName::from_static("webhook-timestamp"),
    HeaderName::from_static("webhook-signature"),
    HeaderName::from_static("x-event-id"),
    HeaderName::from_static("x-event-feedback-id"),
    HeaderName::from_static("traceparent"),
];

/// How many headers there are at most beside the webhook's own, and `host`, which the sender adds.
const OURS: usize = 11;

/// The request of an attempt that starts `now`. Its content-length is left to the client.
pub fn build(route: &Route, head: &Head, body: Bytes, now: Time) -> Request {
    let mut headers = HeaderMap::with_capacity(OURS + route.headers.len());
    headers.insert(CONTENT_TYPE, if head.xml { XML } else { JSON });
    headers.insert(USER_AGENT, AGENT);
    write(route, head, &body, now, &mut headers);
    if let Some(value) = &route.authorization {
        headers.insert(AUTHORIZATION, value.clone());
    }
    for (name, value) in &route.headers {
        headers.insert(name.clone(), value.clone());
    }
    Request { url: url(route, &head.event_type), headers, body, timeout: route.policy.timeout }
}

/// Writes the values of `WRITTEN` into one piece of memory that they share: one allocation for all,
/// and a request is cheap to clone.
fn write(route: &Route, head: &Head, body: &[u8], now: Time, headers: &mut HeaderMap) {
    let given = [Some(&head.event_id), head.feedback_id.as_ref(), head.traceparent.as_ref()];
    let given = given.into_iter().flatten().map(|text| 3 * text.len()).sum::<usize>();
    let mut text = Vec::with_capacity(64 + signature::length(&route.signing_keys) + given);
    let mut ends = [0; WRITTEN.len()];
    text.extend_from_slice(&[0; 32]);
    // Cannot fail: 16 bytes are 32 digits.
    let _ = hex::encode_to_slice(head.id().bytes(), &mut text);
    ends[0] = text.len();
    // Cannot fail: a vector takes all that is written to it.
    let _ = write!(text, "{}", now.seconds());
    ends[1] = text.len();
    signature::sign(&route.signing_keys, ends[0], body, now, &mut text);
    ends[2] = text.len();
    text.extend_from_slice(head.event_id.as_bytes());
    ends[3] = text.len();
    percent_encode(head.feedback_id.as_deref().unwrap_or_default(), &mut text);
    ends[4] = text.len();
    text.extend_from_slice(head.traceparent.as_deref().unwrap_or_default().as_bytes());
    ends[5] = text.len();
    let text = Bytes::from(text);
    let mut start = 0;
    for (name, end) in WRITTEN.iter().zip(ends) {
        // What is empty is left out, and what no header can carry.
        if end > start
            && let Ok(value) = HeaderValue::from_maybe_shared(text.slice(start..end))
        {
            if start == 0 {
                headers.insert(REQUEST_ID.clone(), value.clone());
            }
            headers.insert(name.clone(), value);
        }
        start = end;
    }
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
        *name == AUTHORIZATION || *name == SIGNATURE || route.headers.iter().any(|(own, _)| own == name)
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
    let mut url = Vec::with_capacity(given.len() + names + values);
    url.extend_from_slice(given.as_bytes());
    url.push(if given.contains('?') { b'&' } else { b'?' });
    url.extend_from_slice(b"eventType=");
    percent_encode(event_type, &mut url);
    url.extend_from_slice(b"&licenseCode=");
    percent_encode(&route.license_code, &mut url);
    if let Some(secret) = secret {
        url.extend_from_slice(b"&secret=");
        percent_encode(secret, &mut url);
    }
    // Cannot fail: what is appended to a text is ASCII.
    String::from_utf8(url).unwrap_or_default()
}

/// Appends `text` to `to`: A-Z a-z 0-9 - . _ ~ as they are, all else as %XX of UTF-8.
fn percent_encode(text: &str, to: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => to.push(byte),
            _ => to.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests;
