//! A queue that counts what it stores, what ends in it, and what fails.

use std::sync::Arc;

use async_trait::async_trait;
use common::ids::{DeliveryId, WebhookId};

use super::{
    Bulk, Cancel, Cancelled, Claimed, Fate, Found, Hear, Lanes, Lease, LeaseLost, Listed, New, Page,
    PageLimit, Query, Queue, QueueError, Retried, Scan, Settle, Slice, Standing, Stored, Waiting,
};
use crate::{
    delivery::Place,
    metrics::{Call, Ended, Metrics},
};

pub struct Counted {
    inner: Arc<dyn Queue>,
    metrics: Metrics,
}

impl Counted {
    pub fn new(inner: Arc<dyn Queue>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    fn check<T>(&self, call: Call, result: Result<T, QueueError>) -> Result<T, QueueError> {
        self.metrics.store_errors.add(call as usize, result.is_err().into());
        result
    }

    fn other<T>(&self, result: Result<T, QueueError>) -> Result<T, QueueError> {
        self.check(Call::Other, result)
    }
}

#[async_trait]
impl Queue for Counted {
    fn shards(&self) -> u16 {
        self.inner.shards()
    }

    async fn enqueue(&self, new: Arc<Vec<New>>) -> Vec<Result<Stored, QueueError>> {
        let results = self.inner.enqueue(new).await;
        let (mut waiting, mut failed, mut unstored) = (0, 0, 0);
        for result in &results {
            match result {
                Ok(Stored::New { .. }) => waiting += 1,
                Ok(Stored::Ended { .. }) => failed += 1,
                Ok(Stored::Duplicate { .. }) => {}
                Err(_) => unstored = 1,
            }
        }
        self.metrics.accepted.inc_by(waiting + failed);
        self.metrics.ended.add(Ended::Failed as usize, failed);
        self.metrics.store_errors.add(Call::Enqueue as usize, unstored);
        results
    }

    async fn claim(&self, lanes: usize, page: PageLimit) -> Result<Claimed, QueueError> {
        self.check(Call::Claim, self.inner.claim(lanes, page).await)
    }

    async fn read(
        &self,
        lane: Lease,
        after: Place,
        known_scheduled: usize,
        page: PageLimit,
    ) -> Result<Result<Page, LeaseLost>, QueueError> {
        self.check(Call::Read, self.inner.read(lane, after, known_scheduled, page).await)
    }

    async fn scan(
        &self,
        lane: Lease,
        after: Place,
        limit: usize,
    ) -> Result<Result<Scan, LeaseLost>, QueueError> {
        self.check(Call::Read, self.inner.scan(lane, after, limit).await)
    }

    async fn fetch(
        &self,
        lane: Lease,
        ids: Vec<DeliveryId>,
        bytes: usize,
    ) -> Result<Result<Vec<Option<Waiting>>, LeaseLost>, QueueError> {
        self.check(Call::Read, self.inner.fetch(lane, ids, bytes).await)
    }

    async fn settle(&self, lanes: Arc<Vec<Settle>>) -> Result<Vec<Result<(), LeaseLost>>, QueueError> {
        let results = self.check(Call::Settle, self.inner.settle(lanes.clone()).await)?;
        let mut ended = [0; 3];
        let stored = lanes.iter().zip(&results).filter(|(_, result)| result.is_ok());
        for settled in stored.flat_map(|(settle, _)| &settle.deliveries) {
            match settled.fate {
                Fate::Succeeded => ended[Ended::Succeeded as usize] += 1,
                Fate::Failed => ended[Ended::Failed as usize] += 1,
                Fate::Cancelled => ended[Ended::Cancelled as usize] += 1,
                Fate::Retry { .. } | Fate::Batch => {}
            }
        }
        for (state, count) in ended.into_iter().enumerate() {
            self.metrics.ended.add(state, count);
        }
        Ok(results)
    }

