//! Until when this process may act on its leases, by a clock that only goes forward: read before every
//! request, written after every claim. A process that wakes from a long pause finds the time gone. The loop
//! goes by this clock too; in tests it goes with the one that is moved by hand.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use common::clock::{Clock, Time};
use tokio::time::{sleep, sleep_until};

/// How often a clock that is moved by hand is looked at.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub struct LeaseClock {
    clock: Clock,
    start: Instant,
    /// What the clock said then.
    from: Time,
    /// Nanoseconds after `start`.
    until: AtomicU64,
    /// How often the leases have run out.
    lapses: AtomicU64,
}

impl LeaseClock {
    pub fn new(clock: Clock) -> Self {
        Self { from: clock.now(), clock, start: Instant::now(), until: 0.into(), lapses: 0.into() }
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

    /// The leases are safe for `lease` from `from`.
    pub fn renew(&self, from: Instant, lease: Duration) {
        if !self.safe() {
            self.lapses.fetch_add(1, Ordering::Release);
        }
        let until = (from + lease).saturating_duration_since(self.start);
        self.until.store(until.as_nanos() as u64, Ordering::Release);
    }

    pub fn safe(&self) -> bool {
        let passed = self.now().saturating_duration_since(self.start);
        (passed.as_nanos() as u64) < self.until.load(Ordering::Acquire)
    }

    /// What the leases are held under now: another number once they have run out, for others may have had the lanes since.
    pub fn term(&self) -> u64 {
        self.lapses.load(Ordering::Acquire)
    }

    /// Whether what was held under this term is still safe.
    pub fn still(&self, term: u64) -> bool {
        self.safe() && self.term() == term
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_safe_from_its_claim_until_its_end() {
        let lease = LeaseClock::new(Clock::System);
        assert!(!lease.safe(), "before the first claim");
        lease.renew(Instant::now(), Duration::from_secs(60));
        assert!(lease.safe());
        lease.renew(Instant::now(), Duration::ZERO);
        assert!(!lease.safe());
    }

    #[test]
    fn a_clock_by_hand_takes_it_along() {
        let clock = Clock::by_hand(Time(1_800_000_000_000));
        let lease = LeaseClock::new(clock.clone());
        lease.renew(lease.now(), Duration::from_secs(60));
        let term = lease.term();
        clock.advance(Duration::from_secs(59));
        assert!(lease.safe() && lease.still(term));
        lease.renew(lease.now(), Duration::from_secs(60));
        assert!(lease.still(term), "renewed in time");
        clock.advance(Duration::from_secs(60));
        assert!(!lease.safe() && !lease.still(term));
        lease.renew(lease.now(), Duration::from_secs(60));
        assert!(lease.safe() && !lease.still(term), "others may have had the lanes");
    }
}
