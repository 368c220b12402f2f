//! What the embedded queue promises of damage: a record that cannot be read harms its own lane and no other, and is
//! never met with half of a change.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use common::{
    clock::Clock,
    ids::{DeliveryId, WebhookId},
};
use redb::{ReadableDatabase, backends::InMemoryBackend};
use tempfile::TempDir;

use super::{
    Cancel, Fate, Lanes as Which, Lease, LeaseLost, Limits, PageLimit, Queue, QueueError, Stored,
    disk::{DiskQueue, FILE},
    disk_changes::Changes,
    disk_file::LAYOUT,
    disk_group::Group,
    disk_lanes::{ASIDE, Lanes},
    disk_tables::{ById, HEADS, LANES, META, Tables},
    disk_tests::{AT_READ, NOW, PAGE, THE_FILE, lane, new, open_faulty, open_faulty_by, put, succeed},
};
use crate::delivery::{Fault, Place, State};

fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(folder: &Path) -> (Arc<DiskQueue>, Clock) {
    let clock = Clock::by_hand(NOW);
    (DiskQueue::open(folder, clock.clone(), Limits::default(), 0).unwrap(), clock)
}

/// What stands at a key of a closed file is no longer what it was.
fn damage(folder: &Path, table: ById<&'static [u8]>, key: [u8; 16]) {
    let database = redb::Database::open(folder.join(FILE)).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(table).unwrap().insert(&key, [0xff; 60].as_slice()).unwrap();
    txn.commit().unwrap();
}

fn id(number: u64) -> DeliveryId {
    DeliveryId::new(0, 1, number)
}

/// Lanes 1 to 4 with a delivery each, 1 with a row and 2 with a delivery that cannot be read.
async fn damaged() -> (TempDir, Arc<DiskQueue>, Clock) {
    let folder = folder();
    let (queue, _) = open(folder.path());
    for number in 1..=4 {
        put(&queue, lane(number.into()), number).await.unwrap();
    }
    drop(queue);
    damage(folder.path(), LANES, lane(1).bytes());
    damage(folder.path(), HEADS, id(2).bytes());
    let (queue, clock) = open(folder.path());
    (folder, queue, clock)
}

/// The lanes that a claim is given, and where their first deliveries are.
async fn claimed(queue: &DiskQueue) -> Vec<(Lease, Place)> {
    claimed_by(queue, PAGE).await
}

async fn claimed_by(queue: &DiskQueue, page: PageLimit) -> Vec<(Lease, Place)> {
    let claimed = queue.claim(9, page).await.unwrap();
    let mut lanes: Vec<_> = claimed.lanes.iter().map(|g| (g.lane, g.page.deliveries[0].place)).collect();
    lanes.sort_unstable_by_key(|(lease, _)| lease.webhook_id);
    lanes
}

fn ids(claimed: &[(Lease, Place)]) -> Vec<WebhookId> {
    claimed.iter().map(|(lease, _)| lease.webhook_id).collect()
}

#[tokio::test]
async fn a_lane_that_cannot_be_read_is_left_alone_and_the_others_are_claimed() {
    let (folder, queue, clock) = damaged().await;
    assert_eq!(ids(&claimed(&queue).await), [lane(3), lane(4)]);
    // Whatever comes in, it is not read over and over.
    put(&queue, lane(2), 5).await.unwrap();
    let again = queue.claim(9, PAGE).await.unwrap();
    assert_eq!((again.lanes.len(), again.next_due), (0, Some(ASIDE)));
    clock.advance(ASIDE - Duration::from_millis(1));
    assert_eq!(queue.claim(9, PAGE).await.unwrap().next_due, Some(Duration::from_millis(1)));
    clock.advance(Duration::from_millis(1));
    let again = queue.claim(9, PAGE).await.unwrap();
    assert_eq!((again.lanes.len(), again.next_due), (0, Some(ASIDE)), "it was looked at");

    // Mended, it goes on.
    drop(queue);
    let healthy = folder.path().join("healthy");
    put(&open(&healthy).0, lane(2), 2).await.unwrap();
    let database = redb::Database::open(healthy.join(FILE)).unwrap();
    let head =
        database.begin_read().unwrap().open_table(HEADS).unwrap().get(&id(2).bytes()).unwrap().unwrap();
    let database = redb::Database::open(folder.path().join(FILE)).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(HEADS).unwrap().insert(&id(2).bytes(), head.value()).unwrap();
    txn.commit().unwrap();
    drop(database);
    assert_eq!(ids(&claimed(&open(folder.path()).0).await), [lane(2), lane(3), lane(4)]);
}

