//! An operator's way: the real grpcurl, by reflection alone, from what there is to a webhook's end.

use integration_tests::{api::grpcurl, fixtures, process::Process, receiver::Receiver};
use serde_json::{Value, json};

fn parse(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_lists_describes_creates_reads_updates_publishes_and_deletes() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let mut hookline = Process::hookline(data.path(), &[]).await;
    let (config, delivery) = (hookline.config_address(), hookline.delivery_address());

    let services = grpcurl(config, &["list"]).unwrap();
    for service in ["WebhookService", "AccountService", "EventCatalogService", "RouteService"] {
        assert!(services.contains(&format!("hookline.v1.{service}")), "{services}");
    }
    assert!(services.contains("grpc.health.v1.Health"), "{services}");
    let services = grpcurl(delivery, &["list"]).unwrap();
    for service in ["EventService", "DeliveryService"] {
        assert!(services.contains(&format!("hookline.v1.{service}")), "{services}");
    }
    let described = grpcurl(config, &["describe hookline.v1.WebhookService"]).unwrap();
    assert!(described.contains("rpc CreateWebhook"), "{described}");
    hookline.ready("delivery-service").await;
    let health = grpcurl(delivery, &["grpc.health.v1.Health/Check"]).unwrap();
    assert_eq!(parse(&health)["status"], "SERVING");

    let webhook = json!({
        "webhook": {"licenseCode": "~99199077", "type": "WEBHOOK_TYPE_EVENT",
            "eventNames": ["push_notification_accepted"], "postUrl": receiver.url("/hook"),
            "filter": "event.event_data.result == \"SUCCESS\""}
    });
    let call = |address, data: Value, method: &str| {
        grpcurl(address, &["-d", &data.to_string(), &format!("hookline.v1.{method}")])
            .map(|output| parse(&output))
    };
    let made = call(config, webhook, "WebhookService/CreateWebhook").unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("wh_"), "{made}");
    assert_eq!(made["format"], "PAYLOAD_FORMAT_JSON", "what is in force is shown");

    let listed = call(config, json!({"licenseCode": "~99199077"}), "WebhookService/ListWebhooks").unwrap();
    assert_eq!(listed["webhooks"][0]["id"], *id);

    let update =
        json!({"webhook": {"id": id, "description": "first"}, "updateMask": {"paths": ["description"]}});
    let updated = call(config, update, "WebhookService/UpdateWebhook").unwrap();
    assert_eq!(updated["description"], "first");
    assert_ne!(updated["etag"], made["etag"]);
    let stale = json!({"webhook": {"id": id, "etag": made["etag"], "description": "x"}, "updateMask": {"paths": ["description"]}});
    assert!(call(config, stale, "WebhookService/UpdateWebhook").unwrap_err().contains("Aborted"));

    let matched: Value = serde_json::from_str(&fixtures::event_json("push_notification_rejected")).unwrap();
    let matched = call(config, matched, "WebhookService/MatchWebhooks").unwrap();
    assert!(matched["mismatches"][0]["reason"].is_string(), "{matched}");

    in_force(delivery, &id);
    let event: Value = serde_json::from_str(&fixtures::event_json("push_notification_accepted")).unwrap();
    let published = call(delivery, event.clone(), "EventService/PublishEvent").unwrap();
    let delivery_id = published["deliveryIds"][0].as_str().unwrap();
    let received = receiver.next().await;
    assert_eq!(received.header("webhook-id"), delivery_id);
    assert_eq!(received.json(), fixtures::json_body("push_notification_accepted"));
    let again = call(delivery, event, "EventService/PublishEvent").unwrap();
    assert_eq!((&again["duplicate"], &again["deliveryIds"][0]), (&json!(true), &json!(delivery_id)));

    let deleted = call(config, json!({"id": id}), "WebhookService/DeleteWebhook");
    assert_eq!(deleted.unwrap(), json!({}));
    let gone = call(config, json!({"id": id}), "WebhookService/GetWebhook");
    assert!(gone.unwrap_err().contains("NotFound"));
    assert!(receiver.arrived().await.is_empty());
}

/// Waits as an operator would: by asking.
fn in_force(delivery: std::net::SocketAddr, id: &str) {
    let request = json!({"webhookId": id}).to_string();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while grpcurl(delivery, &["-d", &request, "hookline.v1.DeliveryService/PreviewDelivery"]).is_err() {
        assert!(std::time::Instant::now() < until, "a change should be in force within 1 s");
    }
}
