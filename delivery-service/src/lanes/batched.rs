//! A lane in memory whose deliveries go in batches. Pure. It knows every open delivery up to `tail` by
//! its place, most without their bodies, and of each batch who its members are: they are stored as such
//! before its first attempt, so a later holder finds them again.
//!
//! A delivery is *loose* while it waits for a batch. One that waits for its retry without a batch, from
//! before the webhook had a batch policy, is loose once it is due. With BY_USER and STRICT one batch is
//! under way at a time, and the next one starts when the outcome of that is stored.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use common::ids::DeliveryId;

use super::{
    batching::BYTES,
    gate::Pass,
    parcel::{Batch, Parcel},
    window::{WINDOW, WINDOW_BYTES},
};
use crate::{
    delivery::Place,
    queue::Waiting,
    routes::{Batching, Order},
};

#[derive(Debug)]
pub struct Batched {
    pub(super) order: Order,
    pub(super) batching: Batching,
    pub(super) entries: BTreeMap<Place, Entry>,
    /// Where order is kept: the open ones of each key.
    pub(super) keys: HashMap<Arc<str>, BTreeSet<Place>>,
    /// Loose ones by type: how many, and bytes of their bodies.
    pub(super) kinds: HashMap<Arc<str>, (usize, usize)>,
    pub(super) loose: usize,
    /// Of those, asked for again.
    pub(super) loose_asked: usize,
    pub(super) batches: HashMap<DeliveryId, Formed>,
    /// Batches that may start by time, by their first places: with all bodies, and without; and of both,
    /// those that were asked for again.
    pub(super) ready: BTreeMap<Place, DeliveryId>,
    pub(super) bare: BTreeMap<Place, DeliveryId>,
    pub(super) asked: BTreeSet<Place>,
    /// Batches that may have members after `tail`, by the place of their last.
    pub(super) partly: BTreeSet<(Place, DeliveryId)>,
    /// Those that wait for a time.
    pub(super) later: BTreeSet<(Instant, Place)>,
    /// Those that are neither scheduled nor settled in the store.
    pub(super) fresh: BTreeSet<Place>,
    /// Bytes of bodies.
    pub(super) bytes: usize,
    /// Batches that are being stored, under way, or whose outcome is not stored yet.
    pub(super) busy: usize,
    /// Of those, being stored.
    pub(super) storing: usize,
    /// Whether a batch could perhaps be put together, also of what was asked for, and when one could be. While
    /// a loose one waits that is behind none of its key, `look` or `form_at` is set, or more is to be read.
    pub(super) look: bool,
    pub(super) look_asked: bool,
    pub(super) form_at: Option<Instant>,
    /// Who may pass, when that was last told.
    pub(super) pass: Pass,
    pub(super) reads: Reads,
    pub(super) tail: Place,
    pub(super) last: Place,
}

/// What is to be read, and what is being read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Whether the store has some after `tail`, and whether the last scan said so.
    pub unread: bool,
    pub more: bool,
    /// The last place that is known to have one that was asked for again: it is read up to there.
    pub asked_to: Place,
    /// Whether some may have been asked for again; and the same once some that were are stored.
    pub news: bool,
    pub news_later: bool,
    pub reading: bool,
    pub fetching: Vec<Place>,
    /// Where another look at what lies before `tail` is, and when it begins.
    pub again_from: Option<Place>,
    pub rescanning: bool,
    pub again_at: Option<Instant>,
    /// Stored while something was being read: what was read may still name them.
    pub left: Vec<DeliveryId>,
    /// Asked for again while under way.
    pub again: HashSet<DeliveryId>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub id: DeliveryId,
    pub kind: Arc<str>,
    /// `None`: ordered with nobody.
    pub key: Option<Arc<str>>,
    /// Of its body.
    pub size: usize,
    /// Goes in no batch.
    pub alone: bool,
    pub due: Option<Instant>,
    /// It was tried before, or asked for: it waits for no company.
    pub prompt: bool,
    pub asked: bool,
    pub batch: Option<DeliveryId>,
    pub waiting: Option<Box<Waiting>>,
}

#[derive(Debug)]
pub(super) struct Formed {
    pub members: BTreeSet<Place>,
    /// The place of the last there ever was.
    pub last: Place,
    pub phase: Phase,
    /// Members that wait for a time, that were asked for again, and that have no body here.
    pub waiting: usize,
    pub asked: usize,
    pub bare: usize,
    /// One delivery that goes by itself.
    pub alone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    /// Of so many members it is not stored yet that they are.
    Storing(usize),
    /// Under way, or the outcome of so many is not stored yet.
    Busy(usize),
}

