//! A lane's circuit: it opens after enough failures in a row, spread over enough time, lets one probe
//! through after each of growing pauses, and closes with the first success. Pure.
//!
//! What the next holder of the lane must know of it, and until when the receiver wants to be left alone, is
//! the lane's memo; that of a circuit without a failure, and without such a wish, is empty.

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::clock::Time;
use prost::Message;

use crate::retry::LONGEST_HOLD;

/// Failures in a row that open it …
pub const FAILURES: u32 = 10;
/// … when so much time lies between the first and the last of them.
pub const SPREAD: Duration = Duration::from_secs(10);
/// The wait before the first probe; each is twice as long as the one before.
pub const FIRST_PAUSE: Duration = Duration::from_secs(5);
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A webhook that fails for so long without a success is to be disabled.
pub const GIVE_UP: Duration = Duration::from_secs(5 * 24 * 3_600);
/// The share of a pause that chance takes away, so that probes of many lanes spread.
const JITTER: f64 = 0.1;

/// One moment by both clocks: the holder's, and the one that holders share.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub now: Instant,
    pub time: Time,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Circuit {
    /// In a row.
    failures: u32,
    /// When the first of them was.
    since: Time,
    open: Option<Open>,
    /// The route's revision for which the webhook was asked to be disabled; 0 when it was not.
    asked: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Open {
    probe_at: Instant,
    pause: Duration,
}

/// What an outcome did to a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened {
        pause: Duration,
    },
    /// A probe has failed.
    Waits {
        pause: Duration,
    },
    Closed {
        failures: u32,
    },
}

/// As it is kept with the lane.
#[derive(Clone, PartialEq, Message)]
struct Memo {
    #[prost(uint32, tag = "1")]
    failures: u32,
    #[prost(int64, tag = "2")]
    since_ms: i64,
    /// 0 when it is closed.
    #[prost(int64, tag = "3")]
    probe_ms: i64,
    #[prost(uint64, tag = "4")]
    pause_ms: u64,
    #[prost(uint64, tag = "5")]
    asked: u64,
    /// Of the route that the last attempt was made by.
    #[prost(uint64, tag = "6")]
    revision: u64,
    /// Until when the receiver wants to be left alone; 0 when it does not.
    #[prost(int64, tag = "7")]
    held_ms: i64,
}

impl Circuit {
    /// As the last holder left it, and until when the receiver wants to be left alone. A route of another
    /// revision may be mended: it is probed at once.
    pub fn recall(memo: &[u8], revision: u64, at: Moment) -> (Self, Option<Instant>) {
        let Ok(memo) = Memo::decode(memo) else { return Default::default() };
        let pause = Duration::from_millis(memo.pause_ms);
        let open = match memo.probe_ms {
            0 => None,
            _ if memo.revision != revision => Some(Open { probe_at: at.now, pause: FIRST_PAUSE }),
            // A clock that was set back keeps nobody waiting for longer than the pause.
            probe => Some(Open { probe_at: at.now + at.time.until(Time(probe)).min(LONGEST_PAUSE), pause }),
        };
        let held = at.time.until(Time(memo.held_ms)).min(LONGEST_HOLD);
        let hold = Some(at.now + held).filter(|_| memo.revision == revision && !held.is_zero());
        (Self { failures: memo.failures, since: Time(memo.since_ms), open, asked: memo.asked }, hold)
    }

    /// Whether the next holder must know anything.
    pub fn remembers(&self) -> bool {
        self.failures > 0
    }

    /// What the next holder must know; `hold`: until when the receiver wants to be left alone.
    pub fn memo(&self, hold: Option<Instant>, revision: u64, at: Moment) -> Bytes {
        let hold = hold.filter(|until| *until > at.now);
        if !self.remembers() && hold.is_none() {
            return Bytes::new();
        }
        let wall = |until: Instant| (at.time + until.saturating_duration_since(at.now)).0.max(1);
        let memo = Memo {
            failures: self.failures,
            since_ms: self.since.0,
            probe_ms: self.open.map_or(0, |open| wall(open.probe_at)),
            pause_ms: self.open.map_or(0, |open| open.pause.as_millis() as u64),
            asked: self.asked,
            revision,
            held_ms: hold.map_or(0, wall),
        };
        memo.encode_to_vec().into()
    }

