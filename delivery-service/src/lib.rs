//! Takes events in, finds the webhooks that they fire, and delivers them by HTTP POST: durably, at
//! least once, with retries. ARCHITECTURE.md follows one event through the rooms.

pub mod api;
pub mod auth;
pub mod delivery;
pub mod intake;
pub mod lanes;
pub mod metrics;
pub mod payload;
pub mod queue;
pub mod request;
pub mod retry;
pub mod retrying;
pub mod routes;
pub mod sample;
pub mod send;
pub mod settings;
pub mod watchers;

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use common::{
    clock::Clock,
    redis,
    service::{self, Services, Started},
    settings::{Secret, Store},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;
pub use settings::Settings;

use crate::{
    lanes::{Input, Lanes},
    queue::{
        Queue, QueueError, check_durability, counted::Counted, disk::DiskQueue, group::Group,
        redis::RedisQueue, redis_watch::Wire, watched::Watched,
    },
    routes::{
        disable::Disabling,
        table::Table,
        upstream::Upstream,
        watch::{self, Change},
    },
    watchers::Watch,
};

/// Between two tries to open a store that is away.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Starts the service; see `common::service`.
pub async fn start(settings: Settings, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<Started> {
    let clock = Clock::System;
    let rules = settings.egress.clone();
    let (queue, wire) = open(&settings, &clock, &stop).await?;
    let watch = Arc::new(Watch::default());
    if let Some(wire) = wire {
        watchers::follow(&watch, wire, stop.clone());
    }
    let queue = Arc::new(Counted::new(queue, metrics.clone()));
    let queue: Arc<dyn Queue> = Arc::new(Watched::new(queue, watch.clone()));

    let token = settings.route_token.as_ref().map(Secret::expose);
    let upstream = Upstream::new(&settings.config_url, token, None)?;
    let routes = Arc::new(Table::default());
    let known = routes.clone();
    metrics.routes.ask(move || known.len());
    let changes = watch::start(upstream.clone(), routes.clone(), stop.clone());
    let disable = Disabling::start(upstream, routes.clone(), stop.clone());

    let sender = Arc::new(send::Sender::new(settings.egress, settings.sending, clock.clone())?);
    let parts = lanes::Parts {
        queue: queue.clone(),
        routes: routes.clone(),
        sender: sender.clone(),
        disable,
        clock: clock.clone(),
        limits: settings.lanes,
        metrics: metrics.clone(),
    };
    // Leases go back only after the last call has ended.
    let last = CancellationToken::new();
    let (lanes, mut lanes_done) = Lanes::start(parts, last.clone());
    let door = lanes.clone();
    tokio::spawn(tell(changes, lanes.clone()));
    let hears = lanes.clone();
    queue.on_news(Box::new(move |lane| hears.hint_news(lane)));

    let group = Group::start(queue.clone(), lanes.clone());
    let intake = intake::Intake::new(routes.clone(), group, clock.clone(), queue.shards());
    let events = api::events::Events::new(intake, clock.clone(), metrics.published, stop.clone());
    let due = lanes.clone();
    let retrying = retrying::start(queue.clone(), routes.clone(), move || due.hint_due(), stop.clone());
    let (due, held) = (lanes.clone(), lanes.clone());
    let deliveries = api::deliveries::Deliveries {
        queue: queue.clone(),
        routes: routes.clone(),
        sender,
        nudge: Arc::new(move |_| due.hint_due()),
        withdrawn: Arc::new(move |lane| {
            let lanes = lanes.clone();
            Box::pin(async move { lanes.withdrawn(lane).await })
        }),
        lane_status: Arc::new(move |lane| {
            let lanes = held.clone();
            Box::pin(async move { lanes.status(lane).await })
        }),
        retrying,
        watch,
        stop: stop.clone(),
        clock,
    };
    let services = Services::default().with(events.service()).with(deliveries.service());
    let ready = service::ready_when(
        move || {
            let (queue, routes) = (queue.clone(), routes.clone());
            async move { routes.synced() && queue.ping().await.is_ok() }
        },
        stop.clone(),
    );
    let serving = service::serve(settings.listen, services, ready, stop.clone()).await?;
    let address = serving.address;
    service::announce("delivery-service", &serving, &settings.store, &rules);
    let done = tokio::spawn(async move {
        let mut finished = pin!(serving.finished());
        let served = tokio::select! {
            served = &mut finished => served,
            // A process that takes in what it does not send is worse than none: whoever runs it starts another.
            lost = &mut lanes_done => {
                stop.cancel();
                let _ = finished.await;
                lost?;
                bail!("the lanes have ended before they were told to");
            }
        };
        last.cancel();
        lanes_done.await?;
        // While somebody can tell them anything, lanes end when they are told to, and within their time.
        drop(door);
        tracing::info!("delivery-service has stopped");
        served
    });
    Ok(Started { address, done })
}

/// Opens the store; one that is away is waited for, until the service is told to stop.
async fn open(settings: &Settings, clock: &Clock, stop: &CancellationToken) -> anyhow::Result<Opened> {
    let mut away = false;
    loop {
        let opened = open_once(settings, clock).await?;
        match opened {
            Ok(queue) => return Ok(queue),
            Err(QueueError::Unavailable(cause)) => {
                if !away {
                    tracing::warn!(cause, "the store is away: waiting for it");
                }
                away = true;
            }
            Err(error) => return Err(error.into()),
        }
        let pause = stop.run_until_cancelled(tokio::time::sleep(STORE_PAUSE)).await;
        pause.context("stopped before the store could be opened")?;
    }
}

/// The queue, and the way to other replicas where there can be any.
type Opened = (Arc<dyn Queue>, Option<Wire>);

async fn open_once(settings: &Settings, clock: &Clock) -> anyhow::Result<Result<Opened, QueueError>> {
    let limits = settings.queue.clone();
    Ok(match &settings.store {
        Store::Disk(folder) => {
            let folder = folder.join("delivery-service");
            let queue = DiskQueue::open(&folder, clock.clone(), limits, settings.min_free_bytes);
            // A file that is locked or damaged does not mend itself.
            Ok((queue? as Arc<dyn Queue>, None))
        }
        Store::Redis(store) => {
            let connection = redis::connect(&store.address, store.ca.as_deref())?;
            if let Err(error) = redis::check_setup(&connection, settings.safety.memory_limit.is_none()).await
            {
                if redis::is_too_old(&error) {
                    return Err(error.into());
                }
                return Ok(Err(QueueError::Unavailable(error.to_string())));
            }
            match check_durability(&connection, settings.safety.durability).await {
                Err(error) => return Ok(Err(error)),
                Ok(fit) => fit.map_err(anyhow::Error::msg)?,
            }
            let wire = Wire::new(connection.clone(), &store.prefix);
            let opened = RedisQueue::open_safely(connection, &store.prefix, limits, settings.safety.clone());
            opened.await.map(|queue| (queue as Arc<dyn Queue>, Some(wire)))
        }
    })
}

/// Tells the lanes what has changed in the routes.
async fn tell(mut changes: mpsc::Receiver<Change>, lanes: Lanes) {
    while let Some(change) = changes.recv().await {
        let input = match change {
            Change::Put(id) | Change::Deleted(id) => Input::Route(id),
            Change::Synced => Input::Synced,
        };
        lanes.tell(input).await;
    }
}
