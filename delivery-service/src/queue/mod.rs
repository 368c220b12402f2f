//! The queue: deliveries, lane by lane, kept durably. The seam between the engine and the stores.
//!
//! A **lane** is a webhook's queue. Lanes, not deliveries, are scheduled: each has a time at which it
//! next has something to do, and whoever holds its **lease** alone reads and settles it. A lease is
//! granted with a **fence** that grows with every grant; what comes with an older fence is refused.
//! A holder's leases live as long as it keeps calling `claim`, which says for how long.
//!
//! Every delivery has a **place** in its lane: the order of acceptance. A delivery that is not settled
//! is *open*; one that waits for a time of its own (a retry) is also *scheduled*; the open ones that
//! are not scheduled are *fresh*, and are read in order of place.
//!
//! All verbs take batches and are atomic per lane. Every backend passes the same contract suite
//! (`tests/queue_contract`); durations, not times, cross the seam: the store has the clock.

mod bulk;
pub mod counted;
pub mod disk;
mod disk_bodies;
mod disk_bulk;
mod disk_changes;
#[cfg(test)]
mod disk_crash_tests;
#[cfg(test)]
mod disk_damage_tests;
mod disk_events;
mod disk_field;
mod disk_file;
mod disk_group;
mod disk_history;
mod disk_journal;
mod disk_lane_rows;
mod disk_lanes;
mod disk_layer;
mod disk_one;
mod disk_ordered;
mod disk_page;
mod disk_read;
mod disk_row;
mod disk_tables;
#[cfg(test)]
mod disk_tests;
mod disk_work;
mod disk_writer;
pub mod group;
mod limits;
pub mod redis;
mod redis_bulk;
mod redis_call;
mod redis_claim;
mod redis_durable;
mod redis_enqueue;
mod redis_hints;
mod redis_leases;
mod redis_list;
mod redis_memory;
mod redis_record;
mod redis_scan;
mod redis_script;
mod redis_settle;
pub mod redis_watch;
pub mod watched;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use common::ids::{DeliveryId, WebhookId};

pub use self::{
    bulk::{Bulk, CANCEL_MOST, Cancel, Cancelled, Slice, Standing},
    limits::Limits,
    redis_durable::{Durability, check_durability},
    redis_hints::Hear,
};

use crate::delivery::{Fault, Head, Place, State};

