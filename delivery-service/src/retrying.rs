//! RetryDeliveries in the background: slice by slice, so that live deliveries have room. What is left to
//! do stands in the store with its lane; of all replicas, one takes each step.

use std::{sync::Arc, time::Duration};

use common::ids::WebhookId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    queue::{Lanes, Queue, QueueError},
    routes::{Order, RouteState, table::Table},
};

/// Deliveries of one webhook that become due in a step, and that may wait for their turn before the next.
const SLICE: usize = 100;
/// Between two steps.
const STEP: Duration = Duration::from_secs(1);
/// Between two looks when there was nothing to do: how long what a lost replica had begun stands still.
const LOOK: Duration = Duration::from_secs(5);

/// Starts the task that goes on with bulk retries. Notify it of a new one; `due` is called when lanes
/// have something to do.
pub fn start(
    queue: Arc<dyn Queue>,
    routes: Arc<Table>,
    due: impl Fn() + Send + Sync + 'static,
    stop: CancellationToken,
) -> Arc<Notify> {
    let notify = Arc::new(Notify::new());
    let begun = notify.clone();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let pause = match step(&*queue, &routes, &due).await {
                Ok(0) => LOOK,
                Ok(_) => STEP,
                Err(error) => {
                    tracing::debug!(%error, "bulk retries wait for the store");
                    LOOK
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = begun.notified() => {}
            }
        }
    }));
    notify
}

/// How many webhooks have a bulk retry that goes on, if all did.
async fn step(queue: &dyn Queue, routes: &Table, due: impl Fn()) -> Result<usize, QueueError> {
    let (mut going, mut failure) = (0, None);
    for lane in queue.bulk_retries().await? {
        match go_on(queue, routes, lane, &due).await {
            Ok(()) => going += 1,
            // Perhaps a part of the store alone.
            Err(error @ QueueError::Unavailable(_)) => failure = Some(error),
            // Its own fault, and not its neighbours'.
            Err(error) => tracing::warn!(webhook = %lane, %error, "a bulk retry cannot go on"),
        }
    }
    failure.map_or(Ok(going), Err)
}

async fn go_on(queue: &dyn Queue, routes: &Table, lane: WebhookId, due: impl Fn()) -> Result<(), QueueError> {
    let route = routes.route(lane);
    match route.as_ref().map(|route| route.state) {
        Some(RouteState::Active) => {
            let slice = queue.retry_slice(lane, SLICE).await?;
            if !slice.retried.is_empty() {
                // They may stand before the one that the lane waits for in the store.
                if route.is_some_and(|route| route.policy.order == Order::Strict) {
                    queue.wake(Lanes::These(vec![lane])).await?;
                }
                due();
            }
            if slice.over {
                tracing::info!(webhook = %lane, "a bulk retry has selected all it was asked for");
            }
        }
        Some(RouteState::Disabled) => queue.stop_bulk(lane).await?,
        None if routes.is_deleted(lane) => queue.stop_bulk(lane).await?,
        // It waits, as its lane does.
        Some(RouteState::Paused) | None => {}
    }
    Ok(())
}
