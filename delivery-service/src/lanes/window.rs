//! A lane in memory whose deliveries go as they come, as its holder knows it: which deliveries it has, and which comes next. Pure: no clock, no store, no network. It keeps a bounded window; the rest of a backlog
//! stays in the store, and `wants_page` says when more of it should be read.

use std::{collections::VecDeque, time::Instant};

use common::ids::{DeliveryId, Ids};

use super::gate::Pass;
use crate::{
    delivery::Place,
    queue::{Page, Waiting},
};

/// Fresh deliveries that a window holds.
pub const WINDOW: usize = 256;
/// Bytes of bodies that a window holds, however many deliveries.
pub const WINDOW_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct Window {
    /// In order of place.
    fresh: VecDeque<Waiting>,
    /// Scheduled ones that have come due; those that were asked for again stand in front.
    due: VecDeque<Waiting>,
    /// Bodies of `fresh` and `due`.
    bytes: usize,
    /// Scheduled ones that were read and whose outcome is not stored yet: the store names them again.
    known: Ids<DeliveryId>,
    /// Those that left `known` while a page was being read: that page may still name them.
    left: Vec<DeliveryId>,
    /// Asked for again while under way: once their outcome is stored, the store may have them due.
    again: Ids<DeliveryId>,
    /// Places of fresh ones that are in memory, under way, or not stored yet; sorted.
    open: VecDeque<Place>,
    /// All fresh ones up to here have been read.
    tail: Place,
    /// The last place that anyone told of.
    last: Place,
    /// Whether the store has deliveries that could start and are not in memory.
    unread: bool,
    reading: bool,
    /// When a scheduled one that is not in memory is due.
    next_scheduled: Option<Instant>,
}

impl Window {
    /// A lane that has just been leased. All fresh deliveries up to `tail` are settled.
    pub fn new(tail: Place) -> Self {
        Self {
            fresh: VecDeque::new(),
            due: VecDeque::new(),
            bytes: 0,
            known: Ids::default(),
            left: Vec::new(),
            again: Ids::default(),
            open: VecDeque::new(),
            tail,
            last: tail,
            unread: false,
            reading: false,
            next_scheduled: None,
        }
    }

    /// Takes a delivery that has just been stored, when the lane knows all before it and has room;
    /// otherwise remembers that the store has more. `memory`: whether the process has room too.
    pub fn offer(&mut self, delivery: Waiting, before: Place, memory: bool) {
        self.last = self.last.max(delivery.place);
        let room = (memory || self.fresh.is_empty())
            && self.fresh.len() < WINDOW
            && self.bytes + delivery.body.len() <= WINDOW_BYTES;
        if self.unread || self.reading || before != self.tail || !room {
            self.unread = true;
            return;
        }
        self.tail = delivery.place;
        self.push_fresh(delivery);
    }

    /// The store has something that the lane does not know of.
    pub fn has_news(&mut self) {
        self.unread = true;
    }

    /// Whether a page should be read now; `after`, how many known ones it will repeat.
    pub fn wants_page(&self, now: Instant) -> Option<(Place, usize)> {
        let low = self.is_low();
        let due = self.next_scheduled.is_some_and(|at| at <= now);
        (!self.reading && low && (self.unread || due)).then_some((self.tail, self.known.len()))
    }

    pub fn reading(&mut self) {
        self.reading = true;
        self.unread = false;
        self.next_scheduled = None;
    }

    pub fn reading_failed(&mut self) {
        self.reading = false;
        self.unread = true;
        self.left.clear();
    }

    /// Takes a page: what was read after `tail`, and due scheduled ones.
    pub fn page(&mut self, page: Page, now: Instant) {
        self.reading = false;
        for delivery in page.deliveries {
            if delivery.scheduled {
                self.push_scheduled(delivery);
            } else if delivery.place > self.tail {
                self.push_fresh(delivery);
            }
        }
        self.left.clear();
        self.tail = self.tail.max(page.read_to);
        self.last = self.last.max(self.tail);
        self.unread |= page.more || self.last > self.tail;
        if let Some(after) = page.next_scheduled {
            self.schedule(now + after);
        }
    }

    fn is_low(&self) -> bool {
        self.fresh.len() + self.due.len() < WINDOW / 2 && self.bytes < WINDOW_BYTES / 2
    }

    /// Whether nothing can start before a page has been read: what is in memory has been taken, but for a retry that
    /// fresh ones may go before.
    pub fn has_run_dry(&self) -> bool {
        self.fresh.is_empty() && self.due.front().is_none_or(|due| self.is_later(due))
    }

    /// Whether the store may have fresh ones that were due before this one.
    fn is_later(&self, due: &Waiting) -> bool {
        due.head.next_attempt_ms > self.tail.time().0
    }

    /// Whether the store may have fresh ones that were due before the retry in front.
    fn waits_for_fresh(&self) -> bool {
        self.fresh.is_empty()
            && (self.reading || self.unread)
            && self.is_low()
            && self.due.front().is_some_and(|due| self.is_later(due))
    }

