//! EventCatalogService: the system events that the platform tracks, by channel, and which of them
//! webhooks never carry. A fixed list, in the platform's own order.

use common::matching::UNDELIVERABLE;
use proto::v1::{
    ListSystemEventsRequest, ListSystemEventsResponse, SystemEvent,
    event_catalog_service_server::EventCatalogService,
};
use tonic::{Request, Response, Status};

/// Answers from the list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Catalog;

/// Channel, and its events' names.
const CHANNELS: [(&str, &[&str]); 15] = [
    (
        "Email",
        &[
            "email_queued",
            "email_accepted",
            "email_sent",
            "email_rejected",
            "email_discarded",
            "email_bounce",
            "email_delivered",
            "email_open",
            "email_click",
            "email_unsubscribe",
            "email_resubscribe",
            "email_spam",
            "email_complaint",
            "email_control_group",
            "email_attempted",
            "email_processed",
            "email_abusereport",
        ],
    ),
    (
        "SMS",
        &[
            "sms_queued",
            "sms_accepted",
            "sms_rejected",
            "sms_sent",
            "sms_failed",
            "sms_click",
            "sms_control_group",
        ],
    ),
    (
        "WhatsApp",
        &[
            "whatsapp_queued",
            "whatsapp_accepted",
            "whatsapp_sent",
            "whatsapp_rejected",
            "whatsapp_failed",
            "whatsapp_read",
            "whatsapp_click",
            "whatsapp_control_group",
        ],
    ),
    (
        "RCS",
        &[
            "rcs_queued",
            "rcs_accepted",
            "rcs_delivered",
            "rcs_rejected",
            "rcs_failed",
            "rcs_read",
            "rcs_click",
            "rcs_control_group",
            "rcs_control_attempted",
        ],
    ),
    (
        "Viber",
        &[
            "viber_queued",
            "viber_accepted",
            "viber_sent",
            "viber_rejected",
            "viber_failed",
            "viber_read",
            "viber_click",
            "viber_control_group",
        ],
    ),
    (
        "Push",
        &[
            "push_notification_queued",
            "gcm_notification_response",
            "push_notification_accepted",
            "push_notification_rejected",
            "push_notification_received",
            "push_notification_view",
            "push_notification_click",
            "push_notification_close",
            "push_notification_failed",
            "push_notification_item_view",
            "push_notification_rating_submitted",
            "push_notification_control_group",
        ],
    ),
    (
        "Push registration",
        &[
            "gcm_registered",
            "apns_registration_failed",
            "push_notification_registered",
            "push_notification_unregistered",
        ],
    ),
    (
        "Web push opt-in",
        &[
            "push_notification_window_view",
            "push_notification_window_denied",
            "push_notification_window_allowed",
            "push_notification_subscribe_notification_allowed",
            "push_notification_prompt_view",
            "push_notification_prompt_denied",
            "push_notification_prompt_allowed",
        ],
    ),
    (
        "On-site / in-app",
        &[
            "notification_view",
            "notification_click",
            "notification_close",
            "notification_abs_view",
            "notification_control_group",
        ],
    ),
    (
        "Inbox",
        &[
            "inbox_notification_sent",
            "inbox_notification_view",
            "inbox_notification_click",
            "inbox_notification_read",
            "inbox_notification_unread",
            "inbox_notification_close",
            "inbox_notification_delete",
            "inbox_notification_control_group",
        ],
    ),
    ("Feedback widget", &["feedback_view", "feedback_close", "feedback_submit"]),
    ("Survey", &["survey_view", "survey_close", "survey_complete", "survey_submit", "survey_abs_view"]),
    (
        "Web personalization",
        &["web_personalization_view", "web_personalization_click", "web_personalization_control_group"],
    ),
    (
        "App in-line",
        &[
            "app_personalization_view",
            "app_personalization_click",
            "app_personalization_failed",
            "app_personalization_received",
            "app_personalization_control_group",
        ],
    ),
    ("Conversion", &["goal_accomplish"]),
];

#[tonic::async_trait]
impl EventCatalogService for Catalog {
    async fn list_system_events(
        &self,
        _: Request<ListSystemEventsRequest>,
    ) -> Result<Response<ListSystemEventsResponse>, Status> {
        Ok(Response::new(ListSystemEventsResponse { events: system_events() }))
    }
}

fn system_events() -> Vec<SystemEvent> {
    let event = |name: &str, channel: &str, deliverable| SystemEvent {
        name: name.into(),
        channel: channel.into(),
        deliverable,
    };
    let carried =
        CHANNELS.iter().flat_map(|(channel, names)| names.iter().map(|name| event(name, channel, true)));
    let others = UNDELIVERABLE
        .iter()
        .map(|name| event(name, if name.starts_with("app_") { "App" } else { "User" }, false));
    carried.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_stands_once_and_seven_are_not_deliverable() {
        let events = system_events();
        let names: BTreeSet<_> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names.len(), events.len());
        let not: Vec<_> = events.iter().filter(|event| !event.deliverable).map(|e| e.name.as_str()).collect();
        assert_eq!(not, UNDELIVERABLE);
        assert_eq!(not.len(), 7);
        let channel = |name: &str| events.iter().find(|e| e.name == name).map(|e| e.channel.as_str());
        assert_eq!(channel("push_notification_accepted"), Some("Push"));
        assert_eq!(channel("inbox_notification_unread"), Some("Inbox"));
        assert_eq!(channel("app_crashed"), Some("App"));
        assert_eq!(channel("push_notification_sent"), None);
    }
}
