//! `--demo`: the main job on real input. Creates a webhook of every type and format through the API,
//! publishes every sample event, shows each request that arrives, and ends with what was delivered.
//! Fails when anything is missing. It removes its webhooks again, so it can be run any number of times.

mod pretty;
mod receiver;
mod sample;

use std::{collections::HashMap, io::Write, net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use proto::v1::{
    DeleteWebhookRequest, ListWebhooksRequest, PreviewDeliveryRequest, PublishEventRequest,
    delivery_service_client::DeliveryServiceClient, event_service_client::EventServiceClient,
    webhook_service_client::WebhookServiceClient,
};
use tokio::{sync::mpsc, time};
use tonic::{Code, transport::Channel};

use self::{
    receiver::Received,
    sample::{ACCOUNTS, LABEL, SAMPLES, SUBSCRIPTIONS, Subscription},
};

/// For a new webhook to be known at delivery-service, and for all requests to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at whether a webhook is known.
const LOOK: Duration = Duration::from_millis(20);

/// Which sample was published with which event id.
type EventIds = HashMap<String, &'static str>;

/// Runs the demo against both services and prints to `out`.
pub async fn run(config: SocketAddr, delivery: SocketAddr, out: &mut impl Write) -> anyhow::Result<()> {
    let config = Channel::from_shared(format!("http://{config}"))?.connect().await?;
    let delivery = Channel::from_shared(format!("http://{delivery}"))?.connect().await?;
    let mut webhooks = WebhookServiceClient::new(config);
    let (address, requests) = receiver::start().await?;
    let base = format!("http://{address}");

    remove_webhooks(&mut webhooks).await?;
    let ids = create_webhooks(&mut webhooks, &base).await?;
    writeln!(out, "{} webhooks created, of every type, in JSON and XML; they post to {base}", ids.len())?;
    until_known(&mut DeliveryServiceClient::new(delivery.clone()), &ids).await?;
    let events = publish(&mut EventServiceClient::new(delivery)).await?;
    writeln!(out, "{} events published\n", events.len())?;

    let received = show_requests(requests, &base, out).await?;
    let missing = table(&received, &events, out)?;
    remove_webhooks(&mut webhooks).await?;
    if missing > 0 {
        bail!("{missing} of {} requests did not arrive within {} s", expected(), PATIENCE.as_secs());
    }
    Ok(())
}

/// What the demo made, and an earlier one that was cut short.
async fn remove_webhooks(client: &mut WebhookServiceClient<Channel>) -> anyhow::Result<()> {
    for account in ACCOUNTS {
        let list = ListWebhooksRequest {
            license_code: account.to_owned(),
            page_size: 1_000,
            labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(),
            ..ListWebhooksRequest::default()
        };
        for webhook in client.list_webhooks(list).await?.into_inner().webhooks {
            client.delete_webhook(DeleteWebhookRequest { id: webhook.id, etag: String::new() }).await?;
        }
    }
    Ok(())
}

async fn create_webhooks(
    client: &mut WebhookServiceClient<Channel>,
    base: &str,
) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(SUBSCRIPTIONS.len());
    for subscription in SUBSCRIPTIONS {
        let request = proto::v1::CreateWebhookRequest {
            webhook: Some(subscription.webhook(base)),
            ..Default::default()
        };
        let created = client.create_webhook(request).await;
        ids.push(created.with_context(|| format!("cannot create {}", subscription.name))?.into_inner().id);
    }
    Ok(ids)
}

/// Waits until delivery-service would deliver to all of them.
async fn until_known(client: &mut DeliveryServiceClient<Channel>, ids: &[String]) -> anyhow::Result<()> {
    let known = async {
        for id in ids {
            loop {
                let preview = PreviewDeliveryRequest { webhook_id: id.clone(), event: None };
                match client.preview_delivery(preview).await {
                    Ok(_) => break,
                    Err(status) if matches!(status.code(), Code::NotFound | Code::Unavailable) => {
                        time::sleep(LOOK).await;
                    }
                    Err(status) => return Err(status),
                }
            }
        }
        Ok(())
    };
    let in_time = time::timeout(PATIENCE, known).await;
    in_time.context("delivery-service does not know the webhooks")?.context("cannot preview a delivery")
}

async fn publish(client: &mut EventServiceClient<Channel>) -> anyhow::Result<EventIds> {
    let mut ids = EventIds::new();
    for sample in SAMPLES {
        let request = proto::json::from_json::<PublishEventRequest>("PublishEventRequest", sample.request)?;
        let published = client.publish_event(request).await;
        let published = published.with_context(|| format!("cannot publish {}", sample.name))?.into_inner();
        ids.insert(published.event_id, sample.name);
    }
    Ok(ids)
}

/// Takes requests until all are there, or for as long as patience lasts.
async fn show_requests(
    mut requests: mpsc::UnboundedReceiver<Received>,
    base: &str,
    out: &mut impl Write,
) -> anyhow::Result<Vec<Received>> {
    let deadline = time::Instant::now() + PATIENCE;
    let mut received = Vec::new();
    while received.len() < expected() {
        let Ok(Some(request)) = time::timeout_at(deadline, requests.recv()).await else { break };
        show(received.len() + 1, &request, base, out)?;
        received.push(request);
    }
    Ok(received)
}

fn show(number: usize, request: &Received, base: &str, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "--- {number} of {} {}", expected(), "-".repeat(60))?;
    writeln!(out, "{} {base}{}", request.method, request.uri)?;
    for (name, value) in &request.headers {
        writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
    }
    let content_type = request.headers.get("content-type").and_then(|value| value.to_str().ok());
    let body = String::from_utf8_lossy(&request.body);
    writeln!(out, "\n{}\n", pretty::pretty(content_type.unwrap_or_default(), &body))
}

/// One line for each webhook and event that fires it. Answers how many were not delivered.
fn table(received: &[Received], events: &EventIds, out: &mut impl Write) -> std::io::Result<usize> {
    writeln!(out, "{:<27}{:<6}{:<28}{:>8}", "WEBHOOK", "BODY", "EVENT", "REQUESTS")?;
    let mut missing = 0;
    for subscription in SUBSCRIPTIONS {
        for event in subscription.fired_by {
            let count =
                received.iter().filter(|request| is_for(request, subscription, event, events)).count();
            missing += usize::from(count == 0);
            let format = subscription.format.as_str_name().trim_start_matches("PAYLOAD_FORMAT_");
            let count = if count == 0 { "MISSING".to_owned() } else { count.to_string() };
            writeln!(out, "{:<27}{format:<6}{event:<28}{count:>8}", subscription.name)?;
        }
    }
    writeln!(out, "\n{} of {} delivered", expected() - missing, expected())?;
    Ok(missing)
}

fn is_for(request: &Received, subscription: &Subscription, event: &str, events: &EventIds) -> bool {
    let id = request.headers.get("x-event-id").and_then(|value| value.to_str().ok());
    request.uri.path().strip_prefix('/') == Some(subscription.name)
        && id.and_then(|id| events.get(id)) == Some(&event)
}

/// How many requests there are to be.
fn expected() -> usize {
    SUBSCRIPTIONS.iter().map(|subscription| subscription.fired_by.len()).sum()
}
