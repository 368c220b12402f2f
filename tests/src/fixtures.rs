//! The fixtures: events as publishers write them, and the exact bodies that they become.

use std::{collections::BTreeMap, fs, path::PathBuf};

use proto::v1::PublishEventRequest;

pub const NAMES: [&str; 7] = [
    "added_to_cart",
    "feedback",
    "feedback_reply",
    "journey_activated",
    "push_notification_accepted",
    "push_notification_rejected",
    "survey_response",
];

fn read(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The event in proto JSON, as grpcurl takes it.
pub fn event_json(name: &str) -> String {
    read(&format!("{name}.event.json"))
}

pub fn event(name: &str) -> PublishEventRequest {
    proto::json::from_json("PublishEventRequest", &event_json(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn json_body(name: &str) -> serde_json::Value {
    serde_json::from_str(&read(&format!("{name}.body.json"))).unwrap()
}

pub fn xml_body(name: &str) -> Element {
    element(&read(&format!("{name}.body.xml")))
}

/// XML by structure: white space between elements is free.
#[derive(Debug, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    pub text: String,
    pub children: Vec<Element>,
}

pub fn element(xml: &str) -> Element {
    let document = roxmltree::Document::parse(xml).unwrap_or_else(|error| panic!("{error} in {xml}"));
    of(document.root_element())
}

fn of(node: roxmltree::Node<'_, '_>) -> Element {
    let children: Vec<_> = node.children().filter(roxmltree::Node::is_element).map(of).collect();
    let text: String =
        node.children().filter(roxmltree::Node::is_text).filter_map(|text| text.text()).collect();
    Element {
        name: node.tag_name().name().to_owned(),
        attributes: node.attributes().map(|a| (a.name().to_owned(), a.value().to_owned())).collect(),
        text: if children.is_empty() { text } else { text.trim().to_owned() },
        children,
    }
}
