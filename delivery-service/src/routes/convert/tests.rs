//! What a webhook on the wire becomes, and what is refused.

use std::collections::BTreeMap;

use common::matching::Name;
use prost_types::{Duration as ProtoDuration, Timestamp};
use proto::v1::authentication::Method;

use super::*;

const ID: &str = "wh_01JD8M3Q5T7W9YBCDEFGHJKMNP";

fn webhook() -> v1::Webhook {
    v1::Webhook {
        id: ID.into(),
        license_code: "~99199077".into(),
        r#type: v1::WebhookType::Event as i32,
        event_names: vec!["email_open".into(), "sms_*".into()],
        post_url: "https://example.com/hook?x=1".into(),
        ..v1::Webhook::default()
    }
}

fn sent(webhook: v1::Webhook) -> v1::Route {
    let key = |secret: &str, expire_time| v1::SigningKey { secret: secret.into(), expire_time };
    v1::Route {
        webhook: Some(webhook),
        signing_keys: vec![
            key("whsec_AAECAw==", None),
            key("whsec_BAUGBw==", Some(Timestamp { seconds: 1_800_000_000, nanos: 5_000_000 })),
        ],
        account_secret_key: "my-webhook-secret".into(),
    }
}

fn route(webhook: v1::Webhook) -> Result<Route, NotUnderstood> {
    Converter::default().route(sent(webhook), 7)
}

#[test]
fn a_webhook_that_says_little_gets_the_defaults() {
    let route = route(webhook()).unwrap();
    assert_eq!(route.webhook_id.to_string(), ID);
    assert_eq!((route.revision, &*route.license_code, route.xml), (7, "~99199077", false));
    assert_eq!((route.state, &*route.post_url), (RouteState::Active, "https://example.com/hook?x=1"));
    assert_eq!(route.url_parameters, UrlParameters::Event);
    assert_eq!(*route.rule.names, [Name::Exact("email_open".into()), Name::Prefix("sms_".into())]);
    assert!(route.headers.is_empty() && route.authorization.is_none());
    let keys: Vec<_> = route.signing_keys.iter().map(|key| (key.key.to_vec(), key.expires)).collect();
    assert_eq!(keys, [(vec![0, 1, 2, 3], None), (vec![4, 5, 6, 7], Some(Time(1_800_000_000_005)))]);
    assert_eq!((route.policy.timeout.as_secs(), route.policy.max_in_flight), (15, 50));
    let delays: Vec<u64> = route.policy.retry_delays.iter().map(Duration::as_secs).collect();
    assert_eq!(delays, [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000]);
}

#[test]
fn what_a_webhook_says_stands() {
    let seconds = |seconds| ProtoDuration { seconds, nanos: 500_000_000 };
    let policy = v1::DeliveryPolicy {
        timeout: Some(seconds(1)),
        retry_delays: vec![seconds(0), seconds(2)],
        max_in_flight: 3,
        max_rate: 2.5,
        order: v1::DeliveryOrder::Unordered as i32,
        ..v1::DeliveryPolicy::default()
    };
    let route = route(v1::Webhook {
        r#type: v1::WebhookType::Feedback as i32,
        event_names: Vec::new(),
        format: v1::PayloadFormat::Xml as i32,
        state: v1::WebhookState::Paused as i32,
        url_parameters: v1::UrlParameters::None as i32,
        headers: BTreeMap::from([("X-Api-Key".into(), "päss".into())]),
        delivery_policy: Some(policy),
        ..webhook()
    })
    .unwrap();
    assert_eq!((route.rule.kind, route.xml, route.state), (Kind::Feedback, true, RouteState::Paused));
    assert_eq!(route.url_parameters, UrlParameters::None);
    let (name, value) = &route.headers[0];
    assert_eq!(
        (name.as_str(), value.as_bytes(), value.is_sensitive()),
        ("x-api-key", "päss".as_bytes(), true)
    );
    assert_eq!(route.policy.timeout, Duration::from_millis(1_500));
    assert_eq!(*route.policy.retry_delays, [500, 2_500].map(Duration::from_millis));
    assert_eq!((route.policy.max_in_flight, route.policy.max_rate), (3, 2.5));
}

