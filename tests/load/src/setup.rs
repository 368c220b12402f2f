//! Makes a workload's webhooks, many at a time, and waits until delivery-service knows them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use proto::v1::{
    CreateWebhookRequest, PreviewDeliveryRequest, Webhook, delivery_service_client::DeliveryServiceClient,
    webhook_service_client::WebhookServiceClient,
};
use tokio::task::JoinSet;

use crate::publish::connect;

/// Calls under way at once.
const CALLERS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes webhooks; answers their ids, in order.
pub async fn create(
    config: SocketAddr,
    delivery: SocketAddr,
    webhooks: &[Webhook],
) -> anyhow::Result<Vec<String>> {
    let (began, channel) = (Instant::now(), connect(config).await?);
    let mut callers = JoinSet::new();
    for (n, part) in webhooks.chunks(webhooks.len().div_ceil(CALLERS).max(1)).enumerate() {
        let (part, mut client) = (part.to_vec(), WebhookServiceClient::new(channel.clone()));
        callers.spawn(async move {
            let mut ids = Vec::new();
            for webhook in part {
                let request = CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
                ids.push(client.create_webhook(request).await?.into_inner().id);
            }
            anyhow::Ok((n, ids))
        });
    }
    let mut made = Vec::new();
    let mut client = DeliveryServiceClient::new(connect(delivery).await?);
    while let Some(ids) = callers.join_next().await {
        let (n, ids) = ids??;
        let last = ids.last().context("a caller has something to make")?.clone();
        let request = PreviewDeliveryRequest { webhook_id: last, event: None };
        let known = async {
            while client.preview_delivery(request.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, known).await.context("the webhooks are not in force")?;
        made.push((n, ids));
    }
    made.sort_unstable();
    let made: Vec<_> = made.into_iter().flat_map(|(_, ids)| ids).collect();
    eprintln!("load: {} webhooks made in {:.1} s", made.len(), began.elapsed().as_secs_f64());
    Ok(made)
}
