//! A store's file is made and kept, what hinders is said, and a file whose making was broken off is made
//! anew, but never one that ever held anything.

use std::{
    os::unix::fs::{FileExt, PermissionsExt},
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};

use super::*;

const ROWS: TableDefinition<u64, u64> = TableDefinition::new("rows");

#[test]
fn a_store_is_made_kept_and_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a/b");
    drop(open(&inner, "x.redb").unwrap());
    drop(open(&inner, "x.redb").unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(&inner.join("x.redb")), 0o600);
    assert!(free_bytes(&inner).unwrap() > 0);
}

#[test]
fn every_folder_that_gets_an_entry_is_synced() {
    let folder = tempfile::tempdir().unwrap();
    let (top, leaf) = (folder.path(), folder.path().join("a/b/c"));
    assert_eq!(changing(&leaf), [&leaf, &top.join("a/b"), &top.join("a"), top]);
    fs::create_dir(top.join("a")).unwrap();
    assert_eq!(changing(&leaf), [&leaf, &top.join("a/b"), &top.join("a")]);
    fs::create_dir_all(&leaf).unwrap();
    assert_eq!(changing(&leaf), [&leaf]);
    let relative = Path::new("not there/b");
    assert_eq!(changing(relative), [relative, Path::new("not there"), Path::new(".")]);
    assert_eq!(changing(Path::new("src")), [Path::new("src")]);
}

#[test]
fn what_hinders_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let _open = open(folder.path(), "held.redb").unwrap();
    let error = open(folder.path(), "held.redb").unwrap_err();
    assert!(matches!(error, DiskError::InUse(_)), "{error:?}");
    assert!(error.to_string().contains("in use by another process"), "{error}");

    fs::write(folder.path().join("text.redb"), "no store ".repeat(10_000)).unwrap();
    let error = open(folder.path(), "text.redb").unwrap_err();
    assert!(matches!(error, DiskError::Damaged { .. }), "{error:?}");

    let error = open(&folder.path().join("text.redb"), "x").unwrap_err();
    assert!(matches!(error, DiskError::Io { .. }), "{error:?}");
}

/// A file that changes no more after so many changes: the process was killed, or the disk is full.
#[derive(Debug)]
struct BrokenOff {
    file: FileBackend,
    left: AtomicUsize,
}

impl BrokenOff {
    fn check(&self) -> io::Result<()> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::ErrorKind::StorageFull.into())
    }
}

impl StorageBackend for BrokenOff {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
}

/// Begins a file, which is broken off after so many changes. Tells whether it was made all the same.
fn begin(folder: &Path, file: &str, left: usize) -> bool {
    let file = BrokenOff { file: open_plain(folder, file).unwrap(), left: left.into() };
    redb::Builder::new().create_with_backend(file).is_ok()
}

#[test]
fn a_file_whose_making_was_broken_off_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for left in 0.. {
        let name = format!("{left}.redb");
        let is_made = begin(folder.path(), &name, left);
        refused += usize::from(matches!(open_as_it_is(folder.path(), &name), Err(DiskError::Damaged { .. })));
        store(&open(folder.path(), &name).unwrap(), 1);
        assert_eq!(stored(&open(folder.path(), &name).unwrap()), 1);
        if is_made {
            break;
        }
    }
    assert!(refused > 1, "as redb makes a file there are some");
}

#[test]
fn a_file_that_ever_held_anything_is_never_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.redb");
    let is_kept = || {
        let before = fs::read(&path).unwrap();
        let error = open(folder.path(), "x.redb").unwrap_err();
        assert!(matches!(error, DiskError::Damaged { .. }), "{error:?}");
        assert!(fs::read(&path).unwrap() == before, "it is as it was");
    };
    let zero = |bytes: usize| {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0; bytes], 0).unwrap();
    };
    // The least that a store ever commits: a table without a row.
    let write = open(folder.path(), "x.redb").unwrap().begin_write().unwrap();
    write.open_table(ROWS).unwrap();
    write.commit().unwrap();
    assert!(fs::metadata(&path).unwrap().len() <= NEW);
    zero(NUMBER);
    is_kept();
    zero(HEADER);
    is_kept();

    fs::write(&path, vec![0; NEW as usize + 1]).unwrap();
    is_kept();
    fs::write(&path, "short").unwrap();
    is_kept();
}

#[test]
fn of_those_who_make_a_file_anew_at_once_each_finds_what_another_has_stored() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let name = format!("{round}.redb");
        begin(folder.path(), &name, 2);
        let barrier = Barrier::new(3);
        let open_at_once = |number| {
            barrier.wait();
            match open(folder.path(), &name) {
                Ok(database) => {
                    store(&database, number);
                    true
                }
                Err(DiskError::InUse(_)) => false,
                Err(error) => panic!("{error:?}"),
            }
        };
        let done = thread::scope(|scope| {
            let threads = [0, 1, 2].map(|number| scope.spawn(move || open_at_once(number)));
            threads.map(|thread| thread.join().unwrap()).into_iter().filter(|&done| done).count()
        });
        let database = open(folder.path(), &name).unwrap();
        store(&database, 3);
        assert_eq!(stored(&database), done as u64 + 1);
    }
}

#[test]
fn a_file_that_another_is_making_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path(), "x.redb", 2);
    let other = open_plain(folder.path(), "x.redb").unwrap();
    assert!(other.try_lock_range(Bound::Unbounded, Bound::Unbounded).unwrap());
    let error = empty_unfinished(folder.path(), "x.redb").unwrap_err();
    assert!(matches!(error, DiskError::InUse(_)), "{error:?}");
    assert!(other.len().unwrap() > 0);
}

fn store(database: &Database, number: u64) {
    let write = database.begin_write().unwrap();
    write.open_table(ROWS).unwrap().insert(number, number).unwrap();
    write.commit().unwrap();
}

fn stored(database: &Database) -> u64 {
    database.begin_read().unwrap().open_table(ROWS).unwrap().len().unwrap()
}
