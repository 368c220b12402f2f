//! How many attempts this process takes on at once: as many as are wanted while it keeps up, fewer while
//! its own attempts wait for a processor. Requests beyond what a machine can drive make none of them
//! faster; they only spread the work over more connections, buffers and wake-ups. Receivers that are
//! slow do not count: only how late attempts begin. Pure.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// What is allowed at first, and however late attempts begin.
const FIRST: usize = 256;
const LEAST: usize = 128;
/// Attempts begin late from here on, and in time again below.
const LATE: Duration = Duration::from_millis(2);
const IN_TIME: Duration = Duration::from_millis(1);
/// Between two changes: time to see what the last one has brought.
const PAUSE: Duration = Duration::from_millis(10);

/// How late attempts begin, lately. Each notes it as it begins.
#[derive(Debug, Default)]
pub struct Lateness {
    lately_ns: AtomicU64,
    begun: AtomicU64,
}

#[derive(Debug)]
pub struct Room {
    most: usize,
    now: usize,
    looked: Option<Instant>,
    /// Attempts that had begun then, and how late they did.
    begun: u64,
    late: Duration,
}

impl Lateness {
    /// An attempt begins `late` after it was started.
    pub fn note(&self, late: Duration) {
        // Two at once may lose one's share: it is an average.
        let before = self.lately_ns.load(Relaxed);
        self.lately_ns.store(before - before / 16 + late.as_nanos() as u64 / 16, Relaxed);
        self.begun.fetch_add(1, Relaxed);
    }
}

impl Room {
    /// `most`: what is allowed when there is no need to hold back.
    pub fn new(most: usize) -> Self {
        Self { most, now: most.min(FIRST), looked: None, begun: 0, late: Duration::ZERO }
    }

    /// Attempts that may be under way.
    pub fn allows(&self) -> usize {
        self.now
    }

    /// Whether the process is short of processors.
    pub fn is_short(&self) -> bool {
        self.late >= IN_TIME
    }

    /// Looks how late attempts have begun, now and then. `under_way` are now; `starving`: more would start if
    /// they were allowed. Whether more are, from now on.
    pub fn learn(&mut self, lateness: &Lateness, under_way: usize, starving: bool, now: Instant) -> bool {
        if self.looked.is_some_and(|at| now < at + PAUSE) {
            return false;
        }
        self.looked = Some(now);
        let begun = lateness.begun.load(Relaxed);
        if begun == self.begun {
            // What nobody has felt since is over.
            lateness.lately_ns.store(0, Relaxed);
        }
        self.begun = begun;
        self.late = Duration::from_nanos(lateness.lately_ns.load(Relaxed));
        let before = self.now;
        if self.late > LATE {
            // From what is used, not from what was allowed and not used.
            self.now = (self.now.min(under_way) * 3 / 4).max(LEAST).min(self.now);
        } else if starving && !self.is_short() {
            self.now = self.now.saturating_add(self.now / 4 + 1).min(self.most);
        }
        self.now > before
    }

    /// When to look again, while some would start.
    pub fn looks_at(&self) -> Option<Instant> {
        self.looked.filter(|_| self.now < self.most).map(|at| at + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts begin so late for a while, each as soon as it may: what is allowed in the end.
    fn after(room: &mut Room, late: Duration, begin: Instant) -> usize {
        let lateness = Lateness::default();
        (0..100).for_each(|_| lateness.note(late));
        for n in 0..1_000 {
            lateness.note(late);
            room.learn(&lateness, room.allows(), true, begin + Duration::from_millis(n));
        }
        room.allows()
    }

    #[test]
    fn it_holds_back_while_attempts_begin_late_and_lets_go_soon_after() {
        let (mut room, now) = (Room::new(4_096), Instant::now());
        assert_eq!(room.allows(), FIRST);
        assert_eq!(after(&mut room, Duration::from_micros(50), now), 4_096);
        assert_eq!(after(&mut room, Duration::from_millis(5), now + Duration::from_secs(1)), LEAST);
        assert!(room.is_short());
        let in_between = Duration::from_micros(1_500);
        assert_eq!(after(&mut room, in_between, now + Duration::from_secs(2)), LEAST);
        assert_eq!(after(&mut room, Duration::ZERO, now + Duration::from_secs(3)), 4_096);
        assert!(!room.is_short());
    }

    #[test]
    fn it_never_allows_more_than_it_may() {
        let (mut room, now) = (Room::new(50), Instant::now());
        assert_eq!(after(&mut room, Duration::from_millis(5), now), 50);
        assert_eq!(after(&mut room, Duration::ZERO, now + Duration::from_secs(1)), 50);
    }

    #[test]
    fn what_was_not_used_goes_first_and_what_is_not_wanted_does_not_come() {
        let (mut room, now, lateness) = (Room::new(4_096), Instant::now(), Lateness::default());
        after(&mut room, Duration::ZERO, now);
        (0..100).for_each(|_| lateness.note(Duration::from_millis(5)));
        room.learn(&lateness, 400, true, now + Duration::from_secs(2));
        assert_eq!(room.allows(), 300);
        (0..100).for_each(|_| lateness.note(Duration::ZERO));
        assert!(!room.learn(&lateness, 300, false, now + Duration::from_secs(3)));
        assert!(room.learn(&lateness, 300, true, now + Duration::from_secs(4)));
        assert_eq!(room.allows(), 376);
    }

    /// All that may be are under way to receivers that hang, and began late: more may start all the same.
    #[test]
    fn lateness_that_nobody_feels_any_more_is_forgotten() {
        let (mut room, now, lateness) = (Room::new(4_096), Instant::now(), Lateness::default());
        (0..100).for_each(|_| lateness.note(Duration::from_millis(50)));
        assert!(!room.learn(&lateness, FIRST, true, now));
        assert!(room.allows() < FIRST);
        assert!(room.looks_at().is_some_and(|at| at > now));
        assert!(room.learn(&lateness, LEAST, true, now + PAUSE));
    }
}
