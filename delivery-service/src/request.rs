//! The request that a delivery makes: route and delivery in, URL and headers out. Pure.
//!
//! A batch's request carries the batch's id, and nothing that belongs to one event of it.
//!
//! Everything but the body is made anew for each attempt, from the route as it is then. `mask` is
//! how a request is shown to people: no credential, secret or signature in it.

use std::io::Write;

use bytes::Bytes;
use common::{clock::Time, ids::DeliveryId};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT},
};

use crate::{
    auth::signature,
    delivery::Head,
    routes::{Route, UrlParameters},
    send::{Request, spare},
};

/// What is shown for what is secret.
pub const MASK: &str = "********";

const AGENT: HeaderValue = HeaderValue::from_static(concat!("hookline/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const XML: HeaderValue = HeaderValue::from_static("application/xml; charset=utf-8");

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The headers whose values are written anew for each attempt, in this order.
static WRITTEN: [HeaderName; 7] = [
    HeaderName::from_static("webhook-id"),
    HeaderName::from_static("webhook-timestamp"),
    HeaderName::from_static("webhook-signature"),
    HeaderName::from_static("webhook-delivery-ids"),
    HeaderName::from_static("x-event-id"),
    HeaderName::from_static("x-event-feedback-id"),
    HeaderName::from_static("traceparent"),
];

/// How many headers there are at most beside the webhook's own, and `host`, which the sender adds.
const OURS: usize = 11;
/// A batch's members are listed up to so many.
const LISTED: usize = 100;

/// What tells one request from another; what is empty is left out.
#[derive(Default)]
struct Marks<'a> {
    id: DeliveryId,
    event_type: &'a str,
    xml: bool,
    members: &'a [DeliveryId],
    event_id: &'a str,
    feedback_id: &'a str,
    traceparent: &'a str,
}

/// The request of an attempt that starts `now`. Its content-length is left to the client.
pub fn build(route: &Route, head: &Head, body: Bytes, now: Time) -> Request {
    let marks = Marks {
        id: head.id(),
        event_type: &head.event_type,
        xml: head.xml,
        members: &[],
        event_id: &head.event_id,
        feedback_id: head.feedback_id.as_deref().unwrap_or_default(),
        traceparent: head.traceparent.as_deref().unwrap_or_default(),
    };
    make(route, &marks, body, now)
}

/// The same for a batch of these, whose body is `body`.
pub fn build_batch(
    route: &Route,
    id: DeliveryId,
    event_type: &str,
    members: &[DeliveryId],
    body: Bytes,
    now: Time,
) -> Request {
    let members = if members.len() > LISTED { &[] } else { members };
    make(route, &Marks { id, event_type, members, ..Marks::default() }, body, now)
}

fn make(route: &Route, marks: &Marks, body: Bytes, now: Time) -> Request {
    let mut headers = spare::headers(OURS + route.headers.len());
    headers.insert(CONTENT_TYPE, if marks.xml { XML } else { JSON });
    headers.insert(USER_AGENT, AGENT);
    write(route, marks, &body, now, &mut headers);
    if let Some(value) = &route.authorization {
        headers.insert(AUTHORIZATION, value.clone());
    }
    for (name, value) in &route.headers {
        headers.insert(name.clone(), value.clone());
    }
    Request { url: url(route, marks.event_type), headers, body, timeout: route.policy.timeout }
}

/// Writes the values of `WRITTEN` into one piece of memory that they share: one allocation for all,
/// and a request is cheap to clone.
fn write(route: &Route, marks: &Marks, body: &[u8], now: Time, headers: &mut HeaderMap) {
    let given = [marks.event_id, marks.feedback_id, marks.traceparent];
    let given = given.into_iter().map(|text| 3 * text.len()).sum::<usize>() + 33 * marks.members.len();
    let mut text = Vec::with_capacity(64 + signature::length(&route.signing_keys) + given);
    let mut ends = [0; WRITTEN.len()];
    write_id(marks.id, &mut text);
    ends[0] = text.len();
    // Cannot fail: a vector takes all that is written to it.
    let _ = write!(text, "{}", now.seconds());
    ends[1] = text.len();
    signature::sign(&route.signing_keys, ends[0], body, now, &mut text);
    ends[2] = text.len();
    for (at, member) in marks.members.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        write_id(*member, &mut text);
    }
    ends[3] = text.len();
    text.extend_from_slice(marks.event_id.as_bytes());
    ends[4] = text.len();
    percent_encode(marks.feedback_id, &mut text);
    ends[5] = text.len();
    text.extend_from_slice(marks.traceparent.as_bytes());
    ends[6] = text.len();
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

fn write_id(id: DeliveryId, text: &mut Vec<u8>) {
    let start = text.len();
    text.resize(start + 32, 0);
    // Cannot fail: 16 bytes are 32 digits.
    let _ = hex::encode_to_slice(id.bytes(), &mut text[start..]);
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
