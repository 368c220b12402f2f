//! What the demo shows: a webhook of every type in each of its formats, the sample events, and which
//! of them meet.

use proto::v1::{PayloadFormat, Webhook, WebhookType};

/// Marks the demo's webhooks, so that one that was cut short leaves nothing behind for the next.
pub const LABEL: (&str, &str) = ("made-by", "hookline-demo");

/// The accounts of the sample events.
pub const ACCOUNTS: [&str; 2] = [FORMS, SHOP];
const FORMS: &str = "311c48b3";
const SHOP: &str = "~99199077";

/// A webhook: what it is called in the receiver's path, whose it is, and which samples fire it.
pub struct Subscription {
    pub name: &'static str,
    pub account: &'static str,
    pub kind: WebhookType,
    pub format: PayloadFormat,
    pub event_names: &'static [&'static str],
    pub fired_by: &'static [&'static str],
}

/// An event: the name of its fixture and a PublishEvent request in proto JSON.
pub struct Sample {
    pub name: &'static str,
    pub request: &'static str,
}

macro_rules! samples {
    ($($name:literal),*) => {
        &[$(Sample {
            name: $name,
            request: include_str!(concat!("../../../tests/fixtures/", $name, ".event.json")),
        }),*]
    };
}

pub const SAMPLES: &[Sample] = samples![
    "feedback",
    "feedback_reply",
    "survey_response",
    "push_notification_accepted",
    "push_notification_rejected",
    "added_to_cart",
    "journey_activated"
];

pub const SUBSCRIPTIONS: &[Subscription] = &[
    Subscription {
        name: "feedback-json",
        account: FORMS,
        kind: WebhookType::Feedback,
        format: PayloadFormat::Json,
        event_names: &[],
        fired_by: &["feedback"],
    },
    Subscription {
        name: "feedback-xml",
        account: FORMS,
        kind: WebhookType::Feedback,
        format: PayloadFormat::Xml,
        event_names: &[],
        fired_by: &["feedback"],
    },
    Subscription {
        name: "feedback-reply-json",
        account: FORMS,
        kind: WebhookType::FeedbackReply,
        format: PayloadFormat::Json,
        event_names: &[],
        fired_by: &["feedback_reply"],
    },
    Subscription {
        name: "feedback-reply-xml",
        account: FORMS,
        kind: WebhookType::FeedbackReply,
        format: PayloadFormat::Xml,
        event_names: &[],
        fired_by: &["feedback_reply"],
    },
    Subscription {
        name: "survey-response-json",
        account: FORMS,
        kind: WebhookType::SurveyResponse,
        format: PayloadFormat::Json,
        event_names: &[],
        fired_by: &["survey_response"],
    },
    Subscription {
        name: "survey-response-xml",
        account: FORMS,
        kind: WebhookType::SurveyResponse,
        format: PayloadFormat::Xml,
        event_names: &[],
        fired_by: &["survey_response"],
    },
    Subscription {
        name: "journey",
        account: FORMS,
        kind: WebhookType::Journey,
        format: PayloadFormat::Json,
        event_names: &[],
        fired_by: &["journey_activated"],
    },
    Subscription {
        name: "event",
        account: SHOP,
        kind: WebhookType::Event,
        format: PayloadFormat::Json,
        event_names: &["push_notification_accepted", "Added*"],
        fired_by: &["push_notification_accepted", "added_to_cart"],
    },
    Subscription {
        name: "global-system-events",
        account: SHOP,
        kind: WebhookType::GlobalSystemEvents,
        format: PayloadFormat::Json,
        event_names: &[],
        fired_by: &["push_notification_accepted", "push_notification_rejected"],
    },
    Subscription {
        name: "global-application-events",
        account: SHOP,
        kind: WebhookType::GlobalApplicationEvents,
        format: PayloadFormat::Json,
        event_names: &[],
        fired_by: &["added_to_cart"],
    },
];

impl Subscription {
    /// The webhook to create, for a receiver at `base` (`http://host:port`).
    pub fn webhook(&self, base: &str) -> Webhook {
        Webhook {
            license_code: self.account.to_owned(),
            r#type: self.kind.into(),
            format: self.format.into(),
            event_names: self.event_names.iter().map(|name| (*name).to_owned()).collect(),
            post_url: format!("{base}/{}", self.name),
            description: "of hookline --demo".to_owned(),
            labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(),
            ..Webhook::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_there_and_xml_where_there_is_xml() {
        let xml = [WebhookType::Feedback, WebhookType::FeedbackReply, WebhookType::SurveyResponse];
        for number in 1..=7 {
            let kind = WebhookType::try_from(number).unwrap();
            let has = |format| SUBSCRIPTIONS.iter().any(|it| it.kind == kind && it.format == format);
            assert!(has(PayloadFormat::Json), "{kind:?}");
            assert_eq!(has(PayloadFormat::Xml), xml.contains(&kind), "{kind:?}");
        }
        for sample in SAMPLES {
            assert!(SUBSCRIPTIONS.iter().any(|it| it.fired_by.contains(&sample.name)), "{}", sample.name);
            proto::json::from_json::<proto::v1::PublishEventRequest>("PublishEventRequest", sample.request)
                .unwrap();
        }
    }
}
