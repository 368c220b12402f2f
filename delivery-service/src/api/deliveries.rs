//! DeliveryService: deliveries are shown and acted upon. What a webhook would be sent is shown too, and
//! on request sent once, outside the queue and whatever the webhook's state.
//!
//! Deliveries are readable at any time, those of deleted webhooks too; what takes a route waits until
//! the routes are known.

mod bulk;
mod watching;

use std::sync::Arc;

use common::{
    clock::Clock,
    event::{Event, Payload},
    ids::{DeliveryId, WebhookId},
    intake as checked,
    matching::Kind,
    service::MAX_REQUEST,
    status::{self, Violations},
};
use futures_util::future::BoxFuture;
use proto::v1::{
    self, CancelDeliveriesRequest, CancelDeliveriesResponse, Delivery, GetDeliveryRequest,
    GetWebhookStatusRequest, HttpRequest, ListDeliveriesRequest, ListDeliveriesResponse,
    PreviewDeliveryRequest, PreviewDeliveryResponse, RetryDeliveriesRequest, RetryDeliveriesResponse,
    RetryDeliveryRequest, TestWebhookRequest, TestWebhookResponse, WatchDeliveriesRequest, WebhookStatus,
    delivery_service_server::{DeliveryService, DeliveryServiceServer},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{convert, from_queue, routes_unknown};
use crate::{
    intake,
    lanes::LaneStatus,
    payload,
    queue::{Found, Queue, Retried},
    request,
    routes::{Route, RouteState, table::Table},
    sample,
    send::{self, Sender},
    watchers::Watch,
};

/// Tells the engine that a lane has something to do at once.
pub type Nudge = Arc<dyn Fn(WebhookId) + Send + Sync>;

/// Tells the engine that something of a lane was withdrawn; when it is through, nothing of that starts.
pub type Withdrawn = Arc<dyn Fn(WebhookId) -> BoxFuture<'static, ()> + Send + Sync>;

/// The service.
#[derive(Clone)]
pub struct Deliveries {
    pub queue: Arc<dyn Queue>,
    pub routes: Arc<Table>,
    pub sender: Arc<Sender>,
    pub nudge: Nudge,
    pub withdrawn: Withdrawn,
    /// What this process knows of a lane that it holds.
    pub lane_status: Arc<dyn Fn(WebhookId) -> BoxFuture<'static, Option<LaneStatus>> + Send + Sync>,
    /// Told of a new bulk retry.
    pub retrying: Arc<Notify>,
    pub watch: Arc<Watch>,
    /// Ends watches.
    pub stop: CancellationToken,
    pub clock: Clock,
}

impl Deliveries {
    pub fn service(self) -> DeliveryServiceServer<Self> {
        DeliveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    async fn found(&self, id: &str) -> Result<Found, Status> {
        if id.is_empty() {
            return Err(status::invalid("id", "required"));
        }
        let parsed: DeliveryId = id.parse().map_err(|_| status::not_found("delivery", id))?;
        let found = self.queue.get(parsed).await.map_err(from_queue)?;
        found.ok_or_else(|| status::not_found("delivery", id))
    }

    fn route(&self, id: &str) -> Result<Arc<Route>, Status> {
        if id.is_empty() {
            return Err(status::invalid("webhook_id", "required"));
        }
        if !self.routes.synced() {
            return Err(routes_unknown());
        }
        let route = id.parse().ok().and_then(|id| self.routes.route(id));
        route.ok_or_else(|| status::not_found("webhook", id))
    }

    /// That the webhook takes retries: it is there, and not turned off.
    fn retriable(&self, id: WebhookId) -> Result<(), Status> {
        if !self.routes.synced() {
            return Err(routes_unknown());
        }
        let (reason, why) = match self.routes.route(id).map(|route| route.state) {
            Some(RouteState::Active | RouteState::Paused) => return Ok(()),
            Some(RouteState::Disabled) => ("WEBHOOK_DISABLED", "is disabled: set its state first"),
            None => ("WEBHOOK_GONE", "was deleted, or this version cannot serve it"),
        };
        Err(status::failed_precondition(reason, id.to_string(), format!("webhook {id} {why}")))
    }

    /// The request that an event, or the sample, would make at a webhook now.
    fn trial(&self, route: &Route, given: Option<v1::Event>) -> Result<send::Request, Status> {
        let event = match given {
            Some(given) => self.given(route, given)?,
            None => sample::event(&route.rule, &route.license_code, self.clock.now()),
        };
        let now = self.clock.now();
        let shard = route.webhook_id.shard(self.queue.shards());
        let body = if route.xml { payload::xml::render(&event) } else { payload::json::render(&event) };
        let id = DeliveryId::new(shard, now.0, rand::random());
        let head = intake::head(&event, route, id, &intake::event_id(&event, now));
        if route.policy.batch.is_none() {
            return Ok(request::build(route, &head, body, now));
        }
        let body = payload::json::array([&*body]);
        Ok(request::build_batch(route, id, &head.event_type, &[id], body, now))
    }

    /// A caller's event, checked as if it were published, and of the webhook's account and kind.
    fn given(&self, route: &Route, given: v1::Event) -> Result<Event, Status> {
        let mut violations = Violations::default();
        let event = checked::event(given, self.clock.now(), "event", &mut violations);
        violations.check()?;
        let event = event.ok_or_else(|| status::internal("an event without violations was refused"))?;
        let mut violations = Violations::default();
        if *event.license_code != *route.license_code {
            violations.add("event.license_code", "must be the webhook's");
        }
        if !carries(route.rule.kind, &event.payload) {
            violations.add("event.payload", "is not of the webhook's type");
        }
        violations.check()?;
        Ok(event)
    }
}

/// Whether a webhook of this kind has to do with such an event at all, whatever its name or category.
fn carries(kind: Kind, payload: &Payload) -> bool {
    match kind {
        Kind::Feedback => matches!(payload, Payload::Feedback(_)),
        Kind::FeedbackReply => matches!(payload, Payload::FeedbackReply(_)),
        Kind::SurveyResponse => matches!(payload, Payload::SurveyResponse(_)),
        Kind::Journey => matches!(payload, Payload::Journey(_)),
        Kind::Event | Kind::GlobalSystemEvents | Kind::GlobalApplicationEvents => {
            matches!(payload, Payload::Activity(_))
        }
    }
}

/// The request without its secrets.
fn shown(request: &send::Request, route: &Route) -> HttpRequest {
    let (url, headers) = request::mask(request, route);
    HttpRequest {
        method: "POST".into(),
        url,
        headers: headers.into_iter().collect(),
        body: request.body.clone(),
    }
}

#[tonic::async_trait]
impl DeliveryService for Deliveries {
    async fn get_delivery(&self, request: Request<GetDeliveryRequest>) -> Result<Response<Delivery>, Status> {
        let found = self.found(&request.into_inner().id).await?;
        Ok(Response::new(convert::found(found)))
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let request = request.into_inner();
        let (query, bound) = convert::query(&request)?;
        if convert::nothing(&request) {
            return Ok(Response::new(ListDeliveriesResponse::default()));
        }
        let listed = self.queue.list(query).await.map_err(from_queue)?;
        let deliveries = listed.deliveries.into_iter().map(|(head, place)| convert::listed(head, place));
        Ok(Response::new(ListDeliveriesResponse {
            deliveries: deliveries.collect(),
            next_page_token: listed.next.map(|at| convert::token(at, &bound)).unwrap_or_default(),
        }))
    }

    async fn retry_delivery(
        &self,
        request: Request<RetryDeliveryRequest>,
    ) -> Result<Response<Delivery>, Status> {
        let text = request.into_inner().id;
        let found = self.found(&text).await?;
        let (id, webhook_id) = (found.head.id(), found.head.webhook_id());
        self.retriable(webhook_id)?;
        let refuse = |reason, why: String| Err(status::failed_precondition(reason, &text, why));
        match self.queue.retry(id).await.map_err(from_queue)? {
            Retried::Now(found) => {
                (self.nudge)(webhook_id);
                Ok(Response::new(convert::delivery(found.head, found.place)))
            }
            Retried::NotFound => Err(status::not_found("delivery", id)),
            Retried::Ended(state) => {
                refuse("DELIVERY_ENDED", format!("delivery {id} has ended {}", convert::word(state)))
            }
            Retried::NoBody => {
                refuse("BODY_NOT_KEPT", format!("the body of delivery {id} is no longer kept"))
            }
        }
    }

    async fn preview_delivery(
        &self,
        request: Request<PreviewDeliveryRequest>,
    ) -> Result<Response<PreviewDeliveryResponse>, Status> {
        let PreviewDeliveryRequest { webhook_id, event } = request.into_inner();
        let route = self.route(&webhook_id)?;
        let request = self.trial(&route, event)?;
        Ok(Response::new(PreviewDeliveryResponse { request: Some(shown(&request, &route)) }))
    }

    async fn test_webhook(
        &self,
        request: Request<TestWebhookRequest>,
    ) -> Result<Response<TestWebhookResponse>, Status> {
        let TestWebhookRequest { webhook_id, event } = request.into_inner();
        let route = self.route(&webhook_id)?;
        let request = self.trial(&route, event)?;
        let shown = shown(&request, &route);
        let outcome = self.sender.send(|| request.clone()).await;
        Ok(Response::new(TestWebhookResponse {
            request: Some(shown),
            attempt: Some(convert::outcome(outcome)),
        }))
    }

    type WatchDeliveriesStream = watching::Changes;

    async fn watch_deliveries(
        &self,
        request: Request<WatchDeliveriesRequest>,
    ) -> Result<Response<Self::WatchDeliveriesStream>, Status> {
        self.watch(request.into_inner()).await.map(Response::new)
    }

    async fn retry_deliveries(
        &self,
        request: Request<RetryDeliveriesRequest>,
    ) -> Result<Response<RetryDeliveriesResponse>, Status> {
        self.retry_all(request.into_inner()).await.map(Response::new)
    }

    async fn cancel_deliveries(
        &self,
        request: Request<CancelDeliveriesRequest>,
    ) -> Result<Response<CancelDeliveriesResponse>, Status> {
        self.cancel(request.into_inner()).await.map(Response::new)
    }

    async fn get_webhook_status(
        &self,
        request: Request<GetWebhookStatusRequest>,
    ) -> Result<Response<WebhookStatus>, Status> {
        self.status(&request.into_inner().webhook_id).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trials;
