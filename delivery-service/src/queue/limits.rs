//! How much of a lane is kept, and for how long.

use std::time::Duration;

/// Limits that every backend keeps, per lane; all of them settings. Of history a fifteenth more than its
/// count may be there: it is cut in runs.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Event ids are known for so long.
    pub dedupe_window: Duration,
    pub backlog_deliveries: u64,
    pub backlog_bytes: u64,
    /// SUCCEEDED and CANCELLED.
    pub ended_kept: u64,
    pub ended_age: Duration,
    pub failed_kept: u64,
    pub failed_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let hours = |h: u64| Duration::from_secs(h * 3600);
        Self {
            dedupe_window: hours(4),
            backlog_deliveries: 1_000_000,
            backlog_bytes: 2 << 30,
            ended_kept: 1_000,
            ended_age: hours(3 * 24),
            failed_kept: 10_000,
            failed_age: hours(14 * 24),
        }
    }
}
