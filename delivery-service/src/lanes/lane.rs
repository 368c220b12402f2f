//! A lane that this process holds: one that knows a window of its deliveries, or one that keeps them
//! in order and so knows all of them by their places. Pure.

use std::time::Instant;

use common::ids::DeliveryId;

use super::{gate::Pass, ordered::Ordered, ordered_reads::Want, window::Window};
use crate::{
    delivery::Place,
    queue::{Lease, Page, Scan, Waiting},
    routes::Order,
};

#[derive(Debug)]
pub struct Lane {
    pub lease: Lease,
    /// By which it was made: one by another order is claimed anew.
    pub order: Order,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Window(Box<Window>),
    Ordered(Box<Ordered>),
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
        }
    };
    (mut $lane:expr, $kind:ident => $answer:expr) => {
        match &mut $lane.kind {
            Kind::Window($kind) => $answer,
            Kind::Ordered($kind) => $answer,
        }
    };
}

impl Lane {
    /// A lane that has just been leased. All deliveries up to `tail` are settled.
    pub fn new(lease: Lease, order: Order, tail: Place) -> Self {
        let kind = match order {
            Order::Unordered => Kind::Window(Box::new(Window::new(tail))),
            Order::ByUser => Kind::Ordered(Box::new(Ordered::new(false, tail))),
            Order::Strict => Kind::Ordered(Box::new(Ordered::new(true, tail))),
        };
        Self { lease, order, kind }
    }

    /// A lane that has just been claimed, with its first page.
    pub fn claimed(lease: Lease, order: Order, page: Page, now: Instant) -> Self {
        let mut lane = Self::new(lease, order, Place(0));
        match &mut lane.kind {
            Kind::Window(window) => {
                window.reading();
                window.page(page, now);
            }
            // It has to know them all, in order.
            Kind::Ordered(ordered) => ordered.is_unread(),
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
        if let Kind::Ordered(ordered) = &mut self.kind {
            ordered.advance(now);
        }
    }

    /// What is to be read now, one at a time. `room`: whether the process has room for more.
    pub fn asks(&mut self, room: bool, now: Instant) -> Option<Ask> {
        match &mut self.kind {
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
            _ => self.reading_failed(),
        }
    }

    /// The next delivery that `pass` lets start; `short`: the process is short of room.
    pub fn take(&mut self, pass: Pass, short: bool) -> Option<Waiting> {
        match &mut self.kind {
            Kind::Window(window) => window.take(pass, short),
            Kind::Ordered(ordered) => ordered.take(pass),
        }
    }

    /// Takes what is in memory, whatever holds it back: the lane is being emptied.
    pub fn take_all(&mut self) -> Vec<Waiting> {
        match &mut self.kind {
            Kind::Window(window) => window.take_all(),
            Kind::Ordered(_) => Vec::new(),
        }
    }

    pub fn put_back(&mut self, delivery: Waiting) {
        each!(mut self, kind => kind.put_back(delivery));
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

    /// Whether nothing is read or unstored.
    pub fn quiet(&self) -> bool {
        each!(self, kind => kind.quiet())
    }

    /// Whether nothing could start without news from outside, for now.
    pub fn empty(&self) -> bool {
        each!(self, kind => kind.empty())
    }

    /// Whether it has to be claimed anew.
    pub fn is_stale(&self) -> bool {
        matches!(&self.kind, Kind::Ordered(ordered) if ordered.is_stale())
    }

    /// Whether some wait for others to be settled.
    pub fn is_blocked(&self) -> bool {
        matches!(&self.kind, Kind::Ordered(ordered) if ordered.is_blocked())
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
        }
    }
}
