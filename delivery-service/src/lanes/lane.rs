//! A lane that this process holds: one that knows a window of its deliveries, or one that keeps them in
//! order or puts them in batches, and so knows all of them by their places. Pure.

use std::time::Instant;

use common::ids::DeliveryId;

use super::{
    batched::Batched, circuit::Moment, gate::Pass, ordered::Ordered, ordered_reads::Want, parcel::Parcel,
    window::Window,
};
use crate::{
    delivery::Place,
    queue::{Lease, Page, Scan, Waiting},
    routes::{Batching, Order, Policy},
};

/// How a lane is kept, by its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    pub order: Order,
    pub batching: Option<Batching>,
}

impl Manner {
    pub fn of(policy: &Policy) -> Self {
        Self { order: policy.order, batching: policy.batch }
    }
}

#[derive(Debug)]
pub struct Lane {
    pub lease: Lease,
    /// By which it was made: one by another manner is claimed anew.
    pub manner: Manner,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Window(Box<Window>),
    Ordered(Box<Ordered>),
    Batched(Box<Batched>),
}

/// What a lane wants of the store.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// A page after this place, which repeats so many scheduled ones that are known.
    Page {
        after: Place,
        known: usize,
    },
    Ordered(Want),
}

/// What the store answered.
#[derive(Debug)]
pub enum Read {
    Page(Page),
    Scan(Scan),
    Asked(Page),
    Bodies(Vec<Option<Waiting>>),
}

/// What the same question comes to for each kind.
macro_rules! each {
    ($lane:expr, $kind:ident => $answer:expr) => {
        match &$lane.kind {
            Kind::Window($kind) => $answer,
            Kind::Ordered($kind) => $answer,
            Kind::Batched($kind) => $answer,
        }
    };
    (mut $lane:expr, $kind:ident => $answer:expr) => {
        match &mut $lane.kind {
            Kind::Window($kind) => $answer,
            Kind::Ordered($kind) => $answer,
            Kind::Batched($kind) => $answer,
        }
    };
}

impl Lane {
    /// A lane that has just been leased. All deliveries up to `tail` are settled.
    pub fn new(lease: Lease, manner: Manner, tail: Place) -> Self {
        let kind = match (manner.batching, manner.order) {
            (Some(batching), order) => Kind::Batched(Box::new(Batched::new(order, batching, tail))),
            (None, Order::Unordered) => Kind::Window(Box::new(Window::new(tail))),
            (None, Order::ByUser) => Kind::Ordered(Box::new(Ordered::new(false, tail))),
            (None, Order::Strict) => Kind::Ordered(Box::new(Ordered::new(true, tail))),
        };
        Self { lease, manner, kind }
    }

    /// A lane that has just been claimed, with its first page.
    pub fn claimed(lease: Lease, manner: Manner, page: Page, now: Instant) -> Self {
        let mut lane = Self::new(lease, manner, Place(0));
        // They stand in front.
        let asked = page.deliveries.iter().filter(|delivery| delivery.head.asked_again);
        let asked_to = asked.map(|delivery| delivery.place).max().unwrap_or_default();
        match &mut lane.kind {
            Kind::Window(window) => {
                window.reading();
                window.page(page, now);
            }
            // It has to know them all, in order.
            Kind::Ordered(ordered) => ordered.is_unread(asked_to),
            Kind::Batched(batched) => batched.is_unread(asked_to),
        }
        lane
    }

    /// Takes a delivery that has just been stored, when the lane knows all before it and has room.
    pub fn offer(&mut self, delivery: Waiting, before: Place, room: bool) {
        each!(mut self, kind => kind.offer(delivery, before, room));
    }

    pub fn has_news(&mut self) {
        each!(mut self, kind => kind.has_news());
    }

    /// Time has passed.
    pub fn advance(&mut self, now: Instant) {
        match &mut self.kind {
            Kind::Window(_) => {}
            Kind::Ordered(ordered) => ordered.advance(now),
            Kind::Batched(batched) => batched.advance(now),
        }
    }

    /// Puts the next batch together, if one may go: see `Batched::form`.
    pub fn form(
        &mut self,
        pass: Pass,
        ahead: usize,
        room: bool,
        id: DeliveryId,
        at: Moment,
    ) -> Option<Vec<(DeliveryId, Place)>> {
        match &mut self.kind {
            Kind::Batched(batched) => batched.form(pass, ahead, room, id, at),
            Kind::Window(_) | Kind::Ordered(_) => None,
        }
    }

    /// It is stored that a delivery is a member of its batch.
    pub fn joined(&mut self, place: Place) {
        if let Kind::Batched(batched) = &mut self.kind {
            batched.joined(place);
        }
    }

    /// Whether deliveries wait here for others to come.
    pub fn gathers(&self) -> bool {
        matches!(self.kind, Kind::Batched(_))
    }

    /// What is to be read now, one at a time. `room`: whether the process has room for more.
    pub fn asks(&mut self, room: bool, short: bool, now: Instant) -> Option<Ask> {
        match &mut self.kind {
            Kind::Window(window) if short && !window.has_run_dry() => None,
            Kind::Window(window) => {
                let (after, known) = window.wants_page(now)?;
                window.reading();
                Some(Ask::Page { after, known })
            }
            Kind::Ordered(ordered) => {
                let want = ordered.wants(room)?;
                ordered.reading(&want);
                Some(Ask::Ordered(want))
            }
            Kind::Batched(batched) => {
                let want = batched.wants(room)?;
                batched.reading(&want);
                Some(Ask::Ordered(want))
            }
        }
    }

