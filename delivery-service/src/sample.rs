//! A sample event for a webhook: what it would be sent, with values that nobody takes for real. Pure.

use std::collections::BTreeMap;

use common::{
    clock::Time,
    event::{
        Activity, Event, Feedback, FeedbackThread, File, FormField, FormValue, Journey, JourneyChange,
        Object, Payload, QuestionResponse, Reply, ReplyBy, Scalar, SurveyResponse, Visitor,
    },
    matching::{Category, Kind, Name, Rule, UNDELIVERABLE},
};
use prost_types::{Struct, Value, value::Kind as ValueKind};

/// An event that fires a webhook with this rule, its filter apart.
pub fn event(rule: &Rule, license_code: &str, now: Time) -> Event {
    let payload = match rule.kind {
        Kind::Feedback => Payload::Feedback(feedback(now)),
        Kind::FeedbackReply => Payload::FeedbackReply(FeedbackThread {
            feedback_id: "sample-feedback".into(),
            replies: vec![reply(now)],
        }),
        Kind::SurveyResponse => Payload::SurveyResponse(survey(now)),
        Kind::Event => {
            let (name, category) = named(rule);
            Payload::Activity(activity(name, category))
        }
        Kind::GlobalSystemEvents => {
            Payload::Activity(activity("push_notification_accepted".into(), Category::System))
        }
        Kind::GlobalApplicationEvents => {
            Payload::Activity(activity("Added to Cart".into(), Category::Application))
        }
        Kind::Journey => Payload::Journey(Journey {
            change: JourneyChange::Activated,
            version: 1,
            user_id: Some("admin@example.com".into()),
            event_data: object([
                ("id", text("sample-journey")),
                ("name", text("Sample Journey")),
                ("status", text("ACTIVE")),
            ]),
        }),
    };
    Event { id: None, license_code: license_code.into(), time: now, payload }
}

/// A name that the rule takes, and the category that goes with it.
fn named(rule: &Rule) -> (String, Category) {
    let carried = |name: &str| !UNDELIVERABLE.contains(&name) || rule.category != Some(Category::System);
    let names = rule.names.iter().map(|name| match name {
        Name::Exact(name) => name.to_string(),
        Name::Prefix(prefix) => format!("{prefix}sample"),
    });
    let name = names.into_iter().find(|name| carried(name)).unwrap_or_else(|| "sample".into());
    // System events are written in lower case with underscores; custom ones mostly not.
    let snake = name.contains('_') && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase());
    let looks =
        if snake && !UNDELIVERABLE.contains(&&*name) { Category::System } else { Category::Application };
    (name, rule.category.unwrap_or(looks))
}

fn activity(name: String, category: Category) -> Activity {
    let (event_data, system_data) = match category {
        Category::System => (
            object([("result", text("SUCCESS"))]),
            object([
                ("id", text("sample-campaign")),
                ("variation_id", text("sample-variation")),
                ("sdk", text("ANDROID")),
            ]),
        ),
        Category::Application => (
            object([("Product", text("Sample Product")), ("Price", number(39.8)), ("Quantity", number(1.0))]),
            object([]),
        ),
    };
    let anonymous_id = Some("0000014a-a2da-cfd3-91c7-0252d7df1a4c".into());
    Activity {
        name,
        category,
        user_id: Some("jane@example.com".into()),
        anonymous_id,
        event_data,
        system_data,
    }
}

fn feedback(now: Time) -> Feedback {
    let field = |id: &str, label: &str, kind: &str, value| FormField {
        id: id.into(),
        label: label.into(),
        kind: kind.into(),
        value: Some(value),
    };
    let plain = |class, text: &str| FormValue::Text { class, text: text.into() };
    Feedback {
        id: "sample-feedback".into(),
        fields: vec![
            field("sample-1", "Name", "default", plain("name", "Jane")),
            field("sample-2", "Email", "default", plain("email", "jane@example.com")),
            field("sample-3", "Category", "default", plain("category", "Suggestion")),
            field("sample-4", "Message", "default", plain("message", "A sample message")),
            field("sample-5", "How likely are you to recommend us?", "custom", FormValue::Score(10)),
        ],
        custom_data: BTreeMap::from([("customerType".into(), vec![Scalar::String("Gold".into())])]),
        replies: Vec::new(),
        visitor: Some(visitor(now)),
    }
}

