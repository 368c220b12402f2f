//! A lane of batches by table: what goes together and when, what a later holder finds, what memory holds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};

use super::{batched::Batched, circuit::Moment, gate::Pass, ordered_reads::Want, parcel::Parcel};
use crate::{
    delivery::{Head, Place},
    queue::{Open, Page, Scan, Waiting},
    routes::{Batching, Order},
};

pub(super) const SECOND: Duration = Duration::from_secs(1);
const START: Time = Time(1_800_000_000_000);

/// A lane with its clock. Places are told by their ms after the start, batches by their numbers.
pub(super) struct Bench {
    pub(super) lane: Batched,
    pub(super) at: Moment,
    batches: u64,
}

fn place(ms: u64) -> Place {
    Place::at(Time(START.0 + ms as i64))
}

fn id(ms: u64) -> DeliveryId {
    DeliveryId::new(0, 0, ms)
}

fn batch(number: u64) -> DeliveryId {
    DeliveryId::new(1, 1, number)
}

/// Its key and its type are what stands before and after the slash.
pub(super) fn head(ms: u64, of: &str) -> Head {
    let (key, event_type) = of.split_once('/').unwrap_or((of, "t"));
    let mut head = Head::new(id(ms), WebhookId::new(1, 1));
    (head.order_key, head.event_type, head.body_bytes) = (key.into(), event_type.into(), 4);
    head
}

fn waiting(ms: u64, of: &str) -> Waiting {
    Waiting { head: head(ms, of), body: Bytes::from_static(b"body"), place: place(ms), scheduled: false }
}

fn member(mut head: Head, number: u64, last: u64) -> Head {
    head.join(batch(number), place(last));
    head
}

pub(super) fn open(ms: u64, head: Head, due: Option<Duration>) -> Open {
    Open { head, place: place(ms), due }
}

impl Bench {
    pub(super) fn new(order: Order, max_events: usize) -> Self {
        let batching = Batching { max_events, max_delay: SECOND, one_type: true };
        let at = Moment { now: Instant::now(), time: START };
        Self { lane: Batched::new(order, batching, place(0)), at, batches: 0 }
    }

    /// A lane that was claimed with these in the store.
    pub(super) fn claimed(order: Order, max_events: usize, open: Vec<Open>) -> Self {
        let mut bench = Self::new(order, max_events);
        bench.lane.is_unread(Place(0));
        bench.scan(open, false);
        bench
    }

    pub(super) fn scan(&mut self, open: Vec<Open>, more: bool) {
        let want = self.lane.wants(true).unwrap();
        assert!(matches!(want, Want::Scan { .. }), "{want:?}");
        self.lane.reading(&want);
        let read_to = open.last().map_or(place(0), |open| open.place);
        self.lane.scanned(Scan { open, read_to, more }, self.at.now);
    }

    pub(super) fn offer(&mut self, ms: u64, of: &str) {
        let before = self.lane.tail;
        self.lane.offer(waiting(ms, of), before, true);
    }

    pub(super) fn pass(&mut self, by: Duration) {
        (self.at.now, self.at.time) = (self.at.now + by, self.at.time + by);
        self.lane.advance(self.at.now);
    }

    /// Puts together what may go, up to `ahead`; who is in each, by their ms. The store says yes at once.
    pub(super) fn form_as(&mut self, pass: Pass, ahead: usize) -> Vec<Vec<u64>> {
        let mut formed = Vec::new();
        loop {
            let id = batch(self.batches + 1);
            let Some(members) = self.lane.form(pass, ahead, true, id, self.at) else { return formed };
            self.batches += 1;
            members.iter().for_each(|(_, place)| self.lane.joined(*place));
            formed.push(members.iter().map(|(_, place)| ms(*place)).collect());
        }
    }

    pub(super) fn form(&mut self) -> Vec<Vec<u64>> {
        self.form_as(Pass::Any, 8)
    }

    /// Fetches what is wanted; which those are.
    pub(super) fn fetch(&mut self) -> Vec<u64> {
        let Some(want) = self.lane.wants(true) else { return Vec::new() };
        self.lane.reading(&want);
        let Want::Fetch(ids) = want else { panic!("{want:?}") };
        let found: Vec<u64> = ids.iter().map(|id| id.bytes()[8..15].iter().fold(0, shift)).collect();
        self.lane.fetched(found.iter().map(|ms| Some(waiting(*ms, "?"))).collect());
        found
    }

