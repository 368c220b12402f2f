//! Nonsense from outside: refused with all that is wrong, nothing stored, nothing lost, nobody hurt.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_tests::{
    api::{Api, added_to_cart, webhook, xml},
    process::Process,
    receiver::Receiver,
};
use prost::Message;
use proto::v1::{
    Activity, CreateWebhookRequest, Event, EventCategory, ListDeliveriesRequest, ListWebhooksRequest,
    PublishEventsRequest, StreamEventsRequest, Webhook, WebhookType, event::Payload, publish_result::Outcome,
};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const ACCOUNT: &str = "~99199077";

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().domain, "hookline");
    details.bad_request().unwrap().field_violations.iter().map(|v| v.field.clone()).collect()
}

#[tokio::test]
async fn bad_webhooks_are_refused_with_every_fault_and_nothing_is_stored() {
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let good = webhook(ACCOUNT, WebhookType::Event, "https://example.com/");
    let named = |name: &str, category: EventCategory| Webhook {
        event_names: vec![name.into()],
        event_category: category as i32,
        ..good.clone()
    };
    let url = |url: &str| webhook(ACCOUNT, WebhookType::Feedback, url);
    let feedback = url("https://example.com/");
    let header =
        |name: &str| Webhook { headers: [(name.to_owned(), "x".to_owned())].into(), ..feedback.clone() };
    let cases: Vec<(Webhook, &[&str])> = vec![
        (Webhook::default(), &["webhook.license_code", "webhook.type", "webhook.post_url"]),
        (good.clone(), &["webhook.event_names"]),
        (xml(named("x", EventCategory::Application)), &["webhook.format"]),
        (xml(webhook(ACCOUNT, WebhookType::GlobalSystemEvents, "https://example.com/")), &["webhook.format"]),
        (
            xml(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, "https://example.com/")),
            &["webhook.format"],
        ),
        (xml(webhook(ACCOUNT, WebhookType::Journey, "https://example.com/")), &["webhook.format"]),
        (named("app_installed", EventCategory::System), &["webhook.event_names[0]"]),
        (named("user_logged_in", EventCategory::Unspecified), &["webhook.event_names[0]"]),
        (Webhook { event_names: vec!["x".into()], ..feedback.clone() }, &["webhook.event_names"]),
        (url("ftp://example.com/"), &["webhook.post_url"]),
        (url("https://exa mple.com/"), &["webhook.post_url"]),
        (url("https://10.0.0.1/"), &["webhook.post_url"]),
        (url("https://[::ffff:192.168.1.1]/"), &["webhook.post_url"]),
        (url("https://169.254.169.254/latest"), &["webhook.post_url"]),
        (header("host"), &["webhook.headers"]),
        (header("webhook-id"), &["webhook.headers"]),
        (header("bad name"), &["webhook.headers"]),
        (Webhook { filter: "event.".into(), ..feedback.clone() }, &["webhook.filter"]),
        (Webhook { filter: "nobody.x == 1".into(), ..feedback.clone() }, &["webhook.filter"]),
        (Webhook { r#type: 99, ..feedback.clone() }, &["webhook.type"]),
        (Webhook { state: 42, ..feedback.clone() }, &["webhook.state"]),
    ];
    for (case, expected) in cases {
        let request = CreateWebhookRequest { webhook: Some(case.clone()), ..Default::default() };
        let refused = api.webhooks.create_webhook(request).await.expect_err(&format!("{case:?}"));
        let fields = fields(&refused);
        for field in expected {
            assert!(fields.iter().any(|f| f.starts_with(field)), "{field} in {fields:?} for {case:?}");
        }
        assert_eq!(fields.len(), expected.len(), "{fields:?} for {case:?}");
    }
    let list = ListWebhooksRequest { license_code: ACCOUNT.into(), ..Default::default() };
    assert!(api.webhooks.list_webhooks(list).await.unwrap().into_inner().webhooks.is_empty());
}

fn activity(change: impl FnOnce(&mut Activity)) -> Event {
    let mut event = added_to_cart(ACCOUNT, "x");
    if let Some(Payload::Activity(activity)) = &mut event.payload {
        change(activity);
    }
    event
}

#[tokio::test]
async fn bad_events_are_refused_alone_and_the_good_ones_beside_them_are_delivered() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    api.create(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    let bad: Vec<(Event, &str)> = vec![
        (Event { payload: None, ..added_to_cart(ACCOUNT, "x") }, "payload"),
        (added_to_cart("with space", "x"), "license_code"),
        (added_to_cart(ACCOUNT, "with space"), "id"),
        (activity(|a| a.event_name.clear()), "activity.event_name"),
        (activity(|a| a.user_id.clear()), "activity.user_id"),
        (activity(|a| a.category = 0), "activity.category"),
        (activity(|a| a.category = 7), "activity.category"),
        (activity(|a| a.event_data_json = "[]".into()), "activity.event_data_json"),
        (activity(|a| a.event_data_json = r#"{"a":1"#.into()), "activity.event_data_json"),
        (
            activity(|a| a.event_data_json = "{\"a\":".repeat(65) + "1" + &"}".repeat(65)),
            "activity.event_data_json",
        ),
        (activity(|a| a.event_data = Some(prost_types::Struct::default())), "activity.event_data"),
    ];
    for (event, field) in &bad {
        let refused = api.publish(event.clone()).await.expect_err(field);
        assert!(
            fields(&refused).iter().any(|f| f.starts_with(&format!("event.{field}"))),
            "{field}: {refused:?}"
        );
    }
    let mut events: Vec<_> = bad.iter().map(|(event, _)| event.clone()).collect();
    events.push(added_to_cart(ACCOUNT, "good"));
    let request = PublishEventsRequest { events: events.clone() };
    let results = api.events.publish_events(request).await.unwrap().into_inner().results;
    assert_eq!(results.len(), events.len());
    for result in &results[..bad.len()] {
        assert!(matches!(&result.outcome, Some(Outcome::Refused(status)) if status.code == 3), "{result:?}");
    }
    assert!(matches!(results[bad.len()].outcome, Some(Outcome::Accepted(_))));
    assert_eq!(receiver.next().await.json()["event_data"]["order"], "good");

    // A stream answers each in order and goes on.
    events.push(added_to_cart(ACCOUNT, "after"));
    let sent = tokio_stream::iter(
        events.clone().into_iter().map(|event| StreamEventsRequest { event: Some(event) }),
    );
    let mut answers = api.events.stream_events(sent).await.unwrap().into_inner();
    for (n, _) in events.iter().enumerate() {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.sequence, n as u64 + 1);
        let accepted = matches!(answer.result.unwrap().outcome, Some(Outcome::Accepted(_)));
        assert_eq!(accepted, n >= bad.len(), "event {n}");
    }
    assert!(answers.message().await.unwrap().is_none(), "the stream ends when the events do");
    assert_eq!(receiver.next().await.json()["event_data"]["order"], "after");
    let list = ListDeliveriesRequest { license_code: ACCOUNT.into(), ..Default::default() };
    assert_eq!(api.all(list).await.len(), 2, "nothing of the bad ones is stored");
}

/// A frame as gRPC has it.
fn frame(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

#[tokio::test]
async fn nothing_is_read_out_of_a_message_that_cannot_be_decoded() {
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let receiver = Receiver::start().await;
    api.create(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    api.publish_patiently(added_to_cart(ACCOUNT, "before")).await;

    // A byte that begins no field, and then a whole message but for its last byte, which the head of
    // the next one is taken for: a field that nobody knows, with 0 in it.
    let hidden = StreamEventsRequest { event: Some(added_to_cart(ACCOUNT, "hidden")) }.encode_to_vec();
    let bad = [&[7][..], &hidden, &[0xa0, 6]].concat();
    let next = StreamEventsRequest { event: Some(added_to_cart(ACCOUNT, "next")) }.encode_to_vec();
    let frames = [frame(&bad), frame(&next)].concat();
    let address = hookline.delivery_address();
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut http2, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/hookline.v1.EventService/StreamEvents"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frames)))
        .unwrap();
    let answer = http2.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_ne!(answer.trailers().unwrap()["grpc-status"], "0");
    let list = ListDeliveriesRequest { license_code: ACCOUNT.into(), ..Default::default() };
    let known: Vec<_> = api.all(list).await.into_iter().map(|delivery| delivery.event_id).collect();
    assert_eq!(known, ["before"]);
    connection.abort();
}

#[tokio::test]
async fn where_webhooks_may_post_is_checked_again_when_sending() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    api.create(webhook(ACCOUNT, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    drop(hookline);
    // The same folder, outside development mode: loopback is forbidden now.
    let hookline = Process::hookline(data.path(), &["--no-development"]).await;
    let mut api = Api::of(&hookline);
    let id = api.publish_patiently(added_to_cart(ACCOUNT, "x")).await.delivery_ids[0].clone();
    let failed = api.until(&id, proto::v1::DeliveryState::Failed).await;
    assert_eq!(failed.attempts[0].error(), proto::v1::AttemptError::ForbiddenAddress);
    assert!(receiver.arrived().await.is_empty());
}
