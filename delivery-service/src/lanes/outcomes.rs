//! What follows from an attempt for its lane: its outcome is to be stored, its circuit may open or
//! close, its webhook may have to be disabled; and what is told of a lane.

use common::ids::WebhookId;

use super::{
    attempt::Delivered,
    circuit::{Change, Moment},
    engine::Engine,
    held::policy,
    parcel::Parcel,
};
use crate::{
    metrics::Circuit,
    queue::{Fate, Lease, Settled, Waiting},
    routes::Order,
};

impl Engine {
    /// An attempt was made.
    pub(super) fn delivered(&mut self, lease: Lease, delivered: Delivered, at: Moment) {
        let Delivered { parcel, fate, strain, hold, gone, revision } = delivered;
        let id = lease.webhook_id;
        let Some(held) = self.lanes.get_mut(&id) else { return };
        let route = held.route(&self.parts.routes, at.now);
        self.statuses.count(id, strain.succeeded, strain.duration, at.time);
        // What an older route's receiver says does not count against the present one.
        let is_present = || route.as_ref().is_some_and(|route| route.revision == revision);
        let (hold, gone) = (hold.filter(|_| is_present()), gone.filter(|_| is_present()));
        let policy = policy(route.as_deref());
        held.gone |= gone.is_some();
        if let Some(pause) = hold {
            held.gate.hold(at.now + pause);
        }
        if let Some(change) = held.gate.ended(parcel.id(), strain, &policy, at, rand::random()) {
            self.changed(id, change);
        }
        if !strain.succeeded
            && let Some(route) = &route
        {
            self.failing(id, route.revision, at);
        }
        if let Some(answer) = gone {
            tracing::warn!(webhook = %id, "the receiver is gone (410): the webhook is to be disabled");
            self.parts.disable.disable(id, revision, format!("the receiver answered 410 Gone ({answer})"));
        }
        let outcome = |delivery: Waiting| Settled { place: delivery.place, head: delivery.head, fate };
        match parcel {
            Parcel::One(delivery) if fate == Fate::Succeeded && policy.order == Order::Unordered => {
                self.settling.of(lease).success(lease, outcome(*delivery));
                self.part(id, at.now);
            }
            Parcel::One(delivery) => self.settling.of(lease).outcome(lease, outcome(*delivery)),
            Parcel::Batch(batch) => {
                batch
                    .members
                    .into_iter()
                    .for_each(|member| self.settling.of(lease).outcome(lease, outcome(member)));
            }
        }
    }

    /// A circuit has opened, closed, or waits on: the next holder must know.
    fn changed(&mut self, id: WebhookId, change: Change) {
        let failures = self.lanes.get(&id).map_or(0, |held| held.gate.circuit.failures());
        let metrics = &self.parts.metrics;
        match change {
            Change::Opened { pause } => {
                metrics.circuit_changes.add(Circuit::Opened as usize, 1);
                tracing::warn!(
                    webhook = %id, failures, pause_s = pause.as_secs(),
                    "the circuit has opened: the receiver is left alone but for probes"
                );
            }
            Change::Waits { pause } => {
                metrics.probes_failed.inc();
                tracing::info!(webhook = %id, failures, pause_s = pause.as_secs(), "a probe has failed");
            }
            Change::Closed { failures } => {
                metrics.circuit_changes.add(Circuit::Closed as usize, 1);
                tracing::info!(webhook = %id, failures, "the circuit has closed: the receiver lives");
            }
        }
        self.remember(id);
    }

    /// A webhook that has failed for too long is to be disabled.
    fn failing(&mut self, id: WebhookId, revision: u64, at: Moment) {
        let Some(held) = self.lanes.get_mut(&id) else { return };
        let circuit = &mut held.gate.circuit;
        if circuit.gives_up(revision, at.time) {
            let failures = circuit.failures();
            tracing::warn!(webhook = %id, failures, "no success for 5 days: the webhook is to be disabled");
            let reason = format!("the receiver has failed for 5 days: {failures} attempts without a success");
            self.parts.disable.disable(id, revision, reason);
            self.remember(id);
        }
    }

    /// Says how a lane is whose receiver is in trouble; how another is is told to who asks.
    pub(super) fn tell(&mut self, id: WebhookId, at: Moment) {
        let Some(held) = self.lanes.get_mut(&id) else { return };
        let troubled = held.is_troubled(at.now);
        if troubled {
            self.statuses.tell(id, held.status(&self.parts.routes, at), at.time);
        } else if held.told {
            self.statuses.well(id);
        }
        held.told = troubled;
    }
}
