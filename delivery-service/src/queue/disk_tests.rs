//! What only the embedded queue promises: it survives a disk that fails, takes nothing in on a full
//! one, forgets what is old, and never loses a lease that nobody took.

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use common::{
    clock::{Clock, Time},
    ids::{DeliveryId, WebhookId},
};
use redb::{
    StorageBackend,
    backends::{FileBackend, InMemoryBackend},
};

use super::{
    Cancel, Fate, LaneNow, Lease, Limits, New, PageLimit, Queue, QueueError, Release, Settle, Settled,
    Stored,
    disk::{DiskQueue, FILE, JOURNAL},
    disk_changes::Changes,
    disk_file::{Files, Opens},
    disk_group::Group,
    disk_lanes::{LEASE, Lane, Lanes},
    disk_tables::Tables,
};
use crate::delivery::{Fault, Head, Place, State};

pub(super) const NOW: Time = Time(1_800_000_000_000);
pub(super) const PAGE: PageLimit = PageLimit { deliveries: 10, bytes: 1 << 20, early: false };

/// Which of the two files fails.
pub(super) const THE_FILE: u8 = 1;
pub(super) const THE_JOURNAL: u8 = 2;
/// It fails as it is flushed to the disk, rather than when it is written.
pub(super) const AT_FLUSH: u8 = 4;
/// The same, as it is read.
pub(super) const AT_READ: u8 = 8;
/// Closing it takes as long as this is set …
pub(super) const AT_CLOSE: u8 = 16;
/// … and has begun.
pub(super) const CLOSING: u8 = 32;
/// What writes into it panics.
pub(super) const PANICS: u8 = 64;

/// A file that fails when it is told to.
#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    is: u8,
    fails: Arc<AtomicU8>,
}

