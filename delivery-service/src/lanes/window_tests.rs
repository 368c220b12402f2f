//! A lane by table: what starts, what waits, what is read, and when the lease can go.

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};

use super::{
    gate::Pass,
    window::{WINDOW, Window},
};
use crate::{
    delivery::{Head, Place},
    queue::{Page, Waiting},
};

fn waiting(place: u64, scheduled: bool) -> Waiting {
    let head = Head::new(DeliveryId::new(0, 0, place), WebhookId::new(1, 1));
    Waiting { head, body: Bytes::from_static(b"body"), place: Place(place), scheduled }
}

fn asked_again(place: u64) -> Waiting {
    let mut delivery = waiting(place, true);
    delivery.head.renew();
    delivery
}

fn lane() -> Window {
    Window::new(Place(10))
}

fn offered(places: &[u64]) -> Window {
    let mut lane = lane();
    let mut before = 10;
    for place in places {
        lane.offer(waiting(*place, false), Place(before), true);
        before = *place;
    }
    lane
}

fn places(lane: &mut Window) -> Vec<u64> {
    std::iter::from_fn(|| lane.take(Pass::Any, false)).map(|d| d.place.0).collect()
}

fn page(deliveries: Vec<Waiting>, read_to: u64, more: bool) -> Page {
    Page { deliveries, read_to: Place(read_to), more, next_scheduled: None }
}

#[test]
fn fresh_deliveries_start_in_order() {
    let mut lane = offered(&[11, 12, 13]);
    assert_eq!(places(&mut lane), [11, 12, 13]);
    assert!(!lane.quiet(), "no outcome is stored");
}

#[test]
fn a_due_retry_waits_for_fresh_ones_that_were_due_before_it() {
    let (mut lane, now) = (lane(), Instant::now());
    let at = |ms: i64| Place::at(Time(ms));
    let mut retry = waiting(1, true);
    (retry.place, retry.head.next_attempt_ms) = (at(1), 300);
    lane.reading();
    lane.page(page(vec![retry], at(100).0, true), now);
    assert!(lane.take(Pass::Any, false).is_none(), "there may be some that were accepted before");
    assert!(lane.take(Pass::Probe, false).is_none());
    assert!(lane.wants_page(now).is_some());
    lane.reading();
    assert!(lane.take(Pass::Any, false).is_none(), "they are on their way");
    let fresh = |ms| Waiting { place: at(ms), ..waiting(2, false) };
    lane.page(page(vec![fresh(200), fresh(400)], at(400).0, false), now);
    let order = std::iter::from_fn(|| lane.take(Pass::Any, false)).map(|d| d.place).collect::<Vec<_>>();
    assert_eq!(order, [at(200), at(1), at(400)]);
}

#[test]
fn what_was_stored_with_a_gap_before_it_is_read_from_the_store() {
    let now = Instant::now();
    let mut lane = offered(&[11]);
    lane.offer(waiting(14, false), Place(13), true);
    assert_eq!(lane.wants_page(now), Some((Place(11), 0)));
    lane.reading();
    assert_eq!(lane.wants_page(now), None, "one page at a time");
    // Stored while the page is read: it may or may not be in it.
    lane.offer(waiting(15, false), Place(14), true);
    lane.page(page((12..=14).map(|p| waiting(p, false)).collect(), 14, false), now);
    assert_eq!(lane.wants_page(now), Some((Place(14), 0)), "15 is not in memory");
    lane.reading();
    lane.page(page(vec![waiting(15, false)], 15, false), now);
    assert_eq!(lane.wants_page(now), None);
    assert_eq!(places(&mut lane), [11, 12, 13, 14, 15], "each once, in order");
}

#[test]
fn a_full_window_leaves_the_rest_in_the_store() {
    let now = Instant::now();
    let places: Vec<u64> = (11..11 + WINDOW as u64 + 5).collect();
    let mut lane = offered(&places);
    assert_eq!(lane.wants_page(now), None, "not while the window is full");
    assert_eq!(self::places(&mut lane).len(), WINDOW);
    assert_eq!(lane.wants_page(now), Some((Place(10 + WINDOW as u64), 0)));
}

#[test]
fn done_to_stands_before_the_first_that_is_not_stored() {
    let mut lane = offered(&[11, 12, 13]);
    assert_eq!(places(&mut lane), [11, 12, 13]);
    assert_eq!(lane.done_to([Place(12)].into_iter()), Place(10));
    assert_eq!(lane.done_to([Place(11), Place(12)].into_iter()), Place(12));
    assert_eq!(lane.done_to([Place(11), Place(12), Place(13)].into_iter()), Place(13));
    for place in [11, 12, 13] {
        lane.stored(DeliveryId::new(0, 0, place), Place(place), None);
    }
    assert!(lane.quiet() && lane.empty());
    assert_eq!(lane.known_to(), (Place(13), false));
}

