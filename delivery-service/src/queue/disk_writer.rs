//! The embedded queue's writer: one thread that takes commands from a channel and carries out all that
//! have come, a group. What a group changed goes into the journal, durably, and then its answers go out.
//!
//! One transaction of the file lasts over many groups. It ends by a checkpoint, a durable commit after
//! which the journal begins anew, when much has changed, or nothing was written for a while, which is found when the
//! next group comes: there is one at least every 500 ms, for the engine claims. Or it ends by a flush, a commit
//! without durability, when somebody wants a snapshot: the journal still has what was in it. When the disk fails,
//! lanes are as before the group, and the file is opened anew: all that was answered is there. A record that cannot
//! be read is harm to its own lane alone (`disk_one`).

use std::{
    mem,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use common::{
    clock::{Clock, Time},
    disk,
};
use parking_lot::RwLock;
use redb::Durability;
use tokio::sync::mpsc;

use super::{
    Claimed, Limits, PageLimit, QueueError,
    disk_changes::Changes,
    disk_file::{self, Opened, Opens, Shared},
    disk_group::{Group, due},
    disk_journal::Journal,
    disk_lanes::{LEASE, Lanes},
    disk_one::{leave, one},
    disk_page,
    disk_tables::{FRESH, SCHEDULED, STOPPED, Tables, first_due, has_fresh, open_lanes},
    disk_work::{Answer, Asked, Command, Done, Granted, Inbox, Returned, Work},
};

/// A checkpoint follows when so many bytes of changes are in memory: a page of the file, which many lanes share, is
/// written once for all that has changed in it …
pub(super) const HELD: usize = 20 << 20;
/// … or so many deliveries and bodies of the file have changed: writing them takes a tenth of a second, and all
/// wait …
const CHANGED: usize = 32 << 10;
/// … or the journal has so many bytes. What ends between two checkpoints gets into the file once, and its body never:
/// while a checkpoint is made the next deliveries come in, so a journal that has room for little more than
/// those would have all of them written twice.
pub(super) const LONG: u64 = 32 << 20;
/// How often the room on the disk is looked at, some history swept, a broken file opened anew; and how long
/// nothing is written before a checkpoint.
const SELDOM: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    lanes: Lanes,
    returned: Returned,
    folder: PathBuf,
    limits: Limits,
    min_free: u64,
    /// Whether there was room on the disk when that was last looked at.
    room: Result<(), QueueError>,
    swept: Instant,
    sweep_from: [u8; 16],
    opens: Opens,
    /// When the file was last opened anew.
    tried: Option<Instant>,
    journal: Journal,
    /// When something last went into the journal.
    written: Instant,
}

/// What follows on a group.
enum Then {
    Group,
    Flush,
    Checkpoint,
}

impl Writer {
    /// Opens the file, and finds the lanes that have something to do.
    pub fn open(
        folder: PathBuf,
        clock: Clock,
        limits: Limits,
        min_free: u64,
        opens: Opens,
    ) -> Result<Self, QueueError> {
        let Opened { database, journal, epoch } = disk_file::open(&opens, &clock, &limits)?;
        let started = Instant::now();
        let shared = Shared {
            clock,
            database: RwLock::new(Some(Arc::new(database))),
            unflushed: false.into(),
            started,
        };
        let mut writer = Self {
            // A holder from before the restart has an older epoch.
            lanes: Lanes::new(epoch << 32, shared.monotonic()),
            returned: Returned::default(),
            shared: Arc::new(shared),
            room: free_room(&folder, min_free),
            folder,
            limits,
            min_free,
            swept: started,
            sweep_from: [0; 16],
            opens,
            tried: None,
            journal,
            written: started,
        };
        writer.find_work()?;
        Ok(writer)
    }

    /// Notes when each lane with open deliveries is due, as the file has it; holders look again.
    fn find_work(&mut self) -> Result<(), QueueError> {
        let txn = self.shared.read()?;
        let (fresh, scheduled) = (txn.open_table(FRESH)?, txn.open_table(SCHEDULED)?);
        let stopped = txn.open_table(STOPPED)?;
        let now = self.shared.clock.now();
        for lane in open_lanes(&txn)? {
            let until = stopped.get(&lane.bytes())?.map(|until| until.value()).filter(|&until| until > now.0);
            let first = first_due(&scheduled, lane)?;
            if let Some(at) = due(first, || has_fresh(&fresh, lane), until, now)? {
                self.lanes.has_work(lane, at, now);
            }
        }
        self.lanes.keep();
        Ok(())
    }

    /// Works until every sender is gone; then the file is closed.
    pub fn run(mut self, commands: mpsc::Receiver<Command>) {
        let (mut inbox, changes) = (Inbox::new(commands), Changes::new());
        while let Some(mut group) = inbox.next() {
            // What came with its last group may be left, and is looked at in another.
            while !group.is_empty() {
                self.transaction(&mut group, &mut inbox, &changes);
            }
        }
        if self.journal.bytes() > 0 {
            self.transaction(&mut Asked::default(), &mut inbox, &changes);
        }
        self.close();
    }