fn reply(now: Time) -> Reply {
    Reply {
        id: "sample-reply".into(),
        by: Some(ReplyBy::Admin),
        replied_by_name: "Mike".into(),
        replied_by_email: "mike@example.com".into(),
        replied_on: Some(now),
        replied_text: "A sample reply".into(),
        attachments: vec![File {
            file_name: "sample.pdf".into(),
            file_size: 1_024,
            file_access_url: "https://example.com/sample.pdf".into(),
            file_type: "pdf".into(),
        }],
    }
}

fn survey(now: Time) -> SurveyResponse {
    let response = |id: &str, question: &str, value| QuestionResponse {
        id: format!("sample-response-{id}"),
        question_id: format!("sample-question-{id}"),
        question_text: question.into(),
        value: Some(value),
    };
    let answers = FormValue::List(vec!["Mexico".into()]);
    let rating = FormValue::Matrix(BTreeMap::from([("Experience".into(), vec!["Good".into()])]));
    SurveyResponse {
        id: "sample-response".into(),
        survey_id: "sample-survey".into(),
        title: "Sample Survey".into(),
        responses: vec![
            response("1", "Which countries have you been to?", answers),
            response("2", "Rate our website", rating),
        ],
        custom_data: BTreeMap::from([("customerType".into(), vec![Scalar::String("Gold".into())])]),
        visitor: Some(visitor(now)),
    }
}

fn visitor(now: Time) -> Visitor {
    Visitor {
        page_url: "https://example.com/".into(),
        page_title: "Sample Page".into(),
        ip: "192.0.2.1".into(),
        city: "Mumbai".into(),
        country: "India".into(),
        browser: "Firefox".into(),
        browser_version: "128".into(),
        platform: "Linux".into(),
        activity_on: Some(now),
    }
}

fn object<const N: usize>(fields: [(&str, ValueKind); N]) -> Object {
    let value = |kind| Value { kind: Some(kind) };
    let fields = fields.into_iter().map(|(key, kind)| (key.to_owned(), value(kind))).collect();
    Object::Struct(Struct { fields })
}

fn text(text: &str) -> ValueKind {
    ValueKind::StringValue(text.into())
}

fn number(number: f64) -> ValueKind {
    ValueKind::NumberValue(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_fires_its_webhook() {
        let rule = |kind, names: &[&str], category| Rule {
            kind,
            names: names.iter().map(|name| Name::of(name)).collect(),
            category,
            filter: None,
        };
        let (system, application) = (Some(Category::System), Some(Category::Application));
        for (rule, event_type) in [
            (rule(Kind::Feedback, &[], None), "FEEDBACK_SUBMIT"),
            (rule(Kind::FeedbackReply, &[], None), "FEEDBACK_REPLY_SUBMIT"),
            (rule(Kind::SurveyResponse, &[], None), "SURVEY_RESPONSE_SUBMIT"),
            (rule(Kind::GlobalSystemEvents, &[], None), "push_notification_accepted"),
            (rule(Kind::GlobalApplicationEvents, &[], None), "Added to Cart"),
            (rule(Kind::Journey, &[], None), "journey_activated"),
            (rule(Kind::Event, &["email_open", "x"], None), "email_open"),
            (rule(Kind::Event, &["email_*"], system), "email_sample"),
            (rule(Kind::Event, &["*"], None), "sample"),
            (rule(Kind::Event, &["app_crashed"], application), "app_crashed"),
            (rule(Kind::Event, &["app_crashed"], None), "app_crashed"),
            (rule(Kind::Event, &["app_crashed", "sms_sent"], system), "sms_sent"),
        ] {
            let event = event(&rule, "~99199077", Time(1_800_000_000_000));
            assert_eq!(event.event_type(), event_type);
            assert_eq!(event.license_code, "~99199077");
            assert!(rule.fires_without_filter(&event), "{rule:?}");
        }
    }
}
