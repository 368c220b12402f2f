//! How many attempts this process takes on at once: as many as it may while it keeps up, fewer while
//! its own attempts wait for a processor. Requests beyond what a machine can drive make none of them
//! faster; they only spread the work over more connections, buffers and wake-ups. Receivers that are
//! slow do not count: only how late attempts begin. Pure.

use std::time::{Duration, Instant};

/// What is allowed however late attempts begin.
const LEAST: usize = 128;
/// Attempts begin late from here on, and in time again below.
const LATE: f64 = 0.002;
const IN_TIME: f64 = 0.001;
/// Between two changes: time to see what the last one has brought.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Room {
    most: usize,
    now: usize,
    /// How late attempts begin, lately, in seconds.
    late: f64,
    changed: Option<Instant>,
}

impl Room {
    /// `most`: what is allowed when there is no need to hold back.
    pub fn new(most: usize) -> Self {
        Self { most, now: most, late: 0.0, changed: None }
    }

    /// Attempts that may be under way.
    pub fn allows(&self) -> usize {
        self.now
    }

    /// An attempt began `late` after it was started; `under_way` are now.
    pub fn learn(&mut self, late: Duration, under_way: usize, now: Instant) {
        self.late += (late.as_secs_f64() - self.late) * 0.05;
        if self.changed.is_some_and(|at| now < at + PAUSE) {
            return;
        }
        let wanted = if self.late > LATE {
            // From what is used, not from what was allowed and not used.
            (self.now.min(under_way) * 3 / 4).max(LEAST).min(self.now)
        } else if self.late < IN_TIME {
            self.now.saturating_mul(2)
        } else {
            self.now
        };
        let wanted = wanted.min(self.most);
        if wanted != self.now {
            (self.now, self.changed) = (wanted, Some(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts begin so late for a while: what is allowed in the end.
    fn after(room: &mut Room, late: Duration, under_way: usize, begin: Instant) -> usize {
        for n in 0..1_000 {
            room.learn(late, under_way.min(room.allows()), begin + Duration::from_millis(n));
        }
        room.allows()
    }

    #[test]
    fn it_holds_back_while_attempts_begin_late_and_lets_go_soon_after() {
        let (mut room, now) = (Room::new(4_096), Instant::now());
        assert_eq!(room.allows(), 4_096);
        assert_eq!(after(&mut room, Duration::from_micros(50), 4_096, now), 4_096);
        assert_eq!(after(&mut room, Duration::from_millis(5), 4_096, now + Duration::from_secs(1)), LEAST);
        let in_between = Duration::from_micros(1_500);
        assert_eq!(after(&mut room, in_between, 4_096, now + Duration::from_secs(2)), LEAST);
        assert_eq!(after(&mut room, Duration::ZERO, 4_096, now + Duration::from_secs(3)), 4_096);
    }

    #[test]
    fn it_never_allows_more_than_it_may() {
        let (mut room, now) = (Room::new(50), Instant::now());
        assert_eq!(after(&mut room, Duration::from_millis(5), 50, now), 50);
        assert_eq!(after(&mut room, Duration::ZERO, 50, now + Duration::from_secs(1)), 50);
    }

    #[test]
    fn what_was_not_used_goes_first() {
        let (mut room, now) = (Room::new(4_096), Instant::now());
        room.late = LATE * 2.0;
        room.learn(Duration::from_millis(5), 400, now);
        assert_eq!(room.allows(), 300);
    }
}
