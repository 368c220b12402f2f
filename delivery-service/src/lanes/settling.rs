//! Outcomes on their way into the store: gathered lane by lane while a call is under way, sent as one
//! batch, and kept when the store could not be reached until it can. What nothing waits for gathers a little
//! longer: a call costs as much as several deliveries.

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
/// From call to call, where nothing waits for what is to be stored: a crash sends that again.
const PACE: Duration = Duration::from_millis(4);
/// Deliveries that are company enough.
const COMPANY: usize = 128;
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
    /// When the last call went, by the system's clock.
    called: Option<Instant>,
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

    pub fn is_releasing(&self) -> bool {
        !self.releasing.is_empty()
    }

    /// Outcomes that are not stored yet, those of the present call left out.
    pub fn waiting(&self) -> usize {
        self.deliveries
    }

    pub fn done(&self) -> bool {
        self.waiting.is_empty() && !self.calling
    }

    /// When a call that was put off may go.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.not_before.or(self.gathers_until()).filter(|_| !self.waiting.is_empty() && !self.calling)
    }

    fn gathers_until(&self) -> Option<Instant> {
        let company = self.urgent || self.deliveries >= COMPANY;
        self.called.filter(|_| !company).map(|called| called + PACE)
    }

    /// The next batch, if one may go now. `done_to` answers for a lane's lease and the places that
    /// the batch settles.
    pub fn next(
        &mut self,
        now: Instant,
        mut done_to: impl FnMut(&Settle) -> Option<Place>,
    ) -> Option<Arc<Vec<Settle>>> {
        if self.calling || self.waiting.is_empty() || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        let clock = Instant::now();
        if self.gathers_until().is_some_and(|until| until > clock) {
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
        self.called = Some(clock);
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
            Some(_) => self.deliveries -= settle.deliveries.len(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Head;

    fn lane(number: u8) -> Lease {
        Lease { webhook_id: WebhookId::from_bytes([number; 16]), fence: 1 }
    }

    fn succeeded(place: u64) -> Settled {
        Settled { head: Head::default(), place: Place(place), fate: Fate::Succeeded }
    }

    /// One call goes and is answered: the next one is within its pace.
    fn called() -> Settling {
        let mut settling = Settling::default();
        settling.success(lane(1), succeeded(1));
        let batch = settling.next(Instant::now(), |_| None).expect("the first one waits for nothing");
        let answer = Ok(vec![Ok(()); batch.len()]);
        settling.answered((batch, answer), Instant::now());
        // However slow this test is.
        settling.called = Some(Instant::now() + Duration::from_secs(60));
        settling
    }

    fn goes(settling: &mut Settling) -> Option<usize> {
        let batch = settling.next(Instant::now(), |_| None)?;
        Some(batch.iter().map(|settle| settle.deliveries.len()).sum())
    }

    #[test]
    fn what_nothing_waits_for_gathers_until_the_pace_is_kept() {
        let mut settling = called();
        settling.success(lane(1), succeeded(2));
        settling.success(lane(2), succeeded(3));
        assert_eq!(goes(&mut settling), None);
        assert!(settling.wakes_at().is_some_and(|at| at > Instant::now()));
        settling.called = Instant::now().checked_sub(PACE);
        assert_eq!(goes(&mut settling), Some(2));
    }

    #[test]
    fn company_enough_goes_at_once() {
        let mut settling = called();
        for place in 1..COMPANY as u64 {
            settling.success(lane(1), succeeded(place));
        }
        assert_eq!(goes(&mut settling), None);
        settling.success(lane(1), succeeded(COMPANY as u64));
        assert_eq!(goes(&mut settling), Some(COMPANY));
    }

    #[test]
    fn what_something_waits_for_takes_along_what_is_there() {
        let urgent: [fn(&mut Settling); 4] = [
            |settling| settling.outcome(lane(1), succeeded(9)),
            |settling| settling.ask(lane(2)),
            |settling| settling.memo(lane(1), Bytes::new()),
            |settling| settling.release(lane(1), Release::Park, Place(2)),
        ];
        for also in urgent {
            let mut settling = called();
            settling.success(lane(1), succeeded(2));
            also(&mut settling);
            assert!(goes(&mut settling).is_some_and(|count| count >= 1));
        }
    }
}
