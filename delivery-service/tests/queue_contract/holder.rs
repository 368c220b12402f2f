//! A process of the model: what it has in its hands of the lanes that it holds, kept as the contract asks.

use std::{collections::BTreeMap, sync::Arc};

use common::ids::{DeliveryId, WebhookId};
use delivery_service::{
    delivery::Place,
    queue::{Fate, Lease, Page, Queue, Release, Settle, Waiting},
};

use crate::{
    bench::{Backend, settle_waiting},
    model::Run,
};

/// A lane as its holder knows it.
pub struct Work {
    pub lease: Lease,
    /// Fresh ones are read up to here; the last one heard of.
    pub tail: Place,
    pub last: Place,
    pub pending: BTreeMap<DeliveryId, Waiting>,
    pub unread: bool,
    /// Its answer was lost: comes again before anything else.
    pub again: Option<Settle>,
}

/// A process with the store open.
pub struct Holder {
    pub me: usize,
    pub queue: Arc<dyn Queue>,
    pub lanes: BTreeMap<WebhookId, Work>,
}

impl Work {
    pub fn new(lease: Lease, known: Place) -> Self {
        Self { lease, tail: known, last: known, pending: BTreeMap::new(), unread: false, again: None }
    }

    pub fn read(&mut self, page: Page) {
        self.pending.extend(page.deliveries.into_iter().map(|waiting| (waiting.head.id(), waiting)));
        (self.tail, self.unread) = (self.tail.max(page.read_to), page.more);
        self.last = self.last.max(self.tail);
    }

    pub fn fresh(&self) -> impl Iterator<Item = Place> {
        self.pending.values().filter(|waiting| !waiting.scheduled).map(|waiting| waiting.place)
    }

    /// Settles these and, when they are settled, gives the lane back.
    pub fn settle(&mut self, fates: Vec<(DeliveryId, Fate)>, release: Option<Release>) -> Settle {
        let settled = fates.into_iter().filter_map(|(id, fate)| {
            let waiting = self.pending.remove(&id)?;
            Some(settle_waiting(&waiting, fate))
        });
        let deliveries = settled.collect();
        let done_to = self.fresh().min().map_or(self.tail, |first| Place(first.0 - 1));
        let unread = self.unread || self.tail < self.last || self.fresh().next().is_some();
        let release = release.map(|release| match release {
            Release::Free { .. } => Release::Free { known: self.last, unread },
            other => other,
        });
        Settle { lane: self.lease, deliveries, done_to, memo: None, release }
    }
}

impl<B: Backend> Run<'_, B> {
    /// A settle from before comes late, or through another process: its lease is not the holder's any more.
    pub async fn late(&mut self, at: usize) -> Option<()> {
        if self.settles.is_empty() {
            return Some(());
        }
        let index = self.any(self.settles.len());
        let settle = self.settles[index].clone();
        let lane = &self.oracle.lanes[&settle.lane.webhook_id];
        let live = lane.held == Some(self.holders[at].me) && lane.fence == settle.lane.fence;
        if !live {
            self.settle(at, settle).await?;
        }
        Some(())
    }

    pub async fn crash(&mut self, at: usize) -> Option<()> {
        let holder = self.holders.swap_remove(at);
        self.says(format!("{at} crashes"));
        let queue = self.backend.crash(holder.queue).await;
        if B::HOLDERS == 1 {
            self.oracle.lapse(|_| true);
            self.oracle.lanes.values_mut().for_each(|lane| lane.woken = false);
        }
        self.join(queue).await
    }
}
