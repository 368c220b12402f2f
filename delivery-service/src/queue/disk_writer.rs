//! The embedded queue's writer: one thread that takes commands from a channel and carries out all that
//! have come, a group, in one durable transaction. Answers go out once that is committed. When the
//! commit fails, everything is as before the group, and the file is opened anew.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    clock::{Clock, Time},
    disk,
    ids::{DeliveryId, WebhookId},
};
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use tokio::sync::{mpsc, oneshot};

use super::{
    Bulk, Cancel, Cancelled, Lanes as Which, Lease, LeaseLost, Limits, New, Place, QueueError, Retried,
    Settle, Slice, Stored,
    disk_group::{Group, due},
    disk_lanes::Lanes,
    disk_tables::{FRESH, META, SCHEDULED, STOPPED, Tables, open_lanes},
};

pub(super) const FILE: &str = "queue.redb";
const GROUP_DELIVERIES: usize = 4_096;
const GROUP_BYTES: usize = 8 << 20;
/// How often the room on the disk is looked at, some history swept, a broken file opened anew.
const SELDOM: Duration = Duration::from_secs(1);
/// After a crash redb reads the whole file (about 3 s per GiB), unless its commits keep the allocator's
/// state, which costs a second flush each: worth it from this size on.
const LARGE: u64 = 256 << 20;

/// Something to be done, and where to say what came of it.
pub(super) struct Command {
    pub work: Work,
    pub answer: oneshot::Sender<Result<Done, QueueError>>,
}

pub(super) enum Work {
    Enqueue(Arc<Vec<New>>),
    Settle(Arc<Vec<Settle>>),
    Wake(Which),
    Retry(DeliveryId),
    Cancel(WebhookId, Cancel),
    Bulk(WebhookId, Place, Place),
    Slice(WebhookId, usize),
    StopBulk(WebhookId),
    /// Leases so many lanes that are due.
    Claim(usize),
    /// Takes leases back that could not be handed over.
    GiveBack(Vec<Lease>),
}

pub(super) enum Done {
    Enqueued(Vec<Result<Stored, QueueError>>),
    Settled(Vec<Result<(), LeaseLost>>),
    Woken,
    Retried(Retried),
    Cancelled(Cancelled),
    Bulk(Bulk),
    Slice(Slice),
    Claimed(Granted),
}

pub(super) struct Granted {
    pub leases: Vec<Lease>,
    /// When another lane is due (ms).
    pub next_due: Option<i64>,
    pub news: Vec<WebhookId>,
}

impl Work {
    /// Its deliveries, and the bytes of their bodies.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Enqueue(new) => (new.len(), new.iter().map(|new| new.body.len()).sum()),
            Self::Settle(lanes) => (lanes.iter().map(|lane| lane.deliveries.len()).sum(), 0),
            Self::Cancel(..) => (super::CANCEL_MOST, 0),
            Self::Slice(_, most) => (*most, 0),
            _ => (1, 0),
        }
    }

    fn is_in_memory(&self) -> bool {
        matches!(self, Self::Claim(_) | Self::GiveBack(_))
    }
}

/// What the writer and those who read share.
pub(super) struct Shared {
    pub clock: Clock,
    /// None while the file cannot be used.
    database: RwLock<Option<Arc<Database>>>,
    pub lanes: Mutex<Lanes>,
    started: Instant,
}

impl Shared {
    /// A snapshot of what is committed.
    pub fn read(&self) -> Result<ReadTransaction, QueueError> {
        Ok(self.database()?.begin_read()?)
    }

    fn database(&self) -> Result<Arc<Database>, QueueError> {
        let broken = || QueueError::Unavailable("the file is being opened anew".into());
        self.database.read().clone().ok_or_else(broken)
    }

    /// A time that only goes forward.
    fn monotonic(&self) -> Duration {
        match &self.clock {
            Clock::System => self.started.elapsed(),
            Clock::Hand(_) => Duration::from_millis(self.clock.now().0.max(0) as u64),
        }
    }
}