fn batch(batch: v1::BatchPolicy) -> v1::Webhook {
    let policy = v1::DeliveryPolicy { batch: Some(batch), ..v1::DeliveryPolicy::default() };
    v1::Webhook { delivery_policy: Some(policy), ..webhook() }
}

#[test]
fn batches_are_of_one_type_unless_the_query_has_none() {
    let by_default = batch(v1::BatchPolicy { max_events: 2, max_delay: None });
    let second = Duration::from_secs(1);
    let expected = Batching { max_events: 2, max_delay: second, one_type: true };
    assert_eq!(route(by_default).unwrap().policy.batch, Some(expected));
    let max_delay = Some(ProtoDuration { seconds: 0, nanos: 0 });
    let given = v1::Webhook {
        url_parameters: v1::UrlParameters::None as i32,
        ..batch(v1::BatchPolicy { max_events: 1_000, max_delay })
    };
    let expected = Batching { max_events: 1_000, max_delay: Duration::ZERO, one_type: false };
    assert_eq!(route(given).unwrap().policy.batch, Some(expected));
    assert_eq!(route(webhook()).unwrap().policy.batch, None);
}

#[test]
fn one_attempt_and_no_more() {
    let policy = v1::DeliveryPolicy { no_retries: true, ..v1::DeliveryPolicy::default() };
    let route = route(v1::Webhook { delivery_policy: Some(policy), ..webhook() }).unwrap();
    assert!(route.policy.retry_delays.is_empty());
}

#[test]
fn the_secret_parameter_is_the_source_systems() {
    for (license_code, secret) in
        [("311c48b3", "e9665fd9c17792a85ed72d32c86c3a88"), ("~99199077", "7aad1133b0a4384aee0808435e335e7b")]
    {
        let webhook = v1::Webhook {
            license_code: license_code.into(),
            url_parameters: v1::UrlParameters::EventAndSecret as i32,
            ..webhook()
        };
        let expected = UrlParameters::EventAndSecret { secret: secret.into() };
        assert_eq!(route(webhook).unwrap().url_parameters, expected);
    }
}

