//! What callers ask in a random run: to retry, to withdraw, to wake; and to look.

use common::ids::DeliveryId;
use delivery_service::{
    delivery::{Place, State},
    queue::{Cancel, Lanes, Query, Slice},
};

use crate::{
    bench::{ACCOUNT, Backend},
    model::Run,
    oracle::Is,
};

impl<B: Backend> Run<'_, B> {
    pub async fn ask_again(&mut self, at: usize) -> Option<()> {
        let Some(id) = self.one() else { return Some(()) };
        let retried = self.holders[at].queue.retry(id).await.unwrap();
        self.in_time()?;
        self.says(format!("retry of {id}: {retried:?}"));
        self.oracle.retried(id, &retried);
        Some(())
    }

    pub fn one(&mut self) -> Option<DeliveryId> {
        let ids: Vec<_> = self.oracle.all.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.any(ids.len())])
    }

    pub async fn cancel(&mut self, at: usize) -> Option<()> {
        let lane = self.lane();
        let named = if self.chance(50) { self.one() } else { None };
        let which = named.map_or(Cancel::All(None), |id| Cancel::These(vec![id]));
        let cancelled = self.holders[at].queue.cancel(lane, which).await.unwrap();
        self.in_time()?;
        let ids: Vec<_> = cancelled.deliveries.iter().map(|(head, _)| head.id()).collect();
        self.says(format!("{at} cancels {named:?} in {lane}: {ids:?}"));
        let meant = self.oracle.open(lane).into_iter().map(|(_, id, _)| id);
        assert_eq!(ids, meant.filter(|id| named.is_none_or(|one| one == *id)).collect::<Vec<_>>());
        self.oracle.cancelled(self.holders[at].me, lane, &ids);
        Some(())
    }

    pub async fn bulk(&mut self, at: usize) -> Option<()> {
        let (lane, queue) = (self.lane(), self.holders[at].queue.clone());
        if self.chance(50) {
            queue.retry_bulk(lane, Place(0), Place(1 << 52)).await.unwrap();
            return Some(());
        }
        let Slice { retried, over } = queue.retry_slice(lane, 2).await.unwrap();
        self.in_time()?;
        self.says(format!("slice of {lane}: {retried:?}, over {over}"));
        for (head, _) in retried {
            let one = self.oracle.all.get_mut(&head.id()).unwrap();
            assert!(one.is == Is::Ended(State::Failed) && one.body.is_some());
            (one.is, one.asks) = (Is::Due(self.oracle.now), one.asks + 1);
            self.oracle.lanes.entry(lane).or_default().untold = true;
        }
        Some(())
    }

    pub async fn wake(&mut self, at: usize) -> Option<()> {
        let which = if self.chance(30) {
            Lanes::Parked
        } else {
            Lanes::These((0..self.any(3)).map(|_| self.lane()).collect())
        };
        self.holders[at].queue.wake(which.clone()).await.unwrap();
        self.in_time()?;
        self.says(format!("wakes {which:?}"));
        self.oracle.woken(which);
        Some(())
    }

    pub async fn look(&mut self, at: usize) -> Option<()> {
        let queue = self.holders[at].queue.clone();
        if let Some(id) = self.one() {
            let found = queue.get(id).await.unwrap();
            self.oracle.found(id, found.as_ref());
        }
        let lane = self.lane();
        self.oracle.stands(lane, queue.lane_status(lane).await.unwrap());
        let states =
            [vec![], vec![State::Failed], vec![State::Pending, State::Retrying]][self.any(3)].clone();
        let webhook_id = self.chance(50).then_some(lane);
        let query = Query { license_code: ACCOUNT.into(), states, webhook_id, limit: 6, ..Query::default() };
        self.oracle.listed(&query, &queue.list(query.clone()).await.unwrap());
        Some(())
    }
}
