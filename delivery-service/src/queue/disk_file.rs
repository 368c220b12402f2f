//! The embedded queue's file and its journal, opened together: what the journal has beyond the last
//! checkpoint is taken into the file first. Shared by the writer and those who read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::clock::Clock;
use parking_lot::RwLock;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, WriteTransaction};

use super::{
    Limits, QueueError,
    disk_changes::{self, Changes},
    disk_group::Group,
    disk_journal::Journal,
    disk_lanes::Lanes,
    disk_tables::{META, Tables},
};

/// The file, and the journal's.
pub(super) type Files = (Database, Box<dyn StorageBackend>);
/// Opens them.
pub(super) type Opens = Box<dyn Fn() -> Result<Files, QueueError> + Send>;

/// In `META`: how the tables and the journal are laid out. Another layout is refused rather than misread.
pub(super) const LAYOUT: (&str, u64) = ("layout", 1);
/// In `META`: the generation that the journal has, and the one before.
const GENERATION: &str = "journal";
const BEFORE: &str = "journal before";

/// What the writer and those who read share.
pub(super) struct Shared {
    pub clock: Clock,
    /// None while the file cannot be used.
    pub database: RwLock<Option<Arc<Database>>>,
    /// Whether something was answered that snapshots do not have.
    pub unflushed: AtomicBool,
    pub started: Instant,
}

impl Shared {
    /// A snapshot of what is flushed.
    pub fn read(&self) -> Result<ReadTransaction, QueueError> {
        Ok(self.database()?.begin_read()?)
    }

    pub fn database(&self) -> Result<Arc<Database>, QueueError> {
        let broken = || QueueError::Unavailable("the file is being opened anew".into());
        self.database.read().clone().ok_or_else(broken)
    }

    pub fn is_unflushed(&self) -> bool {
        self.unflushed.load(Ordering::Acquire)
    }

    /// A time that only goes forward.
    pub fn monotonic(&self) -> Duration {
        match &self.clock {
            Clock::System => self.started.elapsed(),
            Clock::Hand(_) => Duration::from_millis(self.clock.now().0.max(0) as u64),
        }
    }
}

/// What was opened.
pub(super) struct Opened {
    pub database: Database,
    pub journal: Journal,
    /// How often it was, with this time.
    pub epoch: u64,
}

/// Opens the file and the journal, and takes what is in this into that.
pub(super) fn open(opens: &Opens, clock: &Clock, limits: &Limits) -> Result<Opened, QueueError> {
    let (database, file) = opens()?;
    let mut journal = Journal::open(file)?;
    let mut txn = database.begin_write()?;
    txn.set_quick_repair(true);
    let meta = |name| Ok::<_, QueueError>(txn.open_table(META)?.get(name)?.map(|value| value.value()));
    let (layout, present) = LAYOUT;
    // Files from before there was a number have this layout.
    if let Some(other) = meta(layout)?.filter(|&layout| layout != present) {
        let reason =
            format!("the store was made by another version: its layout is {other}, and not {present}");
        return Err(QueueError::Damaged(reason));
    }
    let (epoch, generation, before) = (meta("epoch")?, meta(GENERATION)?, meta(BEFORE)?);
    match (generation, journal.first_generation()?) {
        (Some(_), None) if journal.is_new() => {
            tracing::warn!("the queue's journal is missing: what it had beyond the last checkpoint is lost");
        }
        (_, Some(found)) if ![generation, before].contains(&Some(found)) => {
            tracing::warn!("the queue's journal does not belong to its file, and is not looked at");
        }
        _ => {}
    }
    {
        let changes = Changes::new();
        let mut tables = Tables::open(&txn, &changes)?;
        if let Some(generation) = generation {
            let records = journal.replay(generation, |record| {
                changes.clear();
                disk_changes::read(record).try_for_each(|change| tables.replay(&change?))
            })?;
            if records > 0 {
                tracing::info!(records, "the queue's journal was read");
            }
        }
        let mut lanes = Lanes::new(0, Duration::ZERO);
        let (limits, now) = (limits, clock.now());
        Group { tables: &mut tables, lanes: &mut lanes, limits, now }.flush()?;
    }
    let epoch = epoch.unwrap_or_default() + 1;
    txn.open_table(META)?.insert("epoch", epoch)?;
    txn.open_table(META)?.insert(layout, present)?;
    // By chance, so that no record of another file or another time is ever taken for one of this.
    let next = rand::random::<u64>() >> 1;
    note_generation(&txn, generation.unwrap_or(next), next)?;
    journal.make_room(0)?;
    txn.commit()?;
    journal.restart(next);
    Ok(Opened { database, journal, epoch })
}

/// With the commit of this transaction, the journal's records up to now are in the file.
pub(super) fn note_generation(txn: &WriteTransaction, before: u64, next: u64) -> Result<(), QueueError> {
    let mut meta = txn.open_table(META)?;
    meta.insert(BEFORE, before)?;
    meta.insert(GENERATION, next)?;
    Ok(())
}