#[tokio::test]
async fn waking_a_lane_that_cannot_be_read_wakes_the_others_too_and_has_it_looked_at() {
    let (_folder, queue, _) = damaged().await;
    let held = claimed(&queue).await;
    queue.wake(Which::These(vec![lane(1), lane(2), lane(3)])).await.unwrap();
    let woken = queue.claim(9, PAGE).await.unwrap();
    assert_eq!((woken.news, woken.lanes.len(), woken.next_due), (vec![lane(3)], 0, Some(ASIDE)));
    assert_eq!(queue.settle(succeed(held[0].0, &[])).await.unwrap(), [Ok(())]);
}

#[tokio::test]
async fn what_is_stored_with_a_damaged_lane_stands_and_nothing_of_the_damaged_one_does() {
    let (folder, queue, _) = damaged().await;
    let three = [(1, 11), (3, 12), (4, 13)].map(|(at, number)| new(lane(at), number)[0].clone());
    let stored = queue.enqueue(Arc::new(three.to_vec())).await;
    assert!(matches!(stored[0], Err(QueueError::Damaged(_))), "{stored:?}");
    assert!(stored[1..].iter().all(|stored| matches!(stored, Ok(Stored::New { .. }))), "{stored:?}");
    assert!(queue.get(id(11)).await.unwrap().is_none());
    drop(queue);
    let (queue, _) = open(folder.path());
    assert!(queue.get(id(12)).await.unwrap().is_some() && queue.get(id(11)).await.unwrap().is_none());
    // Its event is not taken for one that the lane has had.
    let again = queue.enqueue(Arc::new(three[..1].to_vec())).await;
    assert!(matches!(again[0], Err(QueueError::Damaged(_))), "{again:?}");
}

/// Lanes 1, 2 and 3, held; the second delivery of lane 2, which is number 3, cannot be read, and was not yet.
async fn held() -> (TempDir, Arc<DiskQueue>, Vec<(Lease, Place)>) {
    let folder = folder();
    let (queue, _) = open(folder.path());
    for (number, at) in [(1, 1), (2, 2), (3, 2), (4, 3)] {
        put(&queue, lane(at), number).await.unwrap();
    }
    drop(queue);
    damage(folder.path(), HEADS, id(3).bytes());
    let (queue, _) = open(folder.path());
    let one = PageLimit { deliveries: 1, ..PAGE };
    let held = claimed_by(&queue, one).await;
    assert_eq!(ids(&held), [lane(1), lane(2), lane(3)]);
    (folder, queue, held)
}

async fn state(queue: &DiskQueue, number: u64) -> State {
    queue.get(id(number)).await.unwrap().unwrap().head.state()
}

#[tokio::test]
async fn a_settle_of_a_damaged_lane_loses_its_lease_and_stores_nothing_and_the_others_stand() {
    let (_folder, queue, held) = held().await;
    let settle = |at: usize, numbers: &[u64]| {
        let (lease, place) = held[at];
        let numbers: Vec<_> = numbers.iter().map(|&number| (number, place)).collect();
        succeed(lease, &numbers)[0].clone()
    };
    let all = Arc::new(vec![settle(0, &[1]), settle(1, &[2, 3]), settle(2, &[4])]);
    assert_eq!(queue.settle(all).await.unwrap(), [Ok(()), Err(LeaseLost), Ok(())]);
    let states = [state(&queue, 1).await, state(&queue, 2).await, state(&queue, 4).await];
    assert_eq!(states, [State::Succeeded, State::Pending, State::Succeeded]);
    assert_eq!(queue.claim(9, PAGE).await.unwrap().next_due, Some(ASIDE));
}

#[tokio::test]
async fn a_member_of_a_batch_that_cannot_be_read_keeps_the_others_as_they_are() {
    let (_folder, queue, held) = held().await;
    let (lease, place) = held[1];
    let mut settle = succeed(lease, &[(2, place), (3, place)])[0].clone();
    settle.deliveries[1].fate = Fate::Batch;
    assert_eq!(queue.settle(Arc::new(vec![settle])).await.unwrap(), [Err(LeaseLost)]);
    assert_eq!(state(&queue, 2).await, State::Pending);
}

