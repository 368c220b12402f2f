//! An ordered lane by table: who waits for whom, what is read, and what memory holds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::ids::{DeliveryId, WebhookId};

use super::{gate::Pass, ordered::Ordered, ordered_reads::Want};
use crate::{
    delivery::{Head, Place},
    queue::{Open, Page, Scan, Waiting},
};

const MINUTE: Duration = Duration::from_secs(60);

fn head(place: u64, key: &str) -> Head {
    let mut head = Head::new(DeliveryId::new(0, 0, place), WebhookId::new(1, 1));
    head.order_key = key.into();
    head
}

fn waiting(place: u64, key: &str) -> Waiting {
    Waiting {
        head: head(place, key),
        body: Bytes::from_static(b"body"),
        place: Place(place),
        scheduled: false,
    }
}

fn open(place: u64, key: &str, due: Option<Duration>) -> Open {
    Open { head: head(place, key), place: Place(place), due }
}

/// A lane that was offered these, in order of place from 11 on.
fn offered(strict: bool, keys: &[&str]) -> Ordered {
    let mut lane = Ordered::new(strict, Place(10));
    for (place, key) in (11..).zip(keys) {
        lane.offer(waiting(place, key), Place(place - 1), true);
    }
    lane
}

fn scanned(strict: bool, open: Vec<Open>, now: Instant) -> Ordered {
    let mut lane = Ordered::new(strict, Place(0));
    lane.is_unread(Place(0));
    let want = lane.wants(true).unwrap();
    assert_eq!(want, Want::Scan { after: Place(0) });
    lane.reading(&want);
    let read_to = open.last().map_or(Place(0), |open| open.place);
    lane.scanned(Scan { open, read_to, more: false }, now);
    lane
}

/// Fetches what the lane wants, and says which places those are.
fn fetch(lane: &mut Ordered, key: &str) -> Vec<u64> {
    let Some(want) = lane.wants(true) else { return Vec::new() };
    lane.reading(&want);
    let Want::Fetch(ids) = want else { panic!("{want:?}") };
    let places: Vec<u64> = ids.iter().map(|id| place_of(*id)).collect();
    lane.fetched(places.iter().map(|place| Some(waiting(*place, key))).collect());
    places
}

fn place_of(id: DeliveryId) -> u64 {
    (1..100_100).find(|n| DeliveryId::new(0, 0, *n) == id).unwrap()
}

fn start(lane: &mut Ordered) -> Vec<u64> {
    std::iter::from_fn(|| lane.take(Pass::Any)).map(|d| d.place.0).collect()
}

fn store(lane: &mut Ordered, place: u64, again: Option<Instant>) {
    lane.stored(DeliveryId::new(0, 0, place), Place(place), again);
}

#[test]
fn strict_lets_one_go_at_a_time() {
    let mut lane = offered(true, &["a", "b", ""]);
    assert_eq!(start(&mut lane), [11]);
    store(&mut lane, 11, None);
    assert_eq!(start(&mut lane), [12]);
    assert!(!lane.quiet());
    store(&mut lane, 12, None);
    assert_eq!(start(&mut lane), [13]);
    store(&mut lane, 13, None);
    assert!(lane.quiet() && lane.empty() && !lane.is_blocked() && lane.bytes() == 0 && lane.len() == 0);
}

#[test]
fn by_user_lets_each_user_s_first_go_and_all_without_a_user() {
    let mut lane = offered(false, &["a", "a", "b", "", "", "b"]);
    assert_eq!(start(&mut lane), [11, 13, 14, 15]);
    store(&mut lane, 13, None);
    assert_eq!(start(&mut lane), [16]);
    store(&mut lane, 11, None);
    assert_eq!(start(&mut lane), [12]);
}

#[test]
fn a_retry_holds_back_its_user_alone_until_its_time() {
    let now = Instant::now();
    let mut lane = offered(false, &["a", "a", "b"]);
    assert_eq!(start(&mut lane), [11, 13]);
    store(&mut lane, 11, Some(now + MINUTE));
    store(&mut lane, 13, None);
    lane.advance(now);
    assert_eq!(start(&mut lane), [0; 0]);
    assert!(lane.quiet() && lane.empty() && lane.is_blocked());
    assert_eq!(lane.next_scheduled(), Some(now + MINUTE));
    lane.offer(waiting(14, "b"), Place(13), true);
    lane.offer(waiting(15, "a"), Place(14), true);
    assert_eq!(start(&mut lane), [14]);
    store(&mut lane, 14, None);
    lane.advance(now + MINUTE);
    assert_eq!(fetch(&mut lane, "a"), [11], "its body is read again");
    assert_eq!(start(&mut lane), [11]);
    store(&mut lane, 11, None);
    assert_eq!(start(&mut lane), [12]);
    assert_eq!(lane.done_to([Place(12)].into_iter()), Place(14));
}

