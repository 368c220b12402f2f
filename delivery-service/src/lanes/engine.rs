//! The loop. It hears of deliveries, outcomes, route changes and the store's answers, lets the lanes
//! that are ready start what they may, a few each in turn, and calls the store in batches: one claim
//! at a time, one settle of each shard, one page per lane.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use common::ids::{ById, WebhookId};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Accepted, Input, Parts,
    attempt::{Context, Ended},
    calls::{HEARTBEAT, Reply},
    circuit::Moment,
    held::Held,
    lease::LeaseClock,
    room::{Lateness, Room},
    settling_by_shard::SettlingByShard,
    status::Statuses,
    turns::LINGER,
};
use crate::queue::Lease;

/// Inputs taken in one go.
const GULP: usize = 256;

/// Bytes of bodies that wait in lanes' windows, from which on a process that is short of processors is behind.
const BEHIND: usize = 3 << 20;

/// Runs until it is stopped and drained.
pub async fn run(
    parts: Parts,
    statuses: Statuses,
    behind: watch::Sender<bool>,
    inputs: mpsc::Receiver<Input>,
    stop: CancellationToken,
) {
    Engine::new(parts, statuses, behind).run(inputs, stop).await;
}

pub(super) struct Engine {
    pub parts: Parts,
    pub context: Arc<Context>,
    pub lanes: ById<WebhookId, Held>,
    pub ready: VecDeque<WebhookId>,
    /// Lanes that could start something if the process had room, the one that has waited longest in front.
    pub starved: VecDeque<WebhookId>,
    /// How many of them may look again.
    pub hungry: usize,
    pub timers: BTreeSet<(Instant, WebhookId)>,
    pub settling: SettlingByShard,
    pub calls: JoinSet<Reply>,
    pub ended: mpsc::UnboundedSender<Ended>,
    ends: mpsc::UnboundedReceiver<Ended>,
    pub room: Room,
    /// Bytes of bodies in lanes' windows.
    pub memory: usize,
    /// Bytes of batches under way.
    pub batch_bytes: usize,
    /// Deliveries of ordered lanes that are known by their places.
    pub entries: usize,
    pub claiming: bool,
    pub next_claim: Instant,
    /// Since when no lane was asked for, for want of room.
    pub passed_over: Option<Instant>,
    /// Lanes in which something was stored and that this process may be about to hear it holds.
    pub early: HashSet<WebhookId>,
    /// A lane became due while a claim was under way.
    pub claim_again: bool,
    /// Lanes in which something was stored while they were being given back: they are due once that is done.
    pub left_behind: HashSet<WebhookId>,
    /// Shards whose leases are known not to be safe.
    pub lapses_noted: BTreeSet<u16>,
    /// Shards that the last claim that was answered did not reach.
    pub away: Vec<u16>,
    /// A call to the store failed, and no claim has reached all of it since.
    pub store_away: bool,
    /// Lanes that are to be woken in the store, and whether all are that are parked.
    pub wakes: BTreeSet<WebhookId>,
    pub wakes_parked: bool,
    /// Some of these may lie in shards that were away.
    pub left_parked: bool,
    pub waking: bool,
    /// That has failed since the last claim.
    pub wake_failed: bool,
    /// Lanes from which something was withdrawn, and when this process heard of it.
    pub withdrawn: HashMap<WebhookId, Instant>,
    /// Lanes that were put on hold or parked a short while ago.
    pub put_on_hold: HashMap<WebhookId, Instant>,
    pub draining: bool,
    pub statuses: Statuses,
    /// Whether more is taken in than this process can send.
    behind: watch::Sender<bool>,
}

