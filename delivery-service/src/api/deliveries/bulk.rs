//! What is asked of all of a webhook's deliveries: how they stand, withdrawing and retrying them.

use std::time::Duration;

use common::{
    ids::{DeliveryId, WebhookId},
    status,
};
use proto::v1::{
    CancelDeliveriesRequest, CancelDeliveriesResponse, CircuitState, RetryDeliveriesRequest,
    RetryDeliveriesResponse, WebhookStatus,
};
use tonic::Status;

use super::Deliveries;
use crate::{
    api::{convert, from_queue, routes_unknown},
    lanes::{LATENCY_MS, LaneStatus},
    queue::{Bulk, CANCEL_MOST, Cancel, Lanes, Standing},
    routes::Order,
};

impl Deliveries {
    /// A webhook that there is, or of which the store still has something.
    async fn lane(&self, id: &str) -> Result<(WebhookId, Standing), Status> {
        if id.is_empty() {
            return Err(status::invalid("webhook_id", "required"));
        }
        let parsed: WebhookId = id.parse().map_err(|_| status::not_found("webhook", id))?;
        let stands = self.queue.lane_status(parsed).await.map_err(from_queue)?;
        if stands.known || self.routes.route(parsed).is_some() {
            return Ok((parsed, stands));
        }
        Err(if self.routes.synced() { status::not_found("webhook", id) } else { routes_unknown() })
    }

    pub(super) async fn status(&self, id: &str) -> Result<WebhookStatus, Status> {
        let (webhook_id, stands) = self.lane(id).await?;
        let count = |count| i64::try_from(count).unwrap_or(i64::MAX);
        let mut status = WebhookStatus {
            webhook_id: webhook_id.to_string(),
            backlog_count: count(stands.open),
            oldest_age: stands.oldest.and_then(|age| age.try_into().ok()),
            failed_count: count(stands.failed),
            ..WebhookStatus::default()
        };
        if let Some(lane) = (self.lane_status)(webhook_id).await {
            let now = self.clock.now();
            let circuit = match lane.probe {
                None => CircuitState::Closed,
                Some(probe) if probe > now => CircuitState::Open,
                Some(_) => CircuitState::HalfOpen,
            };
            status.circuit = circuit as i32;
            let held = [lane.probe, lane.held_until].into_iter().flatten().max();
            status.held_until = held.filter(|until| *until > now).map(Into::into);
            status.in_flight_count = i32::try_from(lane.in_flight).unwrap_or(i32::MAX);
            status.succeeded_attempts = count(lane.succeeded);
            status.failed_attempts = count(lane.failed);
            status.median_latency = latency(&lane, 50);
            status.p99_latency = latency(&lane, 99);
        }
        Ok(status)
    }

    pub(super) async fn cancel(
        &self,
        request: CancelDeliveriesRequest,
    ) -> Result<CancelDeliveriesResponse, Status> {
        let (webhook_id, _) = self.lane(&request.webhook_id).await?;
        let mut steps = vec![Cancel::All(None)];
        if !request.delivery_ids.is_empty() {
            // Text that is no id names nothing.
            let named: Vec<DeliveryId> = request.delivery_ids.iter().flat_map(|id| id.parse()).collect();
            steps = named.chunks(CANCEL_MOST).map(|ids| Cancel::These(ids.to_vec())).collect();
        }
        let this = self.clone();
        // Goes on when the caller does not wait: what the store has withdrawn is not to be sent.
        let cancelling = tokio::spawn(async move {
            let mut count = 0;
            while let Some(step) = steps.pop() {
                let cancelled = this.queue.cancel(webhook_id, step).await;
                // Also when the answer was lost.
                (this.withdrawn)(webhook_id).await;
                let cancelled = cancelled?;
                count += cancelled.deliveries.len() as i64;
                steps.extend(cancelled.rest.map(|to| Cancel::All(Some(to))));
            }
            // Those behind one that waited for its retry wait for that in the store, and have to wait no more.
            // Also when it was withdrawn before, and the answer was lost.
            let route = this.routes.route(webhook_id);
            if route.is_some_and(|route| route.policy.order == Order::Strict) {
                this.queue.wake(Lanes::These(vec![webhook_id])).await?;
                (this.nudge)(webhook_id);
            }
            Ok(count)
        });
        let cancelled = cancelling.await.map_err(|error| status::internal(error.to_string()))?;
        Ok(CancelDeliveriesResponse { cancelled_count: cancelled.map_err(from_queue)? })
    }

    pub(super) async fn retry_all(
        &self,
        request: RetryDeliveriesRequest,
    ) -> Result<RetryDeliveriesResponse, Status> {
        let (from, to) = convert::span(&request)?;
        let (webhook_id, _) = self.lane(&request.webhook_id).await?;
        self.retriable(webhook_id)?;
        match self.queue.retry_bulk(webhook_id, from, to).await.map_err(from_queue)? {
            Bulk::Started(count) => {
                self.retrying.notify_one();
                Ok(RetryDeliveriesResponse { retried_count: count as i64 })
            }
            Bulk::UnderWay => {
                let message = format!("webhook {webhook_id} has a RetryDeliveries under way");
                Err(status::failed_precondition("RETRY_UNDER_WAY", webhook_id.to_string(), message))
            }
        }
    }
}

/// How long so many of a hundred attempts took at most, to the next bound of `LATENCY_MS`.
fn latency(lane: &LaneStatus, percent: u64) -> Option<prost_types::Duration> {
    let all: u64 = lane.latency.iter().sum();
    let wanted = (all * percent).div_ceil(100);
    let mut sum = 0;
    let at = lane.latency.iter().position(|count| {
        sum += count;
        all > 0 && sum >= wanted
    })?;
    let ms = LATENCY_MS.get(at).or(LATENCY_MS.last())?;
    Duration::from_millis(*ms).try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_by_the_bounds_that_they_were_counted_by() {
        let of = |latency| LaneStatus { latency, ..LaneStatus::default() };
        let ms = |lane: &LaneStatus, percent| {
            latency(lane, percent).map(|d| d.seconds * 1_000 + i64::from(d.nanos) / 1_000_000)
        };
        let none = of([0; LATENCY_MS.len() + 1]);
        assert_eq!((ms(&none, 50), ms(&none, 99)), (None, None));
        let most = of([98, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!((ms(&most, 50), ms(&most, 99)), (Some(10), Some(100)));
        let slow = of([0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!((ms(&slow, 50), ms(&slow, 99)), (Some(15_000), Some(15_000)));
    }
}
