//! What every store of deliveries promises (`queue/mod.rs`), as tests that each backend runs: a promise
//! is a function over a `Bench`, and the table below makes a test of it for every backend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod bench;
mod disk;
mod redis;
mod redis_alone;
mod redis_cluster;
mod redis_history;
mod redis_lost;
mod redis_safety;
mod redis_server;
mod watching;

mod batch;
mod bulk;
mod callers;
mod cancel;
mod claim;
mod crash;
mod enqueue;
mod holder;
mod judge;
mod list;
mod lone;
mod model;
mod oracle;
mod retry;
mod runs;
mod scan;
mod settle;
mod sharing;

/// A test of every promise for every backend, named `BACKEND_tests::ROOM::PROMISE`.
macro_rules! contract {
    ($($tests:ident on $backend:path),*; $rooms:tt) => { $(contract!(@backend $tests, $backend, $rooms);)* };
    (@backend $tests:ident, $backend:path, { $($room:ident: $promises:tt)* }) => {
        mod $tests { $(mod $room { contract!(@room $room, $backend, $promises); })* }
    };
    (@room $room:ident, $backend:path, [$($promise:ident)*]) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            crate::$room::$promise::<$backend>().await;
        })*
    };
}

contract! {
    disk_tests on crate::disk::Disk,
    redis_tests on crate::redis::Single,
    cluster_tests on crate::redis::Clustered;
    {
        enqueue: [
            places_grow_and_before_chains
            a_free_lane_is_given_to_who_enqueues
            a_lane_with_other_deliveries_or_a_memo_becomes_due
            a_lane_on_hold_or_parked_is_left_alone
            an_event_id_is_stored_once_in_its_window
            an_event_id_counts_for_its_lane_alone
            of_many_at_once_with_one_event_id_one_is_new
            one_call_answers_each_in_order
            a_full_lane_fails_its_own_deliveries
            a_lane_is_full_by_bytes_too
            a_delivery_can_fail_as_it_is_stored
        ]
        sharing: [
            a_shared_body_stays_until_the_last_has_ended
            some_that_share_may_not_be_stored
            history_gives_its_part_of_a_body_back
        ]
        lone: [
            it_is_listed_counted_and_withdrawn
            another_one_stands_behind_it
            one_that_fails_at_once_leaves_it_where_it_is
            it_ends_beside_lanes_that_are_settled_again
            it_is_there_after_a_crash
        ]
        claim: [
            nothing_is_due_in_an_empty_store
            a_page_is_bounded_by_count_and_bytes
            pages_have_no_gap_and_repeat_nothing
            lanes_are_claimed_up_to_the_number_asked_for
            a_lane_is_leased_once_at_a_time
            a_lease_lapses_when_its_holder_is_silent
            a_lease_lives_while_its_holder_claims
            of_two_holders_one_has_the_lane
        ]
        settle: [
            a_success_ends_in_history_without_its_body
            a_failure_ends_in_history_with_its_body
            a_cancelled_one_ends_without_its_body
            a_retry_is_due_after_its_time
            due_retries_come_before_fresh_ones
            known_due_retries_leave_room_for_others
            retries_come_early_when_asked_for
            a_lost_lease_settles_nothing
            settling_twice_is_settling_once
            a_released_lane_with_unread_deliveries_is_due_at_once
            what_comes_after_the_last_known_place_makes_a_lane_due
            a_released_lane_is_due_with_its_next_retry
            a_hold_keeps_back_all_until_it_is_over
            waking_ends_a_hold
            what_comes_on_hold_is_due_when_that_is_over
            a_lane_woken_while_it_is_held_is_due_whatever_it_waits_for
            a_parked_lane_waits_until_it_is_woken
            waking_all_parked_lanes_leaves_holds
            a_lane_woken_while_it_is_held_does_not_park
            a_memo_is_kept_for_the_next_holder
            history_is_bounded_by_count
            history_is_bounded_by_age
            lanes_are_settled_one_by_one
        ]
        scan: [
            open_ones_are_named_in_order_of_place
            a_scan_goes_on_where_the_last_one_ended
            bodies_are_fetched_as_they_fit
            what_is_not_open_is_not_fetched
            without_the_lease_nothing_is_scanned_or_fetched
        ]
        retry: [
            a_failed_one_is_due_at_once_and_renewed
            a_waiting_one_is_due_at_once_ahead_of_others
            what_has_ended_or_is_unknown_is_not_retried
            a_retry_goes_past_a_hold_and_not_past_parking
            asked_for_during_an_attempt_it_follows_a_failure
            asked_for_during_a_first_attempt_it_follows_a_failure
            asked_for_before_a_first_attempt_it_is_that_attempt
            asked_for_during_an_attempt_a_success_stands
            its_holder_hears_of_it
        ]
        batch: [
            who_joins_a_batch_stays_where_it_is
            what_has_ended_joins_no_batch
            joining_takes_no_retry_back
            a_failed_one_leaves_its_batch_when_it_is_asked_for
            asked_for_during_an_attempt_it_leaves_its_batch_if_that_fails_for_good
            a_lost_lease_joins_nothing
            batches_outlive_a_crash
        ]
        cancel: [
            all_that_waits_ends_cancelled
            only_those_named_are_withdrawn
            a_long_backlog_takes_several_calls_and_spares_what_comes_later
            what_has_ended_stays_as_it_is
            a_success_under_way_stands
            a_failure_under_way_ends_cancelled
            another_holder_hears_of_it
            a_lane_says_how_it_stands
        ]
        bulk: [
            failed_ones_of_a_time_are_due_again_in_line
            slices_wait_for_those_before
            one_at_a_time_and_it_can_be_stopped
            without_a_body_a_failed_one_stays
            it_goes_on_after_a_crash
            its_holder_hears_of_a_slice
        ]
        list: [
            the_newest_place_comes_first_over_all_lanes
            pages_go_on_where_the_last_one_ended
            every_filter_narrows
            a_delivery_is_found_in_every_state
            accounts_see_their_own
        ]
        crash: [
            what_was_stored_is_there_after_a_crash
            what_was_settled_is_settled_after_a_crash
            event_ids_are_known_after_a_crash
            holds_and_parking_outlive_a_crash
            places_grow_over_a_crash
            leases_from_before_a_crash_are_lost
        ]
        runs: [
            random_runs_come_to_what_an_oracle_says
            so_do_those_beside_them
        ]
    }
}