impl Faulty {
    fn check(&self, at: u8) -> io::Result<()> {
        let fails = self.fails.load(Ordering::Relaxed);
        let is_hit = fails & self.is > 0 && fails & (AT_FLUSH | AT_READ) == at;
        if is_hit { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(AT_READ)?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check(0)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check(AT_FLUSH)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(0)?;
        assert_eq!(self.fails.load(Ordering::Relaxed) & PANICS, 0, "as it is told to");
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        while self.fails.load(Ordering::Relaxed) & AT_CLOSE > 0 {
            self.fails.fetch_or(CLOSING, Ordering::Relaxed);
            thread::yield_now();
        }
        self.file.close()
    }
}

fn faulty(folder: &Path, fails: &Arc<AtomicU8>) -> Result<Files, QueueError> {
    let [file, journal] = [(FILE, THE_FILE), (JOURNAL, THE_JOURNAL)].map(|(file, is)| {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(folder.join(file));
        Faulty { file: FileBackend::new(file.unwrap()).unwrap(), is, fails: Arc::clone(fails) }
    });
    // Nothing is kept of it, so that reading can fail.
    let database = redb::Builder::new().set_cache_size(0).create_with_backend(file);
    Ok((database.map_err(|error| QueueError::Unavailable(error.to_string()))?, Box::new(journal)))
}

/// A queue on files that fail as they are told to.
pub(super) fn open_faulty(folder: &Path, fails: &Arc<AtomicU8>) -> Arc<DiskQueue> {
    open_faulty_by(folder, fails, Clock::by_hand(NOW))
}

pub(super) fn open_faulty_by(folder: &Path, fails: &Arc<AtomicU8>, clock: Clock) -> Arc<DiskQueue> {
    DiskQueue::open_with(folder, clock, Limits::default(), 0, opens(folder, fails)).unwrap()
}

pub(super) fn opens(folder: &Path, fails: &Arc<AtomicU8>) -> Opens {
    let (at, switch) = (folder.to_owned(), Arc::clone(fails));
    Box::new(move || faulty(&at, &switch))
}

pub(super) fn lane(number: u128) -> WebhookId {
    WebhookId::new(1, number)
}

pub(super) fn new(lane: WebhookId, number: u64) -> Arc<Vec<New>> {
    let mut head = Head::new(DeliveryId::new(0, 1, number), lane);
    (head.license_code, head.event_id) = ("acme".into(), format!("event {number}"));
    Arc::new(vec![New { head, body: "body".into(), dedupe: true, failed: None }])
}

pub(super) async fn put(
    queue: &DiskQueue,
    lane: WebhookId,
    number: u64,
) -> Result<(Place, LaneNow), QueueError> {
    match queue.enqueue(new(lane, number)).await.remove(0)? {
        Stored::New { place, lane, .. } => Ok((place, lane)),
        other => panic!("{other:?}"),
    }
}

/// Settles deliveries as succeeded and gives the lane back.
pub(super) fn succeed(lane: Lease, numbers: &[(u64, Place)]) -> Arc<Vec<Settle>> {
    let settled = numbers.iter().map(|&(number, place)| {
        let mut head = Head::new(DeliveryId::new(0, 1, number), lane.webhook_id);
        head.end(State::Succeeded, Fault::None, NOW);
        Settled { head, place, fate: Fate::Succeeded }
    });
    let release = Some(Release::Free { known: Place(u64::MAX), unread: false });
    Arc::new(vec![Settle { lane, deliveries: settled.collect(), done_to: Place(0), memo: None, release }])
}

#[tokio::test]
async fn a_disk_that_fails_loses_nothing_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicU8::new(0));
    let queue = open_faulty(folder.path(), &fails);
    let (place, LaneNow::Mine { fence, .. }) = put(&queue, lane(1), 1).await.unwrap() else { panic!("free") };
    let lease = Lease { webhook_id: lane(1), fence };

    fails.store(THE_FILE | THE_JOURNAL, Ordering::Relaxed);
    assert!(matches!(put(&queue, lane(2), 2).await, Err(QueueError::Unavailable(_))));
    assert!(matches!(queue.ping().await, Err(QueueError::Unavailable(_))));
    fails.store(0, Ordering::Relaxed);

    // It was answered that it may have been stored.
    let again = queue.enqueue(new(lane(2), 2)).await.remove(0).unwrap();
    assert!(matches!(again, Stored::New { .. } | Stored::Duplicate { .. }), "{again:?}");
    assert_eq!(queue.settle(succeed(lease, &[(1, place)])).await.unwrap(), [Ok(())], "its lease lives");
    let found = queue.get(DeliveryId::new(0, 1, 1)).await.unwrap().unwrap();
    assert_eq!(found.head.state(), State::Succeeded);
    assert!(queue.get(DeliveryId::new(0, 1, 2)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_writer_that_panicked_is_no_longer_ready() {
    let folder = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicU8::new(0));
    let queue = open_faulty(folder.path(), &fails);
    put(&queue, lane(1), 1).await.unwrap();
    queue.ping().await.unwrap();
    fails.store(PANICS, Ordering::Relaxed);
    assert!(matches!(put(&queue, lane(1), 2).await, Err(QueueError::Unavailable(_))));
    fails.store(0, Ordering::Relaxed);
    // It is gone a moment after it let go of who asked.
    let gone = async {
        while queue.ping().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_does_not_wait_until_a_file_that_failed_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicU8::new(0));
    let queue = open_faulty(folder.path(), &fails);
    fails.store(THE_JOURNAL | AT_CLOSE, Ordering::Relaxed);
    let asked = Arc::clone(&queue);
    let put = tokio::spawn(async move { put(&asked, lane(1), 1).await });
    while fails.load(Ordering::Relaxed) & CLOSING == 0 {
        tokio::task::yield_now().await;
    }
    let ping = tokio::spawn(async move { queue.ping().await });
    let answer = tokio::time::timeout(Duration::from_secs(10), ping).await;
    fails.store(0, Ordering::Relaxed);
    assert!(matches!(answer.unwrap().unwrap(), Err(QueueError::Unavailable(_))));
    assert!(put.await.unwrap().is_err());
}

#[tokio::test]
async fn a_full_disk_refuses_new_deliveries_and_settles_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let open = |min_free| DiskQueue::open(folder.path(), Clock::by_hand(NOW), Limits::default(), min_free);
    let queue = open(0).unwrap();
    let (place, _) = put(&queue, lane(1), 1).await.unwrap();
    drop(queue);
    let queue = open(u64::MAX).unwrap();
    let refused = put(&queue, lane(1), 2).await.unwrap_err();
    assert!(matches!(&refused, QueueError::Full(why) if why.contains("bytes are free")), "{refused}");
    let claimed = queue.claim(1, PAGE).await.unwrap();
    let settled = queue.settle(succeed(claimed.lanes[0].lane, &[(1, place)])).await.unwrap();
    assert_eq!(settled, [Ok(())]);
}

