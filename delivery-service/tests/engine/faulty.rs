//! A store that fails: each call, by chance, is refused, is slow, or is performed and then said to have
//! failed. What a lost answer has leased is given back, as the backends do.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use common::ids::{DeliveryId, WebhookId};
use delivery_service::{
    delivery::Place,
    queue::{
        Bulk, Cancel, Cancelled, Claimed, Found, LaneNow, Lanes, Lease, LeaseLost, Listed, New, Page,
        PageLimit, Query, Queue, QueueError, Release, Retried, Scan, Settle, Slice, Standing, Stored,
        Waiting,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

pub struct Faulty {
    pub inner: Arc<dyn Queue>,
    chance: Mutex<StdRng>,
    /// Of 100 calls, so many go wrong in each way.
    percent: u32,
}

enum Fate {
    Well,
    Refused,
    Slow,
    AnswerLost,
}

fn away() -> QueueError {
    QueueError::Unavailable("injected".into())
}

impl Faulty {
    pub fn new(inner: Arc<dyn Queue>, seed: u64, percent: u32) -> Self {
        Self { inner, chance: Mutex::new(StdRng::seed_from_u64(seed)), percent }
    }

    /// What becomes of the next call; slow ones have been slow already.
    async fn fate(&self) -> Fate {
        let roll = self.chance.lock().unwrap().random_range(0..100);
        let fate = match roll / self.percent.max(1) {
            0 => Fate::Refused,
            1 => Fate::AnswerLost,
            2 => Fate::Slow,
            _ => Fate::Well,
        };
        if matches!(fate, Fate::Slow) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fate
    }

    async fn give_back(&self, lanes: impl Iterator<Item = Lease>) {
        let release = Some(Release::Free { known: Place::default(), unread: true });
        let settle =
            |lane| Settle { lane, deliveries: vec![], done_to: Place::default(), memo: None, release };
        let lanes: Vec<_> = lanes.map(settle).collect();
        self.inner.settle(Arc::new(lanes)).await.unwrap();
    }
}

#[async_trait]
impl Queue for Faulty {
    fn shards(&self) -> u16 {
        self.inner.shards()
    }

    async fn enqueue(&self, new: Arc<Vec<New>>) -> Vec<Result<Stored, QueueError>> {
        let lost = || new.iter().map(|_| Err(away())).collect();
        match self.fate().await {
            Fate::Refused => lost(),
            Fate::AnswerLost => {
                let stored = self.inner.enqueue(new.clone()).await;
                let leased = new.iter().zip(&stored).filter_map(|(new, stored)| match stored {
                    Ok(Stored::New { lane: LaneNow::Mine { fence, given: true }, .. }) => {
                        Some(Lease { webhook_id: new.head.webhook_id(), fence: *fence })
                    }
                    _ => None,
                });
                self.give_back(leased).await;
                lost()
            }
            Fate::Slow | Fate::Well => self.inner.enqueue(new).await,
        }
    }

    async fn claim(&self, lanes: usize, page: PageLimit) -> Result<Claimed, QueueError> {
        match self.fate().await {
            Fate::Refused => Err(away()),
            Fate::AnswerLost => {
                let claimed = self.inner.claim(lanes, page).await?;
                // What happened in lanes of ours is not told twice.
                let told = claimed.news.iter().copied();
                for lane in told {
                    self.inner.wake(Lanes::These(vec![lane])).await?;
                }
                self.give_back(claimed.lanes.iter().map(|grant| grant.lane)).await;
                Err(away())
            }
            Fate::Slow | Fate::Well => self.inner.claim(lanes, page).await,
        }
    }

    async fn read(
        &self,
        lane: Lease,
        after: Place,
        known_scheduled: usize,
        page: PageLimit,
    ) -> Result<Result<Page, LeaseLost>, QueueError> {
        match self.fate().await {
            Fate::Refused | Fate::AnswerLost => Err(away()),
            Fate::Slow | Fate::Well => self.inner.read(lane, after, known_scheduled, page).await,
        }
    }

    async fn scan(
        &self,
        lane: Lease,
        after: Place,
        limit: usize,
    ) -> Result<Result<Scan, LeaseLost>, QueueError> {
        match self.fate().await {
            Fate::Refused | Fate::AnswerLost => Err(away()),
            Fate::Slow | Fate::Well => self.inner.scan(lane, after, limit).await,
        }
    }

    async fn fetch(
        &self,
        lane: Lease,
        ids: Vec<DeliveryId>,
        bytes: usize,
    ) -> Result<Result<Vec<Option<Waiting>>, LeaseLost>, QueueError> {
        match self.fate().await {
            Fate::Refused | Fate::AnswerLost => Err(away()),
            Fate::Slow | Fate::Well => self.inner.fetch(lane, ids, bytes).await,
        }
    }

    async fn settle(&self, lanes: Arc<Vec<Settle>>) -> Result<Vec<Result<(), LeaseLost>>, QueueError> {
        match self.fate().await {
            Fate::Refused => Err(away()),
            Fate::AnswerLost => {
                self.inner.settle(lanes).await?;
                Err(away())
            }
            Fate::Slow | Fate::Well => self.inner.settle(lanes).await,
        }
    }

    async fn wake(&self, lanes: Lanes) -> Result<(), QueueError> {
        match self.fate().await {
            Fate::Refused => Err(away()),
            Fate::AnswerLost => self.inner.wake(lanes).await.and(Err(away())),
            Fate::Slow | Fate::Well => self.inner.wake(lanes).await,
        }
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<Found>, QueueError> {
        self.inner.get(id).await
    }

    async fn list(&self, query: Query) -> Result<Listed, QueueError> {
        self.inner.list(query).await
    }

    async fn retry(&self, id: DeliveryId) -> Result<Retried, QueueError> {
        self.inner.retry(id).await
    }

    async fn lane_status(&self, lane: WebhookId) -> Result<Standing, QueueError> {
        self.inner.lane_status(lane).await
    }

    async fn cancel(&self, lane: WebhookId, which: Cancel) -> Result<Cancelled, QueueError> {
        match self.fate().await {
            Fate::Refused => Err(away()),
            Fate::AnswerLost => self.inner.cancel(lane, which).await.and(Err(away())),
            Fate::Slow | Fate::Well => self.inner.cancel(lane, which).await,
        }
    }

    async fn retry_bulk(&self, lane: WebhookId, from: Place, to: Place) -> Result<Bulk, QueueError> {
        self.inner.retry_bulk(lane, from, to).await
    }

    async fn bulk_retries(&self) -> Result<Vec<WebhookId>, QueueError> {
        self.inner.bulk_retries().await
    }

    async fn retry_slice(&self, lane: WebhookId, most: usize) -> Result<Slice, QueueError> {
        match self.fate().await {
            Fate::Refused => Err(away()),
            Fate::AnswerLost => self.inner.retry_slice(lane, most).await.and(Err(away())),
            Fate::Slow | Fate::Well => self.inner.retry_slice(lane, most).await,
        }
    }

    async fn stop_bulk(&self, lane: WebhookId) -> Result<(), QueueError> {
        self.inner.stop_bulk(lane).await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        self.inner.ping().await
    }
}