    /// The next delivery that `pass` lets start; `short`: the process is short of room, and first
    /// attempts go before retries. It is under way until `stored` or `put_back`.
    pub fn take(&mut self, pass: Pass, short: bool) -> Option<Waiting> {
        let asked = self.asked();
        let from_due = match pass {
            Pass::Nobody => return None,
            _ if asked => true,
            Pass::Asked => return None,
            // In order of when they were due; a fresh one is due since it was accepted. Those that are still
            // to be read are waited for, unless so many retries are due that there is no room for them.
            _ if self.waits_for_fresh() => return None,
            Pass::Any | Pass::Probe => match (self.due.front(), self.fresh.front()) {
                (Some(due), Some(fresh)) => {
                    !(short && pass == Pass::Any) && due.head.next_attempt_ms <= fresh.place.time().0
                }
                (due, _) => due.is_some(),
            },
        };
        let delivery = if from_due { self.due.pop_front() } else { self.fresh.pop_front() }?;
        self.bytes -= delivery.body.len();
        Some(delivery)
    }

    /// Whether something waits that was asked for again.
    pub fn asked(&self) -> bool {
        self.due.front().is_some_and(|d| d.head.asked_again)
    }

    /// Takes what is in memory, whatever holds it back: the lane is being emptied.
    pub fn take_all(&mut self) -> Vec<Waiting> {
        self.bytes = 0;
        self.due.drain(..).chain(self.fresh.drain(..)).collect()
    }

    /// A delivery that was started was not sent after all.
    pub fn put_back(&mut self, delivery: Waiting) {
        self.bytes += delivery.body.len();
        if delivery.scheduled {
            self.due.push_front(delivery);
        } else {
            let at = self.fresh.partition_point(|d| d.place < delivery.place);
            self.fresh.insert(at, delivery);
        }
    }

    /// The outcome of a delivery is stored; `again`: it was scheduled for then.
    pub fn stored(&mut self, id: DeliveryId, place: Place, again: Option<Instant>) {
        self.close(place);
        if self.known.remove(&id) && self.reading {
            self.left.push(id);
        }
        self.unread |= self.again.remove(&id);
        if let Some(at) = again {
            self.schedule(at);
        }
    }

    /// Fresh deliveries up to here are settled once those of `places` are.
    pub fn done_to(&self, places: impl Iterator<Item = Place>) -> Place {
        let mut settling: Vec<_> = places.collect();
        settling.sort_unstable();
        match self.open.iter().find(|place| settling.binary_search(place).is_err()) {
            Some(first) => Place(first.0 - 1),
            None => self.tail,
        }
    }

    /// Whether something in memory waits to start.
    pub fn waits(&self) -> bool {
        !self.fresh.is_empty() || !self.due.is_empty()
    }

    /// Whether nothing is under way or unstored: the lease could be given back.
    pub fn quiet(&self) -> bool {
        let stored = self.known.len() == self.due.len() && self.open.len() == self.fresh.len();
        !self.reading && stored
    }

    /// Whether nothing is left but one outcome that is being stored.
    pub fn is_spent(&self) -> bool {
        self.empty()
            && !self.reading
            && self.known.is_empty()
            && self.next_scheduled.is_none()
            && self.open.len() == 1
    }

    /// Whether nothing could start without news from outside, for now.
    pub fn empty(&self) -> bool {
        self.fresh.is_empty() && self.due.is_empty() && !self.unread
    }

    pub fn next_scheduled(&self) -> Option<Instant> {
        self.next_scheduled
    }

    /// The last place known, and whether the store may have more that could start.
    pub fn known_to(&self) -> (Place, bool) {
        (self.last, self.unread || !self.fresh.is_empty() || !self.due.is_empty())
    }

    /// Bytes of bodies that wait in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn schedule(&mut self, at: Instant) {
        self.next_scheduled = Some(self.next_scheduled.map_or(at, |next| next.min(at)));
    }

    fn push_fresh(&mut self, delivery: Waiting) {
        let at = self.open.partition_point(|place| *place < delivery.place);
        self.open.insert(at, delivery.place);
        self.bytes += delivery.body.len();
        if self.fresh.capacity() == 0 {
            // Most lanes have one at a time.
            self.fresh.reserve_exact(1);
        }
        self.fresh.push_back(delivery);
    }

    /// What was scheduled and has come due, or was asked for again wherever it stood.
    fn push_scheduled(&mut self, delivery: Waiting) {
        let (id, place, asked) = (delivery.head.id(), delivery.place, delivery.head.asked_again);
        if self.left.contains(&id) {
            return;
        }
        if let Some(at) = self.fresh.iter().position(|d| d.place == place) {
            let older = self.fresh.remove(at);
            self.forget_body(older);
            self.close(place);
        } else if asked && self.known.contains(&id) {
            let Some(at) = self.due.iter().position(|d| d.place == place) else {
                self.again.insert(id);
                return;
            };
            let older = self.due.remove(at);
            self.forget_body(older);
            self.known.remove(&id);
        } else if self.open.binary_search(&place).is_ok() {
            if asked {
                self.again.insert(id);
            }
            return;
        }
        if !self.known.insert(id) {
            return;
        }
        self.bytes += delivery.body.len();
        if asked {
            self.due.push_front(delivery);
        } else {
            self.due.push_back(delivery);
        }
    }

    fn close(&mut self, place: Place) {
        if let Ok(at) = self.open.binary_search(&place) {
            self.open.remove(at);
        }
    }

    fn forget_body(&mut self, delivery: Option<Waiting>) {
        self.bytes -= delivery.map_or(0, |d| d.body.len());
    }
}
