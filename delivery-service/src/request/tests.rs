//! Requests as house rules say they are: URLs by table, headers to the letter, nothing secret shown.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{
    ids::{DeliveryId, WebhookId},
    matching::{Kind, Rule},
};

use super::*;
use crate::routes::{Policy, RouteState, SigningKey};

const SECRET: &str = "7aad1133b0a4384aee0808435e335e7b";
const NOW: Time = Time(1_800_000_000_999);

fn route(post_url: &str, url_parameters: UrlParameters) -> Route {
    Route {
        webhook_id: WebhookId::new(4, 5),
        revision: 1,
        license_code: "~99199077".into(),
        rule: Rule { kind: Kind::Event, names: Box::new([]), category: None, filter: None },
        state: RouteState::Active,
        xml: false,
        post_url: post_url.into(),
        url_parameters,
        headers: Box::new([]),
        authorization: None,
        signing_keys: Box::new([SigningKey { key: (*b"a key").into(), expires: None }]),
        policy: Policy {
            timeout: Duration::from_secs(15),
            retry_delays: Arc::new([]),
            max_in_flight: 50,
            max_rate: 0.0,
            ..Policy::default()
        },
    }
}

fn head(event_type: &str) -> Head {
    let mut head = Head::new(DeliveryId::new(513, 1_700_000_000_000, 7), WebhookId::new(4, 5));
    head.event_id = "evt-1".into();
    head.event_type = event_type.into();
    head
}

fn shown(headers: &[(String, String)]) -> BTreeMap<&str, &str> {
    headers.iter().map(|(name, value)| (&**name, &**value)).collect()
}

#[test]
fn parameters_follow_the_query_and_the_rest_is_as_given() {
    let with_secret = || UrlParameters::EventAndSecret { secret: SECRET.into() };
    let event = "eventType=FEEDBACK_SUBMIT&licenseCode=~99199077";
    let table = [
        ("https://h.example", UrlParameters::Event, format!("https://h.example?{event}")),
        ("https://h.example/", UrlParameters::Event, format!("https://h.example/?{event}")),
        ("https://h.example/a?x=1", UrlParameters::Event, format!("https://h.example/a?x=1&{event}")),
        ("https://h.example/a?", UrlParameters::Event, format!("https://h.example/a?&{event}")),
        ("https://h.example/a#top", UrlParameters::Event, format!("https://h.example/a?{event}")),
        ("https://h.example/a?x#t?y", UrlParameters::Event, format!("https://h.example/a?x&{event}")),
        ("https://h.example/a#t?y", UrlParameters::Event, format!("https://h.example/a?{event}")),
        ("https://H.example:443/A%2fb/../c", with_secret(), {
            format!("https://H.example:443/A%2fb/../c?{event}&secret={SECRET}")
        }),
        ("https://h.example/a?#top", UrlParameters::None, "https://h.example/a?".to_owned()),
        ("https://h.example", UrlParameters::None, "https://h.example".to_owned()),
    ];
    for (given, parameters, expected) in table {
        let request = build(&route(given, parameters), &head("FEEDBACK_SUBMIT"), Bytes::new(), NOW);
        assert_eq!(request.url, expected, "{given}");
    }
}

#[test]
fn appended_values_are_percent_encoded() {
    let table = [
        ("AZaz09-._~", "AZaz09-._~"),
        ("Added to Cart", "Added%20to%20Cart"),
        ("a+b&c=d#e?f/g%h", "a%2Bb%26c%3Dd%23e%3Ff%2Fg%25h"),
        ("größe 日\n", "gr%C3%B6%C3%9Fe%20%E6%97%A5%0A"),
    ];
    for (name, encoded) in table {
        let route = route("https://h.example/", UrlParameters::Event);
        let request = build(&route, &head(name), Bytes::new(), NOW);
        let expected = format!("https://h.example/?eventType={encoded}&licenseCode=~99199077");
        assert_eq!(request.url, expected);
    }
}

