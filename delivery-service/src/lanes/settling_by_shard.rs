//! Outcomes on their way into the store, each shard's apart: one that is away keeps no other's waiting. A round has
//! a call to each that has something; the next one begins when all have answered, or have taken too long. What
//! nothing waits for gathers a little longer: a call costs as much as several deliveries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::ids::WebhookId;

use super::settling::{Reply, Settling, Stored};
use crate::{
    delivery::Place,
    queue::{Lease, LeaseLost, Settle},
};

/// From round to round, where nothing waits for what is to be stored: a crash sends that again.
const PACE: Duration = Duration::from_millis(4);
/// Deliveries that are company enough.
const COMPANY: usize = 128;
/// For so long a round waits for its last call.
const SLOW: Duration = Duration::from_millis(50);
/// Outcomes that may wait for the store before nothing new starts, and of one shard of several.
const UNSTORED: usize = 20_000;
const UNSTORED_OF_ONE: usize = 2_500;

#[derive(Debug)]
pub struct SettlingByShard {
    shards: Vec<Settling>,
    /// Calls under way.
    calls: usize,
    /// When the last round began, by the system's clock.
    began: Option<Instant>,
}

impl SettlingByShard {
    pub fn new(shards: u16) -> Self {
        Self { shards: (0..shards).map(|_| Settling::default()).collect(), calls: 0, began: None }
    }

    /// Those of a lane's shard.
    pub fn of(&mut self, lane: Lease) -> &mut Settling {
        let shard = self.shard(lane.webhook_id);
        &mut self.shards[shard]
    }

    /// Whether a lease of this lane is being given back.
    pub fn gives_back(&self, webhook_id: WebhookId) -> bool {
        self.shards[self.shard(webhook_id)].gives_back(webhook_id)
    }

    fn shard(&self, webhook_id: WebhookId) -> usize {
        webhook_id.shard(self.shards.len() as u16).into()
    }

    /// The calls of the next round, if it may begin now; `done_to`: see `Settling::next`.
    pub fn round(
        &mut self,
        now: Instant,
        mut done_to: impl FnMut(&Settle) -> Option<Place>,
    ) -> Vec<Arc<Vec<Settle>>> {
        let clock = Instant::now();
        if self.waits_until().is_some_and(|until| until > clock) {
            return Vec::new();
        }
        let calls: Vec<_> =
            self.shards.iter_mut().filter_map(|shard| shard.next(now, &mut done_to)).collect();
        if !calls.is_empty() {
            self.calls += calls.len();
            self.began = Some(clock);
        }
        calls
    }

    /// Takes the answer to one of those calls.
    pub fn answered(&mut self, reply: Reply, now: Instant) -> Vec<(Lease, Result<Vec<Stored>, LeaseLost>)> {
        self.calls -= 1;
        match reply.0.first() {
            Some(first) => self.of(first.lane).answered(reply, now),
            None => Vec::new(),
        }
    }

    /// Until when what is there waits for company, or for calls under way.
    fn waits_until(&self) -> Option<Instant> {
        let began = self.began?;
        if self.calls > 0 {
            return Some(began + SLOW);
        }
        let company = self.there().any(Settling::is_urgent) || self.there_wait() >= COMPANY;
        (!company).then(|| began + PACE)
    }

    /// Shards of which no call has failed just now.
    fn there(&self) -> impl Iterator<Item = &Settling> {
        self.shards.iter().filter(|shard| shard.not_before().is_none())
    }

    fn there_wait(&self) -> usize {
        self.there().map(Settling::waiting).sum()
    }

    /// Whether so many outcomes wait that nothing new may start: in any shard.
    pub fn are_full(&self) -> bool {
        match self.shards.as_slice() {
            [only] => only.waiting() >= UNSTORED,
            _ => self.there_wait() >= UNSTORED,
        }
    }

    /// The same in this lane's: of a shard that is away not many are kept, and stop nothing in others.
    pub fn is_full(&self, lane: WebhookId) -> bool {
        let of_one = self.shards.len() > 1 && self.shards[self.shard(lane)].waiting() >= UNSTORED_OF_ONE;
        of_one || self.are_full()
    }

    /// When a call that was put off may go.
    pub fn wakes_at(&self) -> Option<Instant> {
        let until = self.waits_until();
        let idle = self.shards.iter().filter(|shard| shard.is_idle());
        idle.filter_map(|shard| shard.not_before().max(until)).min()
    }

    /// Outcomes that are not stored yet, those of present calls left out.
    pub fn waiting(&self) -> usize {
        self.shards.iter().map(Settling::waiting).sum()
    }