#[test]
fn what_was_asked_for_again_passes_alone() {
    let mut lane = offered(&[11]);
    assert!(lane.take(Pass::Asked, false).is_none() && lane.take(Pass::Nobody, false).is_none());
    lane.has_news();
    lane.reading();
    lane.page(page(vec![asked_again(5)], 11, false), Instant::now());
    assert!(lane.asked());
    assert_eq!(lane.take(Pass::Asked, false).map(|d| d.place.0), Some(5));
    assert!(lane.take(Pass::Asked, false).is_none());
    assert_eq!(lane.take(Pass::Probe, false).map(|d| d.place.0), Some(11));
}

#[test]
fn a_scheduled_one_that_is_named_again_starts_once() {
    let now = Instant::now();
    let mut lane = lane();
    lane.has_news();
    lane.reading();
    lane.page(page(vec![waiting(5, true)], 10, false), now);
    assert_eq!(places(&mut lane), [5]);
    lane.has_news();
    assert_eq!(lane.wants_page(now), Some((Place(10), 1)));
    lane.reading();
    // Its outcome is stored while the page is on its way.
    lane.stored(DeliveryId::new(0, 0, 5), Place(5), None);
    lane.page(page(vec![waiting(5, true)], 10, false), now);
    assert_eq!(places(&mut lane), [0; 0]);
    assert!(lane.quiet());
}

#[test]
fn one_asked_for_again_while_under_way_is_looked_for_once_its_outcome_is_stored() {
    let now = Instant::now();
    let mut lane = offered(&[11]);
    assert_eq!(places(&mut lane), [11]);
    lane.has_news();
    lane.reading();
    lane.page(page(vec![asked_again(11)], 11, false), now);
    assert_eq!(places(&mut lane), [0; 0], "it is under way");
    assert_eq!(lane.wants_page(now), None);
    lane.stored(DeliveryId::new(0, 0, 11), Place(11), None);
    assert_eq!(lane.wants_page(now), Some((Place(11), 0)));
}

#[test]
fn one_asked_for_again_while_it_waits_goes_ahead() {
    let now = Instant::now();
    let mut lane = offered(&[11, 12, 13]);
    lane.has_news();
    lane.reading();
    lane.page(page(vec![asked_again(13)], 13, false), now);
    assert_eq!(places(&mut lane), [13, 11, 12]);
    assert_eq!(lane.done_to(std::iter::empty()), Place(10), "11 is not stored");
}

#[test]
fn retries_and_first_attempts_go_in_order_of_when_they_were_due() {
    let place = |ms: i64, n: u64| Place::at(Time(ms)).0 + n;
    let retry = |ms: i64, due_ms: i64| {
        let mut delivery = waiting(place(ms, 0), true);
        delivery.head.next_attempt_ms = due_ms;
        delivery
    };
    let lane = || {
        let mut lane = lane();
        lane.reading();
        let fresh = [place(2_000, 0), place(4_000, 1)].map(|place| waiting(place, false));
        let all = [retry(1, 1_000), retry(2, 3_000)].into_iter().chain(fresh).collect();
        lane.page(page(all, place(4_000, 1), false), Instant::now());
        lane
    };
    assert_eq!(places(&mut lane()), [place(1, 0), place(2_000, 0), place(2, 0), place(4_000, 1)]);
    let mut short = lane();
    let first = std::iter::from_fn(|| short.take(Pass::Any, true)).map(|d| d.place.0);
    assert_eq!(first.collect::<Vec<_>>(), [place(2_000, 0), place(4_000, 1), place(1, 0), place(2, 0)]);
    assert_eq!(lane().take(Pass::Probe, true).map(|d| d.place.0), Some(place(1, 0)), "the oldest due one");
}

#[test]
fn a_retry_wakes_the_lane_when_it_is_due() {
    let now = Instant::now();
    let due = now + Duration::from_secs(5);
    let mut lane = offered(&[11]);
    assert_eq!(places(&mut lane), [11]);
    lane.stored(DeliveryId::new(0, 0, 11), Place(11), Some(due));
    assert_eq!(lane.next_scheduled(), Some(due));
    assert_eq!(lane.wants_page(now), None);
    assert_eq!(lane.wants_page(due), Some((Place(11), 0)));
}

#[test]
fn unsent_deliveries_go_back_to_their_places() {
    let mut lane = offered(&[11, 12, 13]);
    let first = lane.take(Pass::Any, false).unwrap();
    let bytes = lane.bytes();
    lane.put_back(first);
    assert_eq!(lane.bytes(), bytes + 4);
    assert_eq!(places(&mut lane), [11, 12, 13]);
}

#[test]
fn a_window_has_run_dry_when_nothing_can_start_before_it_is_read_on() {
    let mut lane = lane();
    assert!(lane.has_run_dry());
    lane.offer(waiting(11, false), Place(10), true);
    assert!(!lane.has_run_dry());
    assert!(lane.take(Pass::Any, false).is_some_and(|_| lane.has_run_dry()));
    let mut retry = waiting(1, true);
    retry.head.next_attempt_ms = Place(11).time().0 + 1;
    lane.reading();
    lane.page(page(vec![retry], 11, false), Instant::now());
    assert!(lane.has_run_dry(), "fresh ones may go before it");
    lane.reading();
    let until = Place::at(Time(2)).0;
    lane.page(page(vec![], until, false), Instant::now());
    assert!(!lane.has_run_dry(), "those that may are known");
}