    /// Starts the next one; its id and who is in it.
    fn start_as(&mut self, pass: Pass) -> Option<(DeliveryId, Vec<u64>)> {
        let parcel = self.lane.take(pass)?;
        let places = parcel.deliveries().iter().map(|delivery| ms(delivery.place)).collect();
        Some((parcel.id(), places))
    }

    pub(super) fn start(&mut self) -> Vec<u64> {
        self.start_as(Pass::Any).map(|(_, places)| places).unwrap_or_default()
    }

    pub(super) fn store(&mut self, places: &[u64], again: Option<Duration>) {
        for ms in places {
            self.lane.stored(id(*ms), place(*ms), again.map(|after| self.at.now + after));
        }
    }
}

fn shift(sum: u64, byte: &u8) -> u64 {
    sum << 8 | u64::from(*byte)
}

fn ms(place: Place) -> u64 {
    (place.time().0 - START.0) as u64
}

#[test]
fn first_ones_wait_for_company_and_a_full_batch_goes_at_once() {
    let mut bench = Bench::new(Order::Unordered, 3);
    bench.offer(1, "u");
    bench.offer(2, "u");
    assert_eq!(bench.form(), [[0; 0]; 0]);
    assert_eq!(bench.lane.next_scheduled(), Some(bench.at.now + SECOND));
    assert!(!bench.lane.empty(), "the lane is kept meanwhile");
    bench.offer(3, "u");
    bench.offer(4, "u");
    assert_eq!(bench.form(), [[1, 2, 3]]);
    assert_eq!(bench.start(), [1, 2, 3]);
    assert_eq!(bench.start(), [0; 0]);
    bench.pass(2 * SECOND);
    assert_eq!(bench.form(), [[4]], "a batch of one");
    let Some(Parcel::Batch(alone)) = bench.lane.take(Pass::Any) else { panic!("not a batch") };
    assert_eq!((alone.id, alone.members[0].head.batch()), (batch(2), Some((batch(2), place(4)))));
    assert_eq!(bench.lane.done_to([place(1), place(2), place(3)].into_iter()).0, place(4).0 - 1);
    bench.store(&[1, 2, 3, 4], None);
    assert!(bench.lane.quiet() && bench.lane.empty() && bench.lane.len() == 0 && bench.lane.bytes() == 0);
}

#[test]
fn it_goes_when_it_is_stored_and_not_before() {
    let mut bench = Bench::new(Order::Unordered, 2);
    bench.offer(1, "u");
    bench.offer(2, "u");
    let members = bench.lane.form(Pass::Any, 8, true, batch(1), bench.at).unwrap();
    assert!(bench.lane.take(Pass::Any).is_none() && !bench.lane.quiet());
    bench.lane.joined(members[0].1);
    assert!(bench.lane.take(Pass::Any).is_none());
    bench.lane.joined(members[1].1);
    assert_eq!(bench.start_as(Pass::Any), Some((batch(1), vec![1, 2])));
}

#[test]
fn a_retry_has_the_same_members_and_others_go_meanwhile() {
    let mut bench = Bench::new(Order::Unordered, 2);
    (1..=4).for_each(|ms| bench.offer(ms, "u"));
    assert_eq!(bench.form(), [[1, 2], [3, 4]]);
    assert_eq!(bench.start(), [1, 2]);
    assert_eq!(bench.start(), [3, 4], "several at once");
    bench.store(&[1, 2], Some(SECOND));
    bench.store(&[3, 4], None);
    bench.offer(5, "u");
    bench.offer(6, "u");
    assert_eq!(bench.form(), [[5, 6]]);
    assert_eq!(bench.start(), [5, 6]);
    bench.store(&[5, 6], None);
    assert!(bench.lane.quiet() && bench.lane.empty());
    assert_eq!(bench.lane.next_scheduled(), Some(bench.at.now + SECOND));
    bench.pass(SECOND);
    assert!(bench.lane.waits() && bench.form().is_empty());
    assert_eq!(bench.fetch(), [1, 2], "their bodies are read again");
    assert_eq!(bench.start_as(Pass::Any), Some((batch(1), vec![1, 2])));
}

