//! Calls to the store and their answers: claims, which are the heartbeat too, pages, outcomes, wakes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    circuit::Moment,
    engine::Engine,
    held::Held,
    lane::{Ask, Read},
    ordered_reads::Want,
    settling::Reply as Settlement,
    window::WINDOW_BYTES,
};
use crate::{
    delivery::Place,
    queue::{
        Claimed, Fate, LaneGrant, Lanes as Which, Lease, LeaseLost, PageLimit, Queue, QueueError, Settle,
    },
};
use common::ids::WebhookId;

/// Lanes leased in one claim.
const CLAIM: usize = 32;
/// Lanes woken in one call.
const WAKES: usize = 500;
/// The longest time between two claims.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);
/// A process without room leaves lanes that are due to others for so long.
const OVERDUE: Duration = Duration::from_millis(100);
/// Deliveries of a page, read when a window is half empty: enough for a backlog to go at full speed, and
/// few, because what others publish waits while the store reads one.
const PAGE: usize = 48;
/// The same, and bytes, when windows have as much memory as they may.
const SHORT_PAGE: usize = 8;
const SHORT_BYTES: usize = 64 << 10;
/// So many times what windows may have is the end: no lane is claimed any more, not even for its share.
const OVERFULL: usize = 2;
/// Deliveries that one scan of an ordered lane names.
const SCAN: usize = 500;
/// After all places, and exact as a double.
const LATE: Place = Place((1 << 53) - 1);
/// After a call that failed.
const PAUSE: Duration = Duration::from_millis(250);
/// How long what was stored before, or a wake, may take to be heard of.
const HEARD: Duration = Duration::from_secs(3);

/// What the store answered.
pub(super) enum Reply {
    Claim(Instant, usize, Result<Claimed, QueueError>),
    Read(Lease, Result<Result<Read, LeaseLost>, QueueError>),
    Settle(Settlement),
    Woken(Which, Result<(), QueueError>),
}

impl Engine {
    pub(super) fn settle(&mut self, now: Instant) {
        let lanes = &self.lanes;
        let done_to = |settle: &Settle| {
            let held = lanes.get(&settle.lane.webhook_id).filter(|held| held.lane.lease == settle.lane)?;
            let settled = settle.deliveries.iter().filter(|d| d.fate != Fate::Batch);
            Some(held.lane.done_to(settled.map(|d| d.place)))
        };
        for batch in self.settling.round(now, done_to) {
            let queue = self.parts.queue.clone();
            self.calls.spawn(async move {
                let result = queue.settle(batch.clone()).await;
                Reply::Settle((batch, result))
            });
        }
    }

    pub(super) fn claim(&mut self, now: Instant) {
        if self.claiming || now < self.next_claim {
            return;
        }
        self.claiming = true;
        let short = self.is_short_of_memory();
        // What has run out is renewed before anything is leased on top of it; a store does so for what was away.
        let safe = self.is_safe();
        let synced = self.parts.routes.synced()
            && !self.draining
            && safe
            && self.memory < OVERFULL * self.parts.limits.memory_bytes;
        let room = self.parts.limits.lanes.saturating_sub(self.lanes.len()).min(CLAIM);
        // Others may have room. When nobody has, lanes that are due have their share of this process all the same.
        let full = synced && (short || self.room.free(now) == 0);
        let overdue = self.passed_over.is_some_and(|since| now >= since + OVERDUE);
        let lanes = if synced && (!full || overdue) { room } else { 0 };
        self.passed_over = (full && !overdue).then(|| self.passed_over.unwrap_or(now));
        let queue = self.parts.queue.clone();
        self.calls.spawn(async move {
            Reply::Claim(now, lanes, queue.claim(lanes, page_limit(false, short)).await)
        });
    }

