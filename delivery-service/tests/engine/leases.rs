//! Leases that are about to run out, and claims that never come back: what an engine does then.

use std::time::Duration;

use delivery_service::queue::Claimed;

use crate::{PATIENCE, late::World};

/// As a cluster answers of which one master is away: nothing is safe, and some lane is due in an hour.
fn unsafe_now(claimed: Claimed) -> Claimed {
    Claimed { lease: Duration::ZERO, next_due: Some(Duration::from_secs(3_600)), ..claimed }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_whose_leases_have_run_out_goes_on_when_they_are_good_again() {
    let mut world = World::new().await;
    *world.late.claims.lock().unwrap() = unsafe_now;
    let running = world.start();
    world.publish(&running.intake, 1).await;
    for _ in 0..3 {
        tokio::time::timeout(PATIENCE, world.late.answered.notified()).await.expect("it goes on claiming");
    }
    *world.late.claims.lock().unwrap() = |claimed| claimed;
    world.each_arrives_once(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_lost_a_call_ends_so_that_its_process_can_be_started_anew() {
    let world = World::new().await;
    *world.late.claims.lock().unwrap() = |_| panic!("as a fault in the store's client would");
    let running = world.start();
    let ended = tokio::time::timeout(PATIENCE, running.done).await.expect("it should end");
    assert!(ended.is_err_and(|error| error.is_panic()));
}
