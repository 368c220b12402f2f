//! What a lane of batches reads of the store: the open deliveries in order of place, those that were
//! asked for again, and the bodies of a batch that is about to go. Pure; one read at a time.

use std::time::{Duration, Instant};

use common::ids::DeliveryId;

use super::{
    batched::{Batched, Formed, Phase},
    ordered_reads::{ENTRIES, FEW_ENTRIES, Want},
    window::WINDOW,
};
use crate::{
    delivery::{Head, Place},
    queue::{Page, Scan, Waiting},
    routes::Order,
};

/// Batches whose bodies are in memory before more are fetched.
const READY: usize = 2;
/// How often what lies before `tail` is looked at once more.
const AGAIN: Duration = Duration::from_secs(10);

impl Batched {
    /// The store may have deliveries after `tail`, of which one up to `asked_to` was asked for again.
    pub fn is_unread(&mut self, asked_to: Place) {
        (self.reads.unread, self.reads.more, self.reads.asked_to) = (true, true, asked_to);
    }

    /// What to read now. `room`: whether the process has room for more.
    pub fn wants(&mut self, room: bool) -> Option<Want> {
        if self.reads.reading {
            return None;
        }
        // Those with bodies may be held back, or behind others.
        if (self.ready.len() < READY || self.next(self.pass, &self.ready).is_none())
            && let Some((_, id)) = self.next(self.pass, &self.bare)
        {
            return Some(Want::Fetch(self.bodies_of(id)));
        }
        if self.reads.news {
            return Some(Want::Asked);
        }
        if let Some(after) = self.reads.again_from {
            return Some(Want::Scan { after });
        }
        let few = !self.look || self.loose < 2 * self.batching.max_events || !self.partly.is_empty();
        let few = few || self.tail < self.reads.asked_to;
        (self.reads.unread && few && self.has_room(room)).then_some(Want::Scan { after: self.tail })
    }

    pub(super) fn has_room(&self, room: bool) -> bool {
        let two = 2 * self.batching.max_events;
        let most = match (self.order, room) {
            (Order::Strict, _) => two.max(2 * WINDOW),
            (_, true) => ENTRIES,
            (_, false) => two.max(FEW_ENTRIES),
        };
        // A batch goes when all of it is known.
        self.entries.len() < most || !self.partly.is_empty()
    }

    fn bodies_of(&mut self, id: DeliveryId) -> Vec<DeliveryId> {
        let members = self.batches.get(&id).into_iter().flat_map(|formed| &formed.members);
        let bare = members.filter_map(|place| Some((*place, self.entries.get(place)?)));
        let bare = bare.filter(|(_, entry)| entry.waiting.is_none());
        let (places, ids) = bare.map(|(place, entry)| (place, entry.id)).unzip();
        self.reads.fetching = places;
        ids
    }

    /// What `wants` said is being read.
    pub fn reading(&mut self, want: &Want) {
        self.reads.reading = true;
        match want {
            Want::Scan { .. } => {
                self.reads.rescanning = self.reads.again_from.is_some();
                self.reads.unread &= self.reads.rescanning;
            }
            Want::Asked => self.reads.news = false,
            Want::Fetch(_) => {}
        }
    }

    pub fn reading_failed(&mut self) {
        (self.reads.reading, self.reads.rescanning) = (false, false);
        (self.reads.unread, self.reads.news) = (true, true);
        self.reads.fetching.clear();
        self.reads.left.clear();
    }

    pub fn scanned(&mut self, scan: Scan, now: Instant) {
        self.reads.reading = false;
        let left = std::mem::take(&mut self.reads.left);
        let again = std::mem::take(&mut self.reads.rescanning);
        for open in scan.open {
            let id = open.head.id();
            let known = self.entries.contains_key(&open.place) || left.contains(&id);
            if known || (again && open.place > self.tail) {
                continue;
            }
            let due = open.due.map(|after| now + after).filter(|_| !open.head.asked_again);
            if open.due.is_none() {
                self.fresh.insert(open.place);
            }
            let mut entry = self.entry(&open.head, due, open.head.body_bytes as usize);
            entry.prompt |= open.due.is_some();
            self.gather(&open.head);
            self.attach(open.place, entry);
        }
        if again {
            self.reads.again_from = (scan.more && scan.read_to < self.tail).then_some(scan.read_to);
        } else {
            self.tail = self.tail.max(scan.read_to);
            self.last = self.last.max(self.tail);
            self.reads.more = scan.more;
            self.reads.unread |= scan.more || self.last > self.tail;
        }
        self.complete();
        self.looks();
    }

    /// Sees to it that a stored batch is known before its first member is.
    fn gather(&mut self, head: &Head) {
        if let Some((id, last)) = head.batch() {
            self.hide(id);
            let formed = self.batches.entry(id).or_insert_with(|| Formed::new(last));
            formed.last = formed.last.max(last);
        }
    }

    /// Batches of which all members are known by now may go.
    fn complete(&mut self) {
        while let Some(&(last, id)) = self.partly.first()
            && last <= self.tail
        {
            self.partly.remove(&(last, id));
            self.show(id);
        }
    }

    /// What was fetched of the wanted ones, in their order; `None` is no longer there.
    pub fn fetched(&mut self, found: Vec<Option<Waiting>>) {
        self.reads.reading = false;
        self.reads.left.clear();
        for (place, found) in std::mem::take(&mut self.reads.fetching).into_iter().zip(found) {
            let batch = self.entries.get(&place).filter(|entry| entry.waiting.is_none());
            let formed = batch.and_then(|entry| self.batches.get(&entry.batch?));
            if formed.is_none_or(|formed| formed.phase != Phase::Idle) {
                continue;
            }
            match found {
                Some(waiting) => {
                    let Some(mut entry) = self.detach(place) else { continue };
                    entry.asked = waiting.head.asked_again;
                    entry.waiting = Some(Box::new(waiting));
                    self.attach(place, entry);
                }
                None => self.lose(place),
            }
        }
    }

    /// Takes those of a page that were asked for again, and those that had failed and are to be retried.
    pub fn asked_for(&mut self, page: Page, now: Instant) {
        self.reads.reading = false;
        if page.more {
            // Others may stand behind these: asked for too, or else some that had failed.
            if page.deliveries.last().is_some_and(|last| last.head.asked_again) {
                self.reads.news_later = true;
            } else if self.reads.again_from.is_none() {
                self.reads.again_at.get_or_insert(now + AGAIN);
            }
        }
        let left = std::mem::take(&mut self.reads.left);
        for delivery in page.deliveries {
            let (id, place, asked) = (delivery.head.id(), delivery.place, delivery.head.asked_again);
            let known = self.entries.get(&place);
            if asked {
                self.reads.asked_to = self.reads.asked_to.max(place);
            }
            if place > self.tail || left.contains(&id) || (known.is_some() && !asked) {
                continue;
            }
            let busy = known.and_then(|entry| self.batches.get(&entry.batch?));
            if busy.is_some_and(|formed| matches!(formed.phase, Phase::Busy(_))) {
                self.reads.again.insert(id);
                continue;
            }
            let known = self.detach(place);
            self.fresh.remove(&place);
            self.gather(&delivery.head);
            let mut entry = self.entry(&delivery.head, None, delivery.body.len());
            // What goes by itself has a batch here alone.
            entry.batch = entry.batch.or(known.and_then(|entry| entry.batch));
            (entry.prompt, entry.waiting) = (true, Some(Box::new(delivery)));
            self.attach(place, entry);
        }
        self.complete();
        self.looks();
    }
}