#[test]
fn by_user_and_strict_have_one_under_way_at_a_time_in_order() {
    for order in [Order::ByUser, Order::Strict] {
        let mut bench = Bench::new(order, 2);
        ["u", "u", "v", "u"].iter().zip(1..).for_each(|(key, ms)| bench.offer(ms, key));
        assert_eq!(bench.form(), [[1, 2]], "{order:?}");
        assert_eq!(bench.start(), [1, 2]);
        assert_eq!(bench.form(), [[0; 0]; 0], "while it is under way");
        bench.store(&[1, 2], Some(SECOND));
        bench.offer(5, "w");
        match order {
            // u waits for its retry, and holds back itself alone.
            Order::ByUser => assert_eq!((bench.form(), bench.start()), (vec![vec![3, 5]], vec![3, 5])),
            _ => assert_eq!((bench.form(), bench.start()), (vec![], vec![])),
        }
        assert!(bench.lane.is_blocked());
        bench.store(&[3, 5][..if order == Order::ByUser { 2 } else { 0 }], None);
        bench.pass(2 * SECOND);
        assert_eq!(bench.form(), [[0; 0]; 0], "the older one first");
        assert_eq!(bench.fetch(), [1, 2]);
        assert_eq!(bench.start(), [1, 2]);
        bench.store(&[1, 2], None);
        let next: &[u64] = if order == Order::ByUser { &[4] } else { &[3, 4] };
        assert_eq!(bench.form(), [next]);
    }
}

#[test]
fn a_later_holder_finds_batches_whole() {
    let stored = |ms, last, due| open(ms, member(head(ms, "u"), 7, last), due);
    let mut bench = Bench::new(Order::Unordered, 2);
    bench.lane.is_unread(Place(0));
    // Its first two members, a loose one, and then its last.
    bench.scan(vec![stored(1, 9, None), stored(2, 9, None), open(3, head(3, "u"), None)], true);
    bench.pass(5 * SECOND);
    assert_eq!(bench.form(), [[0; 0]; 0], "more may come");
    assert!(bench.lane.take(Pass::Any).is_none());
    bench.scan(vec![stored(9, 9, None)], false);
    assert_eq!(bench.form(), [[3]]);
    assert_eq!(bench.fetch(), [1, 2, 9]);
    assert_eq!(bench.start_as(Pass::Any), Some((batch(7), vec![1, 2, 9])));

    // One that waits for its retry goes when that is due.
    let due = Some(SECOND);
    let mut bench = Bench::claimed(Order::Strict, 2, vec![stored(1, 2, due), stored(2, 2, due)]);
    assert!(bench.form().is_empty() && bench.lane.wants(true).is_none() && bench.lane.empty());
    bench.pass(SECOND);
    assert!(bench.form().is_empty());
    assert_eq!(bench.fetch(), [1, 2]);
    assert_eq!(bench.start(), [1, 2]);
}

#[test]
fn who_is_no_longer_there_falls_out() {
    let stored = |ms| open(ms, member(head(ms, "u"), 7, 3), None);
    let mut bench = Bench::claimed(Order::Unordered, 5, vec![stored(1), stored(2), stored(3)]);
    bench.form();
    let want = bench.lane.wants(true).unwrap();
    bench.lane.reading(&want);
    bench.lane.fetched(vec![None, Some(waiting(2, "u"))]);
    assert_eq!(bench.fetch(), [3], "as many as fit");
    assert_eq!(bench.start(), [2, 3]);
    bench.store(&[2, 3], None);

    let mut bench = Bench::claimed(Order::Unordered, 5, vec![stored(3)]);
    bench.form();
    let want = bench.lane.wants(true).unwrap();
    bench.lane.reading(&want);
    bench.lane.fetched(vec![None]);
    assert!(bench.lane.take(Pass::Any).is_none() && bench.lane.empty() && bench.lane.len() == 0);
}

#[test]
fn what_was_asked_for_again_goes_past_a_closed_door_with_its_batch_and_no_others() {
    let asked = |ms: u64| {
        let mut one = waiting(ms, "u");
        one.head.asked_again = true;
        one
    };
    let minute = Some(60 * SECOND);
    let stored = |ms| open(ms, member(head(ms, "u"), 7, 2), minute);
    let mut bench =
        Bench::claimed(Order::Unordered, 5, vec![stored(1), stored(2), open(3, head(3, "u"), None)]);
    bench.pass(5 * SECOND);
    assert_eq!(bench.form_as(Pass::Asked, 1), [[0; 0]; 0]);
    bench.lane.has_news();
    let want = bench.lane.wants(true).unwrap();
    assert_eq!(want, Want::Asked);
    bench.lane.reading(&want);
    // The second of the batch that waits, and one that had failed and is in none any more.
    let mut second = asked(2);
    second.head.join(batch(7), place(2));
    let page = Page {
        deliveries: vec![second, Waiting { place: Place(place(3).0 - 1), ..asked(99) }],
        ..Page::default()
    };
    bench.lane.asked_for(page, bench.at.now);
    assert!(bench.lane.asked());
    assert_eq!(bench.form_as(Pass::Asked, 2).len(), 1, "the failed one's new batch");
    assert_eq!(bench.fetch(), [1], "the second's came with it");
    assert_eq!(bench.start_as(Pass::Asked), Some((batch(7), vec![1, 2])));
    let (id, members) = bench.start_as(Pass::Asked).unwrap();
    assert_eq!((id, members.len()), (batch(1), 1));
    assert!(bench.lane.take(Pass::Asked).is_none());
    assert_eq!(bench.form(), [[3]]);
}

