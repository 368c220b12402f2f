//! A lane in memory whose deliveries go in order: of all (STRICT) or of those with the same key
//! (BY_USER). Pure. It knows every open delivery up to `tail` by its place, most without their bodies,
//! so one that waits for its retry holds back its key alone, also when many wait behind it.
//!
//! A key's next delivery starts only when the outcome of the one before is stored: after a crash none
//! comes after a newer one. What was asked for again goes as soon as its key is free.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use common::ids::DeliveryId;

use super::{gate::Pass, window::WINDOW_BYTES};
use crate::{
    delivery::{Head, Place},
    queue::Waiting,
};

#[derive(Debug, Default)]
pub struct Ordered {
    pub(super) strict: bool,
    pub(super) entries: BTreeMap<Place, Entry>,
    pub(super) keys: HashMap<Arc<str>, Key>,
    /// Those that may start by order and time: with their bodies, and without; and of both, those that were
    /// asked for again.
    pub(super) ready: BTreeSet<Place>,
    pub(super) asked: BTreeSet<Place>,
    pub(super) bare: BTreeSet<Place>,
    pub(super) asked_bare: BTreeSet<Place>,
    /// Those that may start by order, and when by time.
    pub(super) later: BTreeSet<(Instant, Place)>,
    /// Those that are neither scheduled nor settled in the store.
    pub(super) fresh: BTreeSet<Place>,
    /// How many were asked for again, also those that may not start.
    pub(super) were_asked: usize,
    /// Bytes of bodies.
    pub(super) bytes: usize,
    /// Under way, or not stored yet.
    pub(super) busy: usize,
    pub(super) tail: Place,
    pub(super) last: Place,
    pub(super) unread: bool,
    /// The last place that is known to have one that was asked for again: it is read up to there.
    pub(super) asked_to: Place,
    /// Whether some may have been asked for again.
    pub(super) news: bool,
    pub(super) reading: bool,
    pub(super) fetching: Vec<Place>,
    /// Whether the store has some that are not known, before `tail`.
    pub(super) stale: bool,
    /// Stored while something was being read: what was read may still name them.
    pub(super) left: Vec<DeliveryId>,
    /// Asked for again while under way.
    pub(super) again: HashSet<DeliveryId>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: DeliveryId,
    /// `None`: ordered with nobody.
    pub(super) key: Option<Arc<str>>,
    pub(super) due: Option<Instant>,
    pub(super) asked: bool,
    pub(super) busy: bool,
    /// Boxed: most entries have none.
    pub(super) waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
pub(super) struct Key {
    pub(super) places: BTreeSet<Place>,
    pub(super) busy: bool,
}

impl Ordered {
    /// A lane of which all up to `tail` is settled.
    pub fn new(strict: bool, tail: Place) -> Self {
        Self { strict, tail, last: tail, ..Self::default() }
    }

    /// Takes a delivery that has just been stored, when all before it is known.
    pub fn offer(&mut self, delivery: Waiting, before: Place, room: bool) {
        self.last = self.last.max(delivery.place);
        if self.unread || self.reading || before != self.tail || !self.has_room(room) {
            self.unread = true;
            return;
        }
        self.tail = delivery.place;
        let (place, keeps) = (delivery.place, room && self.bytes + delivery.body.len() <= WINDOW_BYTES);
        let mut entry = self.entry(&delivery.head, None);
        entry.waiting = keeps.then(|| Box::new(delivery));
        self.fresh.insert(place);
        self.insert(place, entry);
    }

    pub fn has_news(&mut self) {
        (self.unread, self.news) = (true, true);
    }

    /// The store may have deliveries after `tail`, of which one up to `asked_to` was asked for again.
    pub fn is_unread(&mut self, asked_to: Place) {
        (self.unread, self.asked_to) = (true, asked_to);
    }

    /// Time has passed: retries have come due.
    pub fn advance(&mut self, now: Instant) {
        while let Some(&(at, place)) = self.later.first()
            && at <= now
        {
            self.later.remove(&(at, place));
            if let Some(entry) = self.entries.get_mut(&place) {
                entry.due = None;
            }
            self.show(place);
        }
    }

    /// The next delivery that `pass` lets start. It is under way until `stored` or `put_back`.
    pub fn take(&mut self, pass: Pass) -> Option<Waiting> {
        let place = match pass {
            Pass::Nobody => None,
            Pass::Asked => self.asked.first(),
            Pass::Any | Pass::Probe => self.asked.first().or(self.ready.first()),
        };
        let place = *place?;
        self.hide(place);
        let entry = self.entries.get_mut(&place)?;
        let waiting = entry.waiting.take()?;
        entry.busy = true;
        self.busy += 1;
        self.bytes -= waiting.body.len();
        if let Some(key) = entry.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            key.busy = true;
        }
        Some(*waiting)
    }

    /// A delivery that was started was not sent after all.
    pub fn put_back(&mut self, delivery: Waiting) {
        let place = delivery.place;
        if let Some(entry) = self.entries.get_mut(&place)
            && entry.busy
        {
            self.bytes += delivery.body.len();
            entry.waiting = Some(Box::new(delivery));
            self.free(place);
        }
    }

