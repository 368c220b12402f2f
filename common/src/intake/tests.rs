//! What intake takes and refuses, rule by rule.

use proto::v1;

use super::*;
use crate::event::{FormValue, Object};

const NOW: Time = Time(1_800_000_000_000);

fn read(json: &str) -> v1::Event {
    proto::json::from_json("Event", json).unwrap_or_else(|e| panic!("{e} in {json}"))
}

fn take(wire: v1::Event) -> (Option<Event>, Vec<(String, String)>) {
    let mut violations = Violations::default();
    let taken = event(wire, NOW, "event", &mut violations);
    (taken, violations.iter().map(|(field, why)| (field.to_owned(), why.to_owned())).collect())
}

/// Intake of an event with this payload, in proto JSON.
fn with(payload: &str) -> (Option<Event>, Vec<(String, String)>) {
    take(read(&format!(r#"{{"licenseCode": "~1", {payload}}}"#)))
}

const ACTIVITY: &str =
    r#""eventName": "Added to Cart", "category": "EVENT_CATEGORY_APPLICATION", "userId": "u""#;

fn activity(more: &str) -> (Option<Event>, Vec<(String, String)>) {
    with(&format!(r#""activity": {{{ACTIVITY}{more}}}"#))
}

#[test]
fn what_is_right_is_taken_and_what_is_unset_gets_its_default() {
    let (event, faults) = activity("");
    let event = event.unwrap_or_else(|| panic!("{faults:?}"));
    assert_eq!((event.id.as_deref(), event.license_code.as_str(), event.time), (None, "~1", NOW));
    assert_eq!((event.event_type(), event.order_key()), ("Added to Cart", "u"));
    let (event, faults) = with(
        r#""id": "a.B_9:-", "eventTime": "2018-09-15T18:29:00.500-08:00",
        "journey": {"change": "JOURNEY_CHANGE_DELETED", "eventDataJson": " \n{\"b\": 1e400, \"a\" :[]}\t"}"#,
    );
    let event = event.unwrap_or_else(|| panic!("{faults:?}"));
    assert_eq!((event.id.as_deref(), event.time), (Some("a.B_9:-"), Time(1_537_064_940_500)));
    assert_eq!((event.event_type(), event.order_key()), ("journey_deleted", ""));
    let Payload::Journey(journey) = event.payload else { panic!("no journey") };
    assert_eq!((journey.version, journey.user_id), (1, None));
    let Object::Json(raw) = journey.event_data else { panic!("no JSON") };
    assert_eq!(raw.get(), r#"{"b": 1e400, "a" :[]}"#, "byte for byte");
}

#[test]
fn events_say_what_they_are_called_and_ordered_by() {
    for (payload, name, order, feedback) in [
        (r#""feedback": {"id": "f"}"#, "FEEDBACK_SUBMIT", "f", None),
        (r#""feedbackReply": {"feedbackId": "f", "replies": [{}]}"#, "FEEDBACK_REPLY_SUBMIT", "f", Some("f")),
        (r#""surveyResponse": {"id": "s"}"#, "SURVEY_RESPONSE_SUBMIT", "", None),
        (r#""journey": {"change": 3, "userId": "me"}"#, "journey_activated", "me", None),
        (r#""activity": {"eventName": "e", "category": 1, "anonymousId": "a"}"#, "e", "a", None),
    ] {
        let event = with(payload).0.unwrap_or_else(|| panic!("{payload}"));
        assert_eq!((event.event_type(), event.order_key(), event.feedback_id()), (name, order, feedback));
    }
}

#[test]
fn a_value_without_a_kind_is_left_out() {
    let (event, _) =
        with(r#""feedback": {"id": "f", "fields": [{"value": {}}, {"value": {"score": 0}}, {}]}"#);
    let Some(Payload::Feedback(feedback)) = event.map(|it| it.payload) else { panic!("no feedback") };
    let values: Vec<_> = feedback.fields.iter().map(|it| &it.value).collect();
    assert!(matches!(values[..], [None, Some(FormValue::Score(0)), None]));
}

#[test]
fn every_rule_is_enforced_under_its_field() {
    let long = "x".repeat(101);
    let data = |json: &str| format!(r#", "eventDataJson": {}"#, serde_json::Value::from(json));
    let nested = |n: usize| data(&format!("{}{}{}", r#"{"a":"#.repeat(n), "1", "}".repeat(n)));
    let cases: Vec<(String, &str)> = vec![
        (r#""id": "a b""#.into(), "event.payload event.id"),
        (format!(r#""id": "{}""#, "a".repeat(65)), "event.id event.payload"),
        (
            r#""activity": {}"#.into(),
            "event.activity.event_name event.activity.category event.activity.user_id",
        ),
        (
            format!(r#""activity": {{"eventName": "{long}", "category": 1, "userId": "u"}}"#),
            "event.activity.event_name",
        ),
        (r#""activity": {"eventName": "e", "category": 9, "userId": "u"}"#.into(), "event.activity.category"),
        (
            format!(r#""activity": {{"eventName": "e", "category": 1, "userId": "{long}"}}"#),
            "event.activity.user_id",
        ),
        (
            format!(r#""activity": {{"eventName": "e", "category": 1, "anonymousId": "{long}"}}"#),
            "event.activity.anonymous_id",
        ),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, data("[]")), "event.activity.event_data_json"),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, data("{")), "event.activity.event_data_json"),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, data("{} {}")), "event.activity.event_data_json"),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, data("{\"a\": 01}")), "event.activity.event_data_json"),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, data("{\"a\": NaN}")), "event.activity.event_data_json"),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, data("{\"a\": 1,}")), "event.activity.event_data_json"),
        (
            format!(r#""activity": {{{ACTIVITY}{}}}"#, data("{\"a\": \"\n\"}")),
            "event.activity.event_data_json",
        ),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, data("\u{a0}{}")), "event.activity.event_data_json"),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, data(" ")), "event.activity.event_data_json"),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, nested(65)), "event.activity.event_data_json"),
        (format!(r#""activity": {{{ACTIVITY}{}}}"#, nested(100_000)), "event.activity.event_data_json"),
        (
            format!(r#""activity": {{{ACTIVITY}{}, "eventData": {{}}}}"#, data("{}")),
            "event.activity.event_data_json",
        ),
        (
            format!(r#""activity": {{{ACTIVITY}, "systemDataJson": "{{}}", "systemData": {{}}}}"#),
            "event.activity.system_data_json",
        ),
        (r#""feedback": {}"#.into(), "event.feedback.id"),
        (
            r#""feedback": {"id": "f", "fields": [{}, {"type": "other"}]}"#.into(),
            "event.feedback.fields[1].type",
        ),
        (
            r#""feedback": {"id": "f", "customData": {"a": ["x", 1, true], "k": [null, [1], {}]}}"#.into(),
            r#"event.feedback.custom_data["k"][0] event.feedback.custom_data["k"][1] event.feedback.custom_data["k"][2]"#,
        ),
        (
            r#""feedback": {"id": "f", "replies": [{"replyType": 7}, {"attachments": [{"fileSize": -1}]}]}"#
                .into(),
            "event.feedback.replies[0].reply_type event.feedback.replies[1].attachments[0].file_size",
        ),
        (r#""feedbackReply": {}"#.into(), "event.feedback_reply.feedback_id event.feedback_reply.replies"),
        (r#""surveyResponse": {}"#.into(), "event.survey_response.id"),
        (
            r#""surveyResponse": {"id": "s", "questionResponses": [{"value": {"file": {"fileSize": -5}}}]}"#
                .into(),
            "event.survey_response.question_responses[0].value.file.file_size",
        ),
        (r#""journey": {}"#.into(), "event.journey.change"),
        (r#""journey": {"change": 5, "version": -1}"#.into(), "event.journey.change event.journey.version"),
    ];
    for (payload, fields) in cases {
        let (event, faults) = with(&payload);
        assert!(event.is_none(), "{payload} was taken");
        let mut found: Vec<_> = faults.iter().map(|(field, _)| field.as_str()).collect();
        let mut expected: Vec<_> = fields.split(' ').collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{}", &payload[..payload.len().min(200)]);
    }
    assert!(activity(&nested(64)).0.is_some(), "64 levels are taken");
}

#[test]
fn license_codes_are_checked() {
    for code in ["", "a b", "ä", "a/b", &"a".repeat(65)] {
        let mut wire = read(r#"{"feedback": {"id": "f"}}"#);
        wire.license_code = code.to_owned();
        assert_eq!(take(wire).1[0].0, "event.license_code", "{code}");
    }
    assert_eq!(license_code_fault("~99._-Az"), None);
}

#[test]
fn times_out_of_range_are_refused() {
    for (seconds, nanos, taken) in [
        (-62_135_596_800, 0, true),
        (253_402_300_799, 999_999_999, true),
        (-62_135_596_801, 0, false),
        (253_402_300_800, 0, false),
        (i64::MIN, 0, false),
        (0, -1, false),
        (0, 1_000_000_000, false),
    ] {
        let mut wire = read(r#"{"licenseCode": "a", "feedback": {"id": "f"}}"#);
        wire.event_time = Some(Timestamp { seconds, nanos });
        let (event, faults) = take(wire);
        assert_eq!(event.is_some(), taken, "{seconds} {nanos}");
        assert!(taken || faults[0].0 == "event.event_time");
    }
}

#[test]
fn numbers_that_json_has_not_are_refused_anywhere() {
    use prost_types::{ListValue, Struct, Value, value::Kind};
    let value = |kind| Value { kind: Some(kind) };
    let list = |values| value(Kind::ListValue(ListValue { values }));
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut wire = read(r#"{"licenseCode": "a", "journey": {"change": 1}}"#);
        let Some(v1::event::Payload::Journey(journey)) = &mut wire.payload else { panic!("no journey") };
        let inner = Struct { fields: [("n".into(), list(vec![value(Kind::NumberValue(number))]))].into() };
        journey.event_data = Some(Struct {
            fields: [("a".into(), value(Kind::StructValue(inner))), ("b".into(), Value { kind: None })]
                .into(),
        });
        let fields: Vec<_> = take(wire).1.into_iter().map(|it| it.0).collect();
        let at = |path| format!("event.journey.event_data{path}");
        assert_eq!(fields, [at(r#"["a"]["n"][0]"#), at(r#"["b"]"#)]);
        let mut wire = read(r#"{"licenseCode": "a", "surveyResponse": {"id": "s"}}"#);
        let Some(v1::event::Payload::SurveyResponse(survey)) = &mut wire.payload else { panic!("no survey") };
        survey.custom_data.insert("k".into(), ListValue { values: vec![value(Kind::NumberValue(number))] });
        assert_eq!(take(wire).1[0].0, r#"event.survey_response.custom_data["k"][0]"#);
    }
}

#[test]
fn a_batch_names_the_event() {
    let mut violations = Violations::default();
    assert!(event(v1::Event::default(), NOW, "events[3]", &mut violations).is_none());
    let fields: Vec<_> = violations.iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["events[3].license_code", "events[3].payload"]);
}

#[test]
fn millions_of_faults_are_counted_and_a_long_key_is_cut() {
    use prost_types::{ListValue, Value};
    let mut wire = read(r#"{"licenseCode": "a", "feedback": {"id": "f"}}"#);
    let Some(v1::event::Payload::Feedback(feedback)) = &mut wire.payload else { panic!("no feedback") };
    let empty = ListValue { values: vec![Value { kind: None }; 300_000] };
    feedback.custom_data.insert("é".repeat(1 << 20), empty);
    let faults = take(wire).1;
    assert_eq!(faults[0].0, format!("event.feedback.custom_data[\"{}\"][0]", "é".repeat(64)));
    assert!(faults.len() < 100, "{}", faults.len());
}

#[test]
fn ids_that_go_into_headers_and_orders_are_bounded_in_bytes() {
    for (payload, field) in [
        (r#""feedback": {"id": "ID"}"#, "event.feedback.id"),
        (r#""feedbackReply": {"feedbackId": "ID", "replies": [{}]}"#, "event.feedback_reply.feedback_id"),
        (r#""journey": {"change": 1, "userId": "ID"}"#, "event.journey.user_id"),
    ] {
        assert!(with(&payload.replace("ID", &"я".repeat(128))).0.is_some(), "{field}");
        let (event, faults) = with(&payload.replace("ID", &"я".repeat(129)));
        assert!(event.is_none());
        assert_eq!(faults, [(field.to_owned(), "must be at most 256 bytes".to_owned())]);
    }
}

/// A call with a Struct of so many levels, as it comes over the wire.
fn decoded(levels: usize) -> Result<v1::Event, prost::DecodeError> {
    use prost::Message;
    use prost_types::{Struct, Value, value::Kind};
    let within = |kind| Struct { fields: [("k".to_owned(), Value { kind: Some(kind) })].into() };
    let mut data = within(Kind::BoolValue(true));
    for _ in 1..levels {
        data = within(Kind::StructValue(data));
    }
    let mut event = read(&format!(r#"{{"licenseCode": "a", "activity": {{{ACTIVITY}}}}}"#));
    let Some(v1::event::Payload::Activity(activity)) = &mut event.payload else { panic!("no activity") };
    activity.event_data = Some(data);
    let bytes = v1::PublishEventRequest { event: Some(event) }.encode_to_vec();
    v1::PublishEventRequest::decode(bytes.as_slice()).map(|it| it.event.unwrap_or_default())
}

/// As event.proto says. Beyond, no field can be named: the call fails before it is ours.
#[test]
fn structs_are_decoded_to_32_levels() {
    let deepest = (1..64).take_while(|levels| decoded(*levels).is_ok()).last();
    assert_eq!(deepest, Some(32));
    assert!(take(decoded(32).unwrap()).0.is_some());
}