#[test]
fn what_is_asked_for_while_it_is_under_way_is_read_again_after() {
    let mut bench = Bench::new(Order::Unordered, 1);
    bench.offer(1, "u");
    bench.form();
    assert_eq!(bench.start(), [1]);
    bench.lane.has_news();
    let want = bench.lane.wants(true).unwrap();
    bench.lane.reading(&want);
    let mut again = waiting(1, "u");
    again.head.asked_again = true;
    bench.lane.asked_for(Page { deliveries: vec![again], ..Page::default() }, bench.at.now);
    bench.scan(vec![], false);
    bench.store(&[1], Some(SECOND));
    assert_eq!(bench.lane.wants(true), Some(Want::Asked));
}

#[test]
fn what_was_not_sent_goes_again_as_it_was() {
    let mut bench = Bench::new(Order::Strict, 2);
    bench.offer(1, "u");
    bench.offer(2, "u");
    bench.form();
    let parcel = bench.lane.take(Pass::Any).unwrap();
    assert_eq!(bench.lane.bytes(), 0);
    bench.lane.put_back(parcel);
    assert_eq!(bench.lane.bytes(), 8);
    assert!(bench.lane.quiet());
    assert_eq!(bench.start_as(Pass::Any), Some((batch(1), vec![1, 2])));
}

#[test]
fn xml_of_before_goes_by_itself() {
    let mut bench = Bench::new(Order::Strict, 5);
    for ms in 1..=2 {
        let mut one = waiting(ms, "u");
        one.head.xml = ms == 1;
        bench.lane.offer(one, bench.lane.tail, true);
    }
    assert_eq!(bench.form(), [[0; 0]], "nothing is stored of it");
    let Some(Parcel::One(alone)) = bench.lane.take(Pass::Any) else { panic!("not alone") };
    assert_eq!((alone.head.id(), alone.head.batch()), (id(1), None));
    bench.store(&[1], Some(SECOND));
    bench.pass(2 * SECOND);
    assert_eq!(bench.form(), [[0; 0]]);
    assert_eq!(bench.fetch(), [1]);
    assert_eq!(bench.start(), [1]);
    bench.store(&[1], None);
    assert_eq!(bench.form(), [[2]]);
}

#[test]
fn what_goes_later_is_not_put_together_yet() {
    let mut bench = Bench::new(Order::Unordered, 2);
    (1..=9).for_each(|ms| bench.offer(ms, "u"));
    assert_eq!(bench.form_as(Pass::Nobody, 8).len(), 0);
    assert_eq!(bench.form_as(Pass::Any, 1), [[1, 2]]);
    assert_eq!(bench.form_as(Pass::Any, 2), [[3, 4]]);
    assert_eq!(bench.form_as(Pass::Probe, 1).len(), 0);
    assert_eq!(bench.start_as(Pass::Probe), Some((batch(1), vec![1, 2])));
    assert_eq!(bench.lane.known_to(), (place(9), true));
}

#[test]
fn what_had_failed_and_was_not_seen_is_found_by_another_look() {
    let mut bench = Bench::claimed(Order::ByUser, 5, vec![open(5, head(5, "u"), Some(60 * SECOND))]);
    bench.lane.has_news();
    let want = bench.lane.wants(true).unwrap();
    bench.lane.reading(&want);
    bench
        .lane
        .asked_for(Page { deliveries: vec![waiting(5, "u")], more: true, ..Page::default() }, bench.at.now);
    bench.scan(vec![], false);
    assert_eq!(bench.lane.wants(true), None);
    bench.pass(10 * SECOND);
    bench.scan(vec![open(2, head(2, "u"), Some(Duration::ZERO)), open(5, head(5, "u"), Some(SECOND))], false);
    bench.pass(SECOND);
    assert_eq!(bench.form(), [[2]], "and it goes at once");
    assert_eq!(bench.lane.len(), 2);
}