    /// The outcome of a delivery is stored; `again`: it was scheduled for then.
    pub fn stored(&mut self, id: DeliveryId, place: Place, again: Option<Instant>) {
        self.fresh.remove(&place);
        if self.reading {
            self.left.push(id);
        }
        self.news |= self.again.remove(&id);
        self.hide(place);
        if let Some(entry) = self.entries.get_mut(&place) {
            self.were_asked -= usize::from(entry.asked);
            (entry.due, entry.asked) = (again, false);
            if entry.busy {
                self.free(place);
            }
            if again.is_none() {
                self.remove(place);
            }
        }
    }

    /// Fresh deliveries up to here are settled once those of `places` are.
    pub fn done_to(&self, places: impl Iterator<Item = Place>) -> Place {
        let settling: BTreeSet<_> = places.collect();
        match self.fresh.iter().find(|place| !settling.contains(place)) {
            Some(first) => Place(first.0 - 1),
            None => self.tail,
        }
    }

    pub fn waits(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The same, also behind others, or where it is still to be read.
    pub fn was_asked(&self) -> bool {
        self.were_asked > 0 || (self.unread && self.tail < self.asked_to)
    }

    pub fn quiet(&self) -> bool {
        !self.reading && self.busy == 0
    }

    /// Whether nothing could start without news from outside, for now.
    pub fn empty(&self) -> bool {
        self.ready.is_empty() && self.bare.is_empty() && !self.unread && !self.news
    }

    /// Whether it has to be read anew from its beginning.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Of an empty lane: whether some wait for others, rather than for a time or a caller; they may be due.
    pub fn is_blocked(&self) -> bool {
        self.entries.len() > self.later.len()
    }

    pub fn next_scheduled(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    pub fn known_to(&self) -> (Place, bool) {
        (self.last, self.unread || self.news || !self.ready.is_empty() || !self.bare.is_empty())
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&self, head: &Head, due: Option<Instant>) -> Entry {
        let key = if self.strict { "" } else { &*head.order_key };
        let key = (self.strict || !key.is_empty())
            .then(|| self.keys.get_key_value(key).map_or_else(|| key.into(), |(known, _)| known.clone()));
        Entry { id: head.id(), key, due, asked: head.asked_again, busy: false, waiting: None }
    }

    pub(super) fn insert(&mut self, place: Place, entry: Entry) {
        self.bytes += entry.waiting.as_ref().map_or(0, |waiting| waiting.body.len());
        self.were_asked += usize::from(entry.asked);
        let mut front = None;
        if let Some(name) = &entry.key {
            let key = self.keys.entry(name.clone()).or_default();
            front = key.places.first().copied();
            key.places.insert(place);
        }
        self.entries.insert(place, entry);
        if let Some(front) = front.filter(|front| *front > place) {
            self.hide(front);
        }
        self.show(place);
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.hide(place);
        self.fresh.remove(&place);
        let Some(entry) = self.entries.remove(&place) else { return };
        self.were_asked -= usize::from(entry.asked);
        self.bytes -= entry.waiting.map_or(0, |waiting| waiting.body.len());
        let Some(name) = entry.key else { return };
        let Some(key) = self.keys.get_mut(&name) else { return };
        key.places.remove(&place);
        match key.places.first().copied() {
            Some(front) => self.show(front),
            None => drop(self.keys.remove(&name)),
        }
    }

    /// What was under way is no more: its key's first may start.
    fn free(&mut self, place: Place) {
        let Some(entry) = self.entries.get_mut(&place) else { return };
        entry.busy = false;
        self.busy -= 1;
        let mut first = Some(place);
        if let Some(key) = entry.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            key.busy = false;
            first = key.places.first().copied();
        }
        if let Some(first) = first {
            self.show(first);
        }
    }

    pub(super) fn hide(&mut self, place: Place) {
        self.ready.remove(&place);
        self.asked.remove(&place);
        self.bare.remove(&place);
        self.asked_bare.remove(&place);
        if let Some(due) = self.entries.get(&place).and_then(|entry| entry.due) {
            self.later.remove(&(due, place));
        }
    }

    /// Puts it among those that may start, if it may by order.
    pub(super) fn show(&mut self, place: Place) {
        let Some(entry) = self.entries.get(&place) else { return };
        let key = entry.key.as_ref().and_then(|key| self.keys.get(key));
        let first = key.is_none_or(|key| !key.busy && key.places.first() == Some(&place));
        if entry.busy || !first {
            return;
        }
        match (entry.due, &entry.waiting) {
            (Some(due), _) => drop(self.later.insert((due, place))),
            (None, Some(_)) => {
                self.ready.insert(place);
                if entry.asked {
                    self.asked.insert(place);
                }
            }
            (None, None) => {
                self.bare.insert(place);
                if entry.asked {
                    self.asked_bare.insert(place);
                }
            }
        }
    }
}
