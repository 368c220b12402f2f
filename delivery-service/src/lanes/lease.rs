//! Until when this process may act on its leases, by a monotonic clock: read before every request,
//! written after every claim. A process that wakes from a long pause finds the time gone.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

#[derive(Debug)]
pub struct LeaseClock {
    start: Instant,
    /// Nanoseconds after `start`.
    until: AtomicU64,
}

impl LeaseClock {
    pub fn new() -> Self {
        Self { start: Instant::now(), until: AtomicU64::new(0) }
    }

    /// The leases are safe for `lease` from `from`.
    pub fn renew(&self, from: Instant, lease: Duration) {
        let until = (from + lease).saturating_duration_since(self.start);
        self.until.store(until.as_nanos() as u64, Ordering::Release);
    }

    pub fn safe(&self) -> bool {
        (self.start.elapsed().as_nanos() as u64) < self.until.load(Ordering::Acquire)
    }
}

impl Default for LeaseClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_safe_from_its_claim_until_its_end() {
        let lease = LeaseClock::new();
        assert!(!lease.safe(), "before the first claim");
        lease.renew(Instant::now(), Duration::from_secs(60));
        assert!(lease.safe());
        lease.renew(Instant::now(), Duration::ZERO);
        assert!(!lease.safe());
    }
}
