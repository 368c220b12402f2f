//! Webhooks previewed and tested, with a real sender and a receiver on a socket.

use std::collections::BTreeMap;

use proto::v1::{PublishEventRequest, WebhookType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic::Code;

use super::{
    tests::{ACCOUNT, World, fields, id, of_account, reason, webhook, world},
    *,
};

async fn preview(world: &World, number: u64, event: Option<v1::Event>) -> Result<HttpRequest, Status> {
    let request = PreviewDeliveryRequest { webhook_id: id(number).to_string(), event };
    let answer = world.api.preview_delivery(Request::new(request)).await?;
    Ok(answer.into_inner().request.unwrap())
}

fn fixture(name: &str) -> (v1::Event, Vec<u8>) {
    let read = |end: &str| {
        let path = format!("{}/../tests/fixtures/{name}.{end}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    };
    let request = String::from_utf8(read("event.json")).unwrap();
    let request: PublishEventRequest = proto::json::from_json("PublishEventRequest", &request).unwrap();
    (request.event.unwrap(), read("body.json"))
}

#[tokio::test]
async fn a_preview_shows_the_request_of_every_type_and_masks_what_is_secret() {
    let world = world();
    assert_eq!(reason(&preview(&world, 1, None).await.unwrap_err()), "ROUTES_UNKNOWN");
    let kinds = [
        (WebhookType::Feedback, "FEEDBACK_SUBMIT"),
        (WebhookType::FeedbackReply, "FEEDBACK_REPLY_SUBMIT"),
        (WebhookType::SurveyResponse, "SURVEY_RESPONSE_SUBMIT"),
        (WebhookType::Event, "email_open"),
        (WebhookType::GlobalSystemEvents, "push_notification_accepted"),
        (WebhookType::GlobalApplicationEvents, "Added%20to%20Cart"),
        (WebhookType::Journey, "journey_activated"),
    ];
    let secretive = |number: usize, kind| v1::Webhook {
        url_parameters: v1::UrlParameters::EventAndSecret as i32,
        headers: BTreeMap::from([("x-api-key".into(), "hidden".into())]),
        authentication: Some(v1::Authentication {
            method: Some(v1::authentication::Method::Bearer(v1::BearerAuthentication {
                token: "hidden".into(),
            })),
        }),
        format: if number < 3 { v1::PayloadFormat::Xml } else { v1::PayloadFormat::Json } as i32,
        ..webhook(number as u64, kind)
    };
    world.know(kinds.iter().enumerate().map(|(number, (kind, _))| secretive(number, *kind)));
    let mut seen = Vec::new();
    for (number, (kind, event_type)) in kinds.iter().enumerate() {
        let request = preview(&world, number as u64, None).await.unwrap();
        assert_eq!(request.method, "POST");
        let url = format!(
            "https://example.com/hook?x=1&eventType={event_type}&licenseCode={ACCOUNT}&secret=********"
        );
        assert_eq!(request.url, url, "{kind:?}");
        for masked in ["x-api-key", "authorization", "webhook-signature"] {
            assert_eq!(request.headers[masked], "********");
        }
        let (content_type, start) = if number < 3 { ("xml", b'<') } else { ("json", b'{') };
        assert_eq!(request.headers["content-type"], format!("application/{content_type}; charset=utf-8"));
        assert_eq!(request.headers.contains_key("x-event-feedback-id"), *kind == WebhookType::FeedbackReply);
        assert_eq!(request.body[0], start);
        assert!(!format!("{request:?}").contains("hidden"));
        seen.push(request.headers["webhook-id"].clone());
    }
    seen.dedup();
    assert_eq!(seen.len(), kinds.len(), "each has an id of its own");
    assert_eq!(preview(&world, 50, None).await.unwrap_err().code(), Code::NotFound);
    let nameless = PreviewDeliveryRequest::default();
    let refused = world.api.preview_delivery(Request::new(nameless)).await.unwrap_err();
    assert_eq!(fields(&refused), ["webhook_id"]);
}

#[tokio::test]
async fn a_callers_event_is_previewed_as_it_would_be_sent_though_the_webhook_would_not_fire() {
    let world = world();
    world.know([webhook(1, WebhookType::Event), webhook(2, WebhookType::Feedback)]);
    let (event, body) = fixture("added_to_cart");
    let request = preview(&world, 1, Some(event.clone())).await.unwrap();
    let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(value(&request.body), value(&body));
    assert!(request.url.contains("eventType=Added%20to%20Cart"));

    assert_eq!(fields(&preview(&world, 2, Some(event)).await.unwrap_err()), ["event.payload"]);
    let (stranger, _) = fixture("feedback");
    assert_eq!(fields(&preview(&world, 2, Some(stranger)).await.unwrap_err()), ["event.license_code"]);
    let empty = v1::Event { license_code: ACCOUNT.into(), ..v1::Event::default() };
    assert_eq!(fields(&preview(&world, 2, Some(empty)).await.unwrap_err()), ["event.payload"]);
}

#[tokio::test]
async fn a_test_is_sent_once_outside_the_queue_whatever_the_webhooks_state() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let received = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
        }
        stream.write_all(b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 5\r\n\r\nshort").await.unwrap();
        String::from_utf8(bytes).unwrap()
    });
    world.know([v1::Webhook {
        post_url: format!("http://{address}/hook"),
        state: v1::WebhookState::Paused as i32,
        headers: BTreeMap::from([("x-api-key".into(), "hidden".into())]),
        ..webhook(1, WebhookType::Journey)
    }]);
    let request = TestWebhookRequest { webhook_id: id(1).to_string(), event: None };
    let answer = world.api.test_webhook(Request::new(request)).await.unwrap().into_inner();
    let (attempt, shown) = (answer.attempt.unwrap(), answer.request.unwrap());
    assert_eq!((attempt.number, attempt.http_status), (1, 418));
    assert_eq!((attempt.error, &attempt.response_body[..]), (v1::AttemptError::Status as i32, &b"short"[..]));
    assert_eq!(attempt.remote_address, address.to_string());
    assert_eq!(shown.headers["x-api-key"], "********");
    let received = received.await.unwrap();
    assert!(received.starts_with("POST /hook?eventType=journey_activated"), "{received}");
    assert!(received.contains("x-api-key: hidden"), "{received}");
    assert!(received.contains(&shown.headers["webhook-id"]), "{received}");
    assert!(world.list(of_account()).await.unwrap().deliveries.is_empty());
    let unknown = TestWebhookRequest { webhook_id: "wh_x".into(), event: None };
    assert_eq!(world.api.test_webhook(Request::new(unknown)).await.unwrap_err().code(), Code::NotFound);
}
