//! What follows from an attempt. Pure: policy, delivery, outcome and chance in, verdict out.

use std::time::Duration;

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Succeeded,
    /// Another attempt, after a while.
    Retry {
        after: Duration,
    },
    /// Given up.
    Failed,
    /// Given up, and the webhook is to be disabled: 410 Gone.
    Gone,
}
