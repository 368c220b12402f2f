//! The embedded queue: a redb file with one writer, and a journal before it. Writes go to the writer
//! thread, which appends what they change to the journal in groups, each with one flush to the disk, and
//! takes them into the file seldom. It reads for the lanes' holder too; callers read snapshots of the file, off
//! the async threads. There is one holder, this process: leases, and when lanes are due, are in memory only. After a
//! restart every lane is due as its deliveries and its hold say.
//!
//! | table | key (big-endian, sorts as read) | value |
//! | --- | --- | --- |
//! | heads | delivery id 16 | mark 25 (kind, place, due, sizes), head |
//! | bodies | delivery id 16, its last byte 0 | body, while it is kept |
//! | sharers | the same, of a shared body | the last bytes of the ids of those that need it |
//! | fresh | lane 16, place 8 | delivery id |
//! | retrying | lane 16, place 8 | delivery id: open and scheduled |
//! | scheduled | lane 16, due 8, place 8 | delivery id; due 0 when a caller asked for it |
//! | ended, failed | lane 16, place 8 | delivery id, end time 8: history |
//! | events | lane 16, event id | delivery id, expiry 8 |
//! | expiries | expiry 8, number 8 | event keys to forget then, each after its length 4 |
//! | lanes | lane 16 | license code, last place, counts, bytes, memo |
//! | stopped | lane 16 | until when it is on hold (ms), or that it is parked |
//! | bulk | lane 16 | from place 8, to place 8: what is left of a bulk retry |
//! | accounts | length 4, license code, lane 16 | nothing: an account's lanes |
//! | meta | "layout" | 1: how all this is laid out; a file without it is of this layout too |
//! | meta | "epoch" | how often the file was opened: the upper half of every fence |
//! | meta | "journal", "journal before" | the generation of the journal that goes on from here, and its last |

use std::{path::Path, sync::Arc, thread};

use async_trait::async_trait;
use common::{
    clock::Clock,
    disk::{self, DiskError},
    ids::{DeliveryId, WebhookId},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Bulk, Cancel, Cancelled, Claimed, Found, Lanes, Lease, LeaseLost, Limits, Listed, New, Page, PageLimit,
    Query, Queue, QueueError, Retried, Scan, Settle, Slice, Standing, Stored, Waiting, disk_bulk,
    disk_file::{Files, Opens, Shared},
    disk_page::Read,
    disk_read,
    disk_work::{Command, Done, Work},
    disk_writer::Writer,
};
use crate::delivery::Place;

/// The file, and the journal before it.
pub(super) const FILE: &str = "queue.redb";
pub(super) const JOURNAL: &str = "queue.journal";
/// Commands that may wait for the writer; who asks for more waits to ask.
const COMMANDS: usize = 1_024;

/// The queue of one process, in one file.
pub struct DiskQueue {
    shared: Arc<Shared>,
    /// None once it is closed.
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl DiskQueue {
    /// Opens or makes the queue in a folder. It takes nothing more in while fewer than
    /// `min_free_bytes` are free on the disk.
    pub fn open(
        folder: &Path,
        clock: Clock,
        limits: Limits,
        min_free_bytes: u64,
    ) -> Result<Arc<Self>, QueueError> {
        let at = folder.to_owned();
        let failed = |error: DiskError| match error {
            DiskError::Damaged { .. } => QueueError::Damaged(error.to_string()),
            _ => QueueError::Unavailable(error.to_string()),
        };
        let opens = Box::new(move || {
            // The one that is locked comes first.
            let database = disk::open(&at, FILE).map_err(failed)?;
            let journal = disk::open_plain(&at, JOURNAL).map_err(failed)?;
            Ok::<Files, _>((database, Box::new(journal)))
        });
        Self::open_with(folder, clock, limits, min_free_bytes, opens)
    }

    pub(super) fn open_with(
        folder: &Path,
        clock: Clock,
        limits: Limits,
        min_free_bytes: u64,
        opens: Opens,
    ) -> Result<Arc<Self>, QueueError> {
        let writer = Writer::open(folder.to_owned(), clock, limits, min_free_bytes, opens)?;
        let shared = Arc::clone(&writer.shared);
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let writer = thread::Builder::new()
            .name("queue-writer".into())
            .spawn(move || writer.run(receiver))
            .map_err(|e| QueueError::Unavailable(e.to_string()))?;
        Ok(Arc::new(Self { shared, commands: Some(commands), writer: Some(writer) }))
    }

    async fn ask(&self, work: Work) -> Result<Done, QueueError> {
        let (answer, answered) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(closed)?;
        commands.send(Command { work, answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Reads from a snapshot of all that was answered.
    async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        if self.shared.is_unflushed() {
            self.ask(Work::Flush).await?;
        }
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || read(&shared));
        read.await.map_err(|e| QueueError::Unavailable(e.to_string()))?
    }
}

impl Drop for DiskQueue {
    /// Lets the writer finish what it has and close the file.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so.
            let _ = writer.join();
        }
    }
}

