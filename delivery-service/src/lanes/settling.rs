//! Outcomes on their way into a shard of the store: gathered lane by lane while a call is under way, sent as one
//! batch, and kept when the store could not be reached until it can. When a batch goes: see `SettlingByShard`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::ids::{ById, DeliveryId, WebhookId};

use crate::{
    delivery::Place,
    queue::{Fate, Lease, LeaseLost, QueueError, Release, Settle, Settled},
};

/// Deliveries in one call.
const BATCH: usize = 1_024;
/// After a failure the next call waits for so long.
const PAUSE: Duration = Duration::from_millis(200);

/// What waits to be stored, and the call that is under way.
#[derive(Debug, Default)]
pub struct Settling {
    waiting: ById<WebhookId, Settle>,
    /// Lanes in `waiting`, oldest first.
    turn: std::collections::VecDeque<WebhookId>,
    deliveries: usize,
    calling: bool,
    /// Whether something waits for what is to be stored.
    urgent: bool,
    not_before: Option<Instant>,
    /// Leases that are being given back, until the store has said yes.
    releasing: ById<WebhookId, u64>,
}

/// What a lane learns of a stored outcome.
#[derive(Debug)]
pub struct Stored {
    pub id: DeliveryId,
    pub place: Place,
    pub again: Option<Duration>,
    /// It waits on, as a member of a batch.
    pub joined: bool,
}

/// A finished call, lane by lane.
pub type Reply = (Arc<Vec<Settle>>, Result<Vec<Result<(), LeaseLost>>, QueueError>);

impl Settling {
    pub fn outcome(&mut self, lane: Lease, settled: Settled) {
        self.success(lane, settled);
        self.urgent = true;
    }

    /// An outcome that nothing waits for.
    pub fn success(&mut self, lane: Lease, settled: Settled) {
        self.deliveries += 1;
        let deliveries = &mut self.of(lane).deliveries;
        if deliveries.capacity() == 0 {
            // Most lanes have one at a time.
            deliveries.reserve_exact(1);
        }
        deliveries.push(settled);
    }

    /// Asks the store whether the lease is still good.
    pub fn ask(&mut self, lane: Lease) {
        self.of(lane);
        self.urgent = true;
    }

    /// Keeps something for the lane's next holder.
    pub fn memo(&mut self, lane: Lease, memo: Bytes) {
        self.of(lane).memo = Some(memo);
        self.urgent = true;
    }

    /// Gives a lease back, after what is to be stored with it.
    pub fn release(&mut self, lane: Lease, release: Release, done_to: Place) {
        self.part(lane, release, done_to);
        self.urgent = true;
    }

    /// The same with no hurry: nothing is expected in the lane soon.
    pub fn part(&mut self, lane: Lease, release: Release, done_to: Place) {
        let settle = self.of(lane);
        settle.release = Some(release);
        settle.done_to = done_to;
        self.releasing.insert(lane.webhook_id, lane.fence);
    }

    /// Whether the lease with this fence is being given back.
    pub fn releases(&self, webhook_id: WebhookId, fence: u64) -> bool {
        self.releasing.get(&webhook_id).is_some_and(|releasing| *releasing >= fence)
    }

    /// Whether a lease of this lane is being given back.
    pub fn gives_back(&self, webhook_id: WebhookId) -> bool {
        self.releasing.contains_key(&webhook_id)
    }

    /// Outcomes that are not stored yet, those of the present call left out.
    pub fn waiting(&self) -> usize {
        self.deliveries
    }

    pub fn done(&self) -> bool {
        self.waiting.is_empty() && !self.calling
    }

    /// Whether there is something, and no call is under way.
    pub fn is_idle(&self) -> bool {
        !self.waiting.is_empty() && !self.calling
    }

    /// Whether something waits for what is to be stored.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Until when a call is put off.
    pub fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// The next batch, if one may go now. `done_to` answers for a lane's lease and the places that
    /// the batch settles.
    pub fn next(
        &mut self,
        now: Instant,
        mut done_to: impl FnMut(&Settle) -> Option<Place>,
    ) -> Option<Arc<Vec<Settle>>> {
        if !self.is_idle() || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        let mut batch = Vec::new();
        let mut count = 0;
        while count < BATCH
            && let Some(webhook_id) = self.turn.pop_front()
        {
            let Some(mut settle) = self.waiting.remove(&webhook_id) else { continue };
            count += settle.deliveries.len().max(1);
            self.deliveries -= settle.deliveries.len();
            if settle.release.is_none()
                && let Some(place) = done_to(&settle)
            {
                settle.done_to = place;
            }
            batch.push(settle);
        }
        self.calling = true;
        self.urgent &= !self.waiting.is_empty();
        self.not_before = None;
        Some(Arc::new(batch))
    }

    /// Takes the answer to a call: what was stored, and which leases are lost. What could not be
    /// stored goes back, ahead of what has come since.
    pub fn answered(&mut self, reply: Reply, now: Instant) -> Vec<(Lease, Result<Vec<Stored>, LeaseLost>)> {
        self.calling = false;
        let (batch, result) = reply;
        match result {
            Ok(lanes) => batch
                .iter()
                .zip(lanes)
                .map(|(settle, result)| {
                    if settle.release.is_some() || result.is_err() {
                        self.released(settle.lane);
                    }
                    (settle.lane, result.map(|()| settle.deliveries.iter().map(stored).collect()))
                })
                .collect(),
            Err(_) => {
                self.not_before = Some(now + PAUSE);
                for settle in batch.iter() {
                    self.put_back(settle.clone());
                }
                Vec::new()
            }
        }
    }

    fn released(&mut self, lane: Lease) {
        if self.releasing.get(&lane.webhook_id) == Some(&lane.fence) {
            self.releasing.remove(&lane.webhook_id);
        }
    }

    fn put_back(&mut self, mut settle: Settle) {
        self.deliveries += settle.deliveries.len();
        match self.waiting.get_mut(&settle.lane.webhook_id) {
            Some(newer) if newer.lane == settle.lane => {
                settle.deliveries.append(&mut newer.deliveries);
                newer.deliveries = settle.deliveries;
                newer.release = newer.release.or(settle.release);
                newer.memo = newer.memo.take().or(settle.memo);
            }
            // A newer lease: what came with the older one would be refused.
            Some(_) => {
                self.deliveries -= settle.deliveries.len();
                self.released(settle.lane);
            }
            None => {
                self.turn.push_front(settle.lane.webhook_id);
                self.waiting.insert(settle.lane.webhook_id, settle);
            }
        }
    }

    fn of(&mut self, lane: Lease) -> &mut Settle {
        let turn = &mut self.turn;
        let settle = self.waiting.entry(lane.webhook_id).or_insert_with(|| {
            turn.push_back(lane.webhook_id);
            empty(lane)
        });
        if settle.lane != lane {
            // What waited came with a lease that has been replaced: it would be refused.
            self.deliveries -= settle.deliveries.len();
            self.releasing.remove(&lane.webhook_id);
            *settle = empty(lane);
        }
        settle
    }
}

fn empty(lane: Lease) -> Settle {
    Settle { lane, deliveries: Vec::new(), done_to: Place(0), memo: None, release: None }
}

fn stored(settled: &Settled) -> Stored {
    let again = match settled.fate {
        Fate::Retry { after } => Some(after),
        _ => None,
    };
    let joined = settled.fate == Fate::Batch;
    Stored { id: settled.head.id(), place: settled.place, again, joined }
}
