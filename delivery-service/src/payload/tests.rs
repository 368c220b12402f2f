//! The fixtures, in both formats, and what any event keeps through a parser.

use std::{fs, path::Path};

use common::{
    clock::Time,
    event::{Activity, Category, Event, Feedback, FormField, FormValue, Object, Payload, Scalar},
    intake,
    status::Violations,
};
use proptest::prelude::*;
use proto::v1::PublishEventRequest;
use roxmltree::{Document, Node};
use serde_json::Value;

use super::{json, xml};

const FORMS: [&str; 3] = ["feedback", "feedback_reply", "survey_response"];
const OTHERS: [&str; 4] =
    ["added_to_cart", "journey_activated", "push_notification_accepted", "push_notification_rejected"];

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn event(name: &str) -> Event {
    let text = fixture(&format!("{name}.event.json"));
    let request: PublishEventRequest = proto::json::from_json("PublishEventRequest", &text).unwrap();
    let mut violations = Violations::default();
    intake::event(request.event.unwrap(), Time(0), "event", &mut violations)
        .unwrap_or_else(|| panic!("{name}: {violations:?}"))
}

/// White space between tokens dropped.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    json.chars()
        .filter(|c| {
            let keep = quoted || !c.is_whitespace();
            quoted ^= *c == '"' && !escaped;
            escaped = quoted && *c == '\\' && !escaped;
            keep
        })
        .collect()
}

fn keys_in_order(json: &str, keys: &[&str]) -> bool {
    let places: Vec<_> = keys.iter().map(|key| json.rfind(&format!("\"{key}\":"))).collect();
    places.iter().all(Option::is_some) && places.is_sorted()
}

fn same(a: Node<'_, '_>, b: Node<'_, '_>) {
    assert_eq!(a.tag_name(), b.tag_name());
    let attributes = |it: Node<'_, '_>| it.attributes().map(|a| format!("{a:?}")).collect::<Vec<_>>();
    assert_eq!(attributes(a).len(), attributes(b).len(), "attributes of {a:?}");
    for attribute in a.attributes() {
        assert_eq!(Some(attribute.value()), b.attribute(attribute.name()), "{a:?}");
    }
    let elements = |it: Node<'_, '_>| it.children().filter(Node::is_element).count();
    assert_eq!(elements(a), elements(b), "children of {a:?}");
    if elements(a) == 0 {
        assert_eq!(a.text().unwrap_or_default(), b.text().unwrap_or_default(), "text of {a:?}");
    }
    for (a, b) in a.children().filter(Node::is_element).zip(b.children().filter(Node::is_element)) {
        same(a, b);
    }
}

#[test]
fn json_bodies_are_the_fixtures() {
    for name in FORMS.iter().chain(&OTHERS) {
        let (body, expected) = (json::render(&event(name)), fixture(&format!("{name}.body.json")));
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(&expected).unwrap(), "{name}");
        // Keys in order and numbers digit for digit; a Struct's keys are sorted, whatever it shows.
        if !name.starts_with("push") && !name.starts_with("journey") {
            assert_eq!(std::str::from_utf8(&body).unwrap(), compact(&expected), "{name}");
        }
    }
}