#[tokio::test]
async fn a_page_that_cannot_be_read_leaves_the_holder_its_lease_for_what_it_has_to_settle() {
    let (_folder, queue, held) = held().await;
    let (lease, place) = held[1];
    for _ in 0..2 {
        let read = queue.read(lease, place, 0, PAGE).await;
        assert!(matches!(read, Err(QueueError::Damaged(_))), "{read:?}");
    }
    assert_eq!(queue.settle(succeed(lease, &[(2, place)])).await.unwrap(), [Ok(())]);
    assert_eq!(state(&queue, 2).await, State::Succeeded);
    // Now it is the first of what is claimed.
    assert_eq!(queue.claim(9, PAGE).await.unwrap().next_due, Some(ASIDE));
    assert_eq!(queue.settle(succeed(held[0].0, &[])).await.unwrap(), [Ok(())]);
}

#[tokio::test]
async fn what_is_read_ends_before_what_cannot_be() {
    let (folder, queue, held) = held().await;
    drop(queue);
    let (queue, _) = open(folder.path());
    let claimed = queue.claim(9, PAGE).await.unwrap().lanes;
    let grant = claimed.iter().find(|grant| grant.lane.webhook_id == lane(2)).unwrap();
    let (lease, place) = (grant.lane, held[1].1);
    assert_eq!((grant.page.deliveries.len(), grant.page.read_to, grant.page.more), (1, place, true));
    let again = queue.read(lease, Place(0), 1, PAGE).await;
    assert!(matches!(again, Err(QueueError::Damaged(_))), "one is known, and would come for ever: {again:?}");
    let scan = queue.scan(lease, Place(0), 9).await.unwrap().unwrap();
    assert_eq!((scan.open.len(), scan.read_to, scan.more), (1, place, true));
    let scan = queue.scan(lease, place, 9).await;
    assert!(matches!(scan, Err(QueueError::Damaged(_))), "{scan:?}");
    assert_eq!(queue.fetch(lease, vec![id(2), id(3)], 9).await.unwrap().unwrap().len(), 1);
    let fetch = queue.fetch(lease, vec![id(3)], 9).await;
    assert!(matches!(fetch, Err(QueueError::Damaged(_))), "{fetch:?}");
}

#[tokio::test]
async fn callers_are_told_of_what_they_asked_for_and_nothing_of_that_was_done() {
    let (_folder, queue, held) = held().await;
    for _ in 0..2 {
        // The file is not opened anew, which is done once a second at most.
        let cancelled = queue.cancel(lane(2), Cancel::All(None)).await;
        assert!(matches!(cancelled, Err(QueueError::Damaged(_))), "{cancelled:?}");
        let retried = queue.retry(id(3)).await;
        assert!(matches!(retried, Err(QueueError::Damaged(_))), "{retried:?}");
    }
    assert_eq!(state(&queue, 2).await, State::Pending);
    assert_eq!(queue.settle(succeed(held[1].0, &[(2, held[1].1)])).await.unwrap(), [Ok(())]);
    assert_eq!(queue.lane_status(lane(2)).await.unwrap().open, 1);
}

#[tokio::test]
async fn a_bulk_retry_goes_past_what_cannot_be_read() {
    let folder = folder();
    let (queue, _) = open(folder.path());
    for number in 1..=3 {
        let mut new = new(lane(1), number)[0].clone();
        new.failed = Some(Fault::Disabled);
        queue.enqueue(Arc::new(vec![new])).await.remove(0).unwrap();
    }
    drop(queue);
    damage(folder.path(), HEADS, id(2).bytes());
    let (queue, _) = open(folder.path());
    queue.retry_bulk(lane(1), Place(0), Place(u64::MAX)).await.unwrap();
    let slice = queue.retry_slice(lane(1), 10).await.unwrap();
    assert_eq!((slice.retried.len(), slice.over), (2, true));
    assert_eq!(queue.lane_status(lane(1)).await.unwrap().failed, 1);
}

