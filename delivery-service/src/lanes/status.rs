//! What is told of lanes: how attempts went within the last hour, and of those whose receivers are in
//! trouble their circuits, holds and limits too. Written by the loop, read by whoever asks. (How other
//! lanes are the loop is asked: nobody asks of most deliveries.) Bounded: lanes that were not heard of for
//! the longest time are forgotten first.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use common::{
    clock::Time,
    ids::{ById, WebhookId},
};
use parking_lot::Mutex;

/// Latencies are counted up to each of these milliseconds, and beyond the last.
pub const LATENCY_MS: [u64; 7] = [10, 50, 100, 500, 1_000, 5_000, 15_000];

/// A bucket of the last hour, and how many there are.
const BUCKET_MS: i64 = 5 * 60 * 1_000;
const BUCKETS: usize = 12;
/// How long after a probe was due somebody has made it.
const PROBED: Duration = Duration::from_secs(5);
/// Lanes that are told of.
const LANES: usize = 20_000;

/// A lane as this process knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneStatus {
    /// When the circuit is open: when the next probe may go.
    pub probe: Option<Time>,
    /// Failures in a row, and when the first of them was.
    pub failures: u32,
    pub failing_since: Option<Time>,
    /// Nothing goes before then: the receiver asked for it.
    pub held_until: Option<Time>,
    pub in_flight: u32,
    /// Requests that may be under way, as the receiver bears them.
    pub limit: u32,
    /// Attempts of the last hour by this process.
    pub succeeded: u64,
    pub failed: u64,
    /// How long they took; see `LATENCY_MS`.
    pub latency: [u64; LATENCY_MS.len() + 1],
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Which it is: its time by `BUCKET_MS`.
    number: i64,
    succeeded: u32,
    failed: u32,
    latency: [u32; LATENCY_MS.len() + 1],
}

/// Attempts of the last hour in a lane.
#[derive(Debug)]
struct Hour {
    now: Bucket,
    /// Those before, oldest first.
    past: VecDeque<Bucket>,
}

/// A lane whose receiver is in trouble.
#[derive(Debug)]
struct Trouble {
    now: LaneStatus,
    told: Time,
}

#[derive(Debug, Default)]
struct Lanes {
    hours: Mutex<ById<WebhookId, Hour>>,
    /// Of lanes that this process holds, or held last and knows why they wait.
    troubles: Mutex<ById<WebhookId, Trouble>>,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Statuses(Arc<Lanes>);

impl Statuses {
    /// A lane's status; `held`: as the loop says, `None` when this process does not hold it.
    pub fn get(&self, id: WebhookId, held: Option<LaneStatus>, time: Time) -> Option<LaneStatus> {
        let troubled = || self.0.troubles.lock().get(&id).map(|trouble| trouble.now.clone());
        let mut status = held.or_else(troubled)?;
        let oldest = time.0 / BUCKET_MS - BUCKETS as i64;
        let hours = self.0.hours.lock();
        let buckets = hours.get(&id).into_iter().flat_map(|hour| hour.past.iter().chain([&hour.now]));
        for bucket in buckets.filter(|bucket| bucket.number > oldest) {
            status.succeeded += u64::from(bucket.succeeded);
            status.failed += u64::from(bucket.failed);
            for (sum, count) in status.latency.iter_mut().zip(bucket.latency) {
                *sum += u64::from(count);
            }
        }
        Some(status)
    }

    /// Circuits that are open, of lanes that this process holds or held last: one whose probe is long due
    /// without having been made here is another replica's to know.
    pub fn open(&self, time: Time) -> usize {
        let lanes = self.0.troubles.lock();
        let is_open =
            |lane: &LaneStatus| lane.probe.is_some_and(|probe| probe + PROBED > time || lane.in_flight > 0);
        lanes.values().filter(|trouble| is_open(&trouble.now)).count()
    }

    /// An attempt has ended.
    pub(super) fn count(&self, id: WebhookId, succeeded: bool, took: Duration, time: Time) {
        let number = time.0 / BUCKET_MS;
        let mut hours = self.0.hours.lock();
        if hours.len() >= LANES && !hours.contains_key(&id) {
            forget_some(&mut hours, |hour| hour.now.number);
        }
        let fresh = Bucket { number, ..Bucket::default() };
        let hour = hours.entry(id).or_insert_with(|| Hour { now: fresh, past: VecDeque::new() });
        if hour.now.number != number {
            hour.past.push_back(std::mem::replace(&mut hour.now, fresh));
            if hour.past.len() >= BUCKETS {
                hour.past.pop_front();
            }
        }
        let bucket = &mut hour.now;
        let count = if succeeded { &mut bucket.succeeded } else { &mut bucket.failed };
        *count = count.saturating_add(1);
        let ms = took.as_millis() as u64;
        let at = LATENCY_MS.iter().position(|most| ms <= *most).unwrap_or(LATENCY_MS.len());
        bucket.latency[at] = bucket.latency[at].saturating_add(1);
    }

    /// A lane in trouble as it is now.
    pub(super) fn tell(&self, id: WebhookId, now: LaneStatus, time: Time) {
        let mut lanes = self.0.troubles.lock();
        if lanes.len() >= LANES && !lanes.contains_key(&id) {
            forget_some(&mut lanes, |trouble| trouble.told.0);
        }
        lanes.insert(id, Trouble { now, told: time });
    }

