//! Updates: masks of fields, etags, and updates at the same time.

use std::collections::BTreeMap;

use prost_types::FieldMask;
use proto::v1::{DeliveryPolicy, UpdateWebhookRequest, WebhookState};

use super::*;

fn update(webhook: Webhook, paths: &[&str]) -> UpdateWebhookRequest {
    let update_mask = Some(FieldMask { paths: paths.iter().map(|path| path.to_string()).collect() });
    UpdateWebhookRequest { webhook: Some(webhook), update_mask, validate_only: false }
}

#[tokio::test]
async fn a_masked_update_changes_what_it_names_and_the_etag() {
    let mut config = Config::start().await;
    let before = config.create(webhook()).await.unwrap();
    let given = Webhook {
        id: before.id.clone(),
        description: "ignored".into(),
        delivery_policy: Some(DeliveryPolicy { max_in_flight: 7, ..DeliveryPolicy::default() }),
        state: WebhookState::Paused.into(),
        ..Webhook::default()
    };
    let request = update(given, &["delivery_policy.max_in_flight", "state"]);
    let after = config.webhooks.update_webhook(request).await.unwrap().into_inner();
    let mut expected = before.clone();
    expected.delivery_policy.as_mut().unwrap().max_in_flight = 7;
    expected.state = WebhookState::Paused.into();
    expected.etag.clone_from(&after.etag);
    expected.update_time = after.update_time;
    assert_eq!(after, expected);
    assert_ne!(after.etag, before.etag);
    assert_eq!(config.get(&before.id).await.unwrap(), after);
}

#[tokio::test]
async fn what_is_read_can_be_sent_back_whole() {
    let mut config = Config::start().await;
    let with_secret = Webhook { headers: BTreeMap::from([("X-Key".into(), "secret".into())]), ..webhook() };
    let read = config.create(with_secret).await.unwrap();
    assert_eq!(read.headers["X-Key"], "********");
    let request = UpdateWebhookRequest { webhook: Some(read.clone()), ..UpdateWebhookRequest::default() };
    let after = config.webhooks.update_webhook(request).await.unwrap().into_inner();
    let kept = Webhook { etag: read.etag.clone(), update_time: read.update_time, ..after.clone() };
    assert_eq!(kept, read);
    let unknown = Webhook { headers: BTreeMap::from([("X-New".into(), "********".into())]), ..after };
    let refused = config.webhooks.update_webhook(update(unknown, &["headers"])).await.unwrap_err();
    assert_eq!(fields(&refused), ["webhook.headers[\"X-New\"]"]);
}

#[tokio::test]
async fn an_update_with_an_old_etag_is_aborted() {
    let mut config = Config::start().await;
    let first = config.create(webhook()).await.unwrap();
    let given = Webhook { description: "a".into(), ..first.clone() };
    let second = config.webhooks.update_webhook(update(given.clone(), &["description"])).await.unwrap();
    let refused = config.webhooks.update_webhook(update(given, &["description"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    let given = Webhook { description: "b".into(), ..second.into_inner() };
    config.webhooks.update_webhook(update(given, &["description"])).await.unwrap();
}

#[tokio::test]
async fn a_bad_update_is_refused_with_all_faults_and_changes_nothing() {
    let mut config = Config::start().await;
    let before = config.create(webhook()).await.unwrap();
    let given = Webhook { id: before.id.clone(), post_url: "ftp://x".into(), state: 3, ..Webhook::default() };
    let request = update(given, &["post_url", "state", "type", "nonsense"]);
    let refused = config.webhooks.update_webhook(request).await.unwrap_err();
    let wrong = ["update_mask.paths[2]", "update_mask.paths[3]", "webhook.post_url", "webhook.state"];
    assert_eq!(fields(&refused), wrong);
    assert_eq!(config.get(&before.id).await.unwrap(), before);
    let nameless = config.webhooks.update_webhook(update(webhook(), &[])).await.unwrap_err();
    assert_eq!(fields(&nameless), ["webhook.id"]);
    let nothing = config.webhooks.update_webhook(UpdateWebhookRequest::default()).await.unwrap_err();
    assert_eq!(fields(&nothing), ["webhook"]);
}

#[tokio::test]
async fn a_validated_update_is_answered_and_not_stored() {
    let mut config = Config::start().await;
    let before = config.create(webhook()).await.unwrap();
    let given = Webhook { description: "after".into(), ..before.clone() };
    let request = UpdateWebhookRequest { validate_only: true, ..update(given, &["description"]) };
    let answer = config.webhooks.update_webhook(request).await.unwrap().into_inner();
    assert_eq!(answer.description, "after");
    assert_eq!(config.get(&before.id).await.unwrap(), before);
}

#[tokio::test]
async fn updates_of_different_fields_at_the_same_time_are_all_kept() {
    let mut config = Config::start().await;
    let id = config.create(webhook()).await.unwrap().id;
    let names = ["description", "state", "url_parameters", "filter", "labels"];
    let updates = names.map(|name| {
        let given = Webhook {
            id: id.clone(),
            description: "d".into(),
            state: WebhookState::Paused.into(),
            url_parameters: 1,
            labels: BTreeMap::from([("k".into(), "v".into())]),
            ..Webhook::default()
        };
        let mut client = config.webhooks.clone();
        tokio::spawn(async move { client.update_webhook(update(given, &[name])).await })
    });
    for update in updates {
        update.await.unwrap().unwrap();
    }
    let after = config.get(&id).await.unwrap();
    assert_eq!(
        (after.description.as_str(), after.state(), after.url_parameters),
        ("d", WebhookState::Paused, 1)
    );
    assert_eq!(after.labels["k"], "v");
}
