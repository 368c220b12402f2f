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
}

impl LeaseClock {
    pub fn new(clock: Clock) -> Self {
        Self { from: clock.now(), clock, start: Instant::now(), until: AtomicU64::new(0) }
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
        let until = (from + lease).saturating_duration_since(self.start);
        self.until.store(until.as_nanos() as u64, Ordering::Release);
    }

    pub fn safe(&self) -> bool {
        let passed = self.now().saturating_duration_since(self.start);
        (passed.as_nanos() as u64) < self.until.load(Ordering::Acquire)
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
        clock.advance(Duration::from_secs(59));
        assert!(lease.safe());
        clock.advance(Duration::from_secs(1));
        assert!(!lease.safe());
    }
}