#[tokio::test]
async fn a_second_process_is_told_that_the_file_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let open = || DiskQueue::open(folder.path(), Clock::by_hand(NOW), Limits::default(), 0);
    let _first = open().unwrap();
    let Err(QueueError::Unavailable(why)) = open() else { panic!("it was opened twice") };
    assert!(why.contains("in use"), "{why}");
}

#[tokio::test]
async fn a_claim_that_nobody_waits_for_gives_its_lanes_back() {
    let folder = tempfile::tempdir().unwrap();
    let queue = DiskQueue::open(folder.path(), Clock::by_hand(NOW), Limits::default(), 0).unwrap();
    let (_, LaneNow::Mine { fence, .. }) = put(&queue, lane(1), 1).await.unwrap() else { panic!("free") };
    let lease = Lease { webhook_id: lane(1), fence };
    queue.settle(succeed(lease, &[])).await.unwrap()[0].unwrap();
    let mut claim = queue.claim(1, PAGE);
    // When the writer was quicker, its answer was taken.
    while let Poll::Ready(claimed) = futures_util::poll!(&mut claim) {
        queue.settle(succeed(claimed.unwrap().lanes[0].lane, &[])).await.unwrap()[0].unwrap();
        claim = queue.claim(1, PAGE);
    }
    drop(claim);
    // Whether its page was read before or after that.
    while queue.claim(1, PAGE).await.unwrap().lanes.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_sweep_forgets_what_is_old_in_idle_lanes() {
    let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
    let (mut lanes, limits) = (Lanes::new(0, Duration::ZERO), Limits::default());
    let mut at = |now, work: &mut dyn FnMut(&mut Group<'_, '_>)| {
        let txn = database.begin_write().unwrap();
        let mut tables = Tables::open(&txn, &Changes::new()).unwrap();
        let mut group = Group { tables: &mut tables, lanes: &mut lanes, limits: &limits, now };
        work(&mut group);
        group.flush().unwrap();
        drop(tables);
        txn.commit().unwrap();
    };
    at(NOW, &mut |group| {
        for number in 1..=3 {
            let mut new = new(lane(number.into()), number)[0].clone();
            new.failed = (number < 3).then_some(Fault::Disabled);
            group.enqueue(&new).unwrap();
        }
    });
    at(NOW, &mut |group| {
        assert_eq!(group.sweep([0; 16]).unwrap(), [0; 16]);
        assert_eq!(group.tables.heads.len().unwrap(), 3, "nothing is old");
    });
    at(NOW + limits.failed_age, &mut |group| assert_eq!(group.sweep([0; 16]).unwrap(), [0; 16]));
    at(NOW + limits.failed_age, &mut |group| {
        let tables = &group.tables;
        let left = [&tables.heads, &tables.bodies.rows].map(|table| table.len().unwrap());
        assert_eq!((left, tables.lanes.len().unwrap()), ([1, 1], 1), "the delivery that waits, and its lane");
        assert_eq!((tables.accounts.len().unwrap(), tables.failed.len().unwrap()), (1, 0));
        assert_eq!((tables.events.len().unwrap(), tables.expiries.len().unwrap()), (0, 0));
    });
}

#[test]
fn event_ids_are_forgotten_also_when_the_clock_steps_back() {
    let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
    let (mut lanes, limits) = (Lanes::new(0, Duration::ZERO), Limits::default());
    let txn = database.begin_write().unwrap();
    let mut tables = Tables::open(&txn, &Changes::new()).unwrap();
    let mut at = |now, work: &mut dyn FnMut(&mut Group<'_, '_>)| {
        work(&mut Group { tables: &mut tables, lanes: &mut lanes, limits: &limits, now });
        let (events, expiries) = (&tables.events, &tables.expiries);
        (events.len().unwrap(), expiries.len().unwrap())
    };
    let (step, window) = (Duration::from_secs(10), limits.dedupe_window);
    let noted = at(NOW + step, &mut |group| {
        group.enqueue(&new(lane(1), 1)[0]).unwrap();
    });
    assert_eq!(noted, (0, 0), "it is in memory");
    assert_eq!(at(NOW, &mut |group| group.flush().unwrap()), (1, 1));
    let forget = &mut |group: &mut Group<'_, '_>| {
        group.forget_events(9).unwrap();
        group.flush().unwrap();
    };
    assert_eq!(at(NOW + window, forget), (1, 1), "it is known until then");
    assert_eq!(at(NOW + step + window, forget), (0, 0));
}

#[test]
fn withdrawing_nothing_keeps_what_the_group_did_before() {
    let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
    let (mut lanes, limits) = (Lanes::new(0, Duration::ZERO), Limits::default());
    let txn = database.begin_write().unwrap();
    let mut tables = Tables::open(&txn, &Changes::new()).unwrap();
    let mut group = Group { tables: &mut tables, lanes: &mut lanes, limits: &limits, now: NOW };
    let Stored::New { place, .. } = group.enqueue(&new(lane(1), 1)[0]).unwrap() else { panic!("it is new") };
    let unknown = Cancel::These(vec![DeliveryId::new(0, 1, 9)]);
    assert!(group.cancel(lane(1), &unknown).unwrap().deliveries.is_empty());
    let row = group.tables.lanes.get(lane(1)).unwrap();
    assert_eq!((row.open, row.last_place), (1, place.0));
}

#[test]
fn lanes_are_as_before_when_a_group_is_undone() {
    let mut lanes = Lanes::new(7, Duration::ZERO);
    lanes.has_work(lane(1), NOW.0 + 5, NOW);
    lanes.keep();
    assert_eq!(lanes.grant(lane(1)), 8);
    assert_eq!(lanes.grant(lane(2)), 9);
    lanes.free(lane(2), Some(NOW.0));
    lanes.undo();
    assert_eq!(lanes.get(lane(1)), Some(Lane::Free { due: NOW.0 + 5 }));
    assert_eq!((lanes.get(lane(2)), lanes.next_due()), (None, Some(NOW.0 + 5)));
    assert!(lanes.grant(lane(2)) > 9, "no fence is given twice");
}

#[test]
fn due_lanes_are_claimed_in_order_and_leases_lapse() {
    let mut lanes = Lanes::new(0, Duration::ZERO);
    for (number, due) in [(1, 30), (2, 10), (3, 20), (4, 9_999)] {
        lanes.has_work(lane(number), NOW.0 - 100 + due, NOW);
    }
    let claimed = |leases: Vec<Lease>| leases.into_iter().map(|lease| lease.webhook_id).collect::<Vec<_>>();
    assert_eq!(claimed(lanes.claim(2, NOW, Duration::ZERO)), [lane(2), lane(3)]);
    assert_eq!(claimed(lanes.claim(9, NOW, LEASE / 2)), [lane(1)]);
    assert!(lanes.claim(9, NOW, LEASE).is_empty(), "they live since the last claim");
    assert_eq!(lanes.claim(9, NOW, LEASE * 3).len(), 3, "and no longer");
}
