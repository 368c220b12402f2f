//! The contract on the embedded store, and what it promises beyond: all is there when it is opened again,
//! by another process or after the disk has failed.

use std::{
    fs::OpenOptions,
    io,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    clock::{Clock, Time},
    disk::DiskError,
};
use config_service::store::{Change, Changed, Changes, Created, Store, StoreError, disk::DiskStore};
use redb::{BackendError, StorageBackend, backends::FileBackend};

use super::{Backend, LOG, NOW, contract, record, request};

struct Embedded(tempfile::TempDir);

impl Embedded {
    fn open(&self, file: &str, now: Time) -> DiskStore {
        let (at, file) = (self.0.path().to_owned(), file.to_owned());
        DiskStore::new(move || common::disk::open(&at, &file), Clock::by_hand(now), LOG).unwrap()
    }
}

/// A disk that fails when it is told to.
#[derive(Debug)]
struct Disk {
    fails: AtomicBool,
    /// How many flushes do not fail yet.
    flushes: AtomicUsize,
    /// How often a file was opened.
    opened: AtomicUsize,
}

impl Disk {
    fn new() -> Arc<Self> {
        Arc::new(Self { fails: false.into(), flushes: usize::MAX.into(), opened: 0.into() })
    }

    fn check(&self) -> io::Result<()> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn heal(&self) {
        self.flushes.store(usize::MAX, Ordering::Relaxed);
        self.fails.store(false, Ordering::Relaxed);
    }

    fn store(self: &Arc<Self>, folder: &Path, clock: &Clock) -> DiskStore {
        let (disk, path) = (self.clone(), folder.join("db"));
        let opens = move || {
            disk.opened.fetch_add(1, Ordering::Relaxed);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path).unwrap();
            let file = OnDisk { file: FileBackend::new(file).unwrap(), disk: disk.clone() };
            // Without a cache every read is one of the disk.
            redb::Builder::new()
                .set_cache_size(0)
                .create_with_backend(file)
                .map_err(|error| DiskError::Other { path: path.clone(), reason: error.to_string() })
        };
        DiskStore::new(opens, clock.clone(), LOG).unwrap()
    }
}

#[derive(Debug)]
struct OnDisk {
    file: FileBackend,
    disk: Arc<Disk>,
}

