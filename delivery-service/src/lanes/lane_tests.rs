//! A lane by table: what starts, what waits, what is read, and when the lease can go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::ids::{DeliveryId, WebhookId};

use super::lane::{Lane, WINDOW};
use crate::{
    delivery::{Head, Place},
    queue::{Lease, Page, Waiting},
    routes::Policy,
};

fn policy() -> Policy {
    Policy { timeout: Duration::from_secs(15), retry_delays: Arc::new([]), max_in_flight: 2, max_rate: 0.0 }
}

fn waiting(place: u64, scheduled: bool) -> Waiting {
    let head = Head::new(DeliveryId::new(0, 0, place), WebhookId::new(1, 1));
    Waiting { head, body: Bytes::from_static(b"body"), place: Place(place), scheduled }
}

fn asked_again(place: u64) -> Waiting {
    let mut delivery = waiting(place, true);
    delivery.head.renew();
    delivery
}

fn lane() -> Lane {
    Lane::new(Lease { webhook_id: WebhookId::new(1, 1), fence: 1 }, Place(10))
}

fn offered(places: &[u64]) -> Lane {
    let mut lane = lane();
    let mut before = 10;
    for place in places {
        lane.offer(waiting(*place, false), Place(before), true);
        before = *place;
    }
    lane
}

fn places(lane: &mut Lane, policy: &Policy, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| lane.start(policy, now)).map(|d| d.place.0).collect()
}

fn page(deliveries: Vec<Waiting>, read_to: u64, more: bool) -> Page {
    Page { deliveries, read_to: Place(read_to), more, next_scheduled: None }
}

#[test]
fn fresh_deliveries_start_in_order_up_to_max_in_flight() {
    let now = Instant::now();
    let mut lane = offered(&[11, 12, 13]);
    assert_eq!(places(&mut lane, &policy(), now), [11, 12]);
    lane.ended();
    assert_eq!(places(&mut lane, &policy(), now), [13]);
    assert!(!lane.quiet());
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
    let all = Policy { max_in_flight: 50, ..policy() };
    assert_eq!(places(&mut lane, &all, now), [11, 12, 13, 14, 15], "each once, in order");
}

#[test]
fn a_full_window_leaves_the_rest_in_the_store() {
    let now = Instant::now();
    let places: Vec<u64> = (11..11 + WINDOW as u64 + 5).collect();
    let mut lane = offered(&places);
    assert_eq!(lane.wants_page(now), None, "not while the window is full");
    let all = Policy { max_in_flight: 1_000, ..policy() };
    assert_eq!(self::places(&mut lane, &all, now).len(), WINDOW);
    assert_eq!(lane.wants_page(now), Some((Place(10 + WINDOW as u64), 0)));
}

#[test]
fn done_to_stands_before_the_first_that_is_not_stored() {
    let now = Instant::now();
    let mut lane = offered(&[11, 12, 13]);
    let all = Policy { max_in_flight: 50, ..policy() };
    assert_eq!(places(&mut lane, &all, now), [11, 12, 13]);
    assert_eq!(lane.done_to([Place(12)].into_iter()), Place(10));
    assert_eq!(lane.done_to([Place(11), Place(12)].into_iter()), Place(12));
    assert_eq!(lane.done_to([Place(11), Place(12), Place(13)].into_iter()), Place(13));
    for place in [11, 12, 13] {
        lane.ended();
        lane.stored(DeliveryId::new(0, 0, place), Place(place), None);
    }
    assert!(lane.quiet() && lane.empty());
    assert_eq!(lane.known_to(), (Place(13), false));
}

#[test]
fn a_hold_stops_all_but_what_was_asked_for_again() {
    let now = Instant::now();
    let mut lane = offered(&[11]);
    lane.hold(now + Duration::from_secs(60));
    assert_eq!(places(&mut lane, &policy(), now), [0; 0]);
    assert_eq!(lane.wakes_at(now), Some(now + Duration::from_secs(60)));
    lane.has_news();
    lane.reading();
    lane.page(page(vec![asked_again(5)], 11, false), now);
    assert_eq!(places(&mut lane, &policy(), now), [5]);
    assert_eq!(places(&mut lane, &policy(), now + Duration::from_secs(60)), [11]);
}

