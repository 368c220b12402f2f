//! The rules of DeliveryPolicy and its defaults. Pure.

use std::{ops::RangeInclusive, time::Duration};

use common::status::Violations;
use proto::v1::{BatchPolicy, DeliveryOrder, DeliveryPolicy};

use super::unknown;

const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const DEFAULT_TIMEOUT_S: i64 = 15;
const RETRY_DELAY: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(7 * 86_400);
const MAX_RETRIES: usize = 30;
const DEFAULT_RETRY_DELAYS_S: [i64; 7] = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000];
const MAX_EVENTS: RangeInclusive<i32> = 2..=1_000;
const MAX_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const DEFAULT_MAX_DELAY_S: i64 = 1;
const MAX_IN_FLIGHT: RangeInclusive<i32> = 1..=1_000;
const DEFAULT_MAX_IN_FLIGHT: i32 = 50;
/// Requests a second. Below, one request would wait for longer than a retry; above, no clock can tell.
const MAX_RATE: RangeInclusive<f64> = 0.000_1..=1_000_000.0;

/// Checks a policy and fills in its defaults.
pub fn policy(mut policy: DeliveryPolicy, found: &mut Violations) -> DeliveryPolicy {
    let timeout = policy.timeout.get_or_insert_with(|| seconds(DEFAULT_TIMEOUT_S));
    if !within(timeout, &TIMEOUT) {
        found.add("webhook.delivery_policy.timeout", "use a duration of 1 s to 60 s");
    }
    retries(&mut policy, found);
    if policy.max_in_flight == 0 {
        policy.max_in_flight = DEFAULT_MAX_IN_FLIGHT;
    } else if !MAX_IN_FLIGHT.contains(&policy.max_in_flight) {
        found.add("webhook.delivery_policy.max_in_flight", "use 1 to 1,000, or 0 for the default of 50");
    }
    // NaN is in no range.
    if policy.max_rate != 0.0 && !MAX_RATE.contains(&policy.max_rate) {
        found.add(
            "webhook.delivery_policy.max_rate",
            "use 0.0001 to 1,000,000 requests a second, or 0 for no limit",
        );
    }
    order(&mut policy, found);
    if let Some(batch) = policy.batch.as_mut() {
        self::batch(batch, found);
    }
    policy
}

fn batch(batch: &mut BatchPolicy, found: &mut Violations) {
    if !MAX_EVENTS.contains(&batch.max_events) {
        found.add("webhook.delivery_policy.batch.max_events", "use 2 to 1,000");
    }
    let delay = batch.max_delay.get_or_insert_with(|| seconds(DEFAULT_MAX_DELAY_S));
    if !within(delay, &MAX_DELAY) {
        found.add("webhook.delivery_policy.batch.max_delay", "use a duration of 0 s to 60 s");
    }
}

fn retries(policy: &mut DeliveryPolicy, found: &mut Violations) {
    if policy.no_retries && !policy.retry_delays.is_empty() {
        found.add(
            "webhook.delivery_policy.no_retries",
            "not together with retry_delays: leave those empty, or no_retries unset",
        );
    } else if !policy.no_retries && policy.retry_delays.is_empty() {
        policy.retry_delays = DEFAULT_RETRY_DELAYS_S.map(seconds).to_vec();
    }
    if policy.retry_delays.len() > MAX_RETRIES {
        let problem = format!("at most {MAX_RETRIES} delays: {} were given", policy.retry_delays.len());
        return found.add("webhook.delivery_policy.retry_delays", problem);
    }
    for (at, delay) in policy.retry_delays.iter().enumerate() {
        if !within(delay, &RETRY_DELAY) {
            let field = format!("webhook.delivery_policy.retry_delays[{at}]");
            found.add(field, "use a duration of 0.1 s to 7 days");
        }
    }
}

fn order(policy: &mut DeliveryPolicy, found: &mut Violations) {
    let field = "webhook.delivery_policy.order";
    match DeliveryOrder::try_from(policy.order) {
        Ok(DeliveryOrder::Unspecified) => policy.order = DeliveryOrder::Unordered.into(),
        Ok(DeliveryOrder::Unordered | DeliveryOrder::ByUser | DeliveryOrder::Strict) => {}
        Err(_) => unknown(found, field, "DELIVERY_ORDER_UNORDERED, _BY_USER or _STRICT"),
    }
}

/// Whether it is a duration by the rules of protobuf, and in bounds.
fn within(duration: &prost_types::Duration, bounds: &RangeInclusive<Duration>) -> bool {
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(duration.seconds), u32::try_from(duration.nanos)) else {
        return false;
    };
    nanos < 1_000_000_000 && bounds.contains(&Duration::new(seconds, nanos))
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}
