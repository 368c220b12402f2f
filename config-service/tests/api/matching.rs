//! MatchWebhooks: who fires, and why the others do not.

use proto::v1::{Activity, Event, EventCategory, MatchWebhooksRequest, WebhookState, event::Payload};

use super::*;

fn event(name: &str) -> Event {
    let activity = Activity {
        event_name: name.into(),
        category: EventCategory::Application.into(),
        user_id: "johndoe".into(),
        ..Activity::default()
    };
    Event { license_code: ACCOUNT.into(), payload: Some(Payload::Activity(activity)), ..Event::default() }
}

#[tokio::test]
async fn an_event_fires_what_matches_and_the_others_say_why_not() {
    let mut config = Config::start().await;
    let named =
        |names: &[&str]| Webhook { event_names: names.iter().map(|n| n.to_string()).collect(), ..webhook() };
    let fires = [
        named(&["Added to Cart"]),
        Webhook { state: WebhookState::Paused.into(), ..named(&["Other", "Added*"]) },
        Webhook { r#type: WebhookType::GlobalApplicationEvents.into(), ..named(&[]) },
        Webhook { filter: "event.event_name == \"Added to Cart\"".into(), ..webhook() },
    ];
    let does_not = [
        named(&["added to cart"]),
        Webhook { event_category: 1, ..webhook() },
        Webhook { r#type: WebhookType::Journey.into(), ..named(&[]) },
        Webhook { filter: "event.event_data.missing == 1".into(), ..webhook() },
    ];
    let (mut expected, mut others) = (vec![], vec![]);
    for webhook in fires {
        expected.push(config.create(webhook).await.unwrap());
    }
    for webhook in does_not {
        others.push(config.create(webhook).await.unwrap().id);
    }
    config.create(Webhook { license_code: "other".into(), ..webhook() }).await.unwrap();

    let request = MatchWebhooksRequest { event: Some(event("Added to Cart")) };
    let answer = config.webhooks.match_webhooks(request).await.unwrap().into_inner();
    assert_eq!(answer.webhooks, expected);
    let mismatches: Vec<_> = answer.mismatches.iter().map(|it| it.webhook_id.clone()).collect();
    assert_eq!(mismatches, others);
    assert!(answer.mismatches.iter().all(|it| !it.reason.is_empty()));
}

#[tokio::test]
async fn an_event_that_is_none_is_refused() {
    let mut config = Config::start().await;
    let nothing = config.webhooks.match_webhooks(MatchWebhooksRequest::default()).await.unwrap_err();
    assert_eq!(fields(&nothing), ["event"]);
    let request = MatchWebhooksRequest { event: Some(Event { license_code: String::new(), ..event("") }) };
    let refused = config.webhooks.match_webhooks(request).await.unwrap_err();
    assert_eq!(fields(&refused), ["event.license_code", "event.activity.event_name"]);
}
