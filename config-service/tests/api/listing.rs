//! Lists: pages, filters, and tokens that belong to their request.

use std::collections::BTreeMap;

use proto::v1::{ListWebhooksRequest, WebhookState};

use super::*;

fn list() -> ListWebhooksRequest {
    ListWebhooksRequest { license_code: ACCOUNT.into(), ..ListWebhooksRequest::default() }
}

/// The ids on all pages, and how many pages they took.
async fn pages(config: &mut Config, mut request: ListWebhooksRequest) -> (Vec<String>, usize) {
    let (mut ids, mut pages) = (vec![], 0);
    loop {
        let answer = config.webhooks.list_webhooks(request.clone()).await.unwrap().into_inner();
        pages += 1;
        ids.extend(answer.webhooks.into_iter().map(|webhook| webhook.id));
        if answer.next_page_token.is_empty() {
            return (ids, pages);
        }
        request.page_token = answer.next_page_token;
    }
}

#[tokio::test]
async fn pages_follow_each_other_in_the_order_of_creation() {
    let mut config = Config::start().await;
    let mut created = vec![];
    for _ in 0..7 {
        created.push(config.create(webhook()).await.unwrap().id);
    }
    config.create(Webhook { license_code: "other".into(), ..webhook() }).await.unwrap();
    assert_eq!(pages(&mut config, list()).await, (created.clone(), 1));
    assert_eq!(
        pages(&mut config, ListWebhooksRequest { page_size: 3, ..list() }).await,
        (created.clone(), 3)
    );
    assert_eq!(pages(&mut config, ListWebhooksRequest { page_size: 7, ..list() }).await, (created, 1));
}

#[tokio::test]
async fn a_list_is_narrowed_by_type_state_and_labels() {
    let mut config = Config::start().await;
    let feedback = Webhook { r#type: WebhookType::Feedback.into(), event_names: vec![], ..webhook() };
    let paused = Webhook { state: WebhookState::Paused.into(), ..webhook() };
    let labels = BTreeMap::from([("team".to_owned(), "a".to_owned()), ("env".to_owned(), "prod".to_owned())]);
    let labelled = Webhook { labels, ..webhook() };
    let mut ids = vec![];
    for webhook in [feedback, paused, labelled] {
        ids.push(config.create(webhook).await.unwrap().id);
    }
    let labels = |value: &str| BTreeMap::from([("team".to_owned(), value.to_owned())]);
    let cases = [
        (ListWebhooksRequest { types: vec![1], ..list() }, &ids[..1]),
        (ListWebhooksRequest { types: vec![1, 4], ..list() }, &ids[..]),
        (ListWebhooksRequest { states: vec![2], ..list() }, &ids[1..2]),
        (ListWebhooksRequest { labels: labels("a"), page_size: 1, ..list() }, &ids[2..]),
        (ListWebhooksRequest { labels: labels("b"), ..list() }, &[]),
        (ListWebhooksRequest { types: vec![1], states: vec![2], ..list() }, &[]),
    ];
    for (request, expected) in cases {
        assert_eq!(pages(&mut config, request.clone()).await, (expected.to_vec(), 1), "{request:?}");
    }
}

#[tokio::test]
async fn a_token_of_another_request_and_a_bad_size_are_refused() {
    let mut config = Config::start().await;
    config.create(webhook()).await.unwrap();
    config.create(webhook()).await.unwrap();
    let first = ListWebhooksRequest { page_size: 1, ..list() };
    let token = config.webhooks.list_webhooks(first).await.unwrap().into_inner().next_page_token;
    let cases = [
        (ListWebhooksRequest { types: vec![4], page_token: token.clone(), ..list() }, vec!["page_token"]),
        (ListWebhooksRequest { page_token: format!("{token}A"), ..list() }, vec!["page_token"]),
        (
            ListWebhooksRequest { page_size: -1, page_token: "x".into(), ..list() },
            vec!["page_size", "page_token"],
        ),
        (ListWebhooksRequest { page_size: 1_001, ..list() }, vec!["page_size"]),
        (
            ListWebhooksRequest { types: vec![0, 8], states: vec![9], ..list() },
            vec!["types[0]", "types[1]", "states[0]"],
        ),
        (ListWebhooksRequest { types: vec![4; 33], ..list() }, vec!["types"]),
        (ListWebhooksRequest::default(), vec!["license_code"]),
    ];
    for (request, expected) in cases {
        let refused = config.webhooks.list_webhooks(request.clone()).await.unwrap_err();
        assert_eq!(fields(&refused), expected, "{request:?}");
    }
    let rest = ListWebhooksRequest { page_size: 5, page_token: token, ..list() };
    assert_eq!(pages(&mut config, rest).await.0.len(), 1);
}

#[tokio::test]
async fn a_page_of_large_webhooks_fits_a_message() {
    let mut config = Config::start().await;
    let names = (0..100).map(|n| format!("{n:03}{}", "é".repeat(97))).collect();
    let large = Webhook { event_names: names, ..webhook() };
    for _ in 0..200 {
        config.create(large.clone()).await.unwrap();
    }
    let (ids, pages) = pages(&mut config, ListWebhooksRequest { page_size: 1_000, ..list() }).await;
    assert_eq!((ids.len(), pages), (200, 2));
}