fn closed() -> QueueError {
    QueueError::Unavailable("the queue is closed".into())
}

fn strange() -> QueueError {
    QueueError::Unavailable("the writer answered something else".into())
}

#[async_trait]
impl Queue for DiskQueue {
    fn shards(&self) -> u16 {
        1
    }

    async fn enqueue(&self, new: Arc<Vec<New>>) -> Vec<Result<Stored, QueueError>> {
        let count = new.len();
        match self.ask(Work::Enqueue(new)).await {
            Ok(Done::Enqueued(stored)) => stored,
            Ok(_) => vec![Err(strange()); count],
            Err(error) => vec![Err(error); count],
        }
    }

    async fn claim(&self, lanes: usize, page: PageLimit) -> Result<Claimed, QueueError> {
        match self.ask(Work::Claim(lanes, page)).await? {
            Done::Claimed(granted) => granted.take().ok_or_else(strange),
            _ => Err(strange()),
        }
    }

    async fn read(
        &self,
        lane: Lease,
        after: Place,
        known_scheduled: usize,
        page: PageLimit,
    ) -> Result<Result<Page, LeaseLost>, QueueError> {
        match self.ask(Work::Read(lane, Read::Page(after, known_scheduled, page))).await? {
            Done::Page(page) => Ok(Ok(page)),
            Done::Lost => Ok(Err(LeaseLost)),
            _ => Err(strange()),
        }
    }

    async fn scan(
        &self,
        lane: Lease,
        after: Place,
        limit: usize,
    ) -> Result<Result<Scan, LeaseLost>, QueueError> {
        match self.ask(Work::Read(lane, Read::Scan(after, limit))).await? {
            Done::Scan(scan) => Ok(Ok(scan)),
            Done::Lost => Ok(Err(LeaseLost)),
            _ => Err(strange()),
        }
    }

    async fn fetch(
        &self,
        lane: Lease,
        ids: Vec<DeliveryId>,
        bytes: usize,
    ) -> Result<Result<Vec<Option<Waiting>>, LeaseLost>, QueueError> {
        match self.ask(Work::Read(lane, Read::Fetch(ids, bytes))).await? {
            Done::Fetched(found) => Ok(Ok(found)),
            Done::Lost => Ok(Err(LeaseLost)),
            _ => Err(strange()),
        }
    }

    async fn settle(&self, lanes: Arc<Vec<Settle>>) -> Result<Vec<Result<(), LeaseLost>>, QueueError> {
        match self.ask(Work::Settle(lanes)).await? {
            Done::Settled(settled) => Ok(settled),
            _ => Err(strange()),
        }
    }

    async fn wake(&self, lanes: Lanes) -> Result<(), QueueError> {
        self.ask(Work::Wake(lanes)).await.map(drop)
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<Found>, QueueError> {
        self.look(move |shared| disk_read::get(&shared.read()?, id)).await
    }

    async fn list(&self, query: Query) -> Result<Listed, QueueError> {
        self.look(move |shared| disk_read::list(&shared.read()?, &query)).await
    }

    async fn retry(&self, id: DeliveryId) -> Result<Retried, QueueError> {
        match self.ask(Work::Retry(id)).await? {
            Done::Retried(retried) => Ok(retried),
            _ => Err(strange()),
        }
    }

    async fn lane_status(&self, lane: WebhookId) -> Result<Standing, QueueError> {
        self.look(move |shared| disk_bulk::status(&shared.read()?, lane, shared.clock.now())).await
    }

    async fn cancel(&self, lane: WebhookId, which: Cancel) -> Result<Cancelled, QueueError> {
        match self.ask(Work::Cancel(lane, which)).await? {
            Done::Cancelled(cancelled) => Ok(cancelled),
            _ => Err(strange()),
        }
    }

    async fn retry_bulk(&self, lane: WebhookId, from: Place, to: Place) -> Result<Bulk, QueueError> {
        match self.ask(Work::Bulk(lane, from, to)).await? {
            Done::Bulk(bulk) => Ok(bulk),
            _ => Err(strange()),
        }
    }

    async fn bulk_retries(&self) -> Result<Vec<WebhookId>, QueueError> {
        self.look(|shared| disk_bulk::bulk_retries(&shared.read()?)).await
    }

    async fn retry_slice(&self, lane: WebhookId, most: usize) -> Result<Slice, QueueError> {
        match self.ask(Work::Slice(lane, most)).await? {
            Done::Slice(slice) => Ok(slice),
            _ => Err(strange()),
        }
    }

    async fn stop_bulk(&self, lane: WebhookId) -> Result<(), QueueError> {
        self.ask(Work::StopBulk(lane)).await.map(drop)
    }

    async fn ping(&self) -> Result<(), QueueError> {
        // A writer that panicked takes nothing any more, and its file is still open.
        if self.commands.as_ref().is_none_or(mpsc::Sender::is_closed) {
            return Err(closed());
        }
        self.shared.read().map(drop)
    }
}
