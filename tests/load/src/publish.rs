//! Publishers: unary callers, batched callers, streams. Each takes tickets until there are none, and
//! notes how long an answer took and how many deliveries it named.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use proto::v1::{
    PublishEventRequest, PublishEventResponse, PublishEventsRequest, PublishResult, StreamEventsRequest,
    event_service_client::EventServiceClient, publish_result::Outcome,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::transport::{Channel, Endpoint};

use crate::{
    args::{Args, Mode},
    receiver::now_us,
    report::histogram,
    tickets::{Ticket, Tickets},
    workloads::Workload,
};

/// Calls that share a connection.
const SHARE: usize = 32;
/// Answers of a stream that are counted in one go.
const GULP: usize = 128;

/// What the publishers have been answered.
#[derive(Default)]
pub struct Published {
    pub events: AtomicU64,
    pub deliveries: AtomicU64,
    /// Deliveries to receivers that hang, which may never arrive: `deliveries` leaves them out.
    pub hanging: AtomicU64,
}

/// Publishes until the tickets are used up. Answers how long answers took, in µs. All publishers share a
/// thread: handing a call from thread to thread would be measured as if the service took that time.
pub async fn publish(
    args: &Args,
    address: SocketAddr,
    workload: Arc<Workload>,
    tickets: Arc<Tickets>,
    published: Arc<Published>,
) -> anyhow::Result<Histogram<u64>> {
    let args = args.clone();
    let publishing = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(publish_all(&args, address, workload, tickets, published))
    });
    publishing.await?
}

async fn publish_all(
    args: &Args,
    address: SocketAddr,
    workload: Arc<Workload>,
    tickets: Arc<Tickets>,
    published: Arc<Published>,
) -> anyhow::Result<Histogram<u64>> {
    let mut publishers = JoinSet::new();
    let mut channel = None;
    for n in 0..args.callers() {
        if n % SHARE == 0 || args.publish == Mode::Streamed {
            channel = Some(connect(address).await?);
        }
        let channel = channel.clone().context("a connection")?;
        let publisher = Publisher {
            client: EventServiceClient::new(channel),
            workload: workload.clone(),
            tickets: tickets.clone(),
            published: published.clone(),
            answered: histogram()?,
        };
        match args.publish {
            Mode::Unary => publishers.spawn(publisher.unary()),
            Mode::Batched => publishers.spawn(publisher.batched(args.batch.max(1))),
            Mode::Streamed => publishers.spawn(publisher.streamed(args.window.max(1))),
        };
    }
    let mut all = histogram()?;
    while let Some(ended) = publishers.join_next().await {
        all.add(ended??)?;
    }
    Ok(all)
}

pub async fn connect(address: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    Ok(endpoint.connect().await?)
}

struct Publisher {
    client: EventServiceClient<Channel>,
    workload: Arc<Workload>,
    tickets: Arc<Tickets>,
    published: Arc<Published>,
    answered: Histogram<u64>,
}

impl Publisher {
    async fn unary(mut self) -> anyhow::Result<Histogram<u64>> {
        while let Some(ticket) = self.tickets.next().await {
            let event = Some(self.workload.event(ticket));
            ticket.due().await;
            let answer = self.client.publish_event(PublishEventRequest { event }).await?;
            self.note(ticket, &answer.into_inner());
        }
        Ok(self.answered)
    }

    async fn batched(mut self, size: usize) -> anyhow::Result<Histogram<u64>> {
        loop {
            let mut batch = Vec::with_capacity(size);
            while batch.len() < size
                && let Some(ticket) = self.tickets.next().await
            {
                batch.push(ticket);
            }
            if batch.is_empty() {
                return Ok(self.answered);
            }
            let events = batch.iter().map(|ticket| self.workload.event(*ticket)).collect();
            if let Some(last) = batch.last() {
                last.due().await;
            }
            let answer = self.client.publish_events(PublishEventsRequest { events }).await?.into_inner();
            for (ticket, result) in batch.into_iter().zip(answer.results) {
                self.note(ticket, &accepted(Some(result))?);
            }
        }
    }

    async fn streamed(mut self, window: usize) -> anyhow::Result<Histogram<u64>> {
        let room = Arc::new(Semaphore::new(window));
        let sent = Arc::new(Mutex::new(VecDeque::with_capacity(window)));
        let state = (self.tickets.clone(), self.workload.clone(), room.clone(), sent.clone());
        let events = stream::unfold(state, |(tickets, workload, room, sent)| async move {
            room.acquire().await.ok()?.forget();
            let ticket = tickets.next().await?;
            sent.lock().push_back(ticket);
            let event = Some(workload.event(ticket));
            ticket.due().await;
            Some((StreamEventsRequest { event }, (tickets, workload, room, sent)))
        });
        let answers = self.client.stream_events(events).await?.into_inner();
        let mut answers = answers.ready_chunks(GULP);
        while let Some(chunk) = answers.next().await {
            room.add_permits(chunk.len());
            for answer in chunk {
                let ticket = sent.lock().pop_front().context("an answer to no event")?;
                self.note(ticket, &accepted(answer?.result)?);
            }
        }
        anyhow::ensure!(sent.lock().is_empty(), "events of a stream were not answered");
        Ok(self.answered)
    }

    fn note(&mut self, ticket: Ticket, answer: &PublishEventResponse) {
        self.answered.saturating_record(now_us().saturating_sub(ticket.due_us));
        self.published.events.fetch_add(1, Relaxed);
        let hangs = self.workload.hangs(ticket);
        let count = if hangs { &self.published.hanging } else { &self.published.deliveries };
        count.fetch_add(answer.delivery_ids.len() as u64, Relaxed);
    }
}

fn accepted(result: Option<PublishResult>) -> anyhow::Result<PublishEventResponse> {
    match result.and_then(|result| result.outcome) {
        Some(Outcome::Accepted(accepted)) => Ok(accepted),
        Some(Outcome::Refused(status)) => anyhow::bail!("an event was refused: {}", status.message),
        None => anyhow::bail!("an answer without an outcome"),
    }
}
