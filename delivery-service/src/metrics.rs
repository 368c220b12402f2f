//! What delivery-service counts of its work. docs/operations.md says what each number means. Everything
//! is counted whether or not anyone reads it; a clone counts into the same.

use std::time::Duration;

use common::metrics::{Asked, Counter, Counters, Durations, Gauge, Registry};

use crate::delivery::{Attempt, Fault, Place};

/// Microseconds, as receivers answer: a millisecond to the longest timeout.
const ANSWER_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 15_000_000,
];
/// Microseconds from acceptance to the first request: a millisecond to the hours of a backlog.
const WAIT_US: [u64; 14] = [
    1_000,
    2_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];

#[derive(Debug, Clone)]
pub struct Metrics {
    /// By `Published`.
    pub published: Counters<4>,
    pub accepted: Counter,
    /// Ended, by `Ended`.
    pub ended: Counters<3>,
    /// By `Fault`, as far as a request can have one.
    pub attempts: Counters<10>,
    pub attempt_duration: Durations,
    pub first_attempt_delay: Durations,
    pub in_flight: Gauge,
    pub lanes_held: Gauge,
    pub leases_lost: Counter,
    /// Opened, closed.
    pub circuit_changes: Counters<2>,
    pub probes_failed: Counter,
    pub circuits_open: Asked,
    pub routes: Asked,
    /// By `Call`.
    pub store_errors: Counters<5>,
}

/// What a publisher was told.
#[derive(Debug, Clone, Copy)]
pub enum Published {
    Accepted,
    Duplicate,
    Invalid,
    Unavailable,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy)]
pub enum Ended {
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Copy)]
pub enum Circuit {
    Opened,
    Closed,
}

/// What was asked of the store.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    Enqueue,
    Claim,
    Read,
    Settle,
    /// What callers of DeliveryService ask, and what is rare.
    Other,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            published: Counters::new("result", ["accepted", "duplicate", "invalid", "unavailable"]),
            accepted: Counter::default(),
            ended: Counters::new("state", ["succeeded", "failed", "cancelled"]),
            attempts: Counters::new(
                "result",
                [
                    "succeeded",
                    "dns",
                    "connect",
                    "tls",
                    "timeout",
                    "status",
                    "disconnected",
                    "protocol",
                    "forbidden_address",
                    "authentication",
                ],
            ),
            attempt_duration: Durations::new(&ANSWER_US),
            first_attempt_delay: Durations::new(&WAIT_US),
            in_flight: Gauge::default(),
            lanes_held: Gauge::default(),
            leases_lost: Counter::default(),
            circuit_changes: Counters::new("to", ["open", "closed"]),
            probes_failed: Counter::default(),
            circuits_open: Asked::default(),
            routes: Asked::default(),
            store_errors: Counters::new("call", ["enqueue", "claim", "read", "settle", "other"]),
        }
    }
}

impl Metrics {
    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        let all = self.clone();
        registry.register("events_published", "Events by what their publisher was told", all.published);
        registry.register("deliveries_accepted", "Deliveries that were stored to be sent", all.accepted);
        registry.register("deliveries", "Deliveries that have ended, by their state", all.ended);
        registry.register("attempts", "Requests to receivers, by what they came to", all.attempts);
        registry.register("attempt_duration_seconds", "How long requests took", all.attempt_duration);
        registry.register(
            "first_attempt_delay_seconds",
            "From the acceptance of a delivery to its first request",
            all.first_attempt_delay,
        );
        registry.register("attempts_in_flight", "Requests under way", all.in_flight);
        registry.register("lanes_held", "Lanes that this process holds", all.lanes_held);
        registry.register("leases_lost", "Lanes lost to another replica before given back", all.leases_lost);
        registry.register("circuit_changes", "Circuits that have opened or closed", all.circuit_changes);
        registry.register("circuit_probes_failed", "Probes that left a circuit open", all.probes_failed);
        registry.register("circuits_open", "Circuits known to be open", all.circuits_open);
        registry.register("routes", "Webhooks known from config-service", all.routes);
        registry.register("delivery_store_errors", "Calls to the store that failed", all.store_errors);
    }

    /// An attempt has ended.
    pub fn attempt(&self, attempt: &Attempt, took: Duration, place: Place) {
        self.attempts.add(usize::try_from(attempt.fault).unwrap_or(usize::MAX), 1);
        self.attempt_duration.add(took);
        if attempt.number == 1 {
            // The store's clock may be ahead of ours.
            let waited = attempt.start_ms.saturating_sub(place.time().0).max(0);
            self.first_attempt_delay.add(Duration::from_millis(waited as u64));
        }
    }
}

// Each fault that a request can come to has its counter.
const _: () = assert!(Fault::Authentication as usize == 9 && Fault::Disabled as usize == 10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_counted_by_its_fault_and_the_first_one_by_its_wait() {
        let metrics = Metrics::default();
        let place = Place::at(common::clock::Time(1_000));
        for (number, fault) in [(1, Fault::Timeout), (2, Fault::None), (3, Fault::Disabled)] {
            let attempt = Attempt { number, fault: fault as i32, start_ms: 1_500, ..Attempt::default() };
            metrics.attempt(&attempt, Duration::from_secs(1), place);
        }
        let attempts = metrics.attempts.get();
        assert_eq!((attempts[0], attempts[4], attempts.iter().sum::<u64>()), (1, 1, 2));
        let mut registry = Registry::with_prefix("hookline");
        metrics.register(&mut registry);
        let text = common::metrics::text(&registry).unwrap();
        for line in [
            "hookline_attempts_total{result=\"timeout\"} 1\n",
            "hookline_attempt_duration_seconds_count 3\n",
            "hookline_first_attempt_delay_seconds_sum 0.5\n",
            "hookline_first_attempt_delay_seconds_bucket{le=\"0.5\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