#[test]
fn what_a_new_holder_scans_blocks_as_it_did() {
    let now = Instant::now();
    let open = vec![open(1, "a", Some(MINUTE)), open(2, "a", None), open(3, "b", None), open(4, "b", None)];
    let mut lane = scanned(false, open, now);
    assert_eq!(lane.done_to(std::iter::empty()), Place(1), "2 is fresh");
    assert_eq!(fetch(&mut lane, "?"), [3, 4], "and what comes next with it");
    assert_eq!(start(&mut lane), [3]);
    store(&mut lane, 3, None);
    assert_eq!(start(&mut lane), [4]);
    lane.advance(now + MINUTE);
    assert_eq!(fetch(&mut lane, "a"), [1, 2]);
    assert_eq!(start(&mut lane), [1]);
}

#[test]
fn a_retry_behind_an_older_one_of_its_key_waits_for_that() {
    let now = Instant::now();
    for strict in [false, true] {
        // As an unordered webhook left them.
        let mut lane = scanned(strict, vec![open(1, "a", Some(9 * MINUTE)), open(2, "a", Some(MINUTE))], now);
        lane.advance(now + 2 * MINUTE);
        assert!(lane.quiet() && lane.empty() && start(&mut lane).is_empty());
        assert_eq!(lane.next_scheduled(), Some(now + 9 * MINUTE));
        assert!(lane.is_blocked(), "given back it would be due at once");
        lane.advance(now + 9 * MINUTE);
        assert_eq!(fetch(&mut lane, "a"), [1, 2]);
        assert_eq!(start(&mut lane), [1]);
        store(&mut lane, 1, Some(now + 20 * MINUTE));
        assert!(lane.is_blocked());
        lane.advance(now + 20 * MINUTE);
        fetch(&mut lane, "a");
        start(&mut lane);
        store(&mut lane, 1, None);
        lane.advance(now + 20 * MINUTE);
        assert_eq!(start(&mut lane), [2]);
        store(&mut lane, 2, Some(now + 30 * MINUTE));
        assert!(lane.empty() && !lane.is_blocked(), "nothing but time is waited for");
    }
}

#[test]
fn one_user_s_backlog_does_not_keep_others_from_being_read() {
    let now = Instant::now();
    let mut all: Vec<Open> = (1..=1_000).map(|place| open(place, "a", None)).collect();
    all[0].due = Some(MINUTE);
    let mut lane = scanned(false, all, now);
    lane.is_unread(Place(0));
    let want = lane.wants(true).unwrap();
    assert_eq!(want, Want::Scan { after: Place(1_000) });
    assert_eq!(lane.wants(false), None, "the process knows too many");
    lane.reading(&want);
    assert_eq!(lane.wants(true), None, "one read at a time");
    lane.scanned(Scan { open: vec![open(1_001, "b", None)], read_to: Place(1_001), more: false }, now);
    assert_eq!(fetch(&mut lane, "b"), [1_001]);
    assert_eq!(start(&mut lane), [1_001]);
}

#[test]
fn bodies_of_those_that_wait_make_room_for_one_that_may_go() {
    let now = Instant::now();
    let mut lane = Ordered::new(false, Place(0));
    let big = Bytes::from(vec![0; 100_000]);
    for place in 1..=20 {
        lane.offer(Waiting { body: big.clone(), ..waiting(place, "a") }, Place(place - 1), true);
    }
    assert!(lane.bytes() <= 1 << 20);
    assert_eq!(start(&mut lane), [1]);
    store(&mut lane, 1, Some(now + MINUTE));
    lane.offer(Waiting { body: big.clone(), ..waiting(21, "a") }, Place(20), true);
    lane.offer(Waiting { body: big.clone(), ..waiting(22, "b") }, Place(21), true);
    let full = lane.bytes();
    assert_eq!(fetch(&mut lane, "b")[0], 22);
    assert!(lane.bytes() < full / 2, "{}", lane.bytes());
    assert_eq!(start(&mut lane), [22]);
}

#[test]
fn what_is_not_known_before_an_offered_one_is_read_first() {
    let mut lane = offered(true, &["a"]);
    lane.offer(waiting(14, "a"), Place(13), true);
    assert_eq!(lane.wants(true), Some(Want::Scan { after: Place(11) }));
    assert!(!lane.empty());
}

