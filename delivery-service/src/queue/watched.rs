//! A queue that tells watchers what it has stored. Costs one load of a flag while nobody watches.

use std::sync::Arc;

use async_trait::async_trait;
use common::ids::{DeliveryId, WebhookId};
use futures_util::future::join_all;

use super::{
    Bulk, Cancel, Cancelled, Claimed, Fate, Found, Hear, Lanes, Lease, LeaseLost, Listed, New, Page,
    PageLimit, Query, Queue, QueueError, Retried, Scan, Settle, Slice, Standing, Stored, Waiting,
};
use crate::{
    delivery::{Head, Place, State},
    watchers::{Change, Watch},
};

pub struct Watched {
    inner: Arc<dyn Queue>,
    watch: Arc<Watch>,
}

impl Watched {
    pub fn new(inner: Arc<dyn Queue>, watch: Arc<Watch>) -> Self {
        Self { inner, watch }
    }

    fn change(&self, head: &Head, place: Place) -> Option<Change> {
        self.watch.watches(&head.license_code).then(|| Change { head: head.clone(), place: place.0 })
    }

    fn tell(&self, changes: impl Iterator<Item = Change>) {
        let changes: Vec<_> = changes.collect();
        if !changes.is_empty() {
            self.watch.tell(changes);
        }
    }

    fn tell_all(&self, deliveries: &[(Head, Place)]) {
        self.tell(deliveries.iter().filter_map(|(head, place)| self.change(head, *place)));
    }

    /// As deliveries now are: what was settled as failed may have been withdrawn, or asked for again.
    async fn settled(&self, lanes: &[Settle], results: &[Result<(), LeaseLost>]) -> Vec<Change> {
        let stored = lanes.iter().zip(results).filter(|(_, result)| result.is_ok());
        // Joining a batch changes no state.
        let settled =
            stored.flat_map(|(settle, _)| &settle.deliveries).filter(|settled| settled.fate != Fate::Batch);
        let all = settled.map(|settled| async move {
            let change = self.change(&settled.head, settled.place)?;
            if settled.fate == Fate::Succeeded {
                return Some(change);
            }
            let found = self.inner.get(settled.head.id()).await.ok().flatten();
            Some(found.map_or(change, |found| Change { head: found.head, place: found.place.0 }))
        });
        join_all(all).await.into_iter().flatten().collect()
    }
}

#[async_trait]
impl Queue for Watched {
    fn shards(&self) -> u16 {
        self.inner.shards()
    }

    async fn enqueue(&self, new: Arc<Vec<New>>) -> Vec<Result<Stored, QueueError>> {
        if !self.watch.any() {
            return self.inner.enqueue(new).await;
        }
        let results = self.inner.enqueue(new.clone()).await;
        self.tell(new.iter().zip(&results).filter_map(|(new, result)| match result {
            Ok(Stored::New { place, .. }) => self.change(&new.head, *place),
            Ok(Stored::Ended { place, reason }) => {
                let mut change = self.change(&new.head, *place)?;
                change.head.end(State::Failed, *reason, place.time());
                Some(change)
            }
            _ => None,
        }));
        results
    }

    async fn claim(&self, lanes: usize, page: PageLimit) -> Result<Claimed, QueueError> {
        self.inner.claim(lanes, page).await
    }

    async fn read(
        &self,
        lane: Lease,
        after: Place,
        known_scheduled: usize,
        page: PageLimit,
    ) -> Result<Result<Page, LeaseLost>, QueueError> {
        self.inner.read(lane, after, known_scheduled, page).await
    }

    async fn scan(
        &self,
        lane: Lease,
        after: Place,
        limit: usize,
    ) -> Result<Result<Scan, LeaseLost>, QueueError> {
        self.inner.scan(lane, after, limit).await
    }

    async fn fetch(
        &self,
        lane: Lease,
        ids: Vec<DeliveryId>,
        bytes: usize,
    ) -> Result<Result<Vec<Option<Waiting>>, LeaseLost>, QueueError> {
        self.inner.fetch(lane, ids, bytes).await
    }

    async fn settle(&self, lanes: Arc<Vec<Settle>>) -> Result<Vec<Result<(), LeaseLost>>, QueueError> {
        if !self.watch.any() {
            return self.inner.settle(lanes).await;
        }
        let results = self.inner.settle(lanes.clone()).await?;
        self.tell(self.settled(&lanes, &results).await.into_iter());
        Ok(results)
    }

    async fn wake(&self, lanes: Lanes) -> Result<(), QueueError> {
        self.inner.wake(lanes).await
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<Found>, QueueError> {
        self.inner.get(id).await
    }

    async fn list(&self, query: Query) -> Result<Listed, QueueError> {
        self.inner.list(query).await
    }

    async fn retry(&self, id: DeliveryId) -> Result<Retried, QueueError> {
        let retried = self.inner.retry(id).await?;
        if let Retried::Now(found) = &retried {
            self.tell(self.change(&found.head, found.place).into_iter());
        }
        Ok(retried)
    }

    fn on_news(&self, hear: Hear) {
        self.inner.on_news(hear);
    }

    async fn lane_status(&self, lane: WebhookId) -> Result<Standing, QueueError> {
        self.inner.lane_status(lane).await
    }

    async fn cancel(&self, lane: WebhookId, which: Cancel) -> Result<Cancelled, QueueError> {
        let cancelled = self.inner.cancel(lane, which).await?;
        self.tell_all(&cancelled.deliveries);
        Ok(cancelled)
    }

    async fn retry_bulk(&self, lane: WebhookId, from: Place, to: Place) -> Result<Bulk, QueueError> {
        self.inner.retry_bulk(lane, from, to).await
    }

    async fn bulk_retries(&self) -> Result<Vec<WebhookId>, QueueError> {
        self.inner.bulk_retries().await
    }

    async fn retry_slice(&self, lane: WebhookId, most: usize) -> Result<Slice, QueueError> {
        let slice = self.inner.retry_slice(lane, most).await?;
        self.tell_all(&slice.retried);
        Ok(slice)
    }

    async fn stop_bulk(&self, lane: WebhookId) -> Result<(), QueueError> {
        self.inner.stop_bulk(lane).await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        self.inner.ping().await
    }
}