    async fn wake(&self, lanes: Lanes) -> Result<(), QueueError> {
        self.other(self.inner.wake(lanes).await)
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<Found>, QueueError> {
        self.other(self.inner.get(id).await)
    }

    async fn list(&self, query: Query) -> Result<Listed, QueueError> {
        self.other(self.inner.list(query).await)
    }

    async fn retry(&self, id: DeliveryId) -> Result<Retried, QueueError> {
        self.other(self.inner.retry(id).await)
    }

    fn on_news(&self, hear: Hear) {
        self.inner.on_news(hear);
    }

    async fn lane_status(&self, lane: WebhookId) -> Result<Standing, QueueError> {
        self.other(self.inner.lane_status(lane).await)
    }

    async fn cancel(&self, lane: WebhookId, which: Cancel) -> Result<Cancelled, QueueError> {
        let cancelled = self.other(self.inner.cancel(lane, which).await)?;
        self.metrics.ended.add(Ended::Cancelled as usize, cancelled.deliveries.len() as u64);
        Ok(cancelled)
    }

    async fn retry_bulk(&self, lane: WebhookId, from: Place, to: Place) -> Result<Bulk, QueueError> {
        self.other(self.inner.retry_bulk(lane, from, to).await)
    }

    async fn bulk_retries(&self) -> Result<Vec<WebhookId>, QueueError> {
        self.other(self.inner.bulk_retries().await)
    }

    async fn retry_slice(&self, lane: WebhookId, most: usize) -> Result<Slice, QueueError> {
        self.other(self.inner.retry_slice(lane, most).await)
    }

    async fn stop_bulk(&self, lane: WebhookId) -> Result<(), QueueError> {
        self.other(self.inner.stop_bulk(lane).await)
    }

    async fn ping(&self) -> Result<(), QueueError> {
        self.other(self.inner.ping().await)
    }
}

#[cfg(test)]
mod tests {
    use common::clock::{Clock, Time};

    use super::*;
    use crate::{
        delivery::{Fault, Head, State},
        queue::{LaneNow, Limits, Settled, disk::DiskQueue},
    };

    #[tokio::test]
    async fn what_is_stored_and_what_ends_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskQueue::open(folder.path(), Clock::System, Limits::default(), 0).unwrap();
        let metrics = Metrics::default();
        let queue = Counted::new(disk, metrics.clone());
        let lane = WebhookId::new(1, 1);
        let new = |number, failed| New {
            head: Head::new(DeliveryId::new(lane.shard(queue.shards()), 0, number), lane),
            body: "{}".into(),
            dedupe: false,
            failed,
        };
        let all = vec![new(1, None), new(2, None), new(3, Some(Fault::Disabled))];
        let stored = queue.enqueue(Arc::new(all.clone())).await;
        let Ok(Stored::New { place, lane: LaneNow::Mine { fence, .. }, .. }) = stored[0] else {
            panic!("{stored:?}")
        };
        assert_eq!((metrics.accepted.get(), metrics.ended.get()), (3, [0, 1, 0]));
        let settle = |number: usize, fence, fate| {
            let mut head = all[number].head.clone();
            head.end(State::Succeeded, Fault::None, Time(1));
            let deliveries = vec![Settled { head, place, fate }];
            let lane = Lease { webhook_id: lane, fence };
            Arc::new(vec![Settle { lane, deliveries, done_to: Place(0), memo: None, release: None }])
        };
        queue.settle(settle(0, fence, Fate::Succeeded)).await.unwrap();
        assert_eq!(queue.settle(settle(1, fence + 1, Fate::Failed)).await.unwrap(), [Err(LeaseLost)]);
        assert_eq!(metrics.ended.get(), [1, 1, 0], "what was refused has not ended");
        let gone = queue.cancel(lane, Cancel::All(None)).await.unwrap();
        assert_eq!((gone.deliveries.len(), metrics.ended.get()), (1, [1, 1, 1]));
        assert_eq!(metrics.store_errors.get(), [0; 5]);
    }
}