/// A store of deliveries.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// How many shards the store has: the shard of a webhook stands in its deliveries' ids.
    fn shards(&self) -> u16;

    /// Stores deliveries; each is answered on its own, in order. One whose event id its lane has had
    /// within the deduplication window is stored no second time. `OK` means durable. (Batches are shared,
    /// so that the caller has them back without a copy; a backend drops its share before it answers.)
    async fn enqueue(&self, new: Arc<Vec<New>>) -> Vec<Result<Stored, QueueError>>;

    /// Says that this holder lives, and leases it up to `lanes` lanes that are due, each with its first page. Call it
    /// at least every `Claimed::lease / 3`, also with `lanes: 0`.
    async fn claim(&self, lanes: usize, page: PageLimit) -> Result<Claimed, QueueError>;

    /// The next page of a lane that is held: fresh deliveries after `after`, and scheduled ones that are due.
    /// `known_scheduled`: how many due scheduled ones the holder already has (they come again; it knows them by id).
    async fn read(
        &self,
        lane: Lease,
        after: Place,
        known_scheduled: usize,
        page: PageLimit,
    ) -> Result<Result<Page, LeaseLost>, QueueError>;

    /// The open deliveries of a lane that is held after `after`, fresh and scheduled ones alike, in
    /// order of place and without their bodies; up to `limit`, at most 1,000.
    async fn scan(
        &self,
        lane: Lease,
        after: Place,
        limit: usize,
    ) -> Result<Result<Scan, LeaseLost>, QueueError>;

    /// Deliveries of a lane that is held, with their bodies: the first of `ids`, in their order, as many
    /// as fit into `bytes` and at least one. `None`: it is not open.
    async fn fetch(
        &self,
        lane: Lease,
        ids: Vec<DeliveryId>,
        bytes: usize,
    ) -> Result<Result<Vec<Option<Waiting>>, LeaseLost>, QueueError>;

    /// Stores what became of deliveries, and gives leases back. Lane by lane, in order.
    async fn settle(&self, lanes: Arc<Vec<Settle>>) -> Result<Vec<Result<(), LeaseLost>>, QueueError>;

    /// Makes lanes due now, whatever they waited for, and ends their holds: their route has changed.
    async fn wake(&self, lanes: Lanes) -> Result<(), QueueError>;

    /// A delivery, whatever its state; its body while it is kept.
    async fn get(&self, id: DeliveryId) -> Result<Option<Found>, QueueError>;

    /// An account's deliveries, newest place first.
    async fn list(&self, query: Query) -> Result<Listed, QueueError>;

    /// Makes a failed or waiting delivery due at once, ahead of others, with its retries renewed (`Head::renew`).
    /// Asked for while an attempt is under way, it follows that attempt unless it succeeds.
    async fn retry(&self, id: DeliveryId) -> Result<Retried, QueueError>;

    /// From now on `hear` is told of what others do in lanes that this holder has, as it happens; what
    /// it misses comes with the next claim. Nothing to tell where there is one holder.
    fn on_news(&self, _hear: Hear) {}

    /// How a lane stands; costs the same however long it is.
    async fn lane_status(&self, lane: WebhookId) -> Result<Standing, QueueError>;

    /// Ends open deliveries of a lane CANCELLED, oldest first. One that is under way ends SUCCEEDED all
    /// the same if its attempt does, and is not tried again otherwise: that is decided as it is settled.
    /// A holder that others withdrew from is told by `Claimed::withdrawn`; the caller tells its own.
    async fn cancel(&self, lane: WebhookId, which: Cancel) -> Result<Cancelled, QueueError>;

    /// Notes a bulk retry of a lane's FAILED deliveries with places from `from` to below `to`.
    async fn retry_bulk(&self, lane: WebhookId, from: Place, to: Place) -> Result<Bulk, QueueError>;

    /// Lanes whose bulk retry may go on. Each is the caller's for a second, so that of many who ask one
    /// goes on with it.
    async fn bulk_retries(&self) -> Result<Vec<WebhookId>, QueueError>;

    /// Goes on with a lane's bulk retry: up to `most` FAILED ones, those with a body, are due now with
    /// their retries renewed; in line with others, not ahead of them. None while `most` or more that
    /// were due before still wait for their turn.
    async fn retry_slice(&self, lane: WebhookId, most: usize) -> Result<Slice, QueueError>;

    /// Ends a lane's bulk retry where it stands.
    async fn stop_bulk(&self, lane: WebhookId) -> Result<(), QueueError>;

    /// That the store answers.
    async fn ping(&self) -> Result<(), QueueError>;
}

/// A delivery to be stored. Its id carries the lane's shard.
#[derive(Debug, Clone)]
pub struct New {
    pub head: Head,
    pub body: Bytes,
    /// Whether `head.event_id` is the publisher's: then it is deduplicated.
    pub dedupe: bool,
    /// Ends FAILED as it is stored, for this reason, body kept: its webhook is disabled.
    pub failed: Option<Fault>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// It waits at `place`; `before` is the lane's last place until then, so that a holder sees
    /// whether it knows all before it.
    New { place: Place, before: Place, lane: LaneNow },
    /// It ended FAILED at once: `New::failed`, or the lane is full (then without a body).
    Ended { place: Place, reason: Fault },
    /// The lane has had the event: this is its delivery.
    Duplicate { id: DeliveryId },
}

/// Who has the lane of a delivery that has just been stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneNow {
    /// The caller, with this fence: it had it before, or `given`: it was given it now. It is given when
    /// the lane was free, not on hold, not parked, without a memo, and had no other open delivery: then
    /// the caller knows all of the lane and starts the delivery from memory. One that it had before it
    /// may be giving back, or not have heard of yet.
    Mine { fence: u64, given: bool },
    /// Nobody, and it is due: a claim will find it.
    Due,
    /// Another holder, who finds it among its news; or nobody, and it is on hold or parked.
    NotNow,
}

#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    pub deliveries: usize,
    pub bytes: usize,
    /// Scheduled deliveries that are not due too: the lane is being emptied.
    pub early: bool,
}

#[derive(Debug, Default)]
pub struct Claimed {
    pub lanes: Vec<LaneGrant>,
    /// How long, from before this call, the holder's leases are safe: those of `lanes` and all it had.
    pub lease: Duration,
    /// But those of these shards, which did not answer, no longer than before. What answers again grants nothing yet.
    pub away: Vec<u16>,
    /// When another free lane is due; `None`: none is waiting.
    pub next_due: Option<Duration>,
    /// Lanes of this holder in which others enqueued, retried or woke something since the last call.
    pub news: Vec<WebhookId>,
    /// Those of them that were woken.
    pub woken: Vec<WebhookId>,
    /// Lanes of this holder from which others withdrew what waits: they are to be read anew.
    pub withdrawn: Vec<WebhookId>,
}