    pub fn reading_failed(&mut self) {
        each!(mut self, kind => kind.reading_failed());
    }

    pub fn read(&mut self, read: Read, now: Instant) {
        match (&mut self.kind, read) {
            (Kind::Window(window), Read::Page(page)) => window.page(page, now),
            (Kind::Ordered(ordered), Read::Scan(scan)) => ordered.scanned(scan, now),
            (Kind::Ordered(ordered), Read::Asked(page)) => ordered.asked_for(page),
            (Kind::Ordered(ordered), Read::Bodies(found)) => ordered.fetched(found),
            (Kind::Batched(batched), Read::Scan(scan)) => batched.scanned(scan, now),
            (Kind::Batched(batched), Read::Asked(page)) => batched.asked_for(page, now),
            (Kind::Batched(batched), Read::Bodies(found)) => batched.fetched(found),
            _ => self.reading_failed(),
        }
    }

    /// The next that `pass` lets start; `short`: the process is short of room.
    pub fn take(&mut self, pass: Pass, short: bool) -> Option<Parcel> {
        match &mut self.kind {
            Kind::Window(window) => window.take(pass, short).map(Parcel::one),
            Kind::Ordered(ordered) => ordered.take(pass).map(Parcel::one),
            Kind::Batched(batched) => batched.take(pass),
        }
    }

    /// Takes what is in memory, whatever holds it back: the lane is being emptied.
    pub fn take_all(&mut self) -> Vec<Waiting> {
        match &mut self.kind {
            Kind::Window(window) => window.take_all(),
            Kind::Ordered(_) | Kind::Batched(_) => Vec::new(),
        }
    }

    pub fn put_back(&mut self, parcel: Parcel) {
        match (&mut self.kind, parcel) {
            (Kind::Window(window), Parcel::One(delivery)) => window.put_back(*delivery),
            (Kind::Ordered(ordered), Parcel::One(delivery)) => ordered.put_back(*delivery),
            (Kind::Batched(batched), parcel) => batched.put_back(parcel),
            // There was none.
            (Kind::Window(_) | Kind::Ordered(_), Parcel::Batch(_)) => {}
        }
    }

    /// The outcome of a delivery is stored; `again`: it was scheduled for then.
    pub fn stored(&mut self, id: DeliveryId, place: Place, again: Option<Instant>) {
        each!(mut self, kind => kind.stored(id, place, again));
    }

    /// Fresh deliveries up to here are settled once those of `places` are.
    pub fn done_to(&self, places: impl Iterator<Item = Place>) -> Place {
        each!(self, kind => kind.done_to(places))
    }

    /// Whether something in memory waits to start.
    pub fn waits(&self) -> bool {
        each!(self, kind => kind.waits())
    }

    /// Whether something waits that was asked for again.
    pub fn asked(&self) -> bool {
        each!(self, kind => kind.asked())
    }

    /// Whether any was asked for again, also one that has to wait for others: no hold keeps the store from
    /// having the lane due.
    pub fn was_asked(&self) -> bool {
        match &self.kind {
            Kind::Ordered(ordered) => ordered.was_asked(),
            Kind::Batched(batched) => batched.was_asked(),
            Kind::Window(window) => window.asked(),
        }
    }

    /// Whether nothing is read or unstored.
    pub fn quiet(&self) -> bool {
        each!(self, kind => kind.quiet())
    }

    /// Whether nothing could start without news from outside, for now.
    pub fn empty(&self) -> bool {
        each!(self, kind => kind.empty())
    }

    /// Whether nothing is left but one outcome that is being stored.
    pub fn is_spent(&self) -> bool {
        matches!(&self.kind, Kind::Window(window) if window.is_spent())
    }

    /// Whether it has to be claimed anew.
    pub fn is_stale(&self) -> bool {
        matches!(&self.kind, Kind::Ordered(ordered) if ordered.is_stale())
    }

    /// Of an empty lane: whether some wait for others to be settled.
    pub fn is_blocked(&self) -> bool {
        match &self.kind {
            Kind::Window(_) => false,
            Kind::Ordered(ordered) => ordered.is_blocked(),
            Kind::Batched(batched) => batched.is_blocked(),
        }
    }

    pub fn next_scheduled(&self) -> Option<Instant> {
        each!(self, kind => kind.next_scheduled())
    }

    /// The last place known, and whether the store may have more that could start.
    pub fn known_to(&self) -> (Place, bool) {
        each!(self, kind => kind.known_to())
    }

    /// Bytes of bodies that wait in memory.
    pub fn bytes(&self) -> usize {
        each!(self, kind => kind.bytes())
    }

    /// Deliveries that are known by their places alone.
    pub fn entries(&self) -> usize {
        match &self.kind {
            Kind::Window(_) => 0,
            Kind::Ordered(ordered) => ordered.len(),
            Kind::Batched(batched) => batched.len(),
        }
    }
}
