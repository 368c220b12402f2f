//! What an ordered lane reads of the store: the open deliveries in order of place, those that were
//! asked for again, and the bodies of those that could start. Pure; one read at a time.

use std::time::Instant;

use common::ids::DeliveryId;

use super::{
    ordered::Ordered,
    window::{WINDOW, WINDOW_BYTES},
};
use crate::{
    delivery::Place,
    queue::{Page, Scan, Waiting},
};

/// Deliveries that a lane knows at most when they are ordered by key.
pub const ENTRIES: usize = 100_000;
/// The same when the process knows too many.
pub const FEW_ENTRIES: usize = 1_000;
/// Bodies that are fetched in one go.
const FETCH: usize = 64;
/// More bodies are fetched when fewer deliveries than this could start.
const LOW: usize = 32;

/// What an ordered lane wants of the store.
#[derive(Debug, PartialEq, Eq)]
pub enum Want {
    Scan { after: Place },
    Asked,
    Fetch(Vec<DeliveryId>),
}

impl Ordered {
    /// What to read now. `room`: whether the process has room for more.
    pub fn wants(&mut self, room: bool) -> Option<Want> {
        if self.reading {
            return None;
        }
        // However many others could start: they may be held back.
        let asked = !self.asked_bare.is_empty() && self.asked.len() < LOW;
        if asked || (!self.bare.is_empty() && self.ready.len() < LOW) {
            return Some(Want::Fetch(self.bodies_wanted()));
        }
        if self.news {
            return Some(Want::Asked);
        }
        let few = self.ready.len() + self.bare.len() < WINDOW || self.tail < self.asked_to;
        (self.unread && few && self.has_room(room)).then_some(Want::Scan { after: self.tail })
    }

    pub(super) fn has_room(&self, room: bool) -> bool {
        let most = match (self.strict, room) {
            (true, _) => 2 * WINDOW,
            (false, true) => ENTRIES,
            (false, false) => FEW_ENTRIES,
        };
        self.entries.len() < most
    }

    /// Bodies of those that could start, and of those that come next.
    fn bodies_wanted(&mut self) -> Vec<DeliveryId> {
        if self.bytes >= WINDOW_BYTES / 2 {
            self.shed();
        }
        let others = self.bare.difference(&self.asked_bare);
        let mut places: Vec<Place> = self.asked_bare.iter().chain(others).copied().take(FETCH).collect();
        if self.bytes < WINDOW_BYTES / 2
            && let Some(&first) = self.bare.first()
        {
            let next = self.entries.range(first..).take(4 * FETCH);
            let next = next.filter(|(place, e)| e.waiting.is_none() && !e.busy && !self.bare.contains(place));
            let room = FETCH - places.len();
            places.extend(next.map(|(place, _)| *place).take(room));
        }
        let ids = places.iter().filter_map(|place| self.entries.get(place)).map(|entry| entry.id).collect();
        self.fetching = places;
        ids
    }

    /// Lets go of bodies that are not needed next.
    fn shed(&mut self) {
        for (place, entry) in self.entries.iter_mut().rev() {
            if self.bytes < WINDOW_BYTES / 4 {
                return;
            }
            if !self.ready.contains(place)
                && let Some(waiting) = entry.waiting.take()
            {
                self.bytes -= waiting.body.len();
            }
        }
    }

    /// What `wants` said is being read.
    pub fn reading(&mut self, want: &Want) {
        self.reading = true;
        match want {
            Want::Scan { .. } => self.unread = false,
            Want::Asked => self.news = false,
            Want::Fetch(_) => {}
        }
    }

    pub fn reading_failed(&mut self) {
        (self.reading, self.unread, self.news) = (false, true, true);
        self.fetching.clear();
        self.left.clear();
    }

    pub fn scanned(&mut self, scan: Scan, now: Instant) {
        self.reading = false;
        self.left.clear();
        for open in scan.open {
            if open.place > self.tail {
                let due = open.due.map(|after| now + after).filter(|_| !open.head.asked_again);
                if open.due.is_none() {
                    self.fresh.insert(open.place);
                }
                let entry = self.entry(&open.head, due);
                self.insert(open.place, entry);
            }
        }
        self.tail = self.tail.max(scan.read_to);
        self.last = self.last.max(self.tail);
        self.unread |= scan.more || self.last > self.tail;
    }

    /// What was fetched of the wanted ones, in their order; `None` is no longer there.
    pub fn fetched(&mut self, found: Vec<Option<Waiting>>) {
        self.reading = false;
        self.left.clear();
        for (place, found) in std::mem::take(&mut self.fetching).into_iter().zip(found) {
            match (self.entries.get_mut(&place), found) {
                (Some(entry), Some(waiting)) if !entry.busy && entry.waiting.is_none() => {
                    self.bytes += waiting.body.len();
                    self.were_asked -= usize::from(entry.asked);
                    entry.asked = waiting.head.asked_again;
                    self.were_asked += usize::from(entry.asked);
                    entry.waiting = Some(Box::new(waiting));
                    self.hide(place);
                    self.show(place);
                }
                (Some(entry), None) if !entry.busy => self.remove(place),
                _ => {}
            }
        }
    }

    /// Takes those of a page that were asked for again, and those that had failed and are to be retried.
    pub fn asked_for(&mut self, page: Page) {
        self.reading = false;
        // There may be others that had failed: too many to find them among those that are known.
        self.stale |= page.more;
        let left = std::mem::take(&mut self.left);
        for delivery in page.deliveries {
            let (id, place) = (delivery.head.id(), delivery.place);
            let (asked, known) = (delivery.head.asked_again, self.entries.contains_key(&place));
            if asked {
                self.asked_to = self.asked_to.max(place);
            }
            if place > self.tail || left.contains(&id) || (known && !asked) {
                continue;
            }
            if self.entries.get(&place).is_some_and(|entry| entry.busy) {
                self.again.insert(id);
                continue;
            }
            // One that had failed comes back to its place.
            if known {
                self.remove(place);
            }
            let mut entry = self.entry(&delivery.head, None);
            entry.waiting = Some(Box::new(delivery));
            self.insert(place, entry);
        }
    }
}
