//! What this process knows of its leases in Redis. An answer can be lost after the store has granted
//! a lane: nobody would work on it, and nobody else could have it while this process lives. So after
//! a call whose outcome is not known, what the store says is held is compared with what is known,
//! and lanes that stay unknown are given back. News are told again until an answer with them was heard.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use common::ids::{ById, WebhookId};
use parking_lot::Mutex;

use super::{Lease, redis_call::TIMEOUT};

/// How long a shard is watched after a call of unknown outcome.
const WATCH: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Leases(Mutex<Known>);

#[derive(Default)]
struct Known {
    held: ById<WebhookId, u64>,
    unsure: HashMap<u16, Instant>,
    /// Shards that were asked for news, and of which no answer was heard since.
    unheard: HashSet<u16>,
    /// Held by the store's account and not by ours, since when.
    suspects: HashMap<Lease, Instant>,
}

impl Leases {
    pub fn granted(&self, lease: Lease) {
        self.0.lock().held.insert(lease.webhook_id, lease.fence);
    }

    pub fn ended(&self, lease: Lease) {
        let mut known = self.0.lock();
        if known.held.get(&lease.webhook_id) == Some(&lease.fence) {
            known.held.remove(&lease.webhook_id);
        }
    }

    /// Until the guard is disarmed, a call on these shards has an unknown outcome.
    pub fn call(&self, shards: impl IntoIterator<Item = u16>) -> Unsure<'_> {
        Unsure { leases: self, shards: shards.into_iter().collect() }
    }

    /// Asks a shard for news: whether what it told before was heard.
    pub fn asks(&self, shard: u16) -> bool {
        self.0.lock().unheard.insert(shard)
    }

    /// Its answer was heard.
    pub fn hears(&self, shard: u16) {
        self.0.lock().unheard.remove(&shard);
    }

    pub fn is_unsure(&self, shard: u16) -> bool {
        self.0.lock().unsure.contains_key(&shard)
    }

    /// Takes what the store says is held in a shard; lanes to be given back.
    pub fn orphans(&self, shard: u16, shards: u16, held: &[Lease], now: Instant) -> Vec<Lease> {
        let mut guard = self.0.lock();
        let known = &mut *guard;
        let unknown: HashSet<Lease> =
            held.iter().copied().filter(|l| known.held.get(&l.webhook_id) != Some(&l.fence)).collect();
        known.suspects.retain(|l, _| l.webhook_id.shard(shards) != shard || unknown.contains(l));
        let mut orphans = Vec::new();
        for lease in &unknown {
            // Calls under way now have ended by then, and have told us what they were granted.
            if now.duration_since(*known.suspects.entry(*lease).or_insert(now)) > TIMEOUT {
                orphans.push(*lease);
            }
        }
        for lease in &orphans {
            known.suspects.remove(lease);
        }
        if unknown.is_empty()
            && known.unsure.get(&shard).is_some_and(|since| now.duration_since(*since) > WATCH)
        {
            known.unsure.remove(&shard);
        }
        orphans
    }
}

/// A call under way; dropped before its answer is known, its shards are looked at again.
pub(super) struct Unsure<'a> {
    leases: &'a Leases,
    shards: Vec<u16>,
}

impl Unsure<'_> {
    /// The outcome on this shard is known.
    pub fn known(&mut self, shard: u16) {
        self.shards.retain(|&s| s != shard);
    }
}

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        if self.shards.is_empty() {
            return;
        }
        let mut known = self.leases.0.lock();
        for &shard in &self.shards {
            known.unsure.insert(shard, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_a_lost_answer_granted_is_given_back_and_no_other() {
        let leases = Leases::default();
        let lease = |lane: u128, fence| Lease { webhook_id: WebhookId::new(0, lane), fence };
        let (known, lost, late) = (lease(1, 7), lease(2, 3), lease(3, 1));
        leases.granted(known);
        drop(leases.call([0]));
        assert!(leases.is_unsure(0) && !leases.is_unsure(1));
        leases.call([1]).known(1);
        assert!(!leases.is_unsure(1), "its answer came");

        let start = Instant::now();
        let held = [known, lost, late];
        assert_eq!(leases.orphans(0, 1, &held, start), []);
        leases.granted(late);
        assert_eq!(leases.orphans(0, 1, &held, start + TIMEOUT), [], "an answer may be under way");
        let soon = start + TIMEOUT + Duration::from_millis(1);
        assert_eq!(leases.orphans(0, 1, &held, soon), [lost]);
        assert_eq!(leases.orphans(0, 1, &[known, late], start + 2 * WATCH), []);
        assert!(!leases.is_unsure(0), "all that is held is known");
    }
}