#[test]
fn credentials_become_a_header_that_logs_do_not_show() {
    let with = |method| v1::Webhook {
        authentication: Some(v1::Authentication { method: Some(method) }),
        ..webhook()
    };
    let basic = v1::BasicAuthentication { username: "Aladdin".into(), password: "open sesame".into() };
    let bearer = v1::BearerAuthentication { token: "t0ken".into() };
    for (method, expected) in [
        (Method::Basic(basic), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        (Method::Bearer(bearer), "Bearer t0ken"),
    ] {
        let route = route(with(method)).unwrap();
        assert_eq!(route.authorization.as_ref().unwrap(), expected);
        let shown = format!("{route:?}");
        assert!(!shown.contains(expected) && !shown.contains("[0, 1, 2, 3]"), "{shown}");
    }
}

#[test]
fn equal_filters_and_default_policies_are_shared() {
    let mut converter = Converter::default();
    let mut make = |source: &str| {
        let webhook = v1::Webhook { filter: source.into(), ..webhook() };
        converter.route(sent(webhook), 1).unwrap()
    };
    let (first, second) = (make("event.user_id == 'a'"), make("event.user_id == 'a'"));
    let other = make("event.user_id == 'b'");
    let filter = |route: &Route| Arc::clone(route.rule.filter.as_ref().unwrap());
    assert!(Arc::ptr_eq(&filter(&first), &filter(&second)));
    assert!(!Arc::ptr_eq(&filter(&first), &filter(&other)));
    assert!(Arc::ptr_eq(&first.policy.retry_delays, &other.policy.retry_delays));
}

#[test]
fn what_this_version_does_not_know_is_refused_by_the_webhooks_name_and_without_secrets() {
    let policy = |policy| v1::Webhook { delivery_policy: Some(policy), ..webhook() };
    let method = |method| v1::Webhook {
        authentication: Some(v1::Authentication { method: Some(method) }),
        ..webhook()
    };
    let cases = [
        ("type", v1::Webhook { r#type: 99, ..webhook() }),
        ("no event", v1::Webhook { event_names: Vec::new(), ..webhook() }),
        ("category", v1::Webhook { event_category: 9, ..webhook() }),
        ("format", v1::Webhook { format: 9, ..webhook() }),
        ("JSON only", v1::Webhook { format: v1::PayloadFormat::Xml as i32, ..webhook() }),
        ("state", v1::Webhook { state: 9, ..webhook() }),
        ("url_parameters", v1::Webhook { url_parameters: 9, ..webhook() }),
        ("filter", v1::Webhook { filter: "event.".into(), ..webhook() }),
        ("ED25519", v1::Webhook { signature_scheme: 2, ..webhook() }),
        ("signature_scheme", v1::Webhook { signature_scheme: 9, ..webhook() }),
        (
            "header x-a",
            v1::Webhook { headers: BTreeMap::from([("x-a".into(), "hidden\nvalue".into())]), ..webhook() },
        ),
        ("credentials", method(Method::Bearer(v1::BearerAuthentication { token: "hidden\n".into() }))),
        ("oauth2", method(Method::Oauth2(v1::OAuth2ClientCredentials::default()))),
        ("client_certificate", method(Method::ClientCertificate(v1::ClientCertificate::default()))),
        ("order", policy(v1::DeliveryPolicy { order: 9, ..v1::DeliveryPolicy::default() })),
        ("a batch of none", batch(v1::BatchPolicy::default())),
        (
            "goes in no batch",
            v1::Webhook {
                r#type: v1::WebhookType::Feedback as i32,
                event_names: Vec::new(),
                format: v1::PayloadFormat::Xml as i32,
                ..batch(v1::BatchPolicy { max_events: 2, max_delay: None })
            },
        ),
        (
            "duration",
            policy(v1::DeliveryPolicy {
                timeout: Some(ProtoDuration { seconds: -1, nanos: 0 }),
                ..v1::DeliveryPolicy::default()
            }),
        ),
        ("max_in_flight", policy(v1::DeliveryPolicy { max_in_flight: -1, ..v1::DeliveryPolicy::default() })),
        ("max_rate", policy(v1::DeliveryPolicy { max_rate: f64::NAN, ..v1::DeliveryPolicy::default() })),
    ];
    for (problem, webhook) in cases {
        let refused = route(webhook).unwrap_err();
        assert_eq!(refused.webhook_id, ID);
        assert!(refused.problem.contains(problem), "{problem}: {refused}");
        assert!(!refused.problem.contains("hidden"), "{refused}");
    }
    let mut keyless = sent(webhook());
    keyless.signing_keys.clear();
    let mut bad_key = sent(webhook());
    bad_key.signing_keys[1].secret = "whsec_hidden!".into();
    let secretless = v1::Webhook { url_parameters: 3, ..webhook() };
    let secretless = v1::Route { account_secret_key: String::new(), ..sent(secretless) };
    let nameless = sent(v1::Webhook { id: "wh_1".into(), ..webhook() });
    for (problem, sent) in [
        ("no signing key", keyless),
        ("base64", bad_key),
        ("secret key is missing", secretless),
        ("no webhook id", nameless),
    ] {
        let refused = Converter::default().route(sent, 1).unwrap_err();
        assert!(refused.problem.contains(problem) && !refused.problem.contains("hidden"), "{refused}");
    }
}