    /// An attempt has failed; `probe`: it was the one that an open circuit let through. `jitter` is
    /// by chance from 0 to 1.
    pub fn failed(&mut self, probe: bool, at: Moment, jitter: f64) -> Option<Change> {
        if self.failures == 0 {
            self.since = at.time;
        }
        self.failures = self.failures.saturating_add(1);
        let waits = |pause: Duration| {
            let shorter = pause.mul_f64(1.0 - JITTER * jitter.clamp(0.0, 1.0));
            Some(Open { probe_at: at.now + shorter, pause })
        };
        match self.open {
            Some(open) if probe => {
                let pause = (open.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                self.open = waits(pause);
                Some(Change::Waits { pause })
            }
            None if self.failures >= FAILURES && self.since.until(at.time) >= SPREAD => {
                self.open = waits(FIRST_PAUSE);
                Some(Change::Opened { pause: FIRST_PAUSE })
            }
            _ => None,
        }
    }

    pub fn succeeded(&mut self) -> Option<Change> {
        let before = std::mem::take(self);
        before.open.map(|_| Change::Closed { failures: before.failures })
    }

    /// The receiver may be mended: an open circuit is probed at once.
    pub fn probe_now(&mut self, now: Instant) {
        if self.open.is_some() {
            self.open = Some(Open { probe_at: now, pause: FIRST_PAUSE });
        }
    }

    /// When it is open: from when on one probe may go.
    pub fn probe_at(&self) -> Option<Instant> {
        self.open.map(|open| open.probe_at)
    }

    /// Enough failures in a row to open it, in too short a time: those that wait are spared.
    pub fn doubts(&self) -> bool {
        self.open.is_none() && self.failures >= FAILURES
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn failing_since(&self) -> Option<Time> {
        (self.failures > 0).then_some(self.since)
    }

    /// Whether a webhook whose route has this revision is to be disabled now. One that was enabled
    /// again, or changed since that was asked for, has five days more.
    pub fn gives_up(&mut self, revision: u64, time: Time) -> bool {
        if self.failures == 0 || self.since.until(time) < GIVE_UP {
            return false;
        }
        if self.asked != 0 && self.asked < revision {
            (self.since, self.asked) = (time, 0);
            return false;
        }
        self.asked = revision;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Moment {
        Moment { now: Instant::now(), time: Time(1_800_000_000_000) }
    }

    fn after(start: Moment, by: Duration) -> Moment {
        Moment { now: start.now + by, time: start.time + by }
    }

    /// A circuit that has opened at `start` + 10 s.
    fn opened(start: Moment) -> Circuit {
        let mut circuit = Circuit::default();
        for number in 0..=10 {
            circuit.failed(false, after(start, SECOND * number), 0.0);
        }
        assert_eq!(circuit.probe_at(), Some(start.now + SECOND * 15));
        circuit
    }

    #[test]
    fn it_opens_after_ten_failures_in_a_row_over_ten_seconds() {
        // Failures, milliseconds between them, whether it opens.
        let table =
            [(9, 5_000, false), (10, 1_000, false), (11, 1_000, true), (10, 1_112, true), (500, 10, false)];
        for (failures, gap, opens) in table {
            let (start, mut circuit) = (start(), Circuit::default());
            for number in 0..failures {
                circuit.failed(false, after(start, Duration::from_millis(gap) * number), 0.5);
            }
            assert_eq!(circuit.probe_at().is_some(), opens, "{failures} failures, one each {gap} ms");
            assert_eq!(circuit.doubts(), failures >= 10 && !opens);
        }
        let (start, mut circuit) = (start(), Circuit::default());
        for number in 0..100 {
            circuit.failed(false, after(start, SECOND * number), 0.0);
            if number % 9 == 8 {
                assert_eq!(circuit.succeeded(), None);
            }
        }
        assert_eq!(circuit.probe_at(), None, "not in a row");
    }

    #[test]
    fn pauses_grow_to_five_minutes_with_each_probe_that_fails() {
        let start = start();
        let mut circuit = opened(start);
        let mut at = after(start, SECOND * 10);
        let mut probes = Vec::new();
        for _ in 0..9 {
            let probe = circuit.probe_at().unwrap();
            at = after(at, probe - at.now);
            probes.push((probe - start.now).as_secs());
            circuit.failed(true, at, 0.0);
        }
        assert_eq!(probes, [15, 25, 45, 85, 165, 325, 625, 925, 1_225]);
        circuit.failed(true, at, 1.0);
        assert_eq!(circuit.probe_at(), Some(at.now + SECOND * 270), "chance takes a tenth");
        let waits = circuit.probe_at();
        assert_eq!(circuit.failed(false, at, 0.0), None);
        assert_eq!(circuit.probe_at(), waits, "what was under way before counts for nothing");
    }

    #[test]
    fn a_success_closes_it() {
        let mut circuit = opened(start());
        assert_eq!(circuit.succeeded(), Some(Change::Closed { failures: 11 }));
        assert_eq!(circuit, Circuit::default());
        assert_eq!(circuit.succeeded(), None);
        assert!(circuit.memo(None, 1, start()).is_empty());
    }

    #[test]
    fn the_next_holder_goes_on_where_the_last_one_was() {
        let start = start();
        let mut circuit = opened(start);
        circuit.failed(true, after(start, SECOND * 15), 0.0);
        let memo = circuit.memo(None, 7, after(start, SECOND * 16));
        let later = after(start, SECOND * 20);
        assert_eq!(Circuit::recall(&memo, 7, later), (circuit, None));
        let (mended, _) = Circuit::recall(&memo, 8, later);
        assert_eq!(mended.probe_at(), Some(later.now), "another route is tried at once");
        assert_eq!((mended.failures(), mended.failing_since()), (12, Some(start.time)));
        let (late, _) = Circuit::recall(&memo, 7, after(start, SECOND * 1_000));
        assert_eq!(late.probe_at(), Some(start.now + SECOND * 1_000));
        assert_eq!(Circuit::recall(b"", 7, later), (Circuit::default(), None));
        assert_eq!(Circuit::recall(b"\xff", 7, later), (Circuit::default(), None));
    }

    #[test]
    fn a_hold_is_remembered_until_it_is_over_or_the_route_changes() {
        let (start, hour) = (start(), SECOND * 3_600);
        let mut circuit = Circuit::default();
        let until = Some(start.now + hour);
        for failures in 0..2 {
            let memo = circuit.memo(until, 7, start);
            let later = after(start, hour / 2);
            assert_eq!(Circuit::recall(&memo, 7, later), (circuit.clone(), until), "{failures} failures");
            assert_eq!(Circuit::recall(&memo, 8, later).1, None, "another route");
            assert_eq!(Circuit::recall(&memo, 7, after(start, hour)).1, None);
            let early = Moment { now: start.now, time: Time(0) };
            assert_eq!(
                Circuit::recall(&memo, 7, early).1,
                Some(start.now + LONGEST_HOLD),
                "a clock set back"
            );
            assert_eq!(circuit.memo(until, 7, after(start, hour)).is_empty(), failures == 0, "it is over");
            circuit.failed(false, start, 0.0);
        }
    }

    #[test]
    fn a_webhook_is_given_up_after_five_days_of_failure() {
        let (start, mut circuit) = (start(), Circuit::default());
        assert!(!circuit.gives_up(3, start.time + GIVE_UP * 2));
        circuit.failed(false, start, 0.0);
        assert!(!circuit.gives_up(3, start.time + (GIVE_UP - SECOND)));
        assert!(circuit.gives_up(3, start.time + GIVE_UP));
        assert!(circuit.gives_up(3, start.time + GIVE_UP), "until it is disabled");
        let again = start.time + GIVE_UP * 2;
        assert!(!circuit.gives_up(4, again), "it was enabled again");
        assert!(!circuit.gives_up(4, again + (GIVE_UP - SECOND)));
        assert!(circuit.gives_up(4, again + GIVE_UP));
    }
}