#[test]
fn a_failed_one_that_is_asked_for_again_goes_once_its_user_is_free() {
    let now = Instant::now();
    let mut lane = offered(false, &["a", "a", "b"]);
    assert_eq!(start(&mut lane), [11, 13]);
    lane.has_news();
    let want = lane.wants(true).unwrap();
    assert_eq!(want, Want::Asked);
    lane.reading(&want);
    let asked = |place, key| {
        let mut delivery = waiting(place, key);
        delivery.head.renew();
        delivery
    };
    let deliveries = vec![asked(5, "a"), asked(6, "b"), asked(7, "c"), asked(13, "b"), waiting(12, "a")];
    lane.asked_for(Page { deliveries, ..Page::default() });
    assert!(lane.asked());
    assert_eq!(lane.take(Pass::Asked).map(|d| d.place.0), Some(7), "past a hold");
    assert_eq!(lane.take(Pass::Asked).map(|d| d.place.0), None);
    store(&mut lane, 11, Some(now + MINUTE));
    assert_eq!(start(&mut lane), [5], "ahead of what came later");
    // 13 failed for good in the store's eyes, but somebody asked for it meanwhile.
    let want = lane.wants(true).unwrap();
    lane.reading(&want);
    lane.scanned(Scan { read_to: Place(13), ..Scan::default() }, now);
    store(&mut lane, 13, None);
    assert_eq!(start(&mut lane), [6]);
    assert_eq!(lane.wants(true), Some(Want::Asked));
}

/// What a claim's first page names stands anywhere in the lane.
#[test]
fn one_that_is_asked_for_is_found_and_goes_past_all_that_could_start() {
    let now = Instant::now();
    let users = |places: std::ops::RangeInclusive<u64>| places.map(|n| open(n, &n.to_string(), None));
    let mut lane = Ordered::new(false, Place(0));
    lane.is_unread(Place(900));
    let scan = |lane: &mut Ordered, open: Vec<Open>| {
        let want = std::iter::from_fn(|| lane.wants(true)).next();
        let after = lane.tail;
        assert_eq!(want, Some(Want::Scan { after }), "up to the one that was asked for");
        lane.reading(&Want::Scan { after });
        let read_to = open.last().map_or(after, |open| open.place);
        lane.scanned(Scan { open, read_to, more: true }, now);
    };
    scan(&mut lane, users(1..=500).collect());
    assert!(lane.was_asked(), "where it is still to be read");
    assert_eq!(fetch(&mut lane, "?").len(), 64);
    let mut open: Vec<Open> = users(501..=1_000).collect();
    open[399].head.renew();
    scan(&mut lane, open);
    let Some(Want::Fetch(ids)) = lane.wants(true) else { panic!("its body is wanted") };
    assert_eq!(place_of(ids[0]), 900);
    lane.reading(&Want::Fetch(Vec::new()));
    let mut found = waiting(900, "900");
    found.head.renew();
    lane.fetched(vec![Some(found)]);
    assert_eq!(lane.take(Pass::Asked).map(|d| d.place.0), Some(900));
    assert!(lane.was_asked() && lane.take(Pass::Asked).is_none());
    store(&mut lane, 900, None);
    assert!(!lane.was_asked());
    assert_eq!(lane.wants(true), None, "there is enough to do");
}

#[test]
fn one_that_was_asked_for_and_is_gone_is_looked_for_once() {
    let mut lane = Ordered::new(false, Place(0));
    lane.is_unread(Place(900));
    lane.reading(&Want::Scan { after: Place(0) });
    lane.scanned(Scan { open: vec![open(1, "a", None)], read_to: Place(1), more: false }, Instant::now());
    assert!(!lane.was_asked());
}

/// So many were asked for as there are.
#[test]
fn each_that_is_asked_for_counts_once() {
    let asked = |place| {
        let mut delivery = waiting(place, "a");
        delivery.head.renew();
        delivery
    };
    let mut lane = offered(true, &["a", "a", "a"]);
    let news = |lane: &mut Ordered, places: &[u64]| {
        lane.reading(&Want::Asked);
        let deliveries = places.iter().map(|place| asked(*place)).collect();
        lane.asked_for(Page { deliveries, ..Page::default() });
    };
    news(&mut lane, &[12]);
    news(&mut lane, &[11, 12]);
    assert!(lane.was_asked());
    assert_eq!(start(&mut lane), [11]);
    store(&mut lane, 11, Some(Instant::now()));
    assert!(lane.was_asked(), "12 still is");
    store(&mut lane, 12, None);
    assert!(!lane.was_asked());
    news(&mut lane, &[13]);
    lane.fetching = vec![Place(13)];
    lane.fetched(vec![None]);
    assert!(!lane.was_asked(), "it is no longer there");
}

#[test]
fn one_that_was_not_sent_is_first_again() {
    let mut lane = offered(true, &["a", "b"]);
    let first = lane.take(Pass::Any).unwrap();
    lane.put_back(first);
    assert!(lane.quiet());
    assert_eq!(start(&mut lane), [11]);
}

#[test]
fn a_body_that_is_gone_blocks_nobody() {
    let now = Instant::now();
    let mut lane = scanned(true, vec![open(1, "", None), open(2, "", None)], now);
    let want = lane.wants(true).unwrap();
    lane.reading(&want);
    lane.fetched(vec![None, Some(waiting(2, ""))]);
    assert_eq!(start(&mut lane), [2]);
}