#[derive(Debug)]
pub struct LaneGrant {
    pub lane: Lease,
    pub license_code: String,
    /// How much longer the lane is on hold (see `Release::hold`); zero when it is not.
    pub held: Duration,
    /// What the last holder left with `Settle::memo`.
    pub memo: Bytes,
    pub page: Page,
}

/// A lease on a lane, as long as its fence is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    pub webhook_id: WebhookId,
    pub fence: u64,
}

#[derive(Debug, Default)]
pub struct Page {
    /// Due scheduled deliveries first, then fresh ones in order of place.
    pub deliveries: Vec<Waiting>,
    /// The place up to which all fresh ones have been read.
    pub read_to: Place,
    /// Whether there are fresh ones beyond `read_to`, or due scheduled ones beyond the page.
    pub more: bool,
    /// When the next scheduled one that is not due yet is due.
    pub next_scheduled: Option<Duration>,
}

/// A stretch of a lane.
#[derive(Debug, Default)]
pub struct Scan {
    pub open: Vec<Open>,
    /// All open ones up to this place have been named.
    pub read_to: Place,
    /// Whether there may be others beyond.
    pub more: bool,
}

/// An open delivery, its body left in the store.
#[derive(Debug)]
pub struct Open {
    pub head: Head,
    pub place: Place,
    /// Until a scheduled one is due; `None`: it is fresh.
    pub due: Option<Duration>,
}

/// A delivery that waits in a lane.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub head: Head,
    pub body: Bytes,
    pub place: Place,
    /// Whether it is scheduled (a retry), rather than fresh.
    pub scheduled: bool,
}

#[derive(Debug, Clone)]
pub struct Settle {
    pub lane: Lease,
    pub deliveries: Vec<Settled>,
    /// Fresh deliveries at or before this place have all been settled or scheduled, so that the next
    /// holder reads on from here. Never moves back.
    pub done_to: Place,
    /// Kept for the next holder; `None` leaves what is there.
    pub memo: Option<Bytes>,
    pub release: Option<Release>,
}

#[derive(Debug, Clone)]
pub struct Settled {
    /// As it now is: state, attempts, end.
    pub head: Head,
    pub place: Place,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Moves to history without its body.
    Succeeded,
    /// Moves to history with its body, can be retried.
    Failed,
    /// Moves to history without its body.
    Cancelled,
    /// Is scheduled.
    Retry { after: Duration },
    /// Stays where it is and joins the batch that `head` says; of `head` nothing else is looked at. Does
    /// nothing to one that has ended.
    Batch,
}

/// How a lease is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The lane is due when its next scheduled delivery is, or at once if it has fresh ones beyond
    /// `known`, the last place that the holder knows of, or if `unread`.
    Free { known: Place, unread: bool },
    /// Nothing of the lane is due before this time, whatever comes in: Retry-After, a pause.
    Hold { duration: Duration },
    /// The same without an end: until it is woken.
    Park,
}

/// The lease has gone to another holder: nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost")]
pub struct LeaseLost;

#[derive(Debug, Clone)]
pub enum Lanes {
    These(Vec<WebhookId>),
    /// All that are parked; holds with an end stay.
    Parked,
}

#[derive(Debug, Clone)]
pub struct Found {
    pub head: Head,
    pub place: Place,
    pub body: Option<Bytes>,
}

/// Narrows a list; empty fields do not.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub license_code: String,
    pub webhook_id: Option<WebhookId>,
    pub event_id: String,
    pub event_type: String,
    pub states: Vec<State>,
    /// From this place (inclusive) …
    pub from: Place,
    /// … to this one (exclusive).
    pub to: Option<Place>,
    /// Only what comes after it in the list's order: place descending, then webhook id descending.
    pub after: Option<(Place, WebhookId)>,
    pub limit: usize,
}

#[derive(Debug, Default)]
pub struct Listed {
    /// In the list's order; fewer than the limit even where more follow.
    pub deliveries: Vec<(Head, Place)>,
    /// Where to go on; `None` at the end.
    pub next: Option<(Place, WebhookId)>,
}

#[derive(Debug)]
pub enum Retried {
    Now(Box<Found>),
    NotFound,
    /// It has succeeded or been cancelled.
    Ended(State),
    /// Its body is no longer kept.
    NoBody,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The store cannot be reached, or did not answer in time: what was asked may have been done.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store is near its limits: nothing was stored.
    #[error("the store is full: {0}")]
    Full(String),
    /// The store holds something that this version cannot read.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}
