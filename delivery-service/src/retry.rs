//! What follows from an attempt. Pure: policy, delivery, outcome and chance in, verdict out.
//!
//! 2xx succeeds, 410 ends the webhook too, a forbidden address ends the delivery; all else is tried
//! again for as long as the policy has retries, other 4xx included: receivers are deployed broken
//! and mended.

use std::time::Duration;

use crate::{
    delivery::{Fault, Head},
    routes::Policy,
    send::Outcome,
};

/// What follows from an attempt. A receiver's wish to be left alone holds its whole lane, whatever
/// becomes of this delivery: see `hold`.
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

/// The longest that a Retry-After is followed.
pub const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// The random share that is added to a delay, at most.
const JITTER: f64 = 0.2;

/// Decides on the attempt that `outcome` is of. `head` counts that attempt already (`Head::add`);
/// `jitter` is by chance from 0 to 1.
pub fn decide(policy: &Policy, head: &Head, outcome: &Outcome, jitter: f64) -> Verdict {
    match (outcome.fault, outcome.http_status) {
        (Fault::None, _) => return Verdict::Succeeded,
        (_, 410) => return Verdict::Gone,
        (Fault::ForbiddenAddress, _) => return Verdict::Failed,
        _ => {}
    }
    let Some(delay) = policy.retry_delays.get(head.retries_used() as usize) else {
        return Verdict::Failed;
    };
    let after = delay.mul_f64(1.0 + JITTER * jitter.clamp(0.0, 1.0));
    Verdict::Retry { after: after.max(hold(outcome).unwrap_or_default()) }
}

/// For how long the lane is to be left alone, by the receiver's Retry-After.
pub fn hold(outcome: &Outcome) -> Option<Duration> {
    outcome.retry_after.map(|asked| asked.min(LONGEST_HOLD)).filter(|held| !held.is_zero())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use common::{
        clock::Time,
        ids::{DeliveryId, WebhookId},
    };

    use super::*;
    use crate::delivery::Attempt;

    const HOUR: Duration = Duration::from_secs(3600);

    fn policy(delays: &[u64]) -> Policy {
        Policy {
            timeout: Duration::from_secs(15),
            retry_delays: delays.iter().map(|s| Duration::from_secs(*s)).collect::<Arc<[_]>>(),
            max_in_flight: 50,
            max_rate: 0.0,
            ..Policy::default()
        }
    }

    /// A delivery that `attempts` were made of, `renewed` of them before it was retried by hand.
    fn head(attempts: u32, renewed: u32) -> Head {
        let mut head = Head::new(DeliveryId::new(1, 2, 3), WebhookId::new(4, 5));
        for number in 1..=attempts {
            head.add(Attempt { number, ..Attempt::default() });
        }
        head.renewed_at = renewed;
        head
    }

    fn outcome(fault: Fault, http_status: u16, retry_after: Option<Duration>) -> Outcome {
        Outcome {
            start: Time(0),
            duration: Duration::from_millis(5),
            http_status,
            fault,
            message: String::new(),
            response_body: Bytes::new(),
            remote_address: Arc::default(),
            retry_after,
        }
    }

    fn seconds(after: u64) -> Verdict {
        Verdict::Retry { after: Duration::from_secs(after) }
    }

    #[test]
    fn what_an_attempt_came_to_says_what_follows() {
        let table = [
            (Fault::None, 200, Verdict::Succeeded),
            (Fault::None, 204, Verdict::Succeeded),
            (Fault::None, 299, Verdict::Succeeded),
            (Fault::Status, 410, Verdict::Gone),
            (Fault::Disconnected, 410, Verdict::Gone),
            (Fault::ForbiddenAddress, 0, Verdict::Failed),
            (Fault::Status, 301, seconds(5)),
            (Fault::Status, 400, seconds(5)),
            (Fault::Status, 404, seconds(5)),
            (Fault::Status, 500, seconds(5)),
            (Fault::Disconnected, 200, seconds(5)),
            (Fault::Dns, 0, seconds(5)),
            (Fault::Connect, 0, seconds(5)),
            (Fault::Tls, 0, seconds(5)),
            (Fault::Timeout, 0, seconds(5)),
            (Fault::Protocol, 0, seconds(5)),
            (Fault::Authentication, 0, seconds(5)),
        ];
        for (fault, status, expected) in table {
            let verdict = decide(&policy(&[5, 300]), &head(1, 0), &outcome(fault, status, None), 0.0);
            assert_eq!(verdict, expected, "{fault:?} {status}");
        }
    }

    #[test]
    fn each_retry_waits_by_its_own_delay_until_none_is_left() {
        let failed = outcome(Fault::Status, 500, None);
        let table = [
            (1, 0, seconds(5)),
            (2, 0, seconds(300)),
            (3, 0, Verdict::Failed),
            (31, 0, Verdict::Failed),
            // Renewed after its third attempt: the fourth is a first one again.
            (4, 3, seconds(5)),
            (5, 3, seconds(300)),
            (6, 3, Verdict::Failed),
        ];
        for (attempts, renewed, expected) in table {
            let verdict = decide(&policy(&[5, 300]), &head(attempts, renewed), &failed, 0.0);
            assert_eq!(verdict, expected, "{attempts} attempts, {renewed} renewed");
        }
        assert_eq!(decide(&policy(&[]), &head(1, 0), &failed, 0.0), Verdict::Failed, "no retries");
    }

    #[test]
    fn chance_adds_a_fifth_at_most() {
        let failed = outcome(Fault::Status, 500, None);
        for (jitter, millis) in [(0.0, 5_000), (0.5, 5_500), (1.0, 6_000), (7.0, 6_000), (-1.0, 5_000)] {
            let verdict = decide(&policy(&[5]), &head(1, 0), &failed, jitter);
            assert_eq!(verdict, Verdict::Retry { after: Duration::from_millis(millis) });
        }
    }

    #[test]
    fn retry_after_lengthens_a_delay_never_shortens_it_and_holds_the_lane() {
        let table = [
            (Duration::from_secs(60), Duration::from_secs(60), Some(Duration::from_secs(60))),
            (Duration::from_secs(2), Duration::from_secs(5), Some(Duration::from_secs(2))),
            (Duration::ZERO, Duration::from_secs(5), None),
            (1_000 * HOUR, 24 * HOUR, Some(24 * HOUR)),
        ];
        for (asked, after, held) in table {
            let outcome = outcome(Fault::Status, 503, Some(asked));
            let verdict = decide(&policy(&[5]), &head(1, 0), &outcome, 0.0);
            assert_eq!((verdict, hold(&outcome)), (Verdict::Retry { after }, held), "{asked:?}");
        }
        let last = outcome(Fault::Status, 429, Some(HOUR));
        assert_eq!(decide(&policy(&[]), &head(1, 0), &last, 0.0), Verdict::Failed);
        assert_eq!(hold(&last), Some(HOUR), "a delivery given up holds the lane too");
    }
}
