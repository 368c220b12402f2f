//! Every type of webhook, in every format that it has, gets the body of its fixture from a publisher's
//! event, in a request as the contract says.

use std::collections::BTreeMap;

use integration_tests::{
    api::{Api, webhook, xml},
    fixtures,
    process::Process,
    receiver::{Received, Receiver},
};
use proto::v1::{GetSigningSecretRequest, Webhook, WebhookType};

/// What each fixture fires, and the `eventType` that it carries.
const FIRES: [(&str, WebhookType, &str); 9] = [
    ("feedback", WebhookType::Feedback, "FEEDBACK_SUBMIT"),
    ("feedback_reply", WebhookType::FeedbackReply, "FEEDBACK_REPLY_SUBMIT"),
    ("survey_response", WebhookType::SurveyResponse, "SURVEY_RESPONSE_SUBMIT"),
    ("push_notification_accepted", WebhookType::Event, "push_notification_accepted"),
    ("push_notification_accepted", WebhookType::GlobalSystemEvents, "push_notification_accepted"),
    ("push_notification_rejected", WebhookType::GlobalSystemEvents, "push_notification_rejected"),
    ("added_to_cart", WebhookType::GlobalApplicationEvents, "Added to Cart"),
    ("added_to_cart", WebhookType::Event, "Added to Cart"),
    ("journey_activated", WebhookType::Journey, "journey_activated"),
];

fn has_xml(kind: WebhookType) -> bool {
    matches!(kind, WebhookType::Feedback | WebhookType::FeedbackReply | WebhookType::SurveyResponse)
}

/// A webhook for what a fixture fires; its path tells it apart.
fn subscription(receiver: &Receiver, account: &str, fixture: &str, kind: WebhookType) -> Webhook {
    let url = receiver.url(&format!("/{}?fixture={fixture}", kind.as_str_name()));
    let mut webhook = webhook(account, kind, &url);
    if kind == WebhookType::Event {
        webhook.event_names = vec![if fixture == "added_to_cart" { "Added to *" } else { fixture }.into()];
    }
    webhook
}

#[tokio::test]
async fn every_type_and_format_gets_the_body_of_its_fixture() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let mut secrets = BTreeMap::new();
    let mut expected = 0;
    for (fixture, kind, _) in FIRES {
        let account = fixtures::event(fixture).event.unwrap().license_code;
        let json = subscription(&receiver, &account, fixture, kind);
        let both = if has_xml(kind) { vec![json.clone(), xml(json)] } else { vec![json] };
        for webhook in both {
            let made = api.create(webhook).await;
            let secret = GetSigningSecretRequest { webhook_id: made.id.clone() };
            let secret = api.webhooks.get_signing_secret(secret).await.unwrap().into_inner().secret;
            secrets.insert((made.post_url, made.format), secret);
            expected += 1;
        }
    }
    // Either system event fires both global webhooks.
    expected += 2;
    for fixture in fixtures::NAMES {
        api.publish(fixtures::event(fixture).event.unwrap()).await.unwrap();
    }
    for _ in 0..expected {
        let received = receiver.next().await;
        let url =
            format!("http://{}{}", receiver.address(), received.target.split("&eventType").next().unwrap());
        let format = if received.header("content-type").contains("xml") { 2 } else { 1 };
        check(&received, &secrets[&(url, format)]);
    }
    assert!(receiver.arrived().await.is_empty(), "nothing more than was asked for");
}

fn check(received: &Received, secret: &str) {
    let event_type = received.query("eventType").unwrap();
    let (fixture, _, _) = FIRES.iter().find(|(_, _, of)| *of == event_type).expect("a known event type");
    let event = fixtures::event(fixture).event.unwrap();
    assert_eq!(received.method, "POST");
    assert_eq!(received.query("licenseCode").as_deref(), Some(&*event.license_code));
    assert!(received.target.contains("?fixture="), "{}", received.target);
    if received.header("content-type") == "application/xml; charset=utf-8" {
        let body = std::str::from_utf8(&received.body).unwrap();
        assert_eq!(fixtures::element(body), fixtures::xml_body(fixture), "{fixture}");
    } else {
        assert_eq!(received.header("content-type"), "application/json; charset=utf-8");
        assert_eq!(received.json(), fixtures::json_body(fixture), "{fixture}");
    }
    let id = received.header("webhook-id");
    assert_eq!(id.len(), 32);
    assert_eq!(received.header("x-request-id"), id);
    assert_eq!(received.header("content-length"), received.body.len().to_string());
    assert!(received.header("user-agent").starts_with("hookline/"));
    assert!(received.headers.get("accept-encoding").is_none());
    if !event.id.is_empty() {
        assert_eq!(received.header("x-event-id"), event.id);
    }
    let feedback = if *fixture == "feedback_reply" { "has7e2" } else { "" };
    assert_eq!(received.header("x-event-feedback-id"), feedback);
    let signed = standardwebhooks::Webhook::new(secret).unwrap();
    signed.verify(&received.body, &received.headers).expect("the signature is good");
}