/// Opens the file.
pub(super) type Opens = Box<dyn Fn() -> Result<Database, QueueError> + Send>;

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    folder: PathBuf,
    limits: Limits,
    min_free: u64,
    /// Whether there was room on the disk when that was last looked at.
    room: Result<(), QueueError>,
    /// Whether the file is larger than `LARGE`.
    is_large: bool,
    swept: Instant,
    sweep_from: [u8; 16],
    opens: Opens,
    /// When the file was last opened anew.
    tried: Option<Instant>,
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
        let database = opens()?;
        let mut txn = database.begin_write()?;
        txn.set_quick_repair(true);
        let epoch = {
            drop(Tables::open(&txn)?);
            let mut meta = txn.open_table(META)?;
            let epoch = meta.get("epoch")?.map_or(0, |epoch| epoch.value()) + 1;
            meta.insert("epoch", epoch)?;
            epoch
        };
        txn.commit()?;
        let started = Instant::now();
        let shared = Shared {
            lanes: Mutex::new(Lanes::new(0, Duration::ZERO)),
            clock,
            database: RwLock::new(Some(Arc::new(database))),
            started,
        };
        // A holder from before the restart has an older epoch.
        *shared.lanes.lock() = Lanes::new(epoch << 32, shared.monotonic());
        let writer = Self {
            shared: Arc::new(shared),
            room: free_room(&folder, min_free),
            is_large: is_large(&folder),
            folder,
            limits,
            min_free,
            swept: started,
            sweep_from: [0; 16],
            opens,
            tried: None,
        };
        writer.find_work()?;
        Ok(writer)
    }

    /// Notes when each lane with open deliveries is due, as the file has it; holders look again.
    fn find_work(&self) -> Result<(), QueueError> {
        let txn = self.shared.read()?;
        let (fresh, scheduled) = (txn.open_table(FRESH)?, txn.open_table(SCHEDULED)?);
        let stopped = txn.open_table(STOPPED)?;
        let now = self.shared.clock.now();
        let mut lanes = self.shared.lanes.lock();
        for lane in open_lanes(&txn)? {
            let until = stopped.get(&lane.bytes())?.map(|until| until.value()).filter(|&until| until > now.0);
            if let Some(at) = due(&fresh, &scheduled, lane, until, now)? {
                lanes.has_work(lane, at, now);
            }
        }
        lanes.keep();
        Ok(())
    }

    /// Works until every sender is gone; then the file is closed.
    pub fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut left = None;
        while let Some(first) = left.take().or_else(|| commands.blocking_recv()) {
            let (mut deliveries, mut bytes) = first.work.size();
            let mut group = vec![first];
            while let Ok(next) = commands.try_recv() {
                let (more, larger) = next.work.size();
                if deliveries + more > GROUP_DELIVERIES || bytes + larger > GROUP_BYTES {
                    left = Some(next);
                    break;
                }
                deliveries += more;
                bytes += larger;
                group.push(next);
            }
            self.carry_out(group);
        }
        *self.shared.database.write() = None;
    }

    fn carry_out(&mut self, group: Vec<Command>) {
        let now = self.shared.clock.now();
        self.shared.lanes.lock().lapse(now, self.shared.monotonic());
        let sweeps = self.swept.elapsed() >= SELDOM;
        if sweeps {
            self.swept = Instant::now();
            self.room = free_room(&self.folder, self.min_free);
            self.is_large = is_large(&self.folder);
        }
        // Leases are in memory, and given once all that came with them is durable.
        let (after, group): (Vec<_>, Vec<_>) = group.into_iter().partition(|c| c.work.is_in_memory());
        let (works, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|c| (c.work, c.answer)).unzip();
        let done = match self.write(works, sweeps, now) {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "the queue's file could not be written");
                self.shared.lanes.lock().undo();
                // After an error redb refuses to go on with a file: it is opened anew.
                *self.shared.database.write() = None;
                answers.iter().map(|_| Err(error.clone())).collect()
            }
        };
        for (answer, done) in answers.into_iter().zip(done) {
            // Who asked may be gone.
            let _ = answer.send(done);
        }
        for Command { work, answer } in after {
            let mut lanes = self.shared.lanes.lock();
            match work {
                Work::Claim(count) => {
                    let leases = lanes.claim(count, now, self.shared.monotonic());
                    let granted = Granted { next_due: lanes.next_due(), news: lanes.take_news(), leases };
                    if let Err(Ok(Done::Claimed(granted))) = answer.send(Ok(Done::Claimed(granted))) {
                        lanes.give_back(&granted.leases, now);
                    }
                }
                Work::GiveBack(leases) => lanes.give_back(&leases, now),
                _ => {}
            }
        }
    }

    /// Does a group's works in one transaction, which is durable when this returns.
    fn write(
        &mut self,
        works: Vec<Work>,
        sweeps: bool,
        now: Time,
    ) -> Result<Vec<Result<Done, QueueError>>, QueueError> {
        if works.is_empty() && !sweeps {
            return Ok(Vec::new());
        }
        self.reopen()?;
        let mut txn = self.shared.database()?.begin_write()?;
        txn.set_quick_repair(self.is_large);
        let mut lanes = self.shared.lanes.lock();
        let mut group = Group::new(Tables::open(&txn)?, &mut lanes, &self.limits, now);
        let mut changed = !works.is_empty();
        if sweeps {
            let (from, swept) = group.sweep(self.sweep_from)?;
            self.sweep_from = from;
            changed |= swept;
        }
        let done = works.into_iter().map(|work| match (work, &self.room) {
            (Work::Enqueue(_), Err(full)) => Ok(Err(full.clone())),
            (Work::Enqueue(new), Ok(())) => {
                let stored: Result<Vec<_>, _> = new.iter().map(|new| group.enqueue(new)).collect();
                Ok(Ok(Done::Enqueued(stored?.into_iter().map(Ok).collect())))
            }
            (Work::Settle(settles), _) => {
                let settled: Result<_, _> = settles.iter().map(|settle| group.settle(settle)).collect();
                Ok(Ok(Done::Settled(settled?)))
            }
            (Work::Wake(Which::One(lane)), _) => group.wake(lane).map(|()| Ok(Done::Woken)),
            (Work::Wake(Which::Parked), _) => group.wake_parked().map(|()| Ok(Done::Woken)),
            (Work::Retry(id), _) => group.retry(id).map(|retried| Ok(Done::Retried(retried))),
            (Work::Cancel(lane, which), _) => group.cancel(lane, &which).map(|c| Ok(Done::Cancelled(c))),
            (Work::Bulk(lane, from, to), _) => group.retry_bulk(lane, from, to).map(|b| Ok(Done::Bulk(b))),
            (Work::Slice(lane, most), _) => group.retry_slice(lane, most).map(|s| Ok(Done::Slice(s))),
            (Work::StopBulk(lane), _) => group.stop_bulk(lane).map(|()| Ok(Done::Woken)),
            (Work::Claim(_) | Work::GiveBack(_), _) => Ok(Ok(Done::Woken)),
        });
        let done: Vec<_> = done.collect::<Result<_, QueueError>>()?;
        group.finish()?;
        drop(lanes);
        if changed {
            txn.commit()?;
        }
        self.shared.lanes.lock().keep();
        Ok(done)
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
        let database = (self.opens)()?;
        *self.shared.database.write() = Some(Arc::new(database));
        // What was asked of the failed group may have been done.
        self.find_work()?;
        tracing::info!("the queue's file is open again");
        Ok(())
    }
}

fn is_large(folder: &Path) -> bool {
    std::fs::metadata(folder.join(FILE)).is_ok_and(|file| file.len() > LARGE)
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
