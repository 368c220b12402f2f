//! A lane that this process holds, with what the loop keeps beside it: also its webhook's route, which is
//! looked up again only when the table has changed.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;

use super::{
    circuit::Moment,
    gate::Gate,
    lane::{Lane, Manner},
    status::LaneStatus,
};
use crate::{
    delivery::{Fault, Place, State},
    queue::{Fate, LaneGrant, Lease, Release},
    routes::{
        Policy, Route, RouteState,
        table::{Known, Table},
    },
};

/// What a lane's route says to do with it.
pub enum Course {
    Deliver(Arc<Route>),
    Wait,
    End(Fate, State, Fault),
}

pub struct Held {
    pub lane: Lane,
    pub gate: Gate,
    known: Known,
    /// As the store has it.
    pub memo: Bytes,
    pub ready: bool,
    /// Whether it waits for the process to have room.
    pub starved: bool,
    pub timer: Option<Instant>,
    pub idle_since: Option<Instant>,
    /// Nothing has come but what it was given with, long after the one before.
    pub alone: bool,
    /// Its lease may be lost: nothing starts until the store has said that it is not.
    pub unsure: bool,
    /// The receiver is gone: nothing starts until config-service has turned the webhook off.
    pub gone: bool,
    /// Something that waits here was withdrawn in the store: nothing starts, and the lane is given back
    /// to be read anew.
    pub stale: bool,
    /// What was to be read of it was damaged, and nothing else has been read since.
    pub unreadable: bool,
    /// Whether its status may stand among those of lanes in trouble.
    pub told: bool,
}

impl Course {
    fn of(known: &Known) -> Self {
        match &known.route {
            Some(route) => match route.state {
                RouteState::Active => Self::Deliver(Arc::clone(route)),
                RouteState::Paused => Self::Wait,
                RouteState::Disabled => Self::End(Fate::Failed, State::Failed, Fault::Disabled),
            },
            None if known.deleted => Self::End(Fate::Cancelled, State::Cancelled, Fault::None),
            None => Self::Wait,
        }
    }

    /// How the lane is to be kept: as its route says while it delivers.
    pub fn manner(&self) -> Manner {
        match self {
            Self::Deliver(route) => Manner::of(&route.policy),
            Self::Wait | Self::End(..) => Manner::default(),
        }
    }
}

impl Held {
    /// A lane that was given with what has just been stored in it, after `before`.
    pub fn given(lease: Lease, before: Place, known: Known, routes: &Table) -> Self {
        let known = if routes.has_still(&known) { known } else { routes.known(lease.webhook_id) };
        let lane = Lane::new(lease, Course::of(&known).manner(), before);
        Self::new(lane, Gate::default(), Bytes::new(), known)
    }

    /// A lane that was claimed.
    pub fn claimed(grant: LaneGrant, routes: &Table, at: Moment) -> Self {
        let known = routes.known(grant.lane.webhook_id);
        // What the store's hold was for is known from its memo and its deliveries, or is over.
        let gate = Gate::recall(&grant.memo, revision(&known), at);
        let lane = Lane::claimed(grant.lane, Course::of(&known).manner(), grant.page, at.now);
        Self::new(lane, gate, grant.memo, known)
    }

    fn new(lane: Lane, gate: Gate, memo: Bytes, known: Known) -> Self {
        Self {
            lane,
            gate,
            known,
            memo,
            ready: false,
            starved: false,
            timer: None,
            idle_since: None,
            alone: false,
            unsure: false,
            gone: false,
            stale: false,
            unreadable: false,
            told: true,
        }
    }

    /// What is known of the webhook now. What the receiver of another route asked for is over.
    fn known(&mut self, routes: &Table, now: Instant) -> &Known {
        if !routes.has_still(&self.known) {
            let before = revision(&self.known);
            self.known = routes.known(self.lane.lease.webhook_id);
            if revision(&self.known) != before {
                self.gate.unhold(now);
            }
        }
        &self.known
    }

    pub fn course(&mut self, routes: &Table, now: Instant) -> Course {
        Course::of(self.known(routes, now))
    }

    pub fn route(&mut self, routes: &Table, now: Instant) -> Option<Arc<Route>> {
        self.known(routes, now).route.clone()
    }

    /// What the next holder must know.
    pub fn next_memo(&mut self, routes: &Table, at: Moment) -> Bytes {
        let revision = revision(self.known(routes, at.now));
        self.gate.memo(revision, at)
    }

    /// Whether its receiver fails, or is left alone: how such a lane is shows without asking the loop.
    pub fn is_troubled(&self, now: Instant) -> bool {
        self.gate.circuit.failures() > 0 || self.gate.held_until(now).is_some()
    }

    /// How the lane is.
    pub fn status(&mut self, routes: &Table, at: Moment) -> LaneStatus {
        self.known(routes, at.now);
        let wall = |until: Instant| at.time + until.saturating_duration_since(at.now);
        let circuit = &self.gate.circuit;
        LaneStatus {
            probe: circuit.probe_at().map(wall),
            failures: circuit.failures(),
            failing_since: circuit.failing_since(),
            held_until: self.gate.held_until(at.now).map(wall),
            in_flight: self.gate.under_way(),
            limit: self.gate.limit(&policy(self.known.route.as_deref())),
            ..LaneStatus::default()
        }
    }

    /// How it is given back to go on elsewhere: once its gate lets something pass, for the next holder knows
    /// nothing of its pace. `unread`: whether it is due then, rather than when it has something to do.
    pub fn release(&self, unread: bool, now: Instant) -> Release {
        match self.gate.wakes_at(false, now) {
            Some(until) => Release::Hold { duration: until - now },
            None => Release::Free { known: self.lane.known_to().0, unread },
        }
    }

    /// Whether nothing is under way or unstored: the lease could be given back.
    pub fn quiet(&self) -> bool {
        self.gate.under_way() == 0 && self.lane.quiet()
    }

    /// Whether it was held for one delivery, which has been made: it can be given back with that one's outcome,
    /// which saves a call. Where two came one soon after the other, more often comes.
    pub fn is_spent(&self, now: Instant) -> bool {
        let hindered = self.unsure || self.gone || self.stale || self.gate.paced_until(now).is_some();
        self.alone && !hindered && self.gate.under_way() == 0 && self.lane.is_spent()
    }
}

/// Of the route; 0 when there is none.
fn revision(known: &Known) -> u64 {
    known.route.as_ref().map_or(0, |route| route.revision)
}

/// A lane's policy; of one whose route has gone the default one.
pub fn policy(route: Option<&Route>) -> Cow<'_, Policy> {
    route.map_or_else(Cow::default, |route| Cow::Borrowed(&route.policy))
}