#[test]
fn a_sweep_goes_past_a_lane_that_cannot_be_read() {
    let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
    let (mut lanes, limits) = (Lanes::new(0, Duration::ZERO), Limits::default());
    let txn = database.begin_write().unwrap();
    for (at, row) in [(1, [0xff_u8; 60].as_slice()), (2, &[])] {
        txn.open_table(LANES).unwrap().insert(&lane(at).bytes(), row).unwrap();
    }
    let mut tables = Tables::open(&txn, &Changes::new()).unwrap();
    let mut group = Group { tables: &mut tables, lanes: &mut lanes, limits: &limits, now: NOW };
    assert_eq!(group.sweep([0; 16]).unwrap(), [0; 16]);
    assert_eq!(
        group.tables.lanes.from([0; 16], 9).unwrap(),
        [lane(1).bytes()],
        "of the other nothing is left"
    );
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_opened_anew_and_the_lane_that_it_failed_at_waits() {
    let folder = folder();
    let (queue, _) = open(folder.path());
    for number in 1..=2 {
        put(&queue, lane(number.into()), number).await.unwrap();
    }
    drop(queue);
    let (fails, clock) = (Arc::new(AtomicU8::new(0)), Clock::by_hand(NOW));
    let queue = open_faulty_by(folder.path(), &fails, clock.clone());
    assert_eq!(queue.claim(0, PAGE).await.unwrap().lanes.len(), 0, "its transaction has begun");
    fails.store(THE_FILE | AT_READ, Ordering::Relaxed);
    assert!(matches!(queue.claim(9, PAGE).await, Err(QueueError::Unavailable(_))));
    fails.store(0, Ordering::Relaxed);
    assert_eq!(ids(&claimed(&queue).await), [lane(2)]);
    clock.advance(ASIDE / 2);
    assert_eq!(ids(&claimed(&queue).await), []);
    clock.advance(ASIDE / 2);
    assert_eq!(ids(&claimed(&queue).await), [lane(1)]);
}

/// Lanes 1 and 2 with two deliveries each, on a disk that fails as it is told to.
async fn on_a_faulty_disk() -> (TempDir, Arc<DiskQueue>, Arc<AtomicU8>) {
    let folder = folder();
    let (queue, _) = open(folder.path());
    for number in 1..=4 {
        put(&queue, lane(if number < 3 { 1 } else { 2 }), number).await.unwrap();
    }
    drop(queue);
    let fails = Arc::new(AtomicU8::new(0));
    let queue = open_faulty(folder.path(), &fails);
    (folder, queue, fails)
}

#[tokio::test]
async fn a_held_lane_that_the_disk_fails_at_is_told_apart_and_its_holder_settles_what_it_has() {
    let (_folder, queue, fails) = on_a_faulty_disk().await;
    let held = claimed_by(&queue, PageLimit { deliveries: 1, ..PAGE }).await;
    let (lease, place) = held[0];
    fails.store(THE_FILE | AT_READ, Ordering::Relaxed);
    let read = queue.read(lease, place, 0, PAGE).await;
    assert!(matches!(read, Err(QueueError::Damaged(_))), "it would be read over and over: {read:?}");
    fails.store(0, Ordering::Relaxed);
    assert_eq!(queue.settle(succeed(lease, &[(1, place)])).await.unwrap(), [Ok(())]);
    assert_eq!(state(&queue, 1).await, State::Succeeded);
    assert_eq!(ids(&claimed(&queue).await), [lane(1)]);
}

#[tokio::test]
async fn no_lane_waits_for_a_disk_that_failed_at_something_else() {
    let (_folder, queue, fails) = on_a_faulty_disk().await;
    assert_eq!(queue.claim(0, PAGE).await.unwrap().lanes.len(), 0, "its transaction has begun");
    fails.store(THE_FILE | AT_READ, Ordering::Relaxed);
    assert!(queue.get(id(1)).await.is_err());
    fails.store(0, Ordering::Relaxed);
    assert!(matches!(queue.claim(9, PAGE).await, Err(QueueError::Unavailable(_))));
    assert_eq!(ids(&claimed(&queue).await), [lane(1), lane(2)]);
}

#[tokio::test]
async fn a_file_of_another_layout_is_refused_and_one_without_a_number_is_taken_for_this() {
    let folder = folder();
    put(&open(folder.path()).0, lane(1), 1).await.unwrap();
    let (name, present) = LAYOUT;
    let set = |number: Option<u64>| {
        let database = redb::Database::open(folder.path().join(FILE)).unwrap();
        let txn = database.begin_write().unwrap();
        let mut meta = txn.open_table(META).unwrap();
        let was = match number {
            Some(number) => meta.insert(name, number),
            None => meta.remove(name),
        };
        let was = was.unwrap().map(|was| was.value());
        drop(meta);
        txn.commit().unwrap();
        was
    };
    assert_eq!(set(Some(present + 1)), Some(present));
    let refused = DiskQueue::open(folder.path(), Clock::by_hand(NOW), Limits::default(), 0);
    let Err(QueueError::Damaged(why)) = refused.map(drop) else { panic!("it was opened") };
    assert!(why.contains("another version"), "{why}");
    // As older files are.
    assert_eq!(set(None), Some(present + 1), "it is as it was");
    assert_eq!(ids(&claimed(&open(folder.path()).0).await), [lane(1)]);
    assert_eq!(set(None), Some(present));
}