    /// Callers look at whether the file is open, and do not wait until it is closed.
    fn close(&self) {
        let open = self.shared.database.write().take();
        drop(open);
    }

    /// One transaction of the file, over many groups. After an error redb refuses to go on with a file: it
    /// is opened anew.
    fn transaction(&mut self, asked: &mut Asked, inbox: &mut Inbox, changes: &Changes) {
        match self.work(asked, inbox, changes) {
            Ok(()) => {
                self.lanes.keep();
                asked.answer();
            }
            Err(error) => {
                if self.shared.database.read().is_some() {
                    tracing::error!(%error, "the queue's file could not be used");
                }
                self.lanes.undo();
                // Whoever asks for lanes is there, and has the leases that it had.
                if asked.after.iter().any(|command| matches!(command.work, Work::Claim(..))) {
                    self.lanes.claim(0, self.shared.clock.now(), self.shared.monotonic());
                }
                self.close();
                asked.refuse(&error);
            }
        }
        self.shared.unflushed.store(false, Ordering::Release);
    }

    /// Works in one transaction, to its end. What is left in `asked` is not answered yet.
    fn work(&mut self, asked: &mut Asked, inbox: &mut Inbox, changes: &Changes) -> Result<(), QueueError> {
        self.reopen()?;
        let mut txn = self.shared.database()?.begin_write()?;
        txn.set_quick_repair(true);
        let mut tables = Tables::open(&txn, changes)?;
        let is_checkpoint = loop {
            match self.carry_out(asked, &mut tables, changes)? {
                Then::Group => {}
                Then::Flush => break false,
                Then::Checkpoint => break true,
            }
            match inbox.next() {
                Some(group) => *asked = group,
                None => break self.journal.bytes() > 0,
            }
        };
        let (lanes, now) = (&mut self.lanes, self.shared.clock.now());
        Group { tables: &mut tables, lanes, limits: &self.limits, now }.flush()?;
        drop(tables);
        let (generation, next) = (self.journal.generation(), self.journal.generation() + 1);
        if is_checkpoint {
            disk_file::note_generation(&txn, generation, next)?;
        } else {
            let is_refused = |error: redb::SetDurabilityError| QueueError::Unavailable(error.to_string());
            txn.set_durability(Durability::None).map_err(is_refused)?;
        }
        txn.commit()?;
        if is_checkpoint {
            self.journal.restart(next);
            self.tidy_up()?;
        }
        Ok(())
    }

    /// A durable commit of redb's leaves one behind that is not, for the pages that became free. While there is one,
    /// redb looks through all of its buffer whenever it reads a page that it has not cached: a commit of nothing ends
    /// that.
    fn tidy_up(&self) -> Result<(), QueueError> {
        let mut txn = self.shared.database()?.begin_write()?;
        txn.set_quick_repair(true);
        Ok(txn.commit()?)
    }

    /// Does what a group asks for, and makes it durable.
    fn carry_out(
        &mut self,
        asked: &mut Asked,
        tables: &mut Tables<'_>,
        changes: &Changes,
    ) -> Result<Then, QueueError> {
        let now = self.shared.clock.now();
        let is_idle = asked.works.is_empty() && self.written.elapsed() >= SELDOM;
        changes.clear();
        self.lanes.lapse(now, self.shared.monotonic());
        self.lanes.give_back(&mem::take(&mut *self.returned.lock()), now);
        let mut group = Group { tables: &mut *tables, lanes: &mut self.lanes, limits: &self.limits, now };
        if self.swept.elapsed() >= SELDOM {
            self.swept = Instant::now();
            self.room = free_room(&self.folder, self.min_free);
            self.sweep_from = group.sweep(self.sweep_from)?;
        }
        for work in mem::take(&mut asked.works) {
            asked.done.push(one(&mut group, work, &self.room, changes)?);
        }
        tables.lanes.note();
        if !changes.is_empty() {
            if changes.are_too_many() {
                return Ok(Then::Checkpoint);
            }
            changes.record(|record| self.journal.append(record))?;
            self.written = Instant::now();
            self.shared.unflushed.store(true, Ordering::Release);
        }
        self.lanes.keep();
        asked.answer();
        let is_flushed = !self.shared.is_unflushed();
        let mut looked = Ok(());
        for command in mem::take(&mut asked.after) {
            match command.work {
                Work::Flush if !is_flushed => asked.after.push(command),
                work => looked = looked.and(self.look(work, command.answer, tables, now)),
            }
        }
        // What was put aside stays so, whatever becomes of the transaction: its lease has ended.
        self.lanes.keep();
        looked?;
        let changed = tables.heads.changed_rows() + tables.bodies.rows.changed_rows();
        let is_long = self.journal.bytes() >= LONG || tables.held_bytes() >= HELD || changed >= CHANGED;
        Ok(match asked.after.is_empty() {
            _ if is_long || is_idle && self.journal.bytes() > 0 => Then::Checkpoint,
            true => Then::Group,
            false => Then::Flush,
        })
    }

