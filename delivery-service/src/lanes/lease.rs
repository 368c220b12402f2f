//! Until when this process may act on its leases, for each shard of the store, by a clock that only goes
//! forward: read before every request, written after every claim. A process that wakes from a long pause finds
//! the time gone. The loop goes by this clock too; in tests it goes with the one that is moved by hand.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use common::{
    clock::{Clock, Time},
    ids::WebhookId,
};
use tokio::time::{sleep, sleep_until};

/// How often a clock that is moved by hand is looked at.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub struct LeaseClock {
    clock: Clock,
    start: Instant,
    /// What the clock said then.
    from: Time,
    shards: Vec<Shard>,
}

/// One shard's leases.
#[derive(Debug, Default)]
struct Shard {
    /// Nanoseconds after `start`.
    until: AtomicU64,
    /// How often they have run out.
    lapses: AtomicU64,
}

impl LeaseClock {
    pub fn new(clock: Clock, shards: u16) -> Self {
        let shards = (0..shards).map(|_| Shard::default()).collect();
        Self { from: clock.now(), clock, start: Instant::now(), shards }
    }

    pub fn now(&self) -> Instant {
        match &self.clock {
            Clock::System => Instant::now(),
            Clock::Hand(_) => self.start + self.from.until(self.clock.now()),
        }
    }

    /// Waits until then; by a clock by hand for a moment at a time.
    pub async fn sleep_until(&self, at: Instant) {
        match &self.clock {
            Clock::System => sleep_until(at.into()).await,
            Clock::Hand(_) if at <= self.now() => {}
            Clock::Hand(_) => sleep(LOOK).await,
        }
    }

    /// A shard's leases are safe for `lease` from `from`. Whether they had run out, or are the first.
    pub fn renew(&self, shard: u16, from: Instant, lease: Duration) -> bool {
        let Some(leases) = self.shards.get(usize::from(shard)) else { return false };
        let lapsed = !self.holds(leases);
        if lapsed {
            leases.lapses.fetch_add(1, Ordering::Release);
        }
        let until = (from + lease).saturating_duration_since(self.start);
        leases.until.store(until.as_nanos() as u64, Ordering::Release);
        lapsed
    }

    /// Whether a lane's lease is safe.
    pub fn safe(&self, lane: WebhookId) -> bool {
        self.holds(self.of(lane))
    }

    /// What a lane's lease is held under now: another number once it has run out, for others may have had it since.
    pub fn term(&self, lane: WebhookId) -> u64 {
        self.of(lane).lapses.load(Ordering::Acquire)
    }

    /// Whether what was held under this term is still safe.
    pub fn still(&self, lane: WebhookId, term: u64) -> bool {
        self.safe(lane) && self.term(lane) == term
    }

    /// Shards whose leases are not safe: they have run out, or there was no claim yet.
    pub fn lapsed(&self) -> impl Iterator<Item = u16> {
        let now = self.passed();
        let over = move |leases: &Shard| leases.until.load(Ordering::Acquire) <= now;
        self.shards.iter().enumerate().filter(move |(_, leases)| over(leases)).map(|(n, _)| n as u16)
    }

    fn of(&self, lane: WebhookId) -> &Shard {
        &self.shards[usize::from(lane.shard(self.shards.len() as u16))]
    }

    fn holds(&self, leases: &Shard) -> bool {
        self.passed() < leases.until.load(Ordering::Acquire)
    }

    /// Nanoseconds since `start`.
    fn passed(&self) -> u64 {
        self.now().saturating_duration_since(self.start).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: WebhookId = WebhookId::from_bytes([0; 16]);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_lease_is_safe_from_its_claim_until_its_end() {
        let lease = LeaseClock::new(Clock::System, 1);
        assert!(!lease.safe(LANE), "before the first claim");
        assert_eq!(lease.lapsed().count(), 1);
        assert!(lease.renew(0, Instant::now(), MINUTE));
        assert!(lease.safe(LANE));
        assert!(!lease.renew(0, Instant::now(), Duration::ZERO), "it had not run out");
        assert!(!lease.safe(LANE));
    }

    #[test]
    fn a_clock_by_hand_takes_it_along() {
        let clock = Clock::by_hand(Time(1_800_000_000_000));
        let lease = LeaseClock::new(clock.clone(), 1);
        lease.renew(0, lease.now(), MINUTE);
        let term = lease.term(LANE);
        clock.advance(MINUTE - Duration::from_secs(1));
        assert!(lease.safe(LANE) && lease.still(LANE, term));
        lease.renew(0, lease.now(), MINUTE);
        assert!(lease.still(LANE, term), "renewed in time");
        clock.advance(MINUTE);
        assert!(!lease.safe(LANE) && !lease.still(LANE, term));
        lease.renew(0, lease.now(), MINUTE);
        assert!(lease.safe(LANE) && !lease.still(LANE, term), "others may have had the lanes");
    }

    #[test]
    fn one_shard_that_is_away_leaves_the_others_theirs() {
        let clock = Clock::by_hand(Time(1_800_000_000_000));
        let lease = LeaseClock::new(clock.clone(), 2);
        let other = WebhookId::from_bytes([1; 16]);
        assert_eq!((LANE.shard(2), other.shard(2)), (0, 1));
        for shard in [0, 1] {
            lease.renew(shard, lease.now(), MINUTE);
        }
        clock.advance(MINUTE / 2);
        lease.renew(1, lease.now(), MINUTE);
        clock.advance(MINUTE / 2);
        assert!(!lease.safe(LANE) && lease.safe(other));
        assert_eq!(lease.lapsed().collect::<Vec<_>>(), [0]);
        let term = lease.term(other);
        assert!(lease.renew(0, lease.now(), MINUTE));
        assert!(lease.safe(LANE) && lease.still(other, term));
    }
}
