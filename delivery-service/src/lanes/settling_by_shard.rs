//! Outcomes on their way into the store, each shard's apart: one that is away keeps no other's waiting.

use std::{sync::Arc, time::Instant};

use super::settling::{Reply, Settling, Stored};
use crate::{
    delivery::Place,
    queue::{Lease, LeaseLost, Settle},
};

#[derive(Debug)]
pub struct SettlingByShard(Vec<Settling>);

impl SettlingByShard {
    pub fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| Settling::default()).collect())
    }

    /// Those of a lane's shard.
    pub fn of(&mut self, lane: Lease) -> &mut Settling {
        let shard = lane.webhook_id.shard(self.0.len() as u16);
        &mut self.0[usize::from(shard)]
    }

    /// The next batch of a shard, if one may go now: see `Settling::next`.
    pub fn next(
        &mut self,
        now: Instant,
        mut done_to: impl FnMut(&Settle) -> Option<Place>,
    ) -> Option<Arc<Vec<Settle>>> {
        self.0.iter_mut().find_map(|shard| shard.next(now, &mut done_to))
    }

    /// Takes the answer to one of those calls.
    pub fn answered(&mut self, reply: Reply, now: Instant) -> Vec<(Lease, Result<Vec<Stored>, LeaseLost>)> {
        match reply.0.first() {
            Some(first) => self.of(first.lane).answered(reply, now),
            None => Vec::new(),
        }
    }

    /// Outcomes that are not stored yet, those of present calls left out.
    pub fn waiting(&self) -> usize {
        self.0.iter().map(Settling::waiting).sum()
    }

    pub fn done(&self) -> bool {
        self.0.iter().all(Settling::done)
    }

    pub fn is_releasing(&self) -> bool {
        self.0.iter().any(Settling::is_releasing)
    }

    /// When a call that was put off may go.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.0.iter().filter_map(Settling::wakes_at).min()
    }
}

#[cfg(test)]
mod tests {
    use common::ids::WebhookId;

    use super::*;
    use crate::queue::QueueError;

    #[test]
    fn a_shard_that_fails_keeps_no_other_from_being_stored() {
        let lane = |shard| Lease { webhook_id: WebhookId::from_bytes([shard; 16]), fence: 1 };
        let (now, mut settling) = (Instant::now(), SettlingByShard::new(2));
        for shard in [0, 1] {
            settling.of(lane(shard)).ask(lane(shard));
        }
        let (away, there) = (settling.next(now, |_| None).unwrap(), settling.next(now, |_| None).unwrap());
        assert_eq!((away[0].lane, there[0].lane), (lane(0), lane(1)));
        assert!(settling.next(now, |_| None).is_none(), "a shard has one call under way");
        assert!(settling.answered((away, Err(QueueError::Unavailable("away".into()))), now).is_empty());
        assert_eq!(settling.answered((there, Ok(vec![Ok(())])), now).len(), 1);
        settling.of(lane(1)).ask(lane(1));
        assert_eq!(
            settling.next(now, |_| None).unwrap()[0].lane,
            lane(1),
            "and the other waits for its pause"
        );
        assert!(settling.next(now, |_| None).is_none() && !settling.done());
        let again = settling.wakes_at().unwrap();
        settling.of(lane(0)).ask(lane(0));
        assert_eq!(settling.next(again, |_| None).unwrap()[0].lane, lane(0));
    }
}
