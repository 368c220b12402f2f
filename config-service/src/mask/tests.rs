//! What is masked, what a mask sent back keeps, and which fields an update takes: by table.

use std::collections::BTreeMap;

use proto::v1::{Authentication, BasicAuthentication, BearerAuthentication, WebhookType};

use super::*;

fn stored() -> Webhook {
    Webhook {
        id: "wh_1".into(),
        license_code: "acme".into(),
        r#type: WebhookType::Event.into(),
        event_names: vec!["a".into()],
        post_url: "https://example.com/".into(),
        description: "before".into(),
        headers: BTreeMap::from([("X-Key".into(), "k1".into()), ("X-Other".into(), "k2".into())]),
        authentication: basic("user", "pw"),
        delivery_policy: Some(DeliveryPolicy {
            max_in_flight: 7,
            retry_delays: vec![seconds(5)],
            ..DeliveryPolicy::default()
        }),
        state: WebhookState::Disabled.into(),
        disabled_reason: "410 Gone".into(),
        create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..Webhook::default()
    }
}

fn basic(username: &str, password: &str) -> Option<Authentication> {
    let basic = BasicAuthentication { username: username.into(), password: password.into() };
    Some(Authentication { method: Some(Method::Basic(basic)) })
}

fn bearer(token: &str) -> Option<Authentication> {
    Some(Authentication { method: Some(Method::Bearer(BearerAuthentication { token: token.into() })) })
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn paths(paths: &[&str]) -> FieldMask {
    FieldMask { paths: paths.iter().map(|path| path.to_string()).collect() }
}

/// The merged webhook, and the fields of the violations.
fn merged(given: Webhook, mask: &[&str]) -> (Webhook, Vec<String>) {
    let mut found = Violations::default();
    let webhook = merge(&stored(), given, Some(&paths(mask)), &mut found);
    (webhook, found.iter().map(|(field, _)| field.to_owned()).collect())
}

#[test]
fn what_is_read_and_sent_back_changes_nothing() {
    let mut read = stored();
    hide(&mut read);
    for secret in ["k1", "k2", "user", "pw"] {
        assert!(!format!("{read:?}").contains(&format!("{secret:?}")), "{secret}");
    }
    assert_eq!(merged(read.clone(), &[]), (stored(), vec![]));
    assert_eq!(merged(read.clone(), &["*"]), (stored(), vec![]));
    assert_eq!(merge(&stored(), read, None, &mut Violations::default()), stored());
}

#[test]
fn masks_keep_secrets_by_header_and_by_credential() {
    let headers = BTreeMap::from([("x-key".into(), MASKED.into()), ("X-New".into(), "n".into())]);
    let given = Webhook { headers, authentication: basic(MASKED, "new"), ..Webhook::default() };
    let (webhook, wrong) = merged(given, &["headers", "authentication"]);
    assert_eq!(wrong, [""; 0]);
    assert_eq!(
        webhook.headers,
        BTreeMap::from([("x-key".into(), "k1".into()), ("X-New".into(), "n".into())])
    );
    assert_eq!(webhook.authentication, basic("user", "new"));
}

#[test]
fn a_mask_with_nothing_behind_it_is_refused() {
    let headers = BTreeMap::from([("X-New".into(), MASKED.into())]);
    let given = Webhook { headers, authentication: bearer(MASKED), ..Webhook::default() };
    let (_, wrong) = merged(given.clone(), &["headers", "authentication"]);
    assert_eq!(wrong, ["webhook.headers[\"X-New\"]", "webhook.authentication.bearer.token"]);
    let mut found = Violations::default();
    restore(&mut given.clone(), None, &mut found);
    assert_eq!(found.iter().count(), 2);
    let mut found = Violations::default();
    restore(&mut Webhook { authentication: basic(MASKED, MASKED), ..given }, None, &mut found);
    assert_eq!(found.iter().count(), 3);
}

#[test]
fn only_the_named_fields_are_taken() {
    let given = Webhook {
        description: "after".into(),
        post_url: "https://example.org/".into(),
        delivery_policy: Some(DeliveryPolicy {
            max_in_flight: 9,
            max_rate: 3.0,
            ..DeliveryPolicy::default()
        }),
        ..Webhook::default()
    };
    let (webhook, wrong) = merged(given, &["description", "delivery_policy.max_rate"]);
    assert_eq!(wrong, [""; 0]);
    let mut expected = stored();
    expected.description = "after".into();
    expected.delivery_policy.as_mut().unwrap().max_rate = 3.0;
    assert_eq!(webhook, expected);
}

#[test]
fn every_field_that_can_change_can_be_named() {
    let all = "event_names event_category post_url format description labels filter headers authentication \
        url_parameters delivery_policy state signature_scheme delivery_policy.timeout \
        delivery_policy.retry_delays delivery_policy.max_in_flight delivery_policy.max_rate \
        delivery_policy.order delivery_policy.batch delivery_policy.no_retries \
        id disabled_reason create_time update_time etag";
    let (webhook, wrong) = merged(Webhook::default(), &all.split_whitespace().collect::<Vec<_>>());
    assert_eq!(wrong, [""; 0]);
    let left = Webhook {
        id: "wh_1".into(),
        license_code: "acme".into(),
        r#type: WebhookType::Event.into(),
        create_time: stored().create_time,
        delivery_policy: Some(DeliveryPolicy::default()),
        ..Webhook::default()
    };
    assert_eq!(webhook, left);
}

#[test]
fn paths_that_name_nothing_or_what_cannot_change_are_refused() {
    for path in
        ["license_code", "type", "webhook.post_url", "postUrl", "", "delivery_policy.", "headers.x", "*"]
    {
        let (webhook, wrong) = merged(Webhook::default(), &["id", path]);
        assert_eq!(wrong, ["update_mask.paths[1]"], "{path:?}");
        assert_eq!(webhook, stored(), "{path:?}");
    }
    assert_eq!(merged(Webhook::default(), &["labels"; 65]), (stored(), vec!["update_mask.paths".into()]));
}

#[test]
fn a_whole_update_may_repeat_what_cannot_change_but_not_change_it() {
    let given = Webhook { license_code: "other".into(), r#type: 1, id: "wh_1".into(), ..Webhook::default() };
    assert_eq!(merged(given, &[]).1, ["webhook.license_code", "webhook.type"]);
    let given = Webhook { create_time: None, disabled_reason: "mine".into(), etag: "x".into(), ..stored() };
    assert_eq!(merged(given, &["*"]), (stored(), vec![]));
}

#[test]
fn a_webhook_that_is_enabled_again_has_no_reason_left() {
    let given = Webhook { state: WebhookState::Paused.into(), ..Webhook::default() };
    assert_eq!(merged(given, &["state"]).0.disabled_reason, "");
    assert_eq!(merged(Webhook::default(), &["description"]).0.disabled_reason, "410 Gone");
}

#[test]
fn retries_that_are_named_take_the_place_of_what_excludes_them() {
    let policy = |webhook: Webhook| webhook.delivery_policy.unwrap();
    let given = |no_retries, retry_delays| Webhook {
        delivery_policy: Some(DeliveryPolicy { no_retries, retry_delays, ..DeliveryPolicy::default() }),
        ..Webhook::default()
    };
    let once = policy(merged(given(true, vec![]), &["delivery_policy.no_retries"]).0);
    assert_eq!((once.no_retries, once.retry_delays), (true, vec![]));
    let both = ["delivery_policy.no_retries", "delivery_policy.retry_delays"];
    let both = policy(merged(given(true, vec![seconds(1)]), &both).0);
    assert_eq!((both.no_retries, both.retry_delays), (true, vec![seconds(1)]));

    let mut stored = stored();
    stored.delivery_policy = Some(DeliveryPolicy { no_retries: true, ..DeliveryPolicy::default() });
    let mask = paths(&["delivery_policy.retry_delays"]);
    let again = merge(&stored, given(false, vec![seconds(1)]), Some(&mask), &mut Violations::default());
    assert_eq!(policy(again.clone()).retry_delays, [seconds(1)]);
    assert!(!policy(again).no_retries);
}