impl Batched {
    /// A lane of which all up to `tail` is settled.
    pub fn new(order: Order, batching: Batching, tail: Place) -> Self {
        Self {
            order,
            batching,
            entries: BTreeMap::new(),
            keys: HashMap::new(),
            kinds: HashMap::new(),
            loose: 0,
            loose_asked: 0,
            batches: HashMap::new(),
            ready: BTreeMap::new(),
            bare: BTreeMap::new(),
            asked: BTreeSet::new(),
            partly: BTreeSet::new(),
            later: BTreeSet::new(),
            fresh: BTreeSet::new(),
            bytes: 0,
            busy: 0,
            storing: 0,
            look: false,
            look_asked: false,
            form_at: None,
            pass: Pass::Nobody,
            reads: Reads::default(),
            tail,
            last: tail,
        }
    }

    /// Takes a delivery that has just been stored, when all before it is known.
    pub fn offer(&mut self, delivery: Waiting, before: Place, room: bool) {
        self.last = self.last.max(delivery.place);
        if self.reads.unread || self.reads.reading || before != self.tail || !self.has_room(room) {
            self.reads.unread = true;
            return;
        }
        self.tail = delivery.place;
        let (place, size) = (delivery.place, delivery.body.len());
        let mut entry = self.entry(&delivery.head, None, size);
        let few = self.loose < self.batching.max_events.max(WINDOW);
        let keeps = room && few && self.bytes + size <= WINDOW_BYTES;
        entry.waiting = keeps.then(|| Box::new(delivery));
        self.fresh.insert(place);
        let (kind, alone) = (entry.kind.clone(), entry.alone);
        let leads = entry.key.as_ref().is_none_or(|key| !self.keys.contains_key(key));
        self.attach(place, entry);
        let (count, bytes) = self.kinds.get(&kind).copied().unwrap_or_default();
        let full = count >= self.batching.max_events || bytes >= BYTES;
        self.look |= full || alone || count == 1 || (self.order == Order::Strict && self.kinds.len() > 1);
        // Those of its kind may all be behind others, and wait for no time.
        self.look |= leads && self.form_at.is_none();
    }

    pub fn has_news(&mut self) {
        (self.reads.unread, self.reads.news) = (true, true);
    }

    /// Time has passed: retries have come due, and first ones have waited for long enough.
    pub fn advance(&mut self, now: Instant) {
        while let Some(&(at, place)) = self.later.first()
            && at <= now
        {
            let Some(mut entry) = self.detach(place) else { return };
            entry.due = None;
            self.attach(place, entry);
            self.looks();
        }
        if self.form_at.is_some_and(|at| at <= now) {
            (self.look, self.form_at) = (true, None);
        }
        if self.reads.again_at.is_some_and(|at| at <= now) {
            (self.reads.again_from, self.reads.again_at) = (Some(Place(0)), None);
        }
    }

    /// The next batch that `pass` lets start. It is under way until `stored` or `put_back`.
    pub fn take(&mut self, pass: Pass) -> Option<Parcel> {
        let (_, id) = self.next(pass, &self.ready)?;
        self.hide(id);
        let formed = self.batches.get_mut(&id)?;
        formed.phase = Phase::Busy(formed.members.len());
        let (last, alone) = (formed.last, formed.alone);
        let places: Vec<Place> = formed.members.iter().copied().collect();
        self.busy += 1;
        let mut members = Vec::with_capacity(places.len());
        for place in places {
            let Some(mut entry) = self.detach(place) else { continue };
            members.extend(entry.waiting.take().map(|waiting| *waiting));
            self.attach(place, entry);
        }
        if alone {
            return members.pop().map(Parcel::one);
        }
        members.iter_mut().for_each(|member| member.head.join(id, last));
        let bytes = members.iter().map(|member| member.body.len()).sum();
        Some(Parcel::Batch(Batch { id, members, bytes }))
    }

    /// The first of these batches, by their first places, that `pass` lets start.
    pub(super) fn next(
        &self,
        pass: Pass,
        among: &BTreeMap<Place, DeliveryId>,
    ) -> Option<(Place, DeliveryId)> {
        if pass == Pass::Nobody || (self.order != Order::Unordered && self.busy > 0) {
            return None;
        }
        let leads = |&(_, id): &(Place, DeliveryId)| self.leads(id);
        let mut asked = self.asked.iter().filter_map(|first| Some((*first, *among.get(first)?)));
        asked.find(leads).or_else(|| {
            let mut all = among.iter().map(|(first, id)| (*first, *id));
            (pass != Pass::Asked).then(|| all.find(leads)).flatten()
        })
    }

    /// Whether none stands before its members that they have to wait for.
    fn leads(&self, id: DeliveryId) -> bool {
        let Some(formed) = self.batches.get(&id) else { return false };
        let first_of_key = |place| {
            let key = self.entries.get(place).and_then(|entry| entry.key.as_ref());
            let first = key.and_then(|key| self.keys.get(key)?.first());
            first.is_none_or(|first| formed.members.contains(first))
        };
        self.order == Order::Unordered || formed.members.iter().all(first_of_key)
    }

