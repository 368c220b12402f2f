//! What is asked of the embedded queue's writer, what it answers, and the channel that it comes from, in groups.

use std::sync::Arc;

use common::ids::{DeliveryId, WebhookId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    Bulk, Cancel, Cancelled, Claimed, Lanes as Which, Lease, LeaseLost, New, Page, PageLimit, QueueError,
    Retried, Scan, Settle, Slice, Stored, Waiting, disk_page::Read,
};
use crate::delivery::Place;

const GROUP_DELIVERIES: usize = 4_096;
const GROUP_BYTES: usize = 8 << 20;

pub(super) type Answer = oneshot::Sender<Result<Done, QueueError>>;

/// Something to be done, and where to say what came of it.
pub(super) struct Command {
    pub work: Work,
    pub answer: Answer,
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
    Claim(usize, PageLimit),
    /// Reads of a lane that is held.
    Read(Lease, Read),
    /// Lets snapshots have all that was answered.
    Flush,
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
    Page(Page),
    Scan(Scan),
    Fetched(Vec<Option<Waiting>>),
    /// What was to be read is no longer the caller's.
    Lost,
    Flushed,
}

/// Leases that nobody took.
pub(super) type Returned = Arc<Mutex<Vec<Lease>>>;

/// Lanes on their way to who claims them. Who is gone by the time that they come takes none: then they are
/// given back.
pub(super) struct Granted {
    claimed: Option<Claimed>,
    returned: Returned,
}

impl Granted {
    pub fn new(claimed: Claimed, returned: &Returned) -> Self {
        Self { claimed: Some(claimed), returned: Arc::clone(returned) }
    }

    pub fn take(mut self) -> Option<Claimed> {
        self.claimed.take()
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(claimed) = self.claimed.take() {
            self.returned.lock().extend(claimed.lanes.iter().map(|grant| grant.lane));
        }
    }
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

    /// Whether it changes anything in the tables.
    fn writes(&self) -> bool {
        !matches!(self, Self::Claim(..) | Self::Read(..) | Self::Flush)
    }
}

/// A group of commands: what changes something, who is to hear of it, and what is looked at afterwards.
#[derive(Default)]
pub(super) struct Asked {
    pub works: Vec<Work>,
    pub answers: Vec<Answer>,
    pub done: Vec<Result<Done, QueueError>>,
    pub after: Vec<Command>,
}

impl Asked {
    fn add(&mut self, command: Command) {
        if command.work.writes() {
            self.works.push(command.work);
            self.answers.push(command.answer);
        } else {
            self.after.push(command);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.after.is_empty()
    }

    /// Says of all of it that nothing was done.
    pub fn refuse(&mut self, error: &QueueError) {
        let after = self.after.drain(..).map(|command| command.answer);
        for answer in self.answers.drain(..).chain(after) {
            let _ = answer.send(Err(error.clone()));
        }
        (self.works, self.done) = (Vec::new(), Vec::new());
    }

    /// Says what was done.
    pub fn answer(&mut self) {
        for (answer, done) in self.answers.drain(..).zip(self.done.drain(..)) {
            // Who asked may be gone.
            let _ = answer.send(done);
        }
    }
}

/// Commands as they come, all that wait at a time.
pub(super) struct Inbox {
    commands: mpsc::Receiver<Command>,
    left: Option<Command>,
}

impl Inbox {
    pub fn new(commands: mpsc::Receiver<Command>) -> Self {
        Self { commands, left: None }
    }

    /// The next group; waits for it. None: every sender is gone.
    pub fn next(&mut self) -> Option<Asked> {
        let first = self.left.take().or_else(|| self.commands.blocking_recv())?;
        let (mut deliveries, mut bytes) = first.work.size();
        let mut group = Asked::default();
        group.add(first);
        while let Ok(next) = self.commands.try_recv() {
            let (more, larger) = next.work.size();
            if deliveries + more > GROUP_DELIVERIES || bytes + larger > GROUP_BYTES {
                self.left = Some(next);
                break;
            }
            deliveries += more;
            bytes += larger;
            group.add(next);
        }
        Some(group)
    }
}
