//! How many attempts this process drives at once: as many as are wanted while it keeps up, fewer while
//! its own attempts wait for a processor. Requests beyond what a machine can drive make none of them
//! faster; they only spread the work over more connections, buffers and wake-ups. Receivers that are
//! slow do not count: an attempt that began a while ago takes no processor, it waits for an answer. Pure.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// What is driven at first, and however late attempts begin.
const FIRST: usize = 256;
const LEAST: usize = 64;
/// Attempts begin late from here on.
const LATE: Duration = Duration::from_millis(1);
/// Between two looks, and so between two steps down.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two steps up, and before one after attempts began late.
const CALM: Duration = Duration::from_millis(100);
/// A process whose attempts began late is short of processors for so long.
const SHORT: Duration = Duration::from_secs(1);
/// An attempt that began so long ago waits for its receiver.
const YOUNG: Duration = Duration::from_millis(25);
/// Attempts that began within one of these are counted together.
const SLOT: Duration = Duration::from_millis(1);

/// How late attempts begin, lately. Each notes it as it begins.
#[derive(Debug, Default)]
pub struct Lateness {
    lately_ns: AtomicU64,
    begun: AtomicU64,
}

#[derive(Debug)]
pub struct Room {
    /// Attempts that may be under way, and that are.
    most: usize,
    under_way: usize,
    /// Young ones that may be under way, and that are.
    driven: usize,
    young: usize,
    /// When young ones began: the beginning of a slot, and how many of it are under way.
    slots: VecDeque<(Instant, usize)>,
    looked: Option<Instant>,
    /// Attempts that had begun then.
    begun: u64,
    /// When attempts began late for the last time, or more were allowed.
    unsure: Option<Instant>,
    /// When attempts began late for the last time, if that was lately.
    late: Option<Instant>,
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
        Self {
            most,
            under_way: 0,
            driven: most.min(FIRST),
            young: 0,
            slots: VecDeque::new(),
            looked: None,
            begun: 0,
            unsure: None,
            late: None,
        }
    }

    /// Attempts that are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Attempts that may begin now.
    pub fn free(&mut self, now: Instant) -> usize {
        while let Some((since, count)) = self.slots.front().copied()
            && now >= since + YOUNG
        {
            self.slots.pop_front();
            self.young -= count;
        }
        self.driven.saturating_sub(self.young).min(self.most - self.under_way)
    }

    /// Whether little of the room is free.
    pub fn is_tight(&mut self, now: Instant) -> bool {
        self.free(now) < self.driven / 4
    }

    /// Whether the process is short of processors, or has been just now: while it holds back, attempts begin in time.
    pub fn is_short(&self) -> bool {
        self.late.is_some()
    }

    /// An attempt begins.
    pub fn begins(&mut self, now: Instant) {
        self.under_way += 1;
        self.young += 1;
        match self.slots.back_mut() {
            Some((since, count)) if now < *since + SLOT => *count += 1,
            _ => self.slots.push_back((now, 1)),
        }
    }

    /// One that began then has ended.
    pub fn ends(&mut self, began: Instant) {
        self.under_way -= 1;
        let after = self.slots.partition_point(|(since, _)| *since <= began);
        if let Some((_, count)) = after.checked_sub(1).and_then(|at| self.slots.get_mut(at)) {
            *count -= 1;
            self.young -= 1;
        }
    }

    /// Looks how late attempts have begun, now and then. `starving`: more would begin if they were allowed.
    /// Whether there is room for them.
    pub fn learn(&mut self, lateness: &Lateness, starving: bool, now: Instant) -> bool {
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
        let late = Duration::from_nanos(lateness.lately_ns.load(Relaxed));
        if late > LATE {
            // From what is used, not from what was allowed and not used.
            let used = self.driven - self.free(now).min(self.driven);
            self.driven = (used * 3 / 4).max(LEAST).min(self.driven);
            (self.late, self.unsure) = (Some(now), Some(now));
        } else if starving && self.driven < self.most && self.unsure.is_none_or(|since| now >= since + CALM) {
            self.driven = self.driven.saturating_add(self.driven / 4 + 1).min(self.most);
            self.unsure = Some(now);
        }
        self.late = self.late.filter(|since| now < *since + SHORT);
        starving && self.free(now) > 0
    }

    /// When to look again, while some would begin.
    pub fn looks_at(&self) -> Option<Instant> {
        self.looked.filter(|_| self.under_way < self.most).map(|at| at + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Attempts begin so late for ten seconds, as many as may and each for a moment: how many in the end.
    fn after(room: &mut Room, late: Duration, begin: Instant) -> usize {
        let lateness = Lateness::default();
        (0..100).for_each(|_| lateness.note(late));
        let mut used = 0;
        for n in 0..1_000 {
            let now = begin + PAUSE * n;
            lateness.note(late);
            used = room.free(now);
            (0..used).for_each(|_| room.begins(now));
            room.learn(&lateness, true, now);
            (0..used).for_each(|_| room.ends(now));
        }
        used
    }

    #[test]
    fn it_holds_back_while_attempts_begin_late_and_lets_go_after() {
        let (mut room, now) = (Room::new(4_096), Instant::now());
        assert_eq!(room.free(now), FIRST);
        assert_eq!(after(&mut room, Duration::from_micros(50), now), 4_096);
        assert_eq!(after(&mut room, MS * 5, now + MS * 10_000), LEAST);
        assert!(room.is_short());
        assert_eq!(after(&mut room, Duration::ZERO, now + MS * 20_000), 4_096);
        assert!(!room.is_short());
    }

    #[test]
    fn a_process_is_short_for_a_while_after_attempts_began_late() {
        let (mut room, now, lateness) = (Room::new(4_096), Instant::now(), Lateness::default());
        (0..100).for_each(|_| lateness.note(MS * 5));
        room.learn(&lateness, true, now);
        (0..100).for_each(|_| lateness.note(Duration::ZERO));
        for (ms, short) in [(10, true), (500, true), (990, true), (1_000, false), (2_000, false)] {
            room.learn(&lateness, true, now + MS * ms);
            assert_eq!(room.is_short(), short, "{ms} ms later");
        }
    }

    #[test]
    fn it_never_allows_more_than_it_may() {
        let (mut room, now) = (Room::new(50), Instant::now());
        assert_eq!(after(&mut room, MS * 5, now), 50);
        assert_eq!(after(&mut room, Duration::ZERO, now + MS * 10_000), 50);
        (0..50).for_each(|_| room.begins(now + MS * 20_000));
        assert_eq!(room.free(now + MS * 30_000), 0);
    }

    #[test]
    fn attempts_that_wait_for_their_receivers_leave_room_for_others() {
        let (mut room, now) = (Room::new(1_000), Instant::now());
        (0..FIRST).for_each(|n| room.begins(now + MS * n as u32 / 100));
        assert_eq!(room.free(now + MS * 3), 0);
        room.ends(now + MS);
        assert_eq!(room.free(now + MS * 3), 1);
        assert_eq!(room.free(now + YOUNG), 101);
        assert_eq!(room.free(now + YOUNG + MS * 2), FIRST);
        assert_eq!(room.under_way(), FIRST - 1);
        // It was not counted any more.
        room.ends(now);
        assert_eq!(room.free(now + YOUNG + MS * 2), FIRST);
        (0..FIRST).for_each(|_| room.begins(now + YOUNG * 2));
        assert_eq!(room.free(now + YOUNG * 4), FIRST);
        (0..FIRST).for_each(|_| room.begins(now + YOUNG * 4));
        assert_eq!(room.free(now + YOUNG * 6), 1_000 - (FIRST * 3 - 2));
    }

    #[test]
    fn what_was_not_used_goes_first_and_what_is_not_wanted_does_not_come() {
        let (mut room, now, lateness) = (Room::new(4_096), Instant::now(), Lateness::default());
        after(&mut room, Duration::ZERO, now);
        (0..100).for_each(|_| lateness.note(MS * 5));
        (0..400).for_each(|_| room.begins(now + MS * 20_000));
        room.learn(&lateness, true, now + MS * 20_000);
        assert!(room.is_short());
        (0..400).for_each(|_| room.ends(now + MS * 20_000));
        assert_eq!(room.free(now + MS * 20_000), 300);
        (0..100).for_each(|_| lateness.note(Duration::ZERO));
        assert!(room.learn(&lateness, true, now + MS * 20_050), "there is room, though not more");
        assert_eq!(room.free(now + MS * 20_050), 300);
        assert!(!room.learn(&lateness, false, now + MS * 20_200), "nobody wants any");
        assert_eq!(room.free(now + MS * 20_200), 300);
        assert!(room.learn(&lateness, true, now + MS * 20_300));
        assert_eq!(room.free(now + MS * 20_300), 376);
    }

    /// All that may be are under way to receivers that hang, and began late: more may begin all the same.
    #[test]
    fn lateness_that_nobody_feels_any_more_is_forgotten() {
        let (mut room, now, lateness) = (Room::new(4_096), Instant::now(), Lateness::default());
        (0..100).for_each(|_| lateness.note(MS * 50));
        (0..FIRST).for_each(|_| room.begins(now));
        assert!(!room.learn(&lateness, true, now));
        assert!(room.looks_at().is_some_and(|at| at > now));
        assert!(room.learn(&lateness, true, now + YOUNG));
        assert!(!room.learn(&lateness, true, now + YOUNG + MS), "too soon to look");
        (0..LEAST * 3).for_each(|_| room.begins(now + YOUNG));
        assert!(!room.learn(&lateness, true, now + YOUNG + PAUSE));
        assert!(room.learn(&lateness, true, now + CALM + PAUSE));
    }
}
