//! What a webhook may say and what is refused, by table.

use std::collections::BTreeMap;

use proto::v1::{
    Authentication, BasicAuthentication, BatchPolicy, BearerAuthentication, ClientCertificate, DeliveryOrder,
    DeliveryPolicy, OAuth2ClientCredentials, authentication::Method,
};

use super::*;

fn valid() -> Webhook {
    Webhook {
        license_code: "~99199077".into(),
        r#type: WebhookType::Event.into(),
        event_names: vec!["Added to Cart".into()],
        post_url: "https://example.com/hook".into(),
        ..Webhook::default()
    }
}

fn feedback() -> Webhook {
    Webhook { r#type: WebhookType::Feedback.into(), event_names: vec![], ..valid() }
}

fn batch(max_events: i32, max_delay: Option<prost_types::Duration>) -> Webhook {
    let batch = Some(BatchPolicy { max_events, max_delay });
    with_policy(DeliveryPolicy { batch, ..DeliveryPolicy::default() })
}

fn with_policy(policy: DeliveryPolicy) -> Webhook {
    Webhook { delivery_policy: Some(policy), ..valid() }
}

fn with_header(name: &str, value: &str) -> Webhook {
    Webhook { headers: BTreeMap::from([(name.to_owned(), value.to_owned())]), ..valid() }
}

fn with_method(method: Option<Method>) -> Webhook {
    Webhook { authentication: Some(Authentication { method }), ..valid() }
}

fn basic(username: &str, password: &str) -> Option<Method> {
    Some(Method::Basic(BasicAuthentication { username: username.into(), password: password.into() }))
}

fn bearer(token: &str) -> Option<Method> {
    Some(Method::Bearer(BearerAuthentication { token: token.into() }))
}

fn duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

fn delays(delays: Vec<prost_types::Duration>) -> Webhook {
    with_policy(DeliveryPolicy { retry_delays: delays, ..DeliveryPolicy::default() })
}

fn map(entries: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    entries.into_iter().collect()
}

/// Field and description of each violation.
fn problems(webhook: Webhook) -> Vec<(String, String)> {
    let mut found = Violations::default();
    super::webhook(webhook, None, &Rules::default(), &mut found);
    found.iter().map(|(field, description)| (field.to_owned(), description.to_owned())).collect()
}

#[test]
fn each_fault_is_named_by_its_path_with_what_to_do() {
    let policy = DeliveryPolicy::default;
    let rate = |max_rate| with_policy(DeliveryPolicy { max_rate, ..policy() });
    let timeout =
        |seconds, nanos| with_policy(DeliveryPolicy { timeout: Some(duration(seconds, nanos)), ..policy() });
    let order = |order: i32| with_policy(DeliveryPolicy { order, ..policy() });
    let named = |name: &str| Webhook { event_names: vec![name.into()], ..valid() };
    let of_type = |kind: WebhookType| Webhook { r#type: kind.into(), ..feedback() };
    let xml = |kind| Webhook { format: PayloadFormat::Xml.into(), ..of_type(kind) };
    let label = |key: &str, value: &str| Webhook { labels: map([(key.into(), value.into())]), ..valid() };
    let cases: Vec<(Webhook, &str, &str)> = vec![
        (Webhook { license_code: String::new(), ..valid() }, "webhook.license_code", "required"),
        (Webhook { license_code: "a b".into(), ..valid() }, "webhook.license_code", "1 to 64"),
        (Webhook { license_code: "x".repeat(65), ..valid() }, "webhook.license_code", "1 to 64"),
        (of_type(WebhookType::Unspecified), "webhook.type", "required"),
        (Webhook { r#type: 99, ..feedback() }, "webhook.type", "unknown"),
        (Webhook { event_names: vec![], ..valid() }, "webhook.event_names", "required"),
        (Webhook { event_names: vec!["a".into(); 101], ..valid() }, "webhook.event_names", "at most 100"),
        (named(""), "webhook.event_names[0]", "1 to 100"),
        (named(&"é".repeat(101)), "webhook.event_names[0]", "1 to 100"),
        (Webhook { event_names: vec!["a".into()], ..feedback() }, "webhook.event_names", "leave it empty"),
        (Webhook { event_category: 1, ..feedback() }, "webhook.event_category", "leave it out"),
        (Webhook { event_category: 7, ..valid() }, "webhook.event_category", "unknown"),
        (named("app_crashed"), "webhook.event_names[0]", "never carry"),
        (Webhook { event_category: 1, ..named("user_logged_in") }, "webhook.event_names[0]", "never carry"),
        (Webhook { post_url: String::new(), ..valid() }, "webhook.post_url", "required"),
        (Webhook { post_url: "ftp://example.com".into(), ..valid() }, "webhook.post_url", ""),
        (
            Webhook { post_url: format!("https://example.com/{}", "x".repeat(2_029)), ..valid() },
            "webhook.post_url",
            "2048",
        ),
        (Webhook { post_url: "https://10.0.0.1/".into(), ..valid() }, "webhook.post_url", "10.0.0.1"),
        (Webhook { format: 9, ..valid() }, "webhook.format", "unknown"),
        (Webhook { format: 2, ..valid() }, "webhook.format", "supports JSON only"),
        (xml(WebhookType::GlobalSystemEvents), "webhook.format", "supports JSON only"),
        (xml(WebhookType::GlobalApplicationEvents), "webhook.format", "supports JSON only"),
        (xml(WebhookType::Journey), "webhook.format", "supports JSON only"),
        (Webhook { description: "é".repeat(501), ..valid() }, "webhook.description", "at most 500"),
        (label("", "v"), "webhook.labels[\"\"]", "1 to 63"),
        (label("k", &"v".repeat(256)), "webhook.labels[\"k\"]", "at most 255"),
        (
            Webhook { labels: map((0..33).map(|n| (n.to_string(), String::new()))), ..valid() },
            "webhook.labels",
            "at most 32",
        ),
        (Webhook { filter: "event.".into(), ..valid() }, "webhook.filter", ""),
        (Webhook { filter: "x".repeat(2_049), ..valid() }, "webhook.filter", "at most 2048"),
        (
            Webhook { headers: map((0..33).map(|n| (format!("x-{n}"), String::new()))), ..valid() },
            "webhook.headers",
            "at most 32",
        ),
        (with_header("", "v"), "webhook.headers[\"\"]", "not a header name"),
        (with_header("a b", "v"), "webhook.headers[\"a b\"]", "not a header name"),
        (with_header("X", "a\r\nb"), "webhook.headers[\"X\"]", "visible ASCII"),
        (with_header("X", " a"), "webhook.headers[\"X\"]", "visible ASCII"),
        (with_header("X", &"v".repeat(4_097)), "webhook.headers[\"X\"]", "4,096"),
        (with_method(None), "webhook.authentication.method", "required"),
        (with_method(basic("", "")), "webhook.authentication.basic", "required"),
        (with_method(basic("a:b", "c")), "webhook.authentication.basic.username", "colon"),
        (with_method(basic("a", "c\n")), "webhook.authentication.basic.password", "control"),
        (with_method(basic("a", &"c".repeat(4_096))), "webhook.authentication.basic", "4,096"),
        (with_method(bearer("")), "webhook.authentication.bearer.token", "required"),
        (with_method(bearer("a b")), "webhook.authentication.bearer.token", "visible ASCII"),
        (with_method(bearer(&"t".repeat(4_097))), "webhook.authentication.bearer.token", "4,096"),
        (
            with_method(Some(Method::Oauth2(OAuth2ClientCredentials::default()))),
            "webhook.authentication.oauth2",
            "not supported yet",
        ),
        (
            with_method(Some(Method::ClientCertificate(ClientCertificate::default()))),
            "webhook.authentication.client_certificate",
            "not supported yet",
        ),
        (Webhook { url_parameters: 4, ..valid() }, "webhook.url_parameters", "unknown"),
        (Webhook { state: 3, ..valid() }, "webhook.state", "only the system"),
        (Webhook { state: -1, ..valid() }, "webhook.state", "unknown"),
        (Webhook { signature_scheme: 2, ..valid() }, "webhook.signature_scheme", "not supported yet"),
        (Webhook { signature_scheme: 3, ..valid() }, "webhook.signature_scheme", "unknown"),
        (timeout(0, 999_999_999), "webhook.delivery_policy.timeout", "1 s to 60 s"),
        (timeout(60, 1), "webhook.delivery_policy.timeout", "1 s to 60 s"),
        (timeout(5, 1_000_000_000), "webhook.delivery_policy.timeout", "1 s to 60 s"),
        (timeout(5, -1), "webhook.delivery_policy.timeout", "1 s to 60 s"),
        (delays(vec![duration(5, 0); 31]), "webhook.delivery_policy.retry_delays", "at most 30"),
        (
            delays(vec![duration(5, 0), duration(0, 99_999_999)]),
            "webhook.delivery_policy.retry_delays[1]",
            "0.1 s to 7 days",
        ),
        (delays(vec![duration(604_800, 1)]), "webhook.delivery_policy.retry_delays[0]", "0.1 s to 7 days"),
        (
            with_policy(DeliveryPolicy { max_in_flight: 1_001, ..policy() }),
            "webhook.delivery_policy.max_in_flight",
            "1 to 1,000",
        ),
        (
            with_policy(DeliveryPolicy { max_in_flight: -1, ..policy() }),
            "webhook.delivery_policy.max_in_flight",
            "1 to 1,000",
        ),
        (rate(-1.0), "webhook.delivery_policy.max_rate", "1,000,000"),
        (rate(f64::NAN), "webhook.delivery_policy.max_rate", "1,000,000"),
        (rate(f64::INFINITY), "webhook.delivery_policy.max_rate", "1,000,000"),
        (rate(1e-300), "webhook.delivery_policy.max_rate", "0.0001"),
        (order(4), "webhook.delivery_policy.order", "unknown"),
        (batch(1, None), "webhook.delivery_policy.batch.max_events", "2 to 1,000"),
        (batch(1_001, None), "webhook.delivery_policy.batch.max_events", "2 to 1,000"),
        (batch(2, Some(duration(60, 1))), "webhook.delivery_policy.batch.max_delay", "0 s to 60 s"),
        (batch(2, Some(duration(-1, 0))), "webhook.delivery_policy.batch.max_delay", "0 s to 60 s"),
        (
            Webhook { format: 2, delivery_policy: batch(2, None).delivery_policy, ..feedback() },
            "webhook.delivery_policy.batch",
            "JSON only",
        ),
        (
            with_policy(DeliveryPolicy { no_retries: true, retry_delays: vec![duration(5, 0)], ..policy() }),
            "webhook.delivery_policy.no_retries",
            "not together",
        ),
    ];
    for (webhook, field, description) in cases {
        let found = problems(webhook);
        let [(at, what)] = found.as_slice() else { panic!("{field}: {found:?}") };
        assert_eq!(at, field, "{what}");
        assert!(what.contains(description), "{field}: {what}");
    }
}

#[test]
fn what_is_allowed_at_the_edges_is_stored_as_given() {
    let prefix = |name: &str| Webhook { event_names: vec![name.into()], ..valid() };
    let cases = [
        valid(),
        feedback(),
        prefix("*"),
        prefix("app_*"),
        prefix(&"é".repeat(100)),
        Webhook { event_category: 2, ..prefix("app_crashed") },
        Webhook { format: 2, ..feedback() },
        Webhook { description: "é".repeat(500), ..valid() },
        Webhook { post_url: format!("https://example.com/{}", "x".repeat(2_028)), ..valid() },
        Webhook { labels: map([("k".repeat(63), "v".repeat(255))]), ..valid() },
        Webhook { filter: "event.event_name == \"a\"".into(), ..valid() },
        Webhook { state: WebhookState::Paused.into(), ..valid() },
        Webhook { url_parameters: 3, ..valid() },
        with_header("Authorization", "Token abc"),
        with_header("X", ""),
        with_method(basic("user", "")),
        with_method(basic("käse", "p:w")),
        with_method(bearer("abc.def-ghi_=")),
        delays(vec![duration(0, 100_000_000), duration(604_800, 0)]),
        batch(2, Some(duration(0, 0))),
        batch(1_000, Some(duration(60, 0))),
        with_policy(DeliveryPolicy {
            timeout: Some(duration(60, 0)),
            max_in_flight: 1_000,
            max_rate: 0.0001,
            no_retries: true,
            ..DeliveryPolicy::default()
        }),
    ];
    for webhook in cases {
        assert_eq!(problems(webhook.clone()), [], "{webhook:?}");
        let mut found = Violations::default();
        let stored = super::webhook(webhook.clone(), None, &Rules::default(), &mut found);
        assert_eq!(
            (stored.post_url, stored.event_names, stored.headers, stored.authentication, stored.filter),
            (webhook.post_url, webhook.event_names, webhook.headers, webhook.authentication, webhook.filter)
        );
    }
}

#[test]
fn defaults_are_filled_in() {
    let mut found = Violations::default();
    let webhook = super::webhook(valid(), None, &Rules::default(), &mut found);
    assert!(found.is_empty());
    assert_eq!(webhook.format(), PayloadFormat::Json);
    assert_eq!(webhook.state(), WebhookState::Active);
    assert_eq!(webhook.signature_scheme(), SignatureScheme::HmacSha256);
    assert_eq!(webhook.url_parameters(), UrlParameters::Event);
    let policy = webhook.delivery_policy.unwrap();
    assert_eq!(policy.timeout, Some(duration(15, 0)));
    let delays: Vec<_> = policy.retry_delays.iter().map(|delay| delay.seconds).collect();
    assert_eq!(delays, [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000]);
    assert_eq!((policy.max_in_flight, policy.max_rate), (50, 0.0));
    assert_eq!(policy.order(), DeliveryOrder::Unordered);

    for order in [DeliveryOrder::ByUser, DeliveryOrder::Strict] {
        let ordered = with_policy(DeliveryPolicy { order: order.into(), ..DeliveryPolicy::default() });
        let webhook = super::webhook(ordered, None, &Rules::default(), &mut found);
        assert_eq!((webhook.delivery_policy.unwrap().order(), found.is_empty()), (order, true));
    }

    let batched = super::webhook(batch(2, None), None, &Rules::default(), &mut found);
    let batch = batched.delivery_policy.unwrap().batch.unwrap();
    assert_eq!((batch.max_events, batch.max_delay, found.is_empty()), (2, Some(duration(1, 0)), true));

    let once = with_policy(DeliveryPolicy { no_retries: true, ..DeliveryPolicy::default() });
    let webhook = super::webhook(once, None, &Rules::default(), &mut found);
    assert_eq!(webhook.delivery_policy.unwrap().retry_delays, []);
}

#[test]
fn headers_that_the_sender_sets_are_refused_whatever_their_case() {
    let names = "Host content-length Content-Type user-agent Connection keep-alive Proxy-Connection te trailer \
        Transfer-Encoding upgrade proxy-authorization proxy-authenticate traceparent TraceState X-Request-Id \
        Webhook-Id webhook-anything X-Event-Id x-event-feedback-id";
    for name in names.split_whitespace() {
        let found = problems(with_header(name, "v"));
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0].0, format!("webhook.headers[{name:?}]"));
        assert!(found[0].1.contains("not allowed"), "{name}");
    }
    let twice = Webhook { headers: map([("X-A".into(), "1".into()), ("x-a".into(), "2".into())]), ..valid() };
    assert!(problems(twice)[0].1.contains("unique"));
    let both = Webhook {
        authentication: with_method(bearer("t")).authentication,
        ..with_header("Authorization", "x")
    };
    assert!(problems(both)[0].1.contains("leave one of them out"));
}

#[test]
fn all_faults_of_a_webhook_are_found_at_once_and_no_secret_is_told() {
    let webhook = Webhook {
        license_code: String::new(),
        post_url: String::new(),
        description: "x".repeat(501),
        state: 3,
        ..with_header("X", "top\nsecret")
    };
    let found = problems(webhook);
    let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "webhook.license_code",
            "webhook.post_url",
            "webhook.description",
            "webhook.headers[\"X\"]",
            "webhook.state"
        ]
    );
    assert!(found.iter().all(|(_, description)| !description.contains("secret")));
}

#[test]
fn an_update_is_not_held_up_by_what_it_does_not_change() {
    let problems = |webhook: Webhook, stored: &Webhook| {
        let mut found = Violations::default();
        super::webhook(webhook, Some(stored), &Rules::default(), &mut found);
        found.iter().map(|(field, _)| field.to_owned()).collect::<Vec<_>>()
    };
    let stored = Webhook { post_url: "http://127.0.0.1:9000/".into(), state: 3, ..valid() };
    assert_eq!(problems(stored.clone(), &stored), [""; 0]);
    assert_eq!(problems(Webhook { state: 1, ..stored.clone() }, &stored), [""; 0]);
    let other = Webhook { post_url: "http://127.0.0.1:9001/".into(), ..stored.clone() };
    assert_eq!(problems(other, &stored), ["webhook.post_url"]);
}

#[test]
fn request_ids_are_short_and_printable() {
    for (id, wrong) in
        [("", 0), ("create acme #1", 0), ("a\nb", 1), (&"x".repeat(65), 1), (&"é".repeat(64), 0)]
    {
        let mut found = Violations::default();
        request_id(id, &mut found);
        assert_eq!(found.iter().count(), wrong, "{id:?}");
    }
}
