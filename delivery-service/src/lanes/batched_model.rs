//! A lane of batches under random operations, with crashes, against a small store that knows what is open:
//! all of it arrives, in order where that is kept, and a batch keeps its members.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{batched::Batched, circuit::Moment, gate::Pass, ordered_reads::Want, parcel::Parcel};
use crate::{
    delivery::{Head, Place},
    queue::{Open, Page, Scan, Waiting},
    routes::{Batching, Order},
};

const STEPS: usize = 400;
const RETRY: Duration = Duration::from_millis(300);
/// What one read names at most.
const PAGE: usize = 7;

struct Record {
    head: Head,
    due: Option<Instant>,
    under_way: bool,
}

struct Model {
    random: StdRng,
    order: Order,
    batching: Batching,
    at: Moment,
    lane: Batched,
    store: BTreeMap<Place, Record>,
    last: Place,
    under_way: Vec<Parcel>,
    /// Members by batch, since its first attempt.
    members: HashMap<DeliveryId, BTreeSet<Place>>,
    cancelled: BTreeSet<Place>,
    stale: bool,
    made: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let order = [Order::Unordered, Order::ByUser, Order::Strict][random.random_range(0..3)];
        let max_delay = Duration::from_millis(random.random_range(0..100));
        let max_events = if random.random() { random.random_range(1..6) } else { 30 };
        let batching = Batching { max_events, max_delay, one_type: random.random() };
        let at = Moment { now: Instant::now(), time: Time(1_800_000_000_000) };
        Self {
            random,
            order,
            batching,
            at,
            lane: Batched::new(order, batching, Place(0)),
            store: BTreeMap::new(),
            last: Place(0),
            under_way: Vec::new(),
            members: HashMap::new(),
            cancelled: BTreeSet::new(),
            stale: false,
            made: 0,
        }
    }

    fn id(&mut self) -> DeliveryId {
        self.made += 1;
        DeliveryId::new(0, 0, self.made)
    }

    /// `told`: the lane is handed it; otherwise it hears that there is something.
    fn accept(&mut self, told: bool) {
        let mut head = Head::new(self.id(), WebhookId::new(1, 1));
        head.order_key = ["", "u", "v", "w"][self.random.random_range(0..4)].into();
        head.event_type = ["a", "b"][self.random.random_range(0..2)].into();
        let (before, place) = (self.last, Place::next(self.last, self.at.time));
        self.last = place;
        self.store.insert(place, Record { head: head.clone(), due: None, under_way: false });
        if told {
            let delivery = Waiting { head, body: Bytes::from_static(b"{}"), place, scheduled: false };
            self.lane.offer(delivery, before, self.random.random());
        } else {
            self.lane.has_news();
        }
    }

    fn waiting(&self, place: Place) -> Option<Waiting> {
        let record = self.store.get(&place)?;
        let scheduled = record.due.is_some();
        Some(Waiting { head: record.head.clone(), body: Bytes::from_static(b"{}"), place, scheduled })
    }

    /// Forms, reads and starts what it may.
    fn work(&mut self) {
        self.lane.advance(self.at.now);
        if self.stale {
            if self.lane.quiet() {
                self.claim();
            }
            return;
        }
        let batch = self.id();
        if let Some(members) = self.lane.form(Pass::Any, 2, true, batch, self.at) {
            let last = members.last().map(|(_, place)| *place).unwrap_or_default();
            for (_, place) in &members {
                if let Some(record) = self.store.get_mut(place) {
                    record.head.join(batch, last);
                }
            }
            if self.random.random_range(0..20) == 0 {
                // The answer is lost with the process.
                return self.crash();
            }
            members.iter().for_each(|(_, place)| self.lane.joined(*place));
        }
        let taken = self.lane.take(Pass::Any);
        if let Some(parcel) = &taken {
            self.check(parcel);
        }
        self.under_way.extend(taken);
        match self.lane.wants(true) {
            Some(want) => {
                self.lane.reading(&want);
                self.read(want);
            }
            None if self.under_way.is_empty() => self.nobody_is_late(),
            None => {}
        }
    }

    /// When there is nothing to do, none that could go in a batch has waited for longer than it may.
    fn nobody_is_late(&self) {
        let mut keys = BTreeSet::new();
        for (place, record) in &self.store {
            let key = if self.order == Order::Strict { "all" } else { &*record.head.order_key };
            let leads = self.order == Order::Unordered || key.is_empty() || keys.insert(key);
            let late = place.time() + self.batching.max_delay < self.at.time;
            let loose = record.due.is_none() && record.head.batch().is_none();
            assert!(!(leads && late && loose), "{place:?} has waited for too long");
        }
    }

    fn read(&mut self, want: Want) {
        if self.random.random_range(0..10) == 0 {
            return self.lane.reading_failed();
        }
        match want {
            Want::Scan { after } => {
                let named = self.store.range(Place(after.0 + 1)..).take(PAGE);
                let open: Vec<_> = named
                    .map(|(place, record)| Open {
                        head: record.head.clone(),
                        place: *place,
                        due: record.due.map(|due| due.saturating_duration_since(self.at.now)),
                    })
                    .collect();
                let more = open.len() == PAGE;
                let read_to = if more { open[PAGE - 1].place } else { self.last.max(after) };
                self.lane.scanned(Scan { open, read_to, more }, self.at.now);
            }
            Want::Asked => {
                let now = self.at.now;
                let mut due: Vec<_> =
                    self.store.iter().filter(|(_, r)| r.due.is_some_and(|due| due <= now)).collect();
                due.sort_by_key(|(place, record)| (!record.head.asked_again, record.due, **place));
                let places: Vec<Place> = due.iter().map(|(place, _)| **place).collect();
                let deliveries = places.iter().take(PAGE).filter_map(|place| self.waiting(*place)).collect();
                let page = Page { deliveries, more: places.len() > PAGE, ..Page::default() };
                self.lane.asked_for(page, now);
            }
            Want::Fetch(ids) => {
                let fit = self.random.random_range(1..=ids.len());
                let place = |id: &DeliveryId| {
                    self.store.iter().find(|(_, record)| record.head.id() == *id).map(|(place, _)| *place)
                };
                let found = ids.iter().take(fit).map(|id| self.waiting(place(id)?)).collect();
                self.lane.fetched(found);
            }
        }
    }

    fn check(&mut self, parcel: &Parcel) {
        let Parcel::Batch(batch) = parcel else { panic!("nothing goes alone here") };
        let places: BTreeSet<Place> = batch.members.iter().map(|member| member.place).collect();
        assert!(batch.members.is_sorted_by_key(|member| member.place));
        match self.members.get(&batch.id) {
            Some(before) => {
                let left: BTreeSet<_> = before.difference(&self.cancelled).copied().collect();
                assert_eq!(places, left, "members stay the same");
            }
            None => {
                assert!(places.len() <= self.batching.max_events);
                self.members.insert(batch.id, places.clone());
            }
        }
        let mut types: Vec<_> = batch.members.iter().map(|member| &member.head.event_type).collect();
        types.dedup();
        assert!(types.len() == 1 || !self.batching.one_type);
        let ordered = self.order != Order::Unordered;
        assert!(self.under_way.is_empty() || !ordered, "one at a time");
        for member in &batch.members {
            let key = &member.head.order_key;
            let behind = |(place, record): (&Place, &Record)| {
                let same = self.order == Order::Strict || (!key.is_empty() && record.head.order_key == *key);
                ordered && same && !places.contains(place)
            };
            let mut before = self.store.range(..member.place);
            assert!(!before.any(behind), "{:?} overtakes", member.place);
            let record = self.store.get_mut(&member.place).expect("what goes is open");
            assert_eq!(record.head.batch().map(|(id, _)| id), Some(batch.id), "it is stored before");
            record.under_way = true;
        }
    }

    fn finish(&mut self, succeeds: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let parcel = self.under_way.swap_remove(self.random.random_range(0..self.under_way.len()));
        for delivery in parcel.deliveries() {
            let again = (!succeeds).then(|| self.at.now + RETRY);
            if succeeds {
                self.store.remove(&delivery.place);
            } else if let Some(record) = self.store.get_mut(&delivery.place) {
                (record.due, record.under_way, record.head.asked_again) = (again, false, false);
                record.head.attempt_count += 1;
            }
            self.lane.stored(delivery.head.id(), delivery.place, again);
        }
    }

    /// One of those that are not under way; asked for again, or withdrawn.
    fn call(&mut self, cancels: bool) {
        let idle: Vec<Place> =
            self.store.iter().filter(|(_, record)| !record.under_way).map(|(place, _)| *place).collect();
        if idle.is_empty() {
            return;
        }
        let place = idle[self.random.random_range(0..idle.len())];
        if cancels {
            self.store.remove(&place);
            self.cancelled.insert(place);
            self.stale = true;
        } else if let Some(record) = self.store.get_mut(&place) {
            (record.head.asked_again, record.due) = (true, Some(self.at.now));
            self.lane.has_news();
        }
    }

    /// Some come, one by one, and nothing else happens until they have waited for long enough.
    fn take_in_alone(&mut self) {
        for _ in 0..self.random.random_range(2..5) {
            self.accept(true);
            self.work();
        }
        self.pass(100);
        self.work();
    }

    fn crash(&mut self) {
        self.under_way.clear();
        self.store.values_mut().for_each(|record| record.under_way = false);
        self.claim();
    }

    fn claim(&mut self) {
        self.lane = Batched::new(self.order, self.batching, Place(0));
        self.lane.is_unread(Place(0));
        self.stale = false;
    }

    fn pass(&mut self, ms: u64) {
        let by = Duration::from_millis(ms);
        (self.at.now, self.at.time) = (self.at.now + by, self.at.time + by);
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.random_range(0..100) {
                0..27 => {
                    let told = self.random.random_range(0..5) > 0;
                    self.accept(told);
                }
                27..30 => self.take_in_alone(),
                30..70 => self.work(),
                70..85 => {
                    let succeeds = self.random.random_range(0..3) > 0;
                    self.finish(succeeds);
                }
                85..94 => {
                    let ms = self.random.random_range(0..60);
                    self.pass(ms);
                }
                94..97 => self.call(false),
                97..99 => self.call(true),
                _ => self.crash(),
            }
        }
        for _ in 0..20 * STEPS {
            self.work();
            self.finish(true);
            self.pass(5);
        }
        assert!(self.store.is_empty(), "{} are left behind", self.store.len());
        assert!(self.lane.quiet() && self.lane.empty() && self.lane.len() == 0 && self.lane.bytes() == 0);
    }
}

#[test]
fn whatever_happens_all_arrives_in_batches_that_keep_their_members() {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    for _ in 0..if given.is_some() { 1 } else { 200 } {
        let seed = given.unwrap_or_else(rand::random);
        println!("SEED={seed}");
        Model::new(seed).run();
    }
}
