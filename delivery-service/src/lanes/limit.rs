//! How many requests a receiver bears at once: between 1 and the policy's max_in_flight. It doubles
//! while it is what holds a lane back, is halved when the receiver fails as an overloaded one does,
//! and grows step by step after that. A latency well above its own usual one stops growth. Pure.

use std::time::{Duration, Instant};

/// Where it starts.
const START: f64 = 20.0;
/// Latency is high from so many times the usual one, and so much more, on.
const HIGH: f64 = 3.0;
const HIGH_ABOVE: f64 = 0.050;

#[derive(Debug, Clone)]
pub struct Limit {
    now: f64,
    /// Whether it doubles: nothing has gone wrong yet.
    doubles: bool,
    /// Of successes, in seconds: what is usual, and what is so lately.
    usual: f64,
    lately: f64,
    /// Requests that began before the last cut do not cut it again.
    cut_at: Option<Instant>,
}

/// What an attempt says of how its receiver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strain {
    pub succeeded: bool,
    /// It failed as overloaded receivers do: no answer in time, no connection, 429 or 5xx.
    pub overloaded: bool,
    pub duration: Duration,
}

impl Default for Limit {
    fn default() -> Self {
        Self { now: START, doubles: true, usual: 0.0, lately: 0.0, cut_at: None }
    }
}

impl Limit {
    /// Requests that may be under way, of at most `max`.
    pub fn allows(&self, max: u32) -> u32 {
        (self.now as u32).clamp(1, max.max(1))
    }

    /// Begins anew with one request: the receiver lives again.
    pub fn restart(&mut self) {
        *self = Self { now: 1.0, ..Self::default() };
    }

    /// An attempt has ended. `full`: as many were under way as may be.
    pub fn learn(&mut self, strain: Strain, full: bool, max: u32, now: Instant) {
        if strain.overloaded {
            let began = now.checked_sub(strain.duration).unwrap_or(now);
            if self.cut_at.is_none_or(|cut| began >= cut) {
                self.now = (self.now.min(f64::from(max)) / 2.0).max(1.0);
                (self.doubles, self.cut_at) = (false, Some(now));
            }
        } else if strain.succeeded {
            self.hear(strain.duration.as_secs_f64());
            if full && self.lately <= self.usual * HIGH + HIGH_ABOVE && self.now < f64::from(max) {
                self.now += if self.doubles { 1.0 } else { self.now.sqrt().recip() };
            }
        }
    }

    fn hear(&mut self, latency: f64) {
        if self.usual == 0.0 {
            (self.usual, self.lately) = (latency, latency);
        }
        self.lately += (latency - self.lately) * 0.1;
        self.usual += (latency - self.usual) * if latency < self.usual { 0.2 } else { 0.002 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 200;

    fn success(ms: u64) -> Strain {
        Strain { succeeded: true, overloaded: false, duration: Duration::from_millis(ms) }
    }

    fn overload(ms: u64) -> Strain {
        Strain { succeeded: false, overloaded: true, duration: Duration::from_millis(ms) }
    }

    /// One time around: as many successes as may be under way.
    fn around(limit: &mut Limit, ms: u64, now: Instant) -> u32 {
        for _ in 0..limit.allows(MAX) {
            limit.learn(success(ms), true, MAX, now);
        }
        limit.allows(MAX)
    }

    #[test]
    fn a_healthy_receiver_gets_all_it_may_have_within_four_times_around() {
        for ms in [1, 100, 10_000] {
            let (mut limit, now) = (Limit::default(), Instant::now());
            let grown: Vec<u32> = (0..5).map(|_| around(&mut limit, ms, now)).collect();
            assert_eq!(grown, [40, 80, 160, 200, 200]);
        }
        assert_eq!(Limit::default().allows(5), 5);
        assert_eq!(Limit::default().allows(0), 1);
    }

    #[test]
    fn it_does_not_grow_while_it_holds_nothing_back() {
        let mut limit = Limit::default();
        for _ in 0..1_000 {
            limit.learn(success(5), false, MAX, Instant::now());
        }
        assert_eq!(limit.allows(MAX), 20);
    }

    #[test]
    fn overload_halves_it_once_for_all_that_was_under_way() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let mut at = start;
        let mut cuts = Vec::new();
        for _ in 0..6 {
            at += Duration::from_secs(15);
            for _ in 0..limit.allows(MAX) {
                limit.learn(overload(15_000), true, MAX, at);
            }
            cuts.push(limit.allows(MAX));
        }
        assert_eq!(cuts, [10, 5, 2, 1, 1, 1]);
        let grown: Vec<u32> = (0..4).map(|_| around(&mut limit, 5, at)).collect();
        assert!(grown.is_sorted() && grown[3] < 20, "step by step: {grown:?}");
        for _ in 0..40 {
            around(&mut limit, 5, at);
        }
        assert_eq!(limit.allows(MAX), MAX);
    }

    #[test]
    fn other_failures_say_nothing_of_it() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let refused = Strain { succeeded: false, overloaded: false, duration: Duration::ZERO };
        limit.learn(refused, true, MAX, now);
        assert_eq!(limit.allows(MAX), 20);
    }

    #[test]
    fn latency_well_above_the_usual_stops_growth() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let before = around(&mut limit, 10, now);
        let mut slow = Vec::new();
        for _ in 0..3 {
            slow.push(around(&mut limit, 1_000, now));
        }
        assert!(slow[2] < before + 5, "{before}, then {slow:?}");
        for _ in 0..20 {
            around(&mut limit, 10, now);
        }
        assert_eq!(limit.allows(MAX), MAX, "and goes on when it is as it was");
    }

    #[test]
    fn a_receiver_that_lives_again_is_met_with_one_request() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        limit.restart();
        let grown: Vec<u32> = (0..8).map(|_| around(&mut limit, 5, now)).collect();
        assert_eq!(grown, [2, 4, 8, 16, 32, 64, 128, 200]);
    }
}
