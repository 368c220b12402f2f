//! What the embedded queue's journal promises: whatever fails, is torn, or belongs to another file, what was
//! answered is there, once, and no group by halves.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use common::{clock::Clock, ids::DeliveryId};
use tempfile::TempDir;

use super::{
    LaneNow, Lease, Limits, New, Queue, QueueError, Stored,
    disk::{DiskQueue, FILE, JOURNAL},
    disk_tests::{AT_FLUSH, NOW, PAGE, THE_FILE, THE_JOURNAL, lane, new, open_faulty, put, succeed},
    disk_writer::{HELD, LONG},
};
use crate::delivery::State;

const MIB: usize = 1 << 20;

fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(folder: &Path) -> Arc<DiskQueue> {
    DiskQueue::open(folder, Clock::by_hand(NOW), Limits::default(), 0).unwrap()
}

/// The files as a crash now would leave them.
fn copy(from: &Path) -> TempDir {
    let copy = folder();
    for file in [JOURNAL, FILE] {
        fs::copy(from.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

async fn state(queue: &DiskQueue, number: u64) -> Option<State> {
    let found = queue.get(DeliveryId::new(0, 1, number)).await.unwrap();
    found.map(|found| found.head.state())
}

/// Several of one lane, in one call.
fn batch(numbers: impl Iterator<Item = u64>, body: &Bytes) -> Arc<Vec<New>> {
    let one = |number| New { body: body.clone(), ..new(lane(1), number)[0].clone() };
    Arc::new(numbers.map(one).collect())
}

fn are_new(stored: &[Result<Stored, QueueError>]) -> bool {
    stored.iter().all(|stored| matches!(stored, Ok(Stored::New { .. })))
}

/// What a lane's next holder reads, by number.
async fn waiting(queue: &DiskQueue) -> Vec<u64> {
    let claimed = queue.claim(9, PAGE).await.unwrap();
    let pages = claimed.lanes.into_iter().flat_map(|grant| grant.page.deliveries);
    pages.map(|waiting| u128::from_be_bytes(waiting.head.id().bytes()) as u64 >> 8).collect()
}

#[tokio::test]
async fn whichever_file_fails_at_whatever_what_was_answered_is_there_once() {
    for fault in [THE_JOURNAL, THE_JOURNAL | AT_FLUSH, THE_FILE, THE_FILE | AT_FLUSH] {
        let folder = folder();
        let fails = Arc::new(AtomicU8::new(0));
        let queue = open_faulty(folder.path(), &fails);
        let (place, LaneNow::Mine { fence, .. }) = put(&queue, lane(1), 1).await.unwrap() else { panic!() };
        let lease = Lease { webhook_id: lane(1), fence };
        // A snapshot: what it needs gets into the file before a checkpoint, and again from the journal.
        assert_eq!(state(&queue, 1).await, Some(State::Pending));
        put(&queue, lane(2), 2).await.unwrap();
        queue.settle(succeed(lease, &[(1, place)])).await.unwrap()[0].unwrap();

        fails.store(fault, Ordering::Relaxed);
        let third = put(&queue, lane(3), 3).await;
        // The file is not needed for an answer.
        assert_eq!(third.is_err(), fault & THE_JOURNAL > 0, "{fault}: {third:?}");
        fails.store(0, Ordering::Relaxed);

        put(&queue, lane(4), 4).await.unwrap();
        for queue in [queue, open(copy(folder.path()).path())] {
            assert_eq!(state(&queue, 1).await, Some(State::Succeeded), "{fault}");
            assert_eq!(state(&queue, 2).await, Some(State::Pending), "{fault}");
            assert_eq!(state(&queue, 4).await, Some(State::Pending), "{fault}");
            let again = queue.enqueue(new(lane(2), 2)).await.remove(0).unwrap();
            assert!(matches!(again, Stored::Duplicate { .. }), "{fault}: {again:?}");
            if third.is_ok() {
                assert_eq!(state(&queue, 3).await, Some(State::Pending), "{fault}");
            }
        }
    }
}

#[tokio::test]
async fn a_checkpoint_that_fails_loses_nothing() {
    for fault in [THE_FILE, THE_FILE | AT_FLUSH] {
        let folder = folder();
        let fails = Arc::new(AtomicU8::new(0));
        let queue = open_faulty(folder.path(), &fails);
        put(&queue, lane(2), 99).await.unwrap();
        fails.store(fault, Ordering::Relaxed);
        let body = Bytes::from(vec![7; MIB]);
        let mut answered = 0;
        // Until the journal is so long that a checkpoint is due.
        while answered < 40 && are_new(&queue.enqueue(batch([answered].into_iter(), &body)).await) {
            answered += 1;
        }
        assert!((HELD / MIB - 5..HELD / MIB + 8).contains(&(answered as usize)), "{answered}");
        fails.store(0, Ordering::Relaxed);
        drop(queue);
        let queue = open(folder.path());
        for number in (0..answered).chain([99]) {
            assert_eq!(state(&queue, number).await, Some(State::Pending), "{number}");
        }
    }
}

#[tokio::test]
async fn a_torn_group_is_none_and_those_before_it_are_whole() {
    let kept = folder();
    let queue = open(kept.path());
    put(&queue, lane(2), 1).await.unwrap();
    let body = Bytes::from_static(b"body");
    assert!(are_new(&queue.enqueue(batch(2..4, &body)).await));
    let before = copy(kept.path());
    assert!(are_new(&queue.enqueue(batch(4..6, &body)).await));
    let crashed = copy(kept.path());
    let [before, after] = [before, crashed].map(|folder| fs::read(folder.path().join(JOURNAL)).unwrap());
    let from = before.iter().zip(&after).position(|(before, after)| before != after).unwrap();
    let to = after.iter().rposition(|&byte| byte != 0).unwrap();
    assert!(to - from > 200, "{from} to {to}");

    for at in (from..=to).step_by(3) {
        let torn = copy(kept.path());
        let mut journal = after.clone();
        if at % 2 == 0 {
            journal[at] ^= 1;
        } else {
            journal[at..].fill(0);
        }
        fs::write(torn.path().join(JOURNAL), &journal).unwrap();
        let queue = open(torn.path());
        let mut found = waiting(&queue).await;
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3], "torn at {at}");
        assert!(are_new(&queue.enqueue(batch(4..6, &body)).await), "their events are not known");
    }
    let whole = open(copy(kept.path()).path());
    let mut found = waiting(&whole).await;
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_journal_that_a_checkpoint_has_taken_in_is_not_taken_in_again() {
    let folder = folder();
    let queue = open(folder.path());
    let (place, LaneNow::Mine { fence, .. }) = put(&queue, lane(1), 1).await.unwrap() else { panic!("free") };
    // As a crash right after the commit of a checkpoint leaves it.
    let old = fs::read(folder.path().join(JOURNAL)).unwrap();
    let lease = Lease { webhook_id: lane(1), fence };
    queue.settle(succeed(lease, &[(1, place)])).await.unwrap()[0].unwrap();
    drop(queue);
    fs::write(folder.path().join(JOURNAL), &old).unwrap();
    let queue = open(folder.path());
    assert_eq!((state(&queue, 1).await, waiting(&queue).await), (Some(State::Succeeded), vec![]));
}

#[tokio::test]
async fn a_journal_of_another_file_or_none_is_survived() {
    let folder = folder();
    drop(open(folder.path()));
    let file = fs::read(folder.path().join(FILE)).unwrap();
    let queue = open(folder.path());
    put(&queue, lane(1), 1).await.unwrap();
    drop(queue);
    let queue = open(folder.path());
    put(&queue, lane(1), 2).await.unwrap();
    let crashed = copy(folder.path());
    drop(queue);

    // The file is from before; the journal is of a later one.
    fs::write(crashed.path().join(FILE), &file).unwrap();
    let queue = open(crashed.path());
    assert_eq!((state(&queue, 1).await, state(&queue, 2).await), (None, None));
    put(&queue, lane(1), 3).await.unwrap();
    let crashed = copy(crashed.path());
    assert_eq!(waiting(&open(copy(crashed.path()).path())).await, [3], "and goes on");

    // The journal is gone, or cut off: what it had since the last checkpoint is.
    for cut in [true, false] {
        let copy = copy(crashed.path());
        let journal = copy.path().join(JOURNAL);
        if cut {
            fs::write(&journal, b"cut").unwrap()
        } else {
            fs::remove_file(&journal).unwrap()
        }
        let queue = open(copy.path());
        assert_eq!(waiting(&queue).await, [0_u64; 0]);
        put(&queue, lane(1), 4).await.unwrap();
    }
}

#[tokio::test]
async fn a_group_larger_than_a_record_is_durable_too_and_what_is_open_stays_in_memory_for_a_while_only() {
    let folder = folder();
    let queue = open(folder.path());
    put(&queue, lane(2), 99).await.unwrap();
    let body = Bytes::from(vec![7; MIB]);
    assert!(are_new(&queue.enqueue(batch(0..20, &body)).await));
    let crashed = open(copy(folder.path()).path());
    for number in (0..20).chain([99]) {
        assert_eq!(state(&crashed, number).await, Some(State::Pending), "{number}");
    }
    for number in 20..60 {
        assert!(are_new(&queue.enqueue(batch([number].into_iter(), &body)).await));
    }
    let journal = fs::metadata(folder.path().join(JOURNAL)).unwrap().len();
    assert!(journal as usize <= HELD + 2 * MIB, "{journal}");
    let crashed = open(copy(folder.path()).path());
    for number in (0..60).chain([99]) {
        assert_eq!(state(&crashed, number).await, Some(State::Pending), "{number}");
    }
}

#[tokio::test]
async fn a_body_that_nobody_needs_at_the_next_checkpoint_is_never_in_the_file() {
    let folder = folder();
    let queue = open(folder.path());
    let body = Bytes::from(vec![7; MIB]);
    let mut journal = 0;
    for number in 0..50 {
        let stored = queue.enqueue(batch([number].into_iter(), &body)).await;
        let [Ok(Stored::New { place, lane: LaneNow::Mine { fence, .. }, .. })] = stored[..] else {
            panic!("{stored:?}");
        };
        let lane = Lease { webhook_id: lane(1), fence };
        assert_eq!(queue.settle(succeed(lane, &[(number, place)])).await, Ok(vec![Ok(())]));
        let length = |file| fs::metadata(folder.path().join(file)).unwrap().len();
        journal = length(JOURNAL).max(journal);
        assert!(length(FILE) < 8 << 20, "{}", length(FILE));
    }
    assert!((LONG - 2 * MIB as u64..=LONG + 2 * MIB as u64).contains(&journal), "{journal}");
    let crashed = open(copy(folder.path()).path());
    for number in 0..50 {
        assert_eq!(state(&crashed, number).await, Some(State::Succeeded), "{number}");
    }
}