    /// Does what changes nothing in the tables. Leases are given once all that came with them is durable. What cannot
    /// be read of a lane is that one's own harm, and an error is the file's. Its holder keeps the lease all the same: it
    /// settles what is under way before it gives the lane back, and a claim that meets the damage leaves it alone.
    fn look(&mut self, work: Work, answer: Answer, tables: &Tables<'_>, now: Time) -> Result<(), QueueError> {
        let (mut done, is_read) = match work {
            Work::Claim(count, limit) => (self.claim(count, limit, tables, now).map(Done::Claimed), false),
            Work::Read(lease, _) if !self.lanes.holds(lease) => (Ok(Done::Lost), true),
            Work::Read(lease, read) => (disk_page::read(tables, lease.webhook_id, read, now), true),
            _ => (Ok(Done::Flushed), false),
        };
        let failed = done.as_ref().err().filter(|error| !matches!(error, QueueError::Damaged(_))).cloned();
        if let Some(error) = &failed
            && is_read
            && failed_itself(error)
        {
            // It would be asked for again as soon as the file is open, and fail it again.
            done = Err(QueueError::Damaged(error.to_string()));
        }
        // Who asked may be gone.
        let _ = answer.send(done);
        failed.map_or(Ok(()), Err)
    }

    /// Leases due lanes, all of those that can be read.
    fn claim(
        &mut self,
        count: usize,
        limit: PageLimit,
        tables: &Tables<'_>,
        now: Time,
    ) -> Result<Granted, QueueError> {
        let leases = self.lanes.claim(count, now, self.shared.monotonic());
        let mut granted = Vec::with_capacity(leases.len());
        for &lease in &leases {
            match disk_page::grant(tables, lease, limit, now) {
                Ok(grant) => granted.push(grant),
                Err(error) => {
                    if failed_itself(&error) {
                        leave(&mut self.lanes, lease, &error, now);
                    }
                    if !matches!(error, QueueError::Damaged(_)) {
                        self.lanes.give_back(&leases, now);
                        return Err(error);
                    }
                }
            }
        }
        let (next_due, (news, woken)) = (self.lanes.next_due(), self.lanes.take_news());
        let next_due = next_due.map(|due| now.until(Time(due)));
        let claimed = Claimed { lanes: granted, lease: LEASE, next_due, news, woken, ..Claimed::default() };
        Ok(Granted::new(claimed, &self.returned))
    }

    /// Opens the file anew after an error, once it can be.
    fn reopen(&mut self) -> Result<(), QueueError> {
        if self.shared.database.read().is_some() {
            return Ok(());
        }
        if self.tried.is_some_and(|tried| tried.elapsed() < SELDOM) {
            return self.shared.database().map(drop);
        }
        self.tried = Some(Instant::now());
        let opened = disk_file::open(&self.opens, &self.shared.clock, &self.limits)
            .inspect_err(|error| tracing::error!(%error, "the queue's file cannot be opened anew"))?;
        self.journal = opened.journal;
        *self.shared.database.write() = Some(Arc::new(opened.database));
        // What was asked of the failed group may have been done.
        self.find_work()?;
        tracing::info!("the queue's file is open again");
        Ok(())
    }
}

/// Whether what was read has failed, rather than something else that had the file refuse all that came after it.
fn failed_itself(error: &QueueError) -> bool {
    *error != redb::Error::PreviousIo.into()
}

fn free_room(folder: &Path, min_free: u64) -> Result<(), QueueError> {
    match disk::free_bytes(folder) {
        Ok(free) if free < min_free => {
            Err(QueueError::Full(format!("{free} bytes are free on the disk, and {min_free} have to be")))
        }
        // When it cannot be told, writing will.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::{
        super::{
            disk_lanes::{ASIDE, Lane},
            disk_tests::{NOW, PAGE, lane, new, opens},
        },
        *,
    };

    #[test]
    fn a_lane_that_a_claim_put_aside_stays_free_when_the_disk_fails_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let (at, opens) = (folder.path().to_owned(), opens(folder.path(), &Arc::default()));
        let mut writer = Writer::open(at, Clock::by_hand(NOW), Limits::default(), 0, opens).unwrap();
        let (changes, database) = (Changes::new(), writer.shared.database().unwrap());
        let txn = database.begin_write().unwrap();
        let mut tables = Tables::open(&txn, &changes).unwrap();
        let mut group =
            Group { tables: &mut tables, lanes: &mut writer.lanes, limits: &writer.limits, now: NOW };
        group.enqueue(&new(lane(1), 1)[0]).unwrap();
        tables.heads.put(new(lane(1), 1)[0].head.id().bytes(), vec![0xff; 60].into());
        writer.lanes.free(lane(1), Some(NOW.0));

        let (answer, mut answered) = oneshot::channel();
        let claim = Command { work: Work::Claim(9, PAGE), answer };
        let mut asked = Asked { after: vec![claim], ..Asked::default() };
        writer.carry_out(&mut asked, &mut tables, &changes).unwrap();
        assert!(matches!(answered.try_recv().unwrap(), Ok(Done::Claimed(_))));
        writer.lanes.undo();
        assert_eq!(writer.lanes.get(lane(1)), Some(Lane::Free { due: (NOW + ASIDE).0 }));
    }
}