#[test]
fn keys_stand_in_the_order_of_the_fixtures() {
    let body = json::render(&event("push_notification_rejected"));
    let body = std::str::from_utf8(&body).unwrap();
    let keys =
        ["event_data", "system_data", "event_time", "event_name", "license_code", "category", "user_id"];
    assert!(keys_in_order(body, &keys) && body.ends_with(r#"df1a4c"}"#), "{body}");
    let sorted = ["id", "push_notification_content", "scope", "sdk", "variation_id", "event_time"];
    assert!(keys_in_order(body, &sorted), "{body}");
    let body = json::render(&event("journey_activated"));
    let keys = [
        "category",
        "resource",
        "version",
        "event_name",
        "event_time",
        "license_code",
        "user_id",
        "event_data",
    ];
    assert!(keys_in_order(std::str::from_utf8(&body).unwrap(), &keys));
}

#[test]
fn xml_bodies_are_the_fixtures() {
    for name in FORMS {
        let (body, expected) = (xml::render(&event(name)), fixture(&format!("{name}.body.xml")));
        let body = std::str::from_utf8(&body).unwrap();
        assert!(body.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?><response><data>"), "{body}");
        let (body, expected) = (Document::parse(body).unwrap(), Document::parse(&expected).unwrap());
        same(body.root_element(), expected.root_element());
    }
}

fn activity(event_data: Object) -> Event {
    let payload = Payload::Activity(Activity {
        name: "e".into(),
        category: Category::Application,
        user_id: None,
        anonymous_id: Some("a".into()),
        event_data,
        system_data: Object::default(),
    });
    Event { id: None, license_code: "~1".into(), time: Time(0), payload }
}

fn text_of(event: &Event) -> String {
    String::from_utf8(json::render(event).to_vec()).unwrap()
}

#[test]
fn what_is_unset_is_null_or_empty() {
    assert_eq!(
        text_of(&activity(Object::default())),
        concat!(
            r#"{"event_data":{},"system_data":{},"event_time":"1970-01-01T00:00:00+0000","event_name":"e","#,
            r#""license_code":"~1","category":"application","user_id":null,"anonymous_id":"a"}"#
        )
    );
    let feedback = feedback("", "");
    let body = text_of(&Event {
        payload: Payload::Feedback(Feedback { fields: vec![], ..feedback }),
        ..activity(Object::default())
    });
    assert!(body.contains(r#""fields":[],"customData":{"":[""]},"replies":[],"id":"""#), "{body}");
    assert!(!body.contains("activity"), "{body}");
}

#[test]
fn numbers_are_whole_or_shortest() {
    use prost_types::{Struct, value::Kind};
    for (number, text) in [
        (0.0, "0"),
        (-0.0, "0"),
        (39.0, "39"),
        (-39.5, "-39.5"),
        (39.8, "39.8"),
        (0.1 + 0.2, "0.30000000000000004"),
        (9_007_199_254_740_992.0, "9007199254740992"),
        (9_007_199_254_740_994.0, "9007199254740994"),
        (1e300, "1e300"),
        (5e-324, "5e-324"),
    ] {
        let value = prost_types::Value { kind: Some(Kind::NumberValue(number)) };
        let body = text_of(&activity(Object::Struct(Struct { fields: [("n".into(), value)].into() })));
        let written = body.strip_prefix(r#"{"event_data":{"n":"#).unwrap().split('}').next().unwrap();
        assert_eq!(written.replace("e+", "e"), text);
        assert_eq!(written.parse::<f64>().unwrap(), number);
    }
}

#[test]
fn times_are_written_in_utc_to_the_second() {
    for (seconds, text) in [
        (-62_135_596_800, "0001-01-01T00:00:00+0000"),
        (253_402_300_799, "9999-12-31T23:59:59+0000"),
        (951_782_400, "2000-02-29T00:00:00+0000"),
        (-2_203_891_200, "1900-03-01T00:00:00+0000"),
        (-1, "1969-12-31T23:59:59+0000"),
        (1_537_064_940, "2018-09-16T02:29:00+0000"),
    ] {
        let event = Event { time: Time(seconds * 1000 + 999), ..activity(Object::default()) };
        assert!(text_of(&event).contains(text), "{text}");
    }
    for day in (-62_135_596_800..253_402_300_799).step_by(86_400 * 97) {
        let event = Event { time: Time(day * 1000), ..activity(Object::default()) };
        let expected =
            jiff::Timestamp::from_second(day).unwrap().strftime("%Y-%m-%dT%H:%M:%S+0000").to_string();
        assert!(text_of(&event).contains(&expected), "{expected}");
    }
}

#[test]
fn json_text_goes_out_byte_for_byte() {
    let raw = r#"{ "b":1e400 , "a" : "\ud800\/", "n":123456789012345678901234567890.10 }"#;
    let object = Object::Json(serde_json::value::RawValue::from_string(raw.to_owned()).unwrap());
    assert!(text_of(&activity(object)).starts_with(&format!(r#"{{"event_data":{raw},"system_data""#)));
}

fn feedback(key: &str, text: &str) -> Feedback {
    let value =
        |value| FormField { id: text.into(), label: text.into(), kind: "custom".into(), value: Some(value) };
    Feedback {
        id: text.into(),
        fields: vec![
            value(FormValue::Text { class: "text", text: text.into() }),
            value(FormValue::List(vec![text.into()])),
            value(FormValue::Map([(key.into(), text.into())].into())),
            value(FormValue::Matrix([(key.into(), vec![text.into()])].into())),
        ],
        custom_data: [(key.into(), vec![Scalar::String(text.into())])].into(),
        replies: vec![],
        visitor: None,
    }
}

/// What XML 1.0 can carry of a text.
fn in_xml(text: &str) -> String {
    let fits = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..);
    text.chars().map(|c| if fits(c) { c } else { '\u{FFFD}' }).collect()
}

fn check(key: &str, text: &str) {
    let event = Event { payload: Payload::Feedback(feedback(key, text)), ..activity(Object::default()) };
    let body: Value = serde_json::from_slice(&json::render(&event)).unwrap();
    let data = &body["response"]["data"];
    assert_eq!((&data["id"], &data["customData"][key][0]), (&Value::from(text), &Value::from(text)));
    assert_eq!(data["fields"][2]["value"]["values"][key], text);
    let body = xml::render(&event);
    let body = Document::parse(std::str::from_utf8(&body).unwrap()).unwrap();
    let (key, text) = (in_xml(key), in_xml(text));
    let entries: Vec<_> = body.descendants().filter(|it| it.has_tag_name("entry")).collect();
    assert_eq!(entries.len(), 3);
    for entry in entries {
        assert_eq!(entry.attribute("key"), Some(key.as_str()));
        let leaf = entry.descendants().rfind(Node::is_element).unwrap();
        assert_eq!(leaf.text().unwrap_or_default(), text);
    }
    for id in body.descendants().filter(|it| it.has_tag_name("id") || it.has_tag_name("text")) {
        assert_eq!(id.text().unwrap_or_default(), text);
    }
}

#[test]
fn awkward_text_survives_both_formats() {
    for text in [
        "",
        " ",
        "\r\n\r",
        "\t\n ",
        "]]>",
        "<a b=\"c\">&amp;'</a>",
        "\0\u{1}\u{b}\u{1f}\u{7f}\u{85}\u{2028}",
        "\u{FFFE}\u{FFFF}é😀",
    ] {
        check(text, text);
    }
}

proptest! {
    #[test]
    fn any_text_survives_both_formats(key: String, text: String, odd in "[\\x00-\\x20<>&\"'\\]\u{FFFD}-\u{10001}]{0,12}") {
        check(&key, &odd);
        check(&odd, &text);
    }
}

#[test]
fn an_array_holds_bodies_byte_for_byte() {
    let cases: [(&[&[u8]], &[u8]); 3] =
        [(&[], b"[]"), (&[b"{\"a\": 1}"], b"[{\"a\": 1}]"), (&[b"{}", b"{ }", b"1"], b"[{},{ },1]")];
    for (bodies, expected) in cases {
        assert_eq!(json::array(bodies.iter().copied()), expected);
    }
}