impl StorageBackend for OnDisk {
    fn len(&self) -> io::Result<u64> {
        self.disk.check()?;
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.check()?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let left = self.disk.flushes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if left.is_err() {
            self.disk.fails.store(true, Ordering::Relaxed);
        }
        self.disk.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.check()?;
        self.file.write(offset, data)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

#[async_trait::async_trait]
impl Backend for Embedded {
    async fn store(&self) -> Arc<dyn Store> {
        let count = std::fs::read_dir(self.0.path()).unwrap().count();
        Arc::new(self.open(&count.to_string(), NOW))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_keeps_the_contract() {
    contract(&Embedded(tempfile::tempdir().unwrap())).await;
}

#[tokio::test]
async fn the_embedded_store_keeps_all_when_it_is_opened_again() {
    let folder = Embedded(tempfile::tempdir().unwrap());
    let store = folder.open("db", NOW);
    let start = store.revision().await.unwrap();
    let made = store.create(record("~a", 1), request("r", b"x", NOW)).await.unwrap();
    let Created::New(made) = made else { panic!("{made:?}") };
    let account = store.account("~a", "key", NOW).await.unwrap();
    drop(store);

    let store = folder.open("db", Time(NOW.0 + 1_000_000));
    assert_eq!(store.revision().await, Ok(made.revision));
    assert_eq!(*store.changed().borrow(), made.revision);
    assert_eq!(store.list("~a", None, 10).await, Ok(vec![made.clone()]));
    assert_eq!(store.account("~a", "other", NOW).await, Ok(account));
    let repeat = store.create(record("~a", 2), request("r", b"x", NOW)).await;
    assert_eq!(repeat, Ok(Created::Repeat(made.clone())));
    let change = Change { revision: made.revision, of: Changed::Webhook(made.id().unwrap()) };
    assert_eq!(store.changes(start, 10).await, Ok(Changes::Page(vec![change])));
}

#[test]
fn a_store_that_has_just_been_opened_need_not_be_repaired_after_a_crash() {
    let folder = Embedded(tempfile::tempdir().unwrap());
    let _store = folder.open("db", NOW);
    let crashed = folder.0.path().join("crashed");
    std::fs::copy(folder.0.path().join("db"), &crashed).unwrap();
    let mut builder = redb::Builder::new();
    builder.set_repair_callback(|_| panic!("all of it is read"));
    builder.create(crashed).unwrap();
}

#[test]
fn a_layout_that_is_not_known_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_owned();
    let opens = move || common::disk::open(&at, "db");
    let database = opens().unwrap();
    let write = database.begin_write().unwrap();
    let state = redb::TableDefinition::<&str, u64>::new("state");
    write.open_table(state).unwrap().insert("version", 2).unwrap();
    write.commit().unwrap();
    drop(database);
    let refused = DiskStore::new(opens, Clock::by_hand(NOW), LOG).err();
    assert!(matches!(refused, Some(StoreError::Damaged(_))), "{refused:?}");
}

#[tokio::test]
async fn the_embedded_store_recovers_from_a_disk_that_failed() {
    let (folder, disk, clock) = (tempfile::tempdir().unwrap(), Disk::new(), Clock::by_hand(NOW));
    let store = disk.store(folder.path(), &clock);
    let Created::New(first) = store.create(record("~a", 1), None).await.unwrap() else { panic!("it is new") };

    disk.fails.store(true, Ordering::Relaxed);
    let lost = store.create(record("~a", 2), None).await;
    assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
    assert!(store.ping().await.is_err());
    assert!(store.list("~a", None, 10).await.is_err());
    disk.heal();
    assert!(store.ping().await.is_err());
    assert_eq!(disk.opened.load(Ordering::Relaxed), 2, "once, for a second");

    clock.advance(Duration::from_secs(1));
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(store.list("~a", None, 10).await, Ok(vec![first.clone()]));
    let again = store.create(record("~a", 2), None).await.unwrap();
    let Created::New(second) = again else { panic!("{again:?}") };

    clock.advance(Duration::from_secs(1));
    disk.fails.store(true, Ordering::Relaxed);
    assert!(store.list("~a", None, 10).await.is_err());
    disk.heal();
    assert_eq!(store.list("~a", None, 10).await, Ok(vec![first, second]), "at once, the first time");
}

/// Tells whether a commit during which only so many flushes went well failed, and if so, whether it was
/// done all the same. In both cases the store knows afterwards.
async fn is_done_in_spite_of_failing(flushes: usize) -> Option<bool> {
    let (folder, disk, clock) = (tempfile::tempdir().unwrap(), Disk::new(), Clock::by_hand(NOW));
    let store = disk.store(folder.path(), &clock);
    let before = store.revision().await.unwrap();
    let watcher = store.changed();
    disk.flushes.store(flushes, Ordering::Relaxed);
    let asked = || store.create(record("~a", 1), request("r", b"x", NOW));
    asked().await.err()?;
    disk.heal();
    store.ping().await.unwrap();
    let now = store.revision().await.unwrap();
    assert_eq!(*watcher.borrow(), now, "watchers know of it");

    let (made, is_done) = match asked().await.unwrap() {
        Created::Repeat(made) => (made, true),
        Created::New(made) => (made, false),
        Created::Conflict => panic!("it asked for the same"),
    };
    assert_eq!(is_done, now > before);
    assert_eq!(*watcher.borrow(), made.revision);
    assert_eq!(store.scan(None, 10).await, Ok(vec![made.clone()]));
    let change = Change { revision: made.revision, of: Changed::Webhook(made.id().unwrap()) };
    assert_eq!(store.changes(before, 10).await, Ok(Changes::Page(vec![change])));
    Some(is_done)
}

#[tokio::test]
async fn a_commit_that_failed_is_done_or_not_and_watchers_know() {
    let mut failed = Vec::new();
    while let Some(is_done) = is_done_in_spite_of_failing(failed.len()).await {
        failed.push(is_done);
    }
    assert!(failed.contains(&false) && failed.contains(&true), "{failed:?}");
}
