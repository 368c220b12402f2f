//! What time it is: the system's time, or in tests one that is moved by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time(pub i64);

/// Where the time comes from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    #[default]
    System,
    /// Stands still until it is set.
    Hand(Arc<AtomicI64>),
}

impl Clock {
    pub fn by_hand(start: Time) -> Self {
        Self::Hand(Arc::new(AtomicI64::new(start.0)))
    }

    #[expect(clippy::disallowed_methods, reason = "here is where it is asked")]
    pub fn now(&self) -> Time {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Time(since.as_millis() as i64)
            }
            Self::Hand(now) => Time(now.load(Ordering::Relaxed)),
        }
    }

    /// Moves a clock by hand; the system's goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Self::Hand(now) = self {
            now.fetch_add(by.as_millis() as i64, Ordering::Relaxed);
        }
    }
}

impl Time {
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// From `self` to `later`; nothing when that is past.
    pub fn until(self, later: Time) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0).max(0) as u64)
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;

    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl From<Time> for prost_types::Timestamp {
    fn from(time: Time) -> Self {
        let nanos = time.0.rem_euclid(1000) as i32 * 1_000_000;
        Self { seconds: time.seconds(), nanos }
    }
}
