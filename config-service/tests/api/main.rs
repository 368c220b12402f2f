//! config-service as its callers meet it: a real server on the embedded store, a real client.

// Clippy knows tests by their attribute; what they share is test code too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod crud;
mod faults;
mod faulty;
mod listing;
mod matching;
mod secrets;
mod updates;
mod watcher;

use common::{address::Rules, service::Started, settings::Store};
use config_service::{Metrics, Settings, start};
use proto::v1::{
    CreateWebhookRequest, GetWebhookRequest, Webhook, WebhookType,
    account_service_client::AccountServiceClient, event_catalog_service_client::EventCatalogServiceClient,
    webhook_service_client::WebhookServiceClient,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

const ACCOUNT: &str = "~99199077";

/// A service of its own, and clients of it.
struct Config {
    webhooks: WebhookServiceClient<Channel>,
    accounts: AccountServiceClient<Channel>,
    catalog: EventCatalogServiceClient<Channel>,
    started: Started,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

impl Config {
    async fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    async fn on(folder: tempfile::TempDir) -> Self {
        let stop = CancellationToken::new();
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            store: Store::Disk(folder.path().to_owned()),
            route_token: None,
            egress: Rules::default(),
        };
        let started = start(settings, Metrics::default(), stop.clone()).await.unwrap();
        let url = format!("http://{}", started.address);
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        Self {
            webhooks: WebhookServiceClient::new(channel.clone()),
            accounts: AccountServiceClient::new(channel.clone()),
            catalog: EventCatalogServiceClient::new(channel),
            started,
            stop,
            folder,
        }
    }

    /// Stops the service in order and gives back its data.
    async fn stop(self) -> tempfile::TempDir {
        drop((self.webhooks, self.accounts, self.catalog));
        self.stop.cancel();
        self.started.finished().await.unwrap();
        self.folder
    }

    async fn create(&mut self, webhook: Webhook) -> Result<Webhook, Status> {
        let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
        Ok(self.webhooks.create_webhook(request).await?.into_inner())
    }

    async fn get(&mut self, id: &str) -> Result<Webhook, Status> {
        Ok(self.webhooks.get_webhook(GetWebhookRequest { id: id.into() }).await?.into_inner())
    }
}

fn webhook() -> Webhook {
    Webhook {
        license_code: ACCOUNT.into(),
        r#type: WebhookType::Event.into(),
        event_names: vec!["Added to Cart".into()],
        post_url: "https://example.com/hook".into(),
        ..Webhook::default()
    }
}

/// The fields of a refused request's violations.
fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().domain, "hookline");
    details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect()
}