#[test]
fn a_plain_request_carries_these_headers_and_no_others() {
    let route = route("https://h.example/", UrlParameters::None);
    let body = Bytes::from_static(b"{}");
    let request = build(&route, &head("cart"), body.clone(), NOW);
    let id = "0201018bcfe568000000000000000700";
    let mut signature = format!("{id}1800000000").into_bytes();
    signature::sign(&route.signing_keys, id.len(), &body, NOW, &mut signature);
    let signature = String::from_utf8(signature.split_off(42)).unwrap();
    let version = format!("hookline/{}", env!("CARGO_PKG_VERSION"));
    let expected = BTreeMap::from([
        ("content-type", "application/json; charset=utf-8"),
        ("user-agent", &version),
        ("x-request-id", id),
        ("webhook-id", id),
        ("webhook-timestamp", "1800000000"),
        ("webhook-signature", &signature),
        ("x-event-id", "evt-1"),
    ]);
    let headers: BTreeMap<_, _> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(headers, expected);
    assert_eq!((request.body, request.timeout), (body, Duration::from_secs(15)));
}

#[test]
fn a_batch_s_request_carries_its_own_id_and_its_members_and_nothing_of_one_event() {
    let route = route("https://h.example/", UrlParameters::Event);
    let body = Bytes::from_static(b"[{},{}]");
    let id = |n| DeliveryId::new(0, 0, n);
    let request = build_batch(&route, id(9), "a cart", &[id(1), id(2)], body.clone(), NOW);
    assert_eq!(request.url, "https://h.example/?eventType=a%20cart&licenseCode=~99199077");
    let mut signature = format!("{}1800000000", id(9)).into_bytes();
    signature::sign(&route.signing_keys, 32, &body, NOW, &mut signature);
    let signature = String::from_utf8(signature.split_off(42)).unwrap();
    let version = format!("hookline/{}", env!("CARGO_PKG_VERSION"));
    let (nine, members) = (id(9).to_string(), format!("{},{}", id(1), id(2)));
    let expected = BTreeMap::from([
        ("content-type", "application/json; charset=utf-8"),
        ("user-agent", &*version),
        ("x-request-id", &nine),
        ("webhook-id", &nine),
        ("webhook-timestamp", "1800000000"),
        ("webhook-signature", &signature),
        ("webhook-delivery-ids", &members),
    ]);
    let headers: BTreeMap<_, _> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(headers, expected);
    assert_eq!(request.body, body);

    for (count, listed) in [(1, true), (100, true), (101, false)] {
        let members: Vec<_> = (0..count).map(id).collect();
        let headers = build_batch(&route, id(9), "a", &members, body.clone(), NOW).headers;
        assert_eq!(headers.contains_key("webhook-delivery-ids"), listed, "{count}");
    }
}

#[test]
fn what_a_delivery_or_its_route_adds_is_there_when_it_is_set() {
    let mut route = route("https://h.example/", UrlParameters::None);
    route.authorization = Some(HeaderValue::from_static("Bearer t0ken"));
    route.headers = Box::new([(HeaderName::from_static("x-own"), HeaderValue::from_static("mine"))]);
    let mut head = head("FEEDBACK_REPLY_SUBMIT");
    head.xml = true;
    head.feedback_id = Some("id 1/é".into());
    head.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let headers = build(&route, &head, Bytes::new(), NOW).headers;
    let table = [
        ("content-type", "application/xml; charset=utf-8"),
        ("x-event-feedback-id", "id%201%2F%C3%A9"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("authorization", "Bearer t0ken"),
        ("x-own", "mine"),
    ];
    for (name, value) in table {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(headers.len(), OURS);
}

#[test]
fn nothing_secret_is_shown_to_people() {
    let mut route = route("https://h.example/?a=b", UrlParameters::EventAndSecret { secret: SECRET.into() });
    route.authorization = Some(HeaderValue::from_static("Bearer t0ken"));
    route.headers = Box::new([(HeaderName::from_static("x-own"), HeaderValue::from_static("mine"))]);
    let request = build(&route, &head("cart"), Bytes::from_static(b"{}"), NOW);
    let (url, headers) = mask(&request, &route);
    assert_eq!(url, "https://h.example/?a=b&eventType=cart&licenseCode=~99199077&secret=********");
    let headers = shown(&headers);
    for name in ["authorization", "x-own", "webhook-signature"] {
        assert_eq!(headers[name], MASK, "{name}");
    }
    assert_eq!(headers["content-length"], "2");
    assert_eq!(headers["x-event-id"], "evt-1");
    let debug = format!("{request:?}");
    for secret in [SECRET, "t0ken", "mine"] {
        assert!(!debug.contains(secret), "{debug}");
    }
}