    /// What was started was not sent after all.
    pub fn put_back(&mut self, parcel: Parcel) {
        let deliveries = match parcel {
            Parcel::One(delivery) => vec![*delivery],
            Parcel::Batch(batch) => batch.members,
        };
        let first = deliveries.first().and_then(|delivery| self.entries.get(&delivery.place));
        let Some(id) = first.and_then(|entry| entry.batch) else { return };
        for delivery in deliveries {
            let place = delivery.place;
            if let Some(mut entry) = self.detach(place) {
                entry.waiting = Some(Box::new(delivery));
                self.attach(place, entry);
            }
        }
        self.is_idle(id);
    }

    /// It is stored that this one is a member of the batch that it was put in.
    pub fn joined(&mut self, place: Place) {
        let Some(id) = self.entries.get(&place).and_then(|entry| entry.batch) else { return };
        if let Some(formed) = self.batches.get_mut(&id)
            && let Phase::Storing(left) = &mut formed.phase
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.is_idle(id);
            }
        }
    }

    /// The outcome of a delivery is stored; `again`: it was scheduled for then.
    pub fn stored(&mut self, id: DeliveryId, place: Place, again: Option<Instant>) {
        self.fresh.remove(&place);
        if self.reads.reading {
            self.reads.left.push(id);
        }
        self.reads.news |= self.reads.again.remove(&id) || std::mem::take(&mut self.reads.news_later);
        let Some(mut entry) = self.detach(place) else { return };
        let batch = entry.batch;
        let formed = batch.and_then(|id| self.batches.get_mut(&id));
        let (mut over, mut alone) = (false, false);
        if let Some(formed) = formed {
            alone = formed.alone;
            if let Phase::Busy(left) = &mut formed.phase {
                *left = left.saturating_sub(1);
                over = *left == 0;
            }
        }
        if again.is_some() {
            (entry.due, entry.asked, entry.prompt) = (again, false, true);
            entry.batch = entry.batch.filter(|_| !alone);
            self.attach(place, entry);
        }
        if over && let Some(id) = batch {
            self.is_idle(id);
        }
        self.looks();
    }

    /// A batch is stored, or neither under way nor unstored any more.
    fn is_idle(&mut self, id: DeliveryId) {
        if let Some(formed) = self.batches.get_mut(&id) {
            self.busy -= usize::from(formed.phase != Phase::Idle);
            self.storing -= usize::from(matches!(formed.phase, Phase::Storing(_)));
            formed.phase = Phase::Idle;
            self.show(id);
        }
        self.looks();
    }

    /// What may go in a batch is another by now.
    pub(super) fn looks(&mut self) {
        (self.look, self.look_asked) = (true, true);
    }

    /// Fresh deliveries up to here are settled once those of `places` are.
    pub fn done_to(&self, places: impl Iterator<Item = Place>) -> Place {
        let settling: BTreeSet<_> = places.collect();
        match self.fresh.iter().find(|place| !settling.contains(place)) {
            Some(first) => Place(first.0 - 1),
            None => self.tail,
        }
    }

    /// Whether something waits to start, or to be put together.
    pub fn waits(&self) -> bool {
        !self.ready.is_empty() || !self.bare.is_empty() || (self.look && self.loose > 0)
    }

    pub fn asked(&self) -> bool {
        !self.asked.is_empty() || self.loose_asked > 0
    }

    /// The same, also where it is still to be read.
    pub fn was_asked(&self) -> bool {
        self.asked() || (self.reads.unread && self.tail < self.reads.asked_to)
    }

    pub fn quiet(&self) -> bool {
        !self.reads.reading && self.busy == 0
    }

    /// Whether nothing could start without news from outside, for now.
    pub fn empty(&self) -> bool {
        let reads = self.reads.unread || self.reads.news || self.reads.again_from.is_some();
        !self.waits() && !reads && self.form_at.is_none()
    }

    /// Of an empty lane: whether some wait for others, rather than for a time or a caller; they may be due.
    pub fn is_blocked(&self) -> bool {
        self.entries.len() > self.later.len()
    }

    pub fn next_scheduled(&self) -> Option<Instant> {
        let due = self.later.first().map(|(at, _)| *at);
        [due, self.form_at, self.reads.again_at].into_iter().flatten().min()
    }

    pub fn known_to(&self) -> (Place, bool) {
        let waits = self.loose > 0 || !self.ready.is_empty() || !self.bare.is_empty();
        (self.last, waits || self.reads.unread || self.reads.news || !self.partly.is_empty())
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
