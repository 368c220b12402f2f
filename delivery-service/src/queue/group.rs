//! Group commit at the queue's door: deliveries of many callers go into the store as one batch. While
//! a batch is being stored, the next one gathers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{LaneNow, New, Queue, QueueError, Stored, Waiting};
use crate::{
    lanes::{Accepted, Input, Lanes},
    routes::table::Known,
};

/// Deliveries in one batch, and bytes of their bodies.
const BATCH: usize = 1_024;
const BATCH_BYTES: usize = 8 << 20;
/// Callers that wait for their turn: beyond that, the next wait before they may.
const CALLERS: usize = 1_024;

type Answer = Vec<Result<Stored, QueueError>>;

struct Call {
    new: Vec<New>,
    known: Vec<Known>,
    answer: oneshot::Sender<Answer>,
}

/// The door; cheap to clone.
#[derive(Clone)]
pub struct Group {
    calls: mpsc::Sender<Call>,
}

impl Group {
    /// Starts the task that stores the batches, and hands to `lanes` what this process may start at
    /// once. It ends when the last `Group` is dropped.
    pub fn start(queue: Arc<dyn Queue>, lanes: Lanes) -> Self {
        let (calls, receiver) = mpsc::channel(CALLERS);
        tokio::spawn(run(queue, lanes, receiver));
        Self { calls }
    }

    /// Stores deliveries; each is answered on its own, in order. `known`: the webhook of each.
    pub async fn enqueue(&self, new: Vec<New>, known: Vec<Known>) -> Answer {
        let count = new.len();
        let (answer, answered) = oneshot::channel();
        let stopped = || vec![Err(QueueError::Unavailable("the service is stopping".into())); count];
        if self.calls.send(Call { new, known, answer }).await.is_err() {
            return stopped();
        }
        answered.await.unwrap_or_else(|_| stopped())
    }
}

async fn run(queue: Arc<dyn Queue>, lanes: Lanes, mut calls: mpsc::Receiver<Call>) {
    while let Some(first) = calls.recv().await {
        lanes.caught_up().await;
        let gathered = gather(first, &mut calls);
        let count = gathered.iter().map(|call| call.new.len()).sum();
        let (mut batch, mut known) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut callers = Vec::with_capacity(gathered.len());
        for call in gathered {
            callers.push((call.new.len(), call.answer));
            batch.extend(call.new);
            known.extend(call.known);
        }
        let batch = Arc::new(batch);
        let results = queue.enqueue(batch.clone()).await;
        hand_over(&lanes, batch, known, &results).await;
        let mut results = results.into_iter();
        for (count, answer) in callers {
            // A caller that has gone away does not want to know.
            let _ = answer.send(results.by_ref().take(count).collect());
        }
    }
}

/// The calls of one batch: the first, and those that wait behind it.
fn gather(first: Call, calls: &mut mpsc::Receiver<Call>) -> Vec<Call> {
    let (mut gathered, mut count, mut bytes) = (Vec::new(), 0, 0);
    let mut next = Some(first);
    while let Some(call) = next {
        count += call.new.len();
        bytes += call.new.iter().map(|new| new.body.len()).sum::<usize>();
        gathered.push(call);
        next = if count < BATCH && bytes < BATCH_BYTES { calls.try_recv().ok() } else { None };
    }
    gathered
}

/// Gives the engine what it may start without reading it back.
async fn hand_over(
    lanes: &Lanes,
    batch: Arc<Vec<New>>,
    known: Vec<Known>,
    results: &[Result<Stored, QueueError>],
) {
    let batch = Arc::try_unwrap(batch).unwrap_or_else(|shared| (*shared).clone());
    let mut accepted = Vec::with_capacity(batch.len());
    let mut due = false;
    for ((new, known), result) in batch.into_iter().zip(known).zip(results) {
        match result {
            Ok(Stored::New { place, before, lane: LaneNow::Mine { fence, given } }) => {
                accepted.push(Accepted {
                    delivery: Waiting { head: new.head, body: new.body, place: *place, scheduled: false },
                    known,
                    before: *before,
                    fence: *fence,
                    given: *given,
                })
            }
            Ok(Stored::New { lane: LaneNow::Due, .. }) => due = true,
            _ => {}
        }
    }
    if !accepted.is_empty() {
        lanes.tell(Input::Stored(accepted)).await;
    }
    if due {
        lanes.hint_due();
    }
}