    pub fn done(&self) -> bool {
        self.shards.iter().all(Settling::done)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        delivery::Head,
        queue::{Fate, QueueError, Release, Settled},
    };

    fn lane(number: u8) -> Lease {
        Lease { webhook_id: WebhookId::from_bytes([number; 16]), fence: 1 }
    }

    fn succeeded(place: u64) -> Settled {
        Settled { head: Head::default(), place: Place(place), fate: Fate::Succeeded }
    }

    fn round(settling: &mut SettlingByShard) -> Vec<Arc<Vec<Settle>>> {
        settling.round(Instant::now(), |_| None)
    }

    fn stored(settling: &mut SettlingByShard, call: Arc<Vec<Settle>>) -> usize {
        let answer = Ok(vec![Ok(()); call.len()]);
        settling.answered((call, answer), Instant::now()).len()
    }

    /// A round went and was answered: the next one is within its pace.
    fn called(shards: u16) -> SettlingByShard {
        let mut settling = SettlingByShard::new(shards);
        settling.of(lane(1)).success(lane(1), succeeded(1));
        let call = round(&mut settling).pop().expect("the first one waits for nothing");
        stored(&mut settling, call);
        // However slow this test is.
        settling.began = Some(Instant::now() + Duration::from_secs(60));
        settling
    }

    /// Outcomes in the next round's calls.
    fn goes(settling: &mut SettlingByShard) -> Vec<usize> {
        let outcomes =
            |call: &Arc<Vec<Settle>>| call.iter().map(|settle| settle.deliveries.len()).sum::<usize>();
        round(settling).iter().map(outcomes).collect()
    }

    #[test]
    fn what_nothing_waits_for_gathers_until_the_pace_is_kept() {
        let mut settling = called(1);
        settling.of(lane(1)).success(lane(1), succeeded(2));
        settling.of(lane(2)).success(lane(2), succeeded(3));
        assert!(goes(&mut settling).is_empty());
        assert!(settling.wakes_at().is_some_and(|at| at > Instant::now()));
        settling.began = Instant::now().checked_sub(PACE);
        assert_eq!(goes(&mut settling), [2]);
    }

    #[test]
    fn company_enough_goes_at_once() {
        let mut settling = called(2);
        for place in 1..COMPANY as u64 {
            settling.of(lane(1)).success(lane(1), succeeded(place));
        }
        assert!(goes(&mut settling).is_empty());
        settling.of(lane(2)).success(lane(2), succeeded(COMPANY as u64));
        assert_eq!(goes(&mut settling), [1, COMPANY - 1]);
    }

    #[test]
    fn what_something_waits_for_takes_along_what_is_there() {
        let urgent: [fn(&mut Settling); 4] = [
            |settling| settling.outcome(lane(1), succeeded(9)),
            |settling| settling.ask(lane(3)),
            |settling| settling.memo(lane(1), Bytes::new()),
            |settling| settling.release(lane(1), Release::Park, Place(2)),
        ];
        for also in urgent {
            let mut settling = called(2);
            settling.of(lane(2)).success(lane(2), succeeded(2));
            also(settling.of(lane(1)));
            assert_eq!(goes(&mut settling).len(), 2);
        }
    }

    #[test]
    fn a_shard_that_is_slow_or_fails_keeps_no_other_from_being_stored() {
        let mut settling = SettlingByShard::new(2);
        for shard in [0, 1] {
            settling.of(lane(shard)).ask(lane(shard));
        }
        let [slow, quick] = round(&mut settling).try_into().unwrap();
        assert_eq!((slow[0].lane, quick[0].lane), (lane(0), lane(1)));
        assert_eq!(stored(&mut settling, quick), 1);
        settling.of(lane(1)).ask(lane(1));
        assert!(round(&mut settling).is_empty(), "the other one may answer soon");
        settling.began = Instant::now().checked_sub(SLOW);
        let [again] = round(&mut settling).try_into().unwrap();
        assert_eq!((again[0].lane, stored(&mut settling, again)), (lane(1), 1));

        let failure = Err(QueueError::Unavailable("away".into()));
        assert!(settling.answered((slow, failure), Instant::now()).is_empty());
        settling.of(lane(1)).ask(lane(1));
        assert_eq!(round(&mut settling)[0][0].lane, lane(1), "the one that failed waits for its pause");
        let again = settling.shards[0].not_before().unwrap();
        settling.began = Instant::now().checked_sub(SLOW);
        assert_eq!(settling.round(again, |_| None)[0][0].lane, lane(0));
    }
}
