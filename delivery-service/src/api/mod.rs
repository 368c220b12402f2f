//! The services that callers see. Statuses are made here and nowhere behind.

pub mod convert;
pub mod deliveries;
pub mod events;

use std::time::Duration;

use common::status;
use tonic::Status;

use crate::queue::QueueError;

/// When a caller may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a caller is told when the store fails.
pub fn from_queue(error: QueueError) -> Status {
    match error {
        QueueError::Unavailable(cause) => {
            tracing::debug!(cause, "a call was refused: the store is unavailable");
            status::unavailable("STORE_UNAVAILABLE", "the store is unavailable", RETRY_AFTER)
        }
        QueueError::Full(limit) => {
            status::exhausted("STORE_FULL", "store", format!("the store is full: {limit}"))
        }
        QueueError::Damaged(cause) => {
            tracing::error!(cause, "the store holds something that this version cannot read");
            status::internal("the store holds something that this version cannot read")
        }
    }
}

/// What a caller is told while nobody knows yet which webhooks there are.
pub fn routes_unknown() -> Status {
    let message = "the webhooks are not known yet: config-service has not been reached since the start";
    status::unavailable("ROUTES_UNKNOWN", message, RETRY_AFTER)
}

/// What a stream is told that the service no longer reads.
pub fn stopping() -> Status {
    status::unavailable("STOPPING", "the service is stopping: open another stream", RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn a_failing_store_says_whether_to_try_again() {
        for (error, code, retry) in [
            (QueueError::Unavailable("refused".into()), Code::Unavailable, Some(RETRY_AFTER)),
            (QueueError::Full("90 % of 1 GiB".into()), Code::ResourceExhausted, None),
            (QueueError::Damaged("tag 99".into()), Code::Internal, None),
        ] {
            let status = from_queue(error);
            assert_eq!(status.code(), code);
            assert_eq!(status.get_details_retry_info().and_then(|info| info.retry_delay), retry);
            assert_eq!(status.get_details_error_info().unwrap().domain, "hookline");
        }
        assert_eq!(routes_unknown().code(), Code::Unavailable);
    }
}