impl Engine {
    fn new(parts: Parts, statuses: Statuses, behind: watch::Sender<bool>) -> Self {
        let (ended, ends) = mpsc::unbounded_channel();
        let shards = parts.queue.shards();
        let context = Context {
            sender: parts.sender.clone(),
            lease: LeaseClock::new(parts.clock.clone(), shards),
            clock: parts.clock.clone(),
            late: Lateness::default(),
        };
        let room = Room::new(parts.limits.attempts);
        Self {
            room,
            parts,
            next_claim: context.lease.now(),
            context: Arc::new(context),
            lanes: ById::default(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            hungry: 0,
            timers: BTreeSet::new(),
            settling: SettlingByShard::new(shards),
            calls: JoinSet::new(),
            ended,
            ends,
            memory: 0,
            batch_bytes: 0,
            entries: 0,
            claiming: false,
            passed_over: None,
            early: HashSet::new(),
            claim_again: false,
            left_behind: HashSet::new(),
            lapses_noted: BTreeSet::new(),
            away: Vec::new(),
            store_away: false,
            wakes: BTreeSet::new(),
            wakes_parked: false,
            left_parked: false,
            waking: false,
            wake_failed: false,
            withdrawn: HashMap::new(),
            put_on_hold: HashMap::new(),
            draining: false,
            statuses,
            behind,
        }
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>, stop: CancellationToken) {
        let mut heard = Vec::with_capacity(GULP);
        let mut ends = Vec::with_capacity(GULP);
        let mut deadline = None;
        let context = self.context.clone();
        loop {
            self.proceed();
            if self.draining && self.drained() {
                break;
            }
            let wake = self.wakes_at();
            tokio::select! {
                _ = self.ends.recv_many(&mut ends, GULP) => {}
                count = inputs.recv_many(&mut heard, GULP), if !inputs.is_closed() || !inputs.is_empty() => {
                    if count == 0 && !self.draining { self.drain(); }
                }
                Some(reply) = self.calls.join_next(), if !self.calls.is_empty() => {
                    match reply {
                        Ok(reply) => self.answered(reply),
                        // Its answer is never to come, so this loop cannot go on either.
                        Err(lost) => if let Ok(panic) = lost.try_into_panic() { std::panic::resume_unwind(panic) },
                    }
                }
                () = context.lease.sleep_until(wake) => {}
                () = stop.cancelled(), if !self.draining => {
                    self.drain();
                    deadline = Some(self.context.lease.now() + self.parts.limits.drain);
                }
            }
            for input in heard.drain(..) {
                self.hear(input);
            }
            if !ends.is_empty() {
                let at = self.moment();
                ends.drain(..).for_each(|end| self.end(end, at));
            }
            if deadline.is_some_and(|at| self.context.lease.now() >= at) {
                break;
            }
        }
        let (attempts, unstored) = (self.room.under_way(), self.settling.waiting());
        tracing::info!(attempts, unstored, "lanes are given back; what is named here will be sent again");
    }

    fn drain(&mut self) {
        self.draining = true;
        let ids: Vec<_> = self.lanes.keys().copied().collect();
        for id in ids {
            self.make_ready(id);
        }
    }

    fn drained(&self) -> bool {
        // A claim may bring wakes of lanes that were given back.
        let wakes = self.claiming || self.waking || !self.wake_failed && !self.wakeable().is_empty();
        self.lanes.is_empty() && self.room.under_way() == 0 && self.settling.done() && !wakes
    }

    fn hear(&mut self, input: Input) {
        match input {
            Input::Stored(accepted) => accepted.into_iter().for_each(|one| self.accept(one)),
            Input::Due => {
                self.next_claim = self.context.lease.now();
                self.claim_again = self.claiming;
            }
            Input::News(id) => {
                self.with(id, |held| held.lane.has_news());
                self.make_ready(id);
            }
            Input::Route(id) => {
                self.wakes.insert(id);
                if let Some(held) = self.lanes.get_mut(&id) {
                    held.gone = false;
                    held.gate.unhold(self.context.lease.now());
                    self.make_ready(id);
                }
            }
            Input::Withdrawn(id, heard) => {
                self.withdraw(id);
                // Who asked may be gone.
                let _ = heard.send(());
            }
            Input::Status(id, asks) => {
                let at = self.moment();
                let status = self.lanes.get_mut(&id).map(|held| held.status(&self.parts.routes, at));
                // Who asked may be gone.
                let _ = asks.send(status);
            }
            Input::Synced => self.wakes_parked = true,
        }
    }

    /// Takes what intake has stored in a lane that this process holds, or holds since then.
    fn accept(&mut self, one: Accepted) {
        let webhook_id = one.delivery.head.webhook_id();
        let lease = Lease { webhook_id, fence: one.fence };
        let known = self.lanes.get(&webhook_id).map(|held| held.lane.lease.fence);
        if known.is_some_and(|fence| fence > one.fence) {
            return;
        }
        if self.settling.of(lease).releases(webhook_id, one.fence) {
            // Whoever claims the lane next finds it in the store.
            self.left_behind.insert(webhook_id);
            return;
        }
        if known != Some(one.fence) {
            if !one.given {
                // Given back or lost since, so whoever claims it finds the delivery; or claimed just now.
                self.early.insert(webhook_id);
                return;
            }
            let mut held = Held::given(lease, one.before, one.known, &self.parts.routes);
            // It may have been withdrawn between being stored and being heard of.
            held.stale = self.withdrawn.contains_key(&webhook_id);
            // The lane would have been given back before the next one, if that takes as long.
            held.alone = one.before.time().until(one.delivery.place.time()) >= LINGER;
            self.hold(held);
        } else {
            self.with(webhook_id, |held| held.alone = false);
        }
        let (used, most) = (self.memory, self.parts.limits.memory_bytes);
        self.with(webhook_id, |held| {
            // What waits for company leaves room for what does not.
            let most = if held.lane.gathers() { most / 2 } else { most };
            held.lane.offer(one.delivery, one.before, used < most);
        });
        if known != Some(one.fence) && self.room.free(self.context.lease.now()) == 0 {
            // Its first turn would be in vain.
            self.starve(webhook_id);
        } else {
            self.make_ready(webhook_id);
        }
    }

    pub(super) fn hold(&mut self, held: Held) {
        let id = held.lane.lease.webhook_id;
        self.forget(id);
        self.memory += held.lane.bytes();
        self.entries += held.lane.entries();
        self.lanes.insert(id, held);
    }

    pub(super) fn forget(&mut self, id: WebhookId) {
        if let Some(held) = self.lanes.remove(&id) {
            self.memory -= held.lane.bytes();
            self.entries -= held.lane.entries();
            if held.told {
                self.statuses.gone(id, held.gate.closed_until(self.context.lease.now()).is_some());
            }
            if let Some(at) = held.timer {
                self.timers.remove(&(at, id));
            }
        }
    }

    /// Changes a lane and keeps the count of the memory that lanes take.
    pub(super) fn with<T>(&mut self, id: WebhookId, change: impl FnOnce(&mut Held) -> T) -> Option<T> {
        let held = self.lanes.get_mut(&id)?;
        let before = (held.lane.bytes(), held.lane.entries());
        let result = change(held);
        self.memory = self.memory + held.lane.bytes() - before.0;
        self.entries = self.entries + held.lane.entries() - before.1;
        Some(result)
    }

    pub(super) fn make_ready(&mut self, id: WebhookId) {
        if let Some(held) = self.lanes.get_mut(&id)
            && !held.ready
        {
            held.ready = true;
            self.ready.push_back(id);
        }
    }

    /// An attempt has ended.
    fn end(&mut self, ended: Ended, at: Moment) {
        self.room.ends(ended.began);
        self.batch_bytes -= ended.parcel().batch_bytes();
        // One request, a batch too: its oldest member speaks for it.
        if let Ok(delivered) = &ended.result
            && let Some(first) = delivered.parcel.deliveries().first()
            && let Some(attempt) = first.head.attempts.last()
        {
            self.parts.metrics.attempt(attempt, delivered.strain.duration, first.place);
        }
        // The first of them may find that what is free is for others.
        self.feed(2);
        let id = ended.lane.webhook_id;
        if self.lanes.get(&id).is_none_or(|held| held.lane.lease != ended.lane) {
            return;
        }
        match ended.result {
            Err(unsent) => {
                self.with(id, |held| {
                    held.gate.unsent(unsent.id());
                    held.lane.put_back(unsent);
                });
            }
            Ok(delivered) => self.delivered(ended.lane, delivered, at),
        }
        self.make_ready(id);
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { now: self.context.lease.now(), time: self.context.clock.now() }
    }

    /// Everything that can be done now.
    fn proceed(&mut self) {
        let now = self.context.lease.now();
        self.note_lapses();
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, id));
            if let Some(held) = self.lanes.get_mut(&id) {
                held.timer = None;
            }
            self.make_ready(id);
        }
        if self.room.learn(&self.context.late, !self.starved.is_empty(), now) {
            self.feed(self.starved.len());
        }
        let at = Moment { now, time: self.context.clock.now() };
        self.serve_starved(at);
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            self.turn(id, now);
            self.tell(id, at);
        }
        self.settle(now);
        self.claim(now);
        self.wake();
        let behind = self.room.is_short() && self.memory > BEHIND && !self.starved.is_empty();
        self.behind.send_if_modified(|before| std::mem::replace(before, behind) != behind);
        self.parts.metrics.in_flight.set(self.room.under_way() as i64);
        self.parts.metrics.lanes_held.set(self.lanes.len() as i64);
    }

    fn wakes_at(&self) -> Instant {
        let claim = if self.claiming { None } else { Some(self.next_claim) };
        let timer = self.timers.first().map(|(at, _)| *at);
        let ready = (!self.ready.is_empty()).then(|| self.context.lease.now());
        let room = self.room.looks_at().filter(|_| !self.starved.is_empty());
        let far = self.context.lease.now() + HEARTBEAT;
        [claim, timer, room, self.settling.wakes_at(), ready].into_iter().flatten().fold(far, Instant::min)
    }
}
