//! Follows config-service: keeps the table as WatchRoutes says it is, resumes without a gap, and goes
//! on with the routes it has while config-service is away. What changed is told to the engine.
//!
//! A start from 0 takes the table's place when it is whole; a stream that breaks before that begins
//! anew. What this version does not know of the feed (callers' credentials) is passed over.

use std::{sync::Arc, time::Duration};

use common::ids::WebhookId;
use futures_util::StreamExt;
use proto::v1::{WatchRoutesRequest, WatchRoutesResponse, watch_routes_response::Change as Sent};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{debug, error, info, warn};

use super::{
    convert::Converter,
    table::{Edit, Staging, Table},
    upstream::{Backoff, Upstream},
};

/// What the engine has to know of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A route is new or has changed, or can no longer be understood: its lane is to be looked at.
    Put(WebhookId),
    /// Its lane is to be cancelled.
    Deleted(WebhookId),
    /// The table is whole, or changes could not all be told one by one: lanes that are parked are to be looked
    /// at, for their routes may have come. Any other finds its route as it is when it has its next turn.
    Synced,
}

/// Without a sign of life for so long, the stream is given up. Signs come every 10 s.
const SILENCE: Duration = Duration::from_secs(25);
/// Changes that are told and not yet taken; beyond them, one `Synced` stands for all.
const TOLD: usize = 1_024;
/// Changes of the feed that are applied in one go.
const BATCH: usize = 256;

/// Follows the feed until `stop`. The table is filled as it goes; the receiver hears of changes after
/// they are in force.
pub fn start(upstream: Upstream, table: Arc<Table>, stop: CancellationToken) -> mpsc::Receiver<Change> {
    let (mut watch, receiver) = Watch::new(upstream, table);
    tokio::spawn(async move { stop.run_until_cancelled(watch.follow()).await });
    receiver
}

struct Watch {
    upstream: Upstream,
    table: Arc<Table>,
    converter: Converter,
    /// All up to here is in the table.
    revision: u64,
    told: Told,
    silence: Duration,
}

impl Watch {
    fn new(upstream: Upstream, table: Arc<Table>) -> (Self, mpsc::Receiver<Change>) {
        let (sender, receiver) = mpsc::channel(TOLD);
        let told = Told { sender, missed: false };
        let converter = Converter::default();
        (Self { upstream, table, converter, revision: 0, told, silence: SILENCE }, receiver)
    }

    async fn follow(&mut self) {
        let mut backoff = Backoff::default();
        let mut away = false;
        loop {
            let Err(status) = self.stream(&mut backoff, &mut away).await;
            if status.code() == Code::OutOfRange && self.revision > 0 {
                info!(revision = self.revision, "config-service has other routes than these: starting anew");
                self.revision = 0;
                continue;
            }
            let wait = backoff.next_wait();
            let (code, message) = (status.code(), status.message());
            let wait_ms = wait.as_millis() as u64;
            match code {
                _ if away => debug!(%code, message, wait_ms, "config-service is still away"),
                Code::Unauthenticated | Code::PermissionDenied => {
                    error!(%code, message, wait_ms, "config-service refuses to send routes: check the route token");
                }
                _ if !self.table.synced() => {
                    warn!(%code, message, wait_ms, "config-service cannot be reached, and no routes are known yet");
                }
                _ => warn!(%code, message, wait_ms, "lost config-service; going on with the routes at hand"),
            }
            away = true;
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream, to its end, which is always an error.
    async fn stream(
        &mut self,
        backoff: &mut Backoff,
        away: &mut bool,
    ) -> Result<std::convert::Infallible, Status> {
        let request = WatchRoutesRequest { after_revision: self.revision };
        let stream =
            in_time(self.silence, async { self.upstream.client().await?.watch_routes(request).await })
                .await?;
        let mut messages = stream.into_inner().ready_chunks(BATCH);
        let mut staging = (self.revision == 0).then(Staging::default);
        let mut whole = false;
        loop {
            let batch = tokio::select! {
                batch = in_time(self.silence, async { Ok(messages.next().await) }) => batch?,
                () = self.told.catch_up() => continue,
            };
            let batch = batch.ok_or_else(|| Status::unavailable("the stream has ended"))?;
            let mut edits = Vec::new();
            for message in batch {
                let WatchRoutesResponse { revision, change } = match message {
                    Ok(message) => message,
                    Err(status) => {
                        self.apply(edits);
                        return Err(status);
                    }
                };
                match change {
                    Some(Sent::Synced(_)) => {
                        self.apply(std::mem::take(&mut edits));
                        if let Some(staging) = staging.take() {
                            self.replace(staging, revision).await?;
                        }
                        self.revision = self.revision.max(revision);
                        if !whole {
                            info!(
                                revision,
                                routes = self.table.len(),
                                "routes are in step with config-service"
                            );
                        }
                        (whole, *away) = (true, false);
                        backoff.reset();
                    }
                    Some(sent) => {
                        if let Some(edit) = self.edit(sent, revision) {
                            match &mut staging {
                                Some(staging) => staging.apply(edit),
                                None => edits.push(edit),
                            }
                        }
                        // Before the first `synced` they come in no order.
                        if whole {
                            self.revision = self.revision.max(revision);
                        }
                    }
                    None => debug!(revision, "a change of routes that this version does not know"),
                }
            }
            self.apply(edits);
        }
    }

    fn edit(&mut self, sent: Sent, revision: u64) -> Option<Edit> {
        match sent {
            Sent::Put(route) => match self.converter.route(route, revision) {
                Ok(route) => Some(Edit::Put(Arc::new(route))),
                Err(refused) => {
                    error!(
                        webhook_id = refused.webhook_id,
                        problem = refused.problem,
                        "a webhook that this version cannot serve: its deliveries are held"
                    );
                    Some(Edit::Withhold(refused.webhook_id.parse().ok()?, revision))
                }
            },
            Sent::DeletedWebhookId(id) => Some(Edit::Delete(id.parse().ok()?, revision)),
            Sent::Synced(_) | Sent::CredentialPut(_) | Sent::RevokedTokenId(_) => None,
        }
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        for id in self.table.apply(edits) {
            let gone = self.table.is_deleted(id);
            self.told.tell(if gone { Change::Deleted(id) } else { Change::Put(id) });
        }
    }

    async fn replace(&mut self, staging: Staging, revision: u64) -> Result<(), Status> {
        let table = Arc::clone(&self.table);
        // A million routes take a second: not on a thread that others wait for.
        tokio::task::spawn_blocking(move || table.replace(staging))
            .await
            .map_err(|e| Status::internal(format!("the routes could not be put in place: {e}")))?;
        self.revision = revision;
        self.told.tell(Change::Synced);
        Ok(())
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Status::deadline_exceeded("no sign of life")),
    }
}

/// Tells the engine of changes without ever waiting for it.
struct Told {
    sender: mpsc::Sender<Change>,
    missed: bool,
}

impl Told {
    fn tell(&mut self, change: Change) {
        if !self.missed && matches!(self.sender.try_send(change), Err(mpsc::error::TrySendError::Full(_))) {
            self.missed = true;
        }
    }

    /// Makes up for what did not fit, as soon as there is room. Never done when nothing is missing.
    async fn catch_up(&mut self) {
        if !self.missed {
            return std::future::pending().await;
        }
        match self.sender.reserve().await {
            Ok(permit) => permit.send(Change::Synced),
            Err(_) => debug!("nobody listens for changes of routes"),
        }
        self.missed = false;
    }
}

#[cfg(test)]
mod tests;
