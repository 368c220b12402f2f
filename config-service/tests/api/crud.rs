//! Creating, reading and deleting, and what is refused.

use std::collections::BTreeMap;

use proto::v1::{
    DeleteWebhookRequest, ListSystemEventsRequest, ListWebhooksRequest, PayloadFormat, WebhookState,
};

use super::*;

#[tokio::test]
async fn a_webhook_is_answered_as_in_force_and_survives_a_restart() {
    let mut config = Config::start().await;
    let created = config.create(webhook()).await.unwrap();
    assert!(created.id.starts_with("wh_") && !created.etag.is_empty(), "{created:?}");
    assert_eq!(created.format(), PayloadFormat::Json);
    assert_eq!(created.state(), WebhookState::Active);
    assert_eq!(created.delivery_policy.as_ref().unwrap().retry_delays.len(), 7);
    assert!(created.create_time.is_some() && created.create_time == created.update_time);
    assert_eq!(config.get(&created.id).await.unwrap(), created);
    let folder = config.stop().await;

    let mut config = Config::on(folder).await;
    assert_eq!(config.get(&created.id).await.unwrap(), created);
}

#[tokio::test]
async fn all_that_is_wrong_is_said_at_once_and_nothing_is_stored() {
    let mut config = Config::start().await;
    let wrong = Webhook {
        r#type: 99,
        post_url: "https://127.0.0.1/".into(),
        headers: BTreeMap::from([("Host".into(), "********".into())]),
        ..webhook()
    };
    let request = CreateWebhookRequest {
        webhook: Some(wrong),
        request_id: "x".repeat(65),
        ..CreateWebhookRequest::default()
    };
    let refused = config.webhooks.create_webhook(request).await.unwrap_err();
    let header = "webhook.headers[\"Host\"]";
    assert_eq!(fields(&refused), ["request_id", header, "webhook.type", "webhook.post_url", header]);
    let nothing = config.webhooks.create_webhook(CreateWebhookRequest::default()).await.unwrap_err();
    assert_eq!(fields(&nothing), ["webhook"]);
    let request = ListWebhooksRequest { license_code: ACCOUNT.into(), ..ListWebhooksRequest::default() };
    assert_eq!(config.webhooks.list_webhooks(request).await.unwrap().into_inner().webhooks, []);
}

#[tokio::test]
async fn an_answer_about_a_hundred_faults_fits_what_a_client_takes() {
    let mut config = Config::start().await;
    let names = vec!["é".repeat(101); 100];
    let refused = config.create(Webhook { event_names: names, ..webhook() }).await.unwrap_err();
    assert!(fields(&refused)[0].starts_with("webhook.event_names[0]"));
}

#[tokio::test]
async fn validate_only_answers_as_if_and_stores_nothing() {
    let mut config = Config::start().await;
    let request = CreateWebhookRequest {
        webhook: Some(webhook()),
        validate_only: true,
        ..CreateWebhookRequest::default()
    };
    let answer = config.webhooks.create_webhook(request).await.unwrap().into_inner();
    assert_eq!((answer.id.as_str(), answer.state()), ("", WebhookState::Active));
    let request = ListWebhooksRequest { license_code: ACCOUNT.into(), ..ListWebhooksRequest::default() };
    assert_eq!(config.webhooks.list_webhooks(request).await.unwrap().into_inner().webhooks, []);
}

#[tokio::test]
async fn a_repeated_request_id_makes_one_webhook_and_refuses_another() {
    let mut config = Config::start().await;
    let request = CreateWebhookRequest {
        webhook: Some(webhook()),
        request_id: "once".into(),
        ..CreateWebhookRequest::default()
    };
    let first = config.webhooks.create_webhook(request.clone()).await.unwrap().into_inner();
    let again = config.webhooks.create_webhook(request.clone()).await.unwrap().into_inner();
    assert_eq!(again, first);
    // The same webhook with a default written out is the same request.
    let same = Webhook { format: PayloadFormat::Json.into(), id: "wh_mine".into(), ..webhook() };
    let same = CreateWebhookRequest { webhook: Some(same), ..request.clone() };
    assert_eq!(config.webhooks.create_webhook(same).await.unwrap().into_inner(), first);
    let other = Webhook { description: "other".into(), ..webhook() };
    let other = CreateWebhookRequest { webhook: Some(other), ..request };
    let refused = config.webhooks.create_webhook(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn an_empty_id_is_invalid_and_one_that_names_nothing_is_not_found() {
    let mut config = Config::start().await;
    let known = config.create(webhook()).await.unwrap();
    assert_eq!(fields(&config.get("").await.unwrap_err()), ["id"]);
    for id in ["wh_01ARZ3NDEKTSV4RRFFQ69G5FAV", "x", &known.id.to_lowercase(), &"y".repeat(100_000)] {
        assert_eq!(config.get(id).await.unwrap_err().code(), Code::NotFound, "{id:.50}");
        let gone =
            config.webhooks.delete_webhook(DeleteWebhookRequest { id: id.into(), ..Default::default() });
        assert_eq!(gone.await.unwrap_err().code(), Code::NotFound, "{id:.50}");
    }
}

#[tokio::test]
async fn a_delete_is_guarded_by_its_etag() {
    let mut config = Config::start().await;
    let Webhook { id, etag, .. } = config.create(webhook()).await.unwrap();
    let delete = |etag: &str| DeleteWebhookRequest { id: id.clone(), etag: etag.into() };
    let refused = config.webhooks.delete_webhook(delete("other")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    config.webhooks.delete_webhook(delete(&etag)).await.unwrap();
    assert_eq!(config.webhooks.delete_webhook(delete("")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(config.get(&id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        fields(&config.webhooks.delete_webhook(DeleteWebhookRequest::default()).await.unwrap_err()),
        ["id"]
    );
}

#[tokio::test]
async fn the_catalog_lists_the_system_events() {
    let mut config = Config::start().await;
    let answer = config.catalog.list_system_events(ListSystemEventsRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.events.iter().filter(|event| !event.deliverable).count(), 7);
    assert!(answer.events.iter().any(|event| event.name == "email_open" && event.channel == "Email"));
}
