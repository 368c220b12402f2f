//! The lanes that this process holds: who may start what, when. One loop owns them all, so order,
//! limits and pace need no lock; attempts run beside it as tasks, and the store is called in batches.
//!
//! `Lanes` is the loop's door: intake hands over what it has stored, the routes' watch says what has
//! changed, and a stop drains.

mod attempt;
mod batched;
#[cfg(test)]
mod batched_behind_tests;
mod batched_index;
#[cfg(test)]
mod batched_model;
mod batched_reads;
#[cfg(test)]
mod batched_tests;
mod batching;
mod calls;
mod circuit;
mod engine;
mod forming;
mod gate;
mod held;
mod lane;
mod lease;
mod limit;
mod ordered;
mod ordered_reads;
#[cfg(test)]
mod ordered_tests;
mod outcomes;
mod parcel;
mod room;
mod settling;
mod settling_by_shard;
pub mod status;
mod turns;
mod unreadable;
mod window;
#[cfg(test)]
mod window_tests;

use std::{sync::Arc, time::Duration};

use common::{clock::Clock, ids::WebhookId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use attempt::record;
use status::Statuses;
pub use status::{LATENCY_MS, LaneStatus};

use crate::{
    delivery::Place,
    metrics::Metrics,
    queue::{Queue, Waiting},
    routes::{
        disable::Disabling,
        table::{Known, Table},
    },
    send::Sender,
};

/// Inputs that wait for the loop: beyond that, whoever hands over waits too.
const INPUTS: usize = 1_024;

/// Who would add to what waits while the loop is behind waits too, for so long at most.
const PATIENCE: Duration = Duration::from_millis(100);

/// The door to the loop; cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    inputs: mpsc::Sender<Input>,
    behind: watch::Receiver<bool>,
    statuses: Statuses,
    clock: Clock,
}

/// What the loop is told.
#[derive(Debug)]
pub enum Input {
    /// Deliveries that have just been stored in lanes that this process holds.
    Stored(Vec<Accepted>),
    /// A lane that nobody holds has become due.
    Due,
    /// Others have done something in a lane that this process holds.
    News(WebhookId),
    /// The route of a webhook has come, changed or gone.
    Route(WebhookId),
    /// What waits in a lane was withdrawn: it is to be read anew. Answered when nothing withdrawn before
    /// starts any more.
    Withdrawn(WebhookId, oneshot::Sender<()>),
    /// Somebody asks how a lane is; `None`: it is not held here.
    Status(WebhookId, oneshot::Sender<Option<LaneStatus>>),
    /// The routes are known: lanes that waited for theirs need not any more.
    Synced,
}

/// A delivery that intake has stored, for its lane's holder.
#[derive(Debug)]
pub struct Accepted {
    pub delivery: Waiting,
    /// Its webhook as it was when the event fired it.
    pub known: Known,
    /// The lane's last place before it.
    pub before: Place,
    pub fence: u64,
    /// The lane was given to this process with it; otherwise it was held already.
    pub given: bool,
}

/// What the loop works with.
pub struct Parts {
    pub queue: Arc<dyn Queue>,
    pub routes: Arc<Table>,
    pub sender: Arc<Sender>,
    pub disable: Arc<Disabling>,
    pub clock: Clock,
    pub limits: Limits,
    pub metrics: Metrics,
}

/// Bounds of what one process takes on; all of them settings.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests under way at once.
    pub attempts: usize,
    /// Lanes held at once, beside those that are given with what is stored in them.
    pub lanes: usize,
    /// Bodies in lanes' windows, about: beyond it each lane has no more than a few.
    pub memory_bytes: usize,
    /// How long a stop waits for attempts to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { attempts: 4_096, lanes: 20_000, memory_bytes: 64 << 20, drain: Duration::from_secs(30) }
    }
}

impl Lanes {
    /// Starts the loop. On `stop` it leases nothing more, lets attempts end and gives its leases
    /// back; the task ends when that is done or the drain time is over.
    pub fn start(parts: Parts, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (inputs, receiver) = mpsc::channel(INPUTS);
        let (tells_behind, behind) = watch::channel(false);
        let (statuses, clock) = (Statuses::default(), parts.clock.clone());
        let (told, now) = (statuses.clone(), clock.clone());
        parts.metrics.circuits_open.ask(move || told.open(now.now()));
        let task = tokio::spawn(engine::run(parts, statuses.clone(), tells_behind, receiver, stop));
        (Self { inputs, behind, statuses, clock }, task)
    }

    /// Hands something over. What is told to a loop that has ended is in the store all the same.
    pub async fn tell(&self, input: Input) {
        let _ = self.inputs.send(input).await;
    }

    /// Waits while the loop is behind, but not for long: what is taken in faster than it is sent has to be
    /// read back from the store, which costs the processors that sending is short of.
    pub async fn caught_up(&self) {
        let mut behind = self.behind.clone();
        // Late, or ended: then there is nothing to wait for.
        let _ = timeout(PATIENCE, behind.wait_for(|behind| !behind)).await;
    }

    /// What this process knows of a webhook's lane; `None` when it does not hold it.
    pub async fn status(&self, id: WebhookId) -> Option<LaneStatus> {
        let (tells, told) = oneshot::channel();
        self.tell(Input::Status(id, tells)).await;
        // A loop that has ended holds none.
        let held = told.await.ok().flatten();
        self.statuses.get(id, held, self.clock.now())
    }

    /// The same as from a claim, and sooner; what does not come through comes with the next claim.
    pub fn hint_news(&self, id: WebhookId) {
        let _ = self.inputs.try_send(Input::News(id));
    }

    /// What waits in a lane was withdrawn in the store. When this returns, nothing of it starts any more
    /// in this process.
    pub async fn withdrawn(&self, lane: WebhookId) {
        let (heard, hears) = oneshot::channel();
        self.tell(Input::Withdrawn(lane, heard)).await;
        // A loop that has ended starts nothing.
        let _ = hears.await;
    }

    /// Says that a lane is due, from where nothing can wait; a full door means that the loop is awake anyway.
    pub fn hint_due(&self) {
        let _ = self.inputs.try_send(Input::Due);
    }
}
