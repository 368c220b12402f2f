//! What is told of lanes: their circuits, holds and limits as of now, and how attempts went within the
//! last hour. Written by the loop, read by whoever asks. Bounded: lanes that were not heard of for the
//! longest time are forgotten first.

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

#[derive(Debug, Default)]
struct Entry {
    now: LaneStatus,
    /// Whether this process holds the lane, or held it last and knows why it waits.
    shown: bool,
    buckets: VecDeque<Bucket>,
    told: Time,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Statuses(Arc<Mutex<ById<WebhookId, Entry>>>);

impl Statuses {
    /// A lane's status; `None` when this process does not hold it.
    pub fn get(&self, id: WebhookId, time: Time) -> Option<LaneStatus> {
        let lanes = self.0.lock();
        let entry = lanes.get(&id).filter(|entry| entry.shown)?;
        let mut status = entry.now.clone();
        let oldest = time.0 / BUCKET_MS - BUCKETS as i64;
        for bucket in entry.buckets.iter().filter(|bucket| bucket.number > oldest) {
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
        let lanes = self.0.lock();
        let is_open =
            |lane: &LaneStatus| lane.probe.is_some_and(|probe| probe + PROBED > time || lane.in_flight > 0);
        lanes.values().filter(|entry| entry.shown && is_open(&entry.now)).count()
    }

    /// An attempt has ended.
    pub(super) fn count(&self, id: WebhookId, succeeded: bool, took: Duration, time: Time) {
        let mut lanes = self.0.lock();
        let entry = lanes.entry(id).or_default();
        entry.told = time;
        let number = time.0 / BUCKET_MS;
        if entry.buckets.back().is_none_or(|bucket| bucket.number != number) {
            entry.buckets.push_back(Bucket { number, ..Bucket::default() });
            if entry.buckets.len() > BUCKETS {
                entry.buckets.pop_front();
            }
        }
        if let Some(bucket) = entry.buckets.back_mut() {
            let count = if succeeded { &mut bucket.succeeded } else { &mut bucket.failed };
            *count = count.saturating_add(1);
            let ms = took.as_millis() as u64;
            let at = LATENCY_MS.iter().position(|most| ms <= *most).unwrap_or(LATENCY_MS.len());
            bucket.latency[at] = bucket.latency[at].saturating_add(1);
        }
    }

    /// A lane as it is now.
    pub(super) fn tell(&self, id: WebhookId, now: LaneStatus, time: Time) {
        let mut lanes = self.0.lock();
        if lanes.len() >= LANES && !lanes.contains_key(&id) {
            forget_some(&mut lanes);
        }
        let entry = lanes.entry(id).or_default();
        (entry.now, entry.shown, entry.told) = (now, true, time);
    }

    /// This process holds the lane no more. One that waits is told of until somebody takes it up.
    pub(super) fn gone(&self, id: WebhookId, waits: bool) {
        if let Some(entry) = self.0.lock().get_mut(&id) {
            entry.shown = waits;
            entry.now.in_flight = 0;
        }
    }
}

/// The half that was not heard of for the longest time.
fn forget_some(lanes: &mut ById<WebhookId, Entry>) {
    let mut told: Vec<Time> = lanes.values().map(|entry| entry.told).collect();
    let middle = told.len() / 2;
    let (_, median, _) = told.select_nth_unstable(middle);
    let median = *median;
    let mut left = lanes.len() - middle;
    lanes.retain(|_, entry| {
        let keep = entry.told > median || left == 0;
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
        assert_eq!(statuses.get(lane(1), end), None, "it is not held");
        statuses.tell(lane(1), LaneStatus { in_flight: 3, ..LaneStatus::default() }, end);
        let status = statuses.get(lane(1), end).unwrap();
        assert_eq!((status.in_flight, status.succeeded, status.failed), (3, 30, 30));
        assert_eq!(status.latency, [30, 0, 0, 0, 0, 0, 0, 30]);
        let later = statuses.get(lane(1), end + minute * 120).unwrap();
        assert_eq!((later.succeeded, later.failed), (0, 0));
    }

    #[test]
    fn a_lane_that_waits_is_told_of_without_being_held() {
        let (statuses, time) = (Statuses::default(), Time(1));
        let waits = LaneStatus { probe: Some(Time(9)), in_flight: 1, ..LaneStatus::default() };
        statuses.tell(lane(1), waits, time);
        statuses.gone(lane(1), true);
        let status = statuses.get(lane(1), time).unwrap();
        assert_eq!((status.probe, status.in_flight), (Some(Time(9)), 0));
        statuses.gone(lane(1), false);
        assert_eq!(statuses.get(lane(1), time), None);
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
        statuses.tell(lane(1), LaneStatus::default(), time);
        statuses.gone(lane(2), false);
        assert_eq!(statuses.open(time), 0);
    }

    #[test]
    fn lanes_that_were_not_heard_of_are_forgotten_first() {
        let statuses = Statuses::default();
        for number in 0..=LANES {
            statuses.tell(lane(number as u128), LaneStatus::default(), Time(number as i64));
        }
        assert!(statuses.get(lane(0), Time(0)).is_none());
        assert!(statuses.get(lane(LANES as u128), Time(0)).is_some());
        assert!(statuses.0.lock().len() <= LANES / 2 + 1);
        let same = Statuses::default();
        for number in 0..=LANES {
            same.tell(lane(number as u128), LaneStatus::default(), Time(1));
        }
        assert!(same.0.lock().len() <= LANES / 2 + 1);
    }
}
