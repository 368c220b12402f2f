//! Which events fire which webhooks, and what is said of those that do not.

use super::*;
use crate::{clock::Time, event::Object, filter::Subject, intake, status::Violations};

fn rule(json: &str) -> Rule {
    Rule::of(&proto::json::from_json("Webhook", json).unwrap()).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn event(payload: &str) -> Event {
    let json = format!(r#"{{"licenseCode": "~1", {payload}}}"#);
    let mut violations = Violations::default();
    intake::event(proto::json::from_json("Event", &json).unwrap(), Time(0), "event", &mut violations)
        .unwrap_or_else(|| panic!("{violations:?}"))
}

fn activity(name: &str, category: &str) -> Event {
    event(&format!(
        r#""activity": {{"eventName": "{name}", "category": "EVENT_CATEGORY_{category}", "userId": "u"}}"#
    ))
}

fn subject(event: &Event) -> Subject {
    Subject::parse(&serde_json::to_vec(&crate::body::Body::of(event)).unwrap())
}

const FEEDBACK: &str = r#""feedback": {"id": "f"}"#;
const REPLY: &str = r#""feedbackReply": {"feedbackId": "f", "replies": [{}]}"#;
const SURVEY: &str = r#""surveyResponse": {"id": "s"}"#;
const JOURNEY: &str = r#""journey": {"change": "JOURNEY_CHANGE_CREATED"}"#;

#[test]
fn each_type_takes_its_own_events_alone() {
    let events = [
        event(FEEDBACK),
        event(REPLY),
        event(SURVEY),
        event(JOURNEY),
        activity("email_open", "SYSTEM"),
        activity("Added to Cart", "APPLICATION"),
    ];
    for (webhook, fires) in [
        ("FEEDBACK", [true, false, false, false, false, false]),
        ("FEEDBACK_REPLY", [false, true, false, false, false, false]),
        ("SURVEY_RESPONSE", [false, false, true, false, false, false]),
        ("JOURNEY", [false, false, false, true, false, false]),
        ("GLOBAL_SYSTEM_EVENTS", [false, false, false, false, true, false]),
        ("GLOBAL_APPLICATION_EVENTS", [false, false, false, false, false, true]),
    ] {
        let rule = rule(&format!(r#"{{"type": "WEBHOOK_TYPE_{webhook}"}}"#));
        for (event, fires) in events.iter().zip(fires) {
            assert_eq!(rule.fires_without_filter(event), fires, "{webhook} {}", event.event_type());
            assert_eq!(rule.mismatch(event, &subject(event)).is_none(), fires);
        }
    }
}

#[test]
fn event_webhooks_take_names_prefixes_and_a_category() {
    for (names, category, name, of, fires) in [
        (r#""email_open""#, "", "email_open", "SYSTEM", true),
        (r#""email_open""#, "", "Email_open", "SYSTEM", false),
        (r#""email_open""#, "", "email_opened", "SYSTEM", false),
        (r#""a", "email_*""#, "", "email_open", "APPLICATION", true),
        (r#""email_*""#, "", "email_", "SYSTEM", true),
        (r#""email_*""#, "", "email", "SYSTEM", false),
        (r#""*""#, "", "anything", "SYSTEM", true),
        (r#""a*b""#, "", "a*b", "SYSTEM", true),
        (r#""a*b""#, "", "axb", "SYSTEM", false),
        (r#""a**""#, "", "a*b", "SYSTEM", true),
        (r#""a**""#, "", "ab", "SYSTEM", false),
        (r#""a""#, "SYSTEM", "a", "SYSTEM", true),
        (r#""a""#, "SYSTEM", "a", "APPLICATION", false),
        (r#""a""#, "APPLICATION", "a", "APPLICATION", true),
    ] {
        let category = match category {
            "" => String::new(),
            it => format!(r#", "eventCategory": "EVENT_CATEGORY_{it}""#),
        };
        let rule = rule(&format!(r#"{{"type": "WEBHOOK_TYPE_EVENT", "eventNames": [{names}]{category}}}"#));
        assert_eq!(rule.fires_without_filter(&activity(name, of)), fires, "{names}{category} {name} {of}");
    }
}

#[test]
fn seven_system_events_are_never_carried_and_say_so() {
    for name in UNDELIVERABLE {
        let (system, application) = (activity(name, "SYSTEM"), activity(name, "APPLICATION"));
        for webhook in [
            r#"{"type": "WEBHOOK_TYPE_GLOBAL_SYSTEM_EVENTS"}"#.to_owned(),
            format!(r#"{{"type": "WEBHOOK_TYPE_EVENT", "eventNames": ["{name}"]}}"#),
            r#"{"type": "WEBHOOK_TYPE_EVENT", "eventNames": ["*"], "eventCategory": 1}"#.to_owned(),
        ] {
            let why = rule(&webhook).mismatch(&system, &subject(&system)).unwrap();
            assert!(why.contains("never carry") && why.contains(name), "{why}");
        }
        let all = rule(r#"{"type": "WEBHOOK_TYPE_GLOBAL_APPLICATION_EVENTS"}"#);
        assert!(all.fires_without_filter(&application));
        let named = rule(&format!(r#"{{"type": "WEBHOOK_TYPE_EVENT", "eventNames": ["{name}"]}}"#));
        assert!(named.fires_without_filter(&application));
    }
}

#[test]
fn a_mismatch_says_why() {
    let cart = event(
        r#""activity": {"eventName": "Added to Cart", "category": 2, "userId": "u", "eventDataJson": "{\"n\": 1}"}"#,
    );
    for (webhook, why) in [
        (r#"{"type": 1}"#, "feedback alone"),
        (r#"{"type": 5}"#, "system events alone"),
        (r#"{"type": 4, "eventNames": ["x"]}"#, "does not name the event \"Added to Cart\""),
        (
            r#"{"type": 4, "eventNames": ["Added to Cart"], "eventCategory": 1}"#,
            "does not take application events",
        ),
        (r#"{"type": 6, "filter": "event.event_data.n == 2"}"#, "the filter is false"),
        (
            r#"{"type": 6, "filter": "event.event_data.m == 2"}"#,
            "the filter is not true: there is no key \"m\"",
        ),
    ] {
        let said = rule(webhook).mismatch(&cart, &subject(&cart)).unwrap();
        assert!(said.contains(why), "{webhook}: {said}");
    }
    let said = rule(r#"{"type": 6}"#).mismatch(&event(FEEDBACK), &Subject::parse(b"{}")).unwrap();
    assert!(said.contains("activity events alone"), "{said}");
    let fits = rule(r#"{"type": 6, "filter": "event.event_data.n == 1.0 && event.user_id == 'u'"}"#);
    assert_eq!(fits.mismatch(&cart, &subject(&cart)), None);
}

#[test]
fn filters_see_forms_as_their_bodies_show_them() {
    let event = event(
        r#""feedback": {"id": "f", "fields": [{"type": "custom", "value": {"score": 9}}],
            "customData": {"tier": ["Gold"]}}"#,
    );
    for filter in [
        "event.response.data.fields.exists(f, f.value['@class'] == 'score' && f.value.value >= 9)",
        "event.response.data.customData.tier[0] == 'Gold' && event.response.status == 'success'",
        "event.response.data.licenseCode == '~1' && !has(event.response.data.activity)",
    ] {
        let json = serde_json::json!({"type": "WEBHOOK_TYPE_FEEDBACK", "filter": filter});
        assert_eq!(rule(&json.to_string()).mismatch(&event, &subject(&event)), None, "{filter}");
    }
}

#[test]
fn what_a_newer_version_wrote_is_an_error() {
    for (webhook, why) in [
        (r#"{}"#, "unknown webhook type 0"),
        (r#"{"type": 99}"#, "unknown webhook type 99"),
        (r#"{"type": 4, "eventCategory": 9}"#, "unknown event category 9"),
        (r#"{"type": 1, "filter": "evnt"}"#, "filter: "),
    ] {
        let error = Rule::of(&proto::json::from_json("Webhook", webhook).unwrap()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(
        matches!(event(JOURNEY).payload, Payload::Journey(it) if matches!(it.event_data, Object::Struct(_)))
    );
}