    /// A lane that this process holds is not in trouble.
    pub(super) fn well(&self, id: WebhookId) {
        self.0.troubles.lock().remove(&id);
    }

    /// This process holds the lane no more. One that waits is told of until somebody takes it up.
    pub(super) fn gone(&self, id: WebhookId, waits: bool) {
        let mut lanes = self.0.troubles.lock();
        if !waits {
            lanes.remove(&id);
        } else if let Some(trouble) = lanes.get_mut(&id) {
            trouble.now.in_flight = 0;
        }
    }
}

/// The half that was not heard of for the longest time.
fn forget_some<T>(lanes: &mut ById<WebhookId, T>, told: impl Fn(&T) -> i64) {
    let mut all: Vec<i64> = lanes.values().map(&told).collect();
    let middle = all.len() / 2;
    let (_, median, _) = all.select_nth_unstable(middle);
    let median = *median;
    let mut left = lanes.len() - middle;
    lanes.retain(|_, lane| {
        let keep = told(lane) > median || left == 0;
        left = left.saturating_sub(usize::from(!keep));
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(number: u128) -> WebhookId {
        WebhookId::from_bytes(number.to_be_bytes())
    }

    #[test]
    fn attempts_of_the_last_hour_are_counted() {
        let (statuses, start) = (Statuses::default(), Time(1_800_000_000_000));
        let minute = Duration::from_secs(60);
        for number in 0..120 {
            let took = Duration::from_millis(if number % 2 == 0 { 5 } else { 20_000 });
            statuses.count(lane(1), number % 2 == 0, took, start + minute * number);
        }
        let end = start + minute * 119;
        assert_eq!(statuses.get(lane(1), None, end), None, "it is not held");
        let held = || Some(LaneStatus { in_flight: 3, ..LaneStatus::default() });
        let status = statuses.get(lane(1), held(), end).unwrap();
        assert_eq!((status.in_flight, status.succeeded, status.failed), (3, 30, 30));
        assert_eq!(status.latency, [30, 0, 0, 0, 0, 0, 0, 30]);
        let later = statuses.get(lane(1), held(), end + minute * 120).unwrap();
        assert_eq!((later.succeeded, later.failed), (0, 0));
    }

    #[test]
    fn a_lane_that_waits_is_told_of_without_being_held() {
        let (statuses, time) = (Statuses::default(), Time(1));
        let waits = LaneStatus { probe: Some(Time(9)), in_flight: 1, ..LaneStatus::default() };
        statuses.tell(lane(1), waits, time);
        statuses.gone(lane(1), true);
        let status = statuses.get(lane(1), None, time).unwrap();
        assert_eq!((status.probe, status.in_flight), (Some(Time(9)), 0));
        statuses.gone(lane(1), false);
        assert_eq!(statuses.get(lane(1), None, time), None);
    }

    #[test]
    fn circuits_are_open_until_they_close_or_another_replica_probes_them() {
        let (statuses, time) = (Statuses::default(), Time(100_000));
        let open = |in_flight| LaneStatus { probe: Some(Time(110_000)), in_flight, ..LaneStatus::default() };
        statuses.tell(lane(1), open(0), time);
        statuses.tell(lane(2), open(1), time);
        statuses.tell(lane(3), LaneStatus::default(), time);
        assert_eq!(statuses.open(time), 2);
        assert_eq!(statuses.open(Time(114_000)), 2);
        assert_eq!(statuses.open(Time(116_000)), 1, "the one that is being probed here");
        statuses.gone(lane(2), true);
        assert_eq!(statuses.open(Time(116_000)), 0);
        statuses.well(lane(1));
        statuses.gone(lane(2), false);
        assert_eq!(statuses.open(time), 0);
    }

    #[test]
    fn lanes_that_were_not_heard_of_are_forgotten_first() {
        let (statuses, held) = (Statuses::default(), || Some(LaneStatus::default()));
        for number in 0..=LANES {
            let time = Time(number as i64 * BUCKET_MS);
            statuses.tell(lane(number as u128), LaneStatus::default(), time);
            statuses.count(lane(number as u128), true, Duration::ZERO, time);
        }
        let end = Time(LANES as i64 * BUCKET_MS);
        assert!(statuses.get(lane(0), None, end).is_none());
        assert!(statuses.get(lane(LANES as u128), None, end).is_some());
        assert_eq!(statuses.get(lane(LANES as u128), held(), end).unwrap().succeeded, 1);
        assert!(statuses.0.troubles.lock().len() <= LANES / 2 + 1);
        assert!(statuses.0.hours.lock().len() <= LANES / 2 + 1);
        let same = Statuses::default();
        for number in 0..=LANES {
            same.tell(lane(number as u128), LaneStatus::default(), Time(1));
            same.count(lane(number as u128), true, Duration::ZERO, Time(1));
        }
        assert!(same.0.troubles.lock().len() <= LANES / 2 + 1);
        assert!(same.0.hours.lock().len() <= LANES / 2 + 1);
    }
}