    /// Whether lanes' windows have as much as they may: they are filled up no more then.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.memory >= self.parts.limits.memory_bytes
    }

    pub(super) fn wake(&mut self) {
        if !self.waking
            && !self.wake_failed
            && let Some(which) = self.next_wake()
        {
            self.waking = true;
            let queue = self.parts.queue.clone();
            self.calls.spawn(async move {
                let result = queue.wake(which.clone()).await;
                Reply::Woken(which, result)
            });
        }
    }

    /// Lanes for one call.
    fn next_wake(&mut self) -> Option<Which> {
        let these = self.wakeable();
        if these.is_empty() {
            return std::mem::take(&mut self.wakes_parked).then_some(Which::Parked);
        }
        for id in &these {
            self.wakes.remove(id);
        }
        Some(Which::These(these))
    }

    /// Those of them that may be woken now.
    pub(super) fn wakeable(&self) -> Vec<WebhookId> {
        // One that is being given back would be on hold again after it was woken, if a claim heard of that in between.
        let (away, shards, settling) = (&self.away, self.parts.queue.shards(), &self.settling);
        let may = |id: &&WebhookId| !away.contains(&id.shard(shards)) && !settling.gives_back(**id);
        self.wakes.iter().filter(may).take(WAKES).copied().collect()
    }

    pub(super) fn answered(&mut self, reply: Reply) {
        let now = self.context.lease.now();
        match reply {
            Reply::Claim(from, asked, Ok(claimed)) => self.claimed(from, asked, claimed, now),
            Reply::Claim(_, _, Err(error)) => {
                self.claiming = false;
                self.next_claim = now + PAUSE;
                self.store_failed(&error);
            }
            Reply::Read(lease, result) => self.read_done(lease, result, now),
            Reply::Settle(settlement) => self.settled(settlement, now),
            Reply::Woken(which, result) => {
                self.waking = false;
                match result {
                    Ok(()) => {
                        self.next_claim = now;
                        self.claim_again |= self.claiming;
                    }
                    // Again, once a claim is answered.
                    Err(error) => {
                        self.wake_failed = true;
                        self.store_failed(&error);
                        match which {
                            Which::These(these) => self.wakes.extend(these),
                            Which::Parked => self.left_parked = true,
                        }
                    }
                }
            }
        }
    }

    fn claimed(&mut self, from: Instant, asked: usize, claimed: Claimed, now: Instant) {
        self.claiming = false;
        self.note_lapses();
        self.wake_failed = false;
        self.wakes_parked |= claimed.away.is_empty() && std::mem::take(&mut self.left_parked);
        if self.store_away && claimed.away.is_empty() {
            self.store_away = false;
            tracing::info!("the store answers again");
        }
        self.away = claimed.away;
        let renewed = self.renew(from, claimed.lease);
        let safe = self.is_safe();
        let beat = HEARTBEAT.min(claimed.lease / 4);
        let pause = match asked {
            // The store, or a part of it, does not say that they are good.
            _ if !safe => PAUSE,
            0 if renewed => Duration::ZERO,
            0 if self.passed_over.is_some() => beat.min(OVERDUE),
            0 => beat,
            _ if std::mem::take(&mut self.claim_again) || claimed.lanes.len() >= asked => Duration::ZERO,
            _ => claimed.next_due.map_or(beat, |due| due.max(Duration::from_millis(1)).min(beat)),
        };
        // A shard that is away may make the next one take long too: the others' leases wait for it.
        let from = if self.away.is_empty() { now } else { from };
        self.next_claim = (from + pause).max(now);
        for grant in claimed.lanes {
            let id = grant.lane.webhook_id;
            self.granted(grant, now);
            if self.withdrawn.get(&id).is_some_and(|at| *at >= from) {
                self.with(id, |held| held.stale = true);
            }
        }
        for id in std::mem::take(&mut self.early) {
            self.with(id, |held| held.lane.has_news());
            self.make_ready(id);
        }
        for id in claimed.withdrawn {
            tracing::info!(webhook = %id, "deliveries were withdrawn at another replica: the lane is read anew");
            self.withdraw(id);
        }
        self.withdrawn.retain(|_, at| now < *at + HEARD);
        // One that was given back meanwhile may be on hold for all that. (None else: the store may count lanes as
        // this process' own that it does not have, and each wake of such a one would be told again.)
        for id in claimed.woken {
            if self.put_on_hold.remove(&id).is_some() && !self.lanes.contains_key(&id) {
                self.wakes.insert(id);
            }
        }
        self.put_on_hold.retain(|_, at| now < *at + HEARD);
        for id in claimed.news {
            self.with(id, |held| held.lane.has_news());
            self.make_ready(id);
        }
    }

    /// The leases of the shards that a claim has reached are good for so long from then. Whether any had run out:
    /// others may have had those lanes since.
    fn renew(&mut self, from: Instant, lease: Duration) -> bool {
        let shards = self.parts.queue.shards();
        let mut renewed = false;
        for shard in (0..shards).filter(|shard| !self.away.contains(shard)) {
            renewed |= self.context.lease.renew(shard, from, lease);
        }
        let over: BTreeSet<_> = self.context.lease.lapsed().collect();
        let back: Vec<_> = self.lapses_noted.extract_if(.., |shard| !over.contains(shard)).collect();
        if back.is_empty() {
            return renewed;
        }
        for held in self.lanes.values_mut() {
            let lease = held.lane.lease;
            if back.contains(&lease.webhook_id.shard(shards)) {
                held.unsure = true;
                self.settling.of(lease).ask(lease);
            }
        }
        renewed
    }

    /// Whether the leases are safe in all shards that are not away.
    fn is_safe(&self) -> bool {
        self.context.lease.lapsed().all(|shard| self.away.contains(&shard))
    }

    /// Says of leases that have run out, once.
    pub(super) fn note_lapses(&mut self) {
        let shards = self.parts.queue.shards();
        let noted = &self.lapses_noted;
        let new: Vec<_> = self.context.lease.lapsed().filter(|shard| !noted.contains(shard)).collect();
        if new.is_empty() {
            return;
        }
        let lanes = self.lanes.keys().filter(|id| new.contains(&id.shard(shards))).count();
        if lanes > 0 {
            tracing::warn!(
                lanes,
                "leases are not safe: nothing of these lanes is sent until they are renewed"
            );
        }
        self.lapses_noted.extend(new);
    }

    /// What waits in a lane may have been withdrawn: the lane is given back, to be read anew.
    pub(super) fn withdraw(&mut self, id: WebhookId) {
        self.withdrawn.insert(id, self.context.lease.now());
        self.with(id, |held| held.stale = true);
        self.make_ready(id);
    }

    fn granted(&mut self, grant: LaneGrant, now: Instant) {
        let id = grant.lane.webhook_id;
        if self.lanes.get(&id).is_some_and(|held| held.lane.lease.fence > grant.lane.fence) {
            return;
        }
        let at = Moment { now, time: self.context.clock.now() };
        let held = Held::claimed(grant, &self.parts.routes, at);
        self.hold(held);
        self.make_ready(id);
    }

    fn read_done(&mut self, lease: Lease, result: Result<Result<Read, LeaseLost>, QueueError>, now: Instant) {
        let id = lease.webhook_id;
        if self.lanes.get(&id).is_none_or(|held| held.lane.lease != lease) {
            return;
        }
        match result {
            Ok(Ok(read)) => {
                self.with(id, |held| {
                    held.unreadable = false;
                    held.lane.read(read, now);
                });
                self.make_ready(id);
            }
            Ok(Err(LeaseLost)) => self.lost(id),
            Err(error @ QueueError::Damaged(_)) => self.unreadable(lease, &error, now),
            Err(error) => {
                self.store_failed(&error);
                self.with(id, |held| held.lane.reading_failed());
                self.set_timer(id, Some(now + PAUSE));
            }
        }
    }

    fn settled(&mut self, settlement: Settlement, now: Instant) {
        match &settlement.1 {
            Err(error) => self.store_failed(error),
            Ok(_) => self.feed(usize::MAX),
        }
        let all = self.settling.answered(settlement, now);
        let (settling, before) = (&self.settling, self.left_behind.len());
        self.left_behind.retain(|id| settling.gives_back(*id));
        if self.left_behind.len() < before {
            self.next_claim = now;
            self.claim_again = self.claiming;
        }
        for (lease, result) in all {
            let id = lease.webhook_id;
            if self.lanes.get(&id).is_none_or(|held| held.lane.lease != lease) {
                continue;
            }
            match result {
                Ok(stored) => {
                    self.with(id, |held| {
                        held.unsure = false;
                        for one in stored {
                            if one.joined {
                                held.lane.joined(one.place);
                            } else {
                                held.lane.stored(one.id, one.place, one.again.map(|after| now + after));
                            }
                        }
                    });
                    self.make_ready(id);
                }
                Err(LeaseLost) => self.lost(id),
            }
        }
    }

    fn store_failed(&mut self, error: &QueueError) {
        if !self.store_away {
            self.store_away = true;
            tracing::warn!(%error, "the store has failed a call: outcomes are kept until it answers");
        }
    }

    fn lost(&mut self, id: WebhookId) {
        tracing::info!(webhook = %id, "another replica holds the lane now");
        self.parts.metrics.leases_lost.inc();
        self.forget(id);
    }
}