#[test]
fn a_rate_spaces_starts_evenly_without_a_burst_after_a_rest() {
    let start = Instant::now();
    let mut lane = offered(&(11..100).collect::<Vec<_>>());
    let paced = Policy { max_rate: 10.0, max_in_flight: 1_000, ..policy() };
    let at = |ms: u64| start + Duration::from_millis(ms);
    assert_eq!(places(&mut lane, &paced, at(0)).len(), 1);
    assert_eq!(lane.wakes_at(at(0)), Some(at(100)));
    assert_eq!(places(&mut lane, &paced, at(99)).len(), 0);
    assert_eq!(places(&mut lane, &paced, at(130)).len(), 1, "late by less than a pause");
    assert_eq!(lane.wakes_at(at(130)), Some(at(200)), "the pace is kept");
    assert_eq!(places(&mut lane, &paced, at(5_000)).len(), 1, "time that is gone is gone");
}

#[test]
fn a_scheduled_one_that_is_named_again_starts_once() {
    let now = Instant::now();
    let mut lane = lane();
    lane.has_news();
    lane.reading();
    lane.page(page(vec![waiting(5, true)], 10, false), now);
    assert_eq!(places(&mut lane, &policy(), now), [5]);
    lane.has_news();
    assert_eq!(lane.wants_page(now), Some((Place(10), 1)));
    lane.reading();
    // Its outcome is stored while the page is on its way.
    lane.ended();
    lane.stored(DeliveryId::new(0, 0, 5), Place(5), None);
    lane.page(page(vec![waiting(5, true)], 10, false), now);
    assert_eq!(places(&mut lane, &policy(), now), [0; 0]);
    assert!(lane.quiet());
}

#[test]
fn one_asked_for_again_while_under_way_is_looked_for_once_its_outcome_is_stored() {
    let now = Instant::now();
    let mut lane = offered(&[11]);
    assert_eq!(places(&mut lane, &policy(), now), [11]);
    lane.has_news();
    lane.reading();
    lane.page(page(vec![asked_again(11)], 11, false), now);
    assert_eq!(places(&mut lane, &policy(), now), [0; 0], "it is under way");
    assert_eq!(lane.wants_page(now), None);
    lane.ended();
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
    assert_eq!(places(&mut lane, &policy(), now), [13, 11]);
    assert_eq!(lane.done_to(std::iter::empty()), Place(10), "11 is not stored");
}

#[test]
fn retries_and_first_attempts_take_turns() {
    let now = Instant::now();
    let mut lane = offered(&[11, 12]);
    lane.has_news();
    lane.reading();
    lane.page(page(vec![waiting(3, true), waiting(4, true)], 12, false), now);
    let all = Policy { max_in_flight: 50, ..policy() };
    assert_eq!(places(&mut lane, &all, now), [11, 3, 12, 4]);
}

#[test]
fn a_retry_wakes_the_lane_when_it_is_due() {
    let now = Instant::now();
    let due = now + Duration::from_secs(5);
    let mut lane = offered(&[11]);
    assert_eq!(places(&mut lane, &policy(), now), [11]);
    lane.ended();
    lane.stored(DeliveryId::new(0, 0, 11), Place(11), Some(due));
    assert_eq!(lane.wakes_at(now), Some(due));
    assert_eq!(lane.wants_page(now), None);
    assert_eq!(lane.wants_page(due), Some((Place(11), 0)));
}

#[test]
fn unsent_deliveries_go_back_to_their_places() {
    let now = Instant::now();
    let mut lane = offered(&[11, 12, 13]);
    let first = lane.start(&policy(), now).unwrap();
    let bytes = lane.bytes();
    lane.put_back(first);
    assert_eq!(lane.bytes(), bytes + 4);
    assert_eq!(places(&mut lane, &Policy { max_in_flight: 50, ..policy() }, now), [11, 12, 13]);
}