/// Reads what a lane asks for; `short`: no more than it needs.
pub(super) async fn read(
    queue: &dyn Queue,
    lease: Lease,
    ask: Ask,
    early: bool,
    short: bool,
) -> Result<Result<Read, LeaseLost>, QueueError> {
    let limit = page_limit(early, short);
    Ok(match ask {
        Ask::Page { after, known } => queue.read(lease, after, known, limit).await?.map(Read::Page),
        Ask::Ordered(Want::Scan { after }) => queue.scan(lease, after, SCAN).await?.map(Read::Scan),
        // Due ones come first, and of those the ones that were asked for; nothing fresh is so late. What is known
        // already takes no memory, and were there more than a page, the lane would have to be claimed anew.
        Ask::Ordered(Want::Asked) => {
            queue.read(lease, LATE, 0, page_limit(early, false)).await?.map(Read::Asked)
        }
        Ask::Ordered(Want::Fetch(ids)) => queue.fetch(lease, ids, limit.bytes).await?.map(Read::Bodies),
    })
}

fn page_limit(early: bool, short: bool) -> PageLimit {
    match short {
        true => PageLimit { deliveries: SHORT_PAGE, bytes: SHORT_BYTES, early },
        false => PageLimit { deliveries: PAGE, bytes: WINDOW_BYTES / 2, early },
    }
}
