//! What stands before a lane's deliveries, whichever they are: holds, the pace, the limits of what is
//! under way, the circuit. It says who may pass now, and when time alone lets more pass. Pure.

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::ids::DeliveryId;

use super::{
    circuit::{Change, Circuit, Moment},
    limit::{Limit, Strain},
};
use crate::routes::Policy;

/// Starts are apart by so much while it is not sure that the receiver lives: those that wait are spared.
const DOUBT: Duration = Duration::from_millis(250);
/// How late a start may be and still be made up for: 2 % of a second, so a rate is kept within 5 %.
const CATCH_UP: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct Gate {
    pub circuit: Circuit,
    limit: Limit,
    under_way: u32,
    /// The one that an open circuit has let through.
    probe: Option<DeliveryId>,
    /// Until then the receiver wants to be left alone: only what was asked for again passes.
    hold_until: Option<Instant>,
    /// When the pace allows another start.
    next_start: Option<Instant>,
}

/// Who may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Any,
    /// Only what was asked for again.
    Asked,
    /// The oldest due one, alone, or what was asked for again.
    Probe,
    Nobody,
}

impl Gate {
    /// As the last holder left it, but for what time has changed.
    pub fn recall(memo: &[u8], revision: u64, at: Moment) -> Self {
        let (circuit, hold_until) = Circuit::recall(memo, revision, at);
        Self { circuit, hold_until, ..Self::default() }
    }

    /// Whether the next holder must perhaps know anything.
    pub fn remembers(&self) -> bool {
        self.circuit.remembers() || self.hold_until.is_some()
    }

    /// What the next holder must know.
    pub fn memo(&self, revision: u64, at: Moment) -> Bytes {
        self.circuit.memo(self.hold_until, revision, at)
    }

    pub fn pass(&self, policy: &Policy, now: Instant) -> Pass {
        if self.under_way >= policy.max_in_flight || self.next_start.is_some_and(|at| at > now) {
            return Pass::Nobody;
        }
        if self.hold_until.is_some_and(|at| at > now) {
            return Pass::Asked;
        }
        match self.circuit.probe_at() {
            Some(at) if at <= now && self.probe.is_none() => Pass::Probe,
            Some(_) => Pass::Asked,
            None if self.full(policy) => Pass::Asked,
            None => Pass::Any,
        }
    }

    fn full(&self, policy: &Policy) -> bool {
        self.under_way >= self.limit.allows(policy.max_in_flight)
    }

    /// A delivery has passed as `pass` allowed; `asked`: it was asked for again.
    pub fn started(&mut self, id: DeliveryId, asked: bool, pass: Pass, policy: &Policy, now: Instant) {
        self.under_way += 1;
        if pass == Pass::Probe && !asked {
            self.probe = Some(id);
        }
        let pace =
            (policy.max_rate > 0.0).then(|| Duration::from_secs_f64((1.0 / policy.max_rate).min(3600.0)));
        let doubt = self.circuit.doubts().then_some(DOUBT);
        let Some(pause) = pace.max(doubt) else {
            self.next_start = None;
            return;
        };
        // Behind by less than a pause, or than a little: the pace is kept; by more: the time is gone.
        let from = self.next_start.filter(|at| *at + pause.max(CATCH_UP) > now).unwrap_or(now);
        self.next_start = Some(from + pause);
    }

    /// What had passed was not sent after all.
    pub fn unsent(&mut self, id: DeliveryId) {
        self.leave(id);
    }

    /// An attempt has ended. `jitter` is by chance from 0 to 1.
    pub fn ended(
        &mut self,
        id: DeliveryId,
        strain: Strain,
        policy: &Policy,
        at: Moment,
        jitter: f64,
    ) -> Option<Change> {
        let full = self.full(policy);
        let probe = self.leave(id);
        self.limit.learn(strain, full, policy.max_in_flight, at.now);
        if !strain.succeeded {
            return self.circuit.failed(probe, at, jitter);
        }
        let change = self.circuit.succeeded();
        if change.is_some() {
            self.limit.restart();
        }
        change
    }

    /// Counts it out; whether it was the probe.
    fn leave(&mut self, id: DeliveryId) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        let probe = self.probe == Some(id);
        if probe {
            self.probe = None;
        }
        probe
    }

    /// Nothing passes before then, but what was asked for again.
    pub fn hold(&mut self, until: Instant) {
        self.hold_until = Some(self.hold_until.map_or(until, |at| at.max(until)));
    }

    /// The route has changed: a hold ends, and the receiver may be mended.
    pub fn unhold(&mut self, now: Instant) {
        self.hold_until = None;
        self.circuit.probe_now(now);
    }

    /// Until when all but what was asked for again has to wait.
    pub fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.hold_until.max(self.circuit.probe_at()).filter(|at| *at > now)
    }

    /// Until when the receiver is to be left alone.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.hold_until.filter(|at| *at > now)
    }

    /// Until when the pace allows nothing.
    pub fn paced_until(&self, now: Instant) -> Option<Instant> {
        self.next_start.filter(|at| *at > now)
    }

    /// When time alone lets something that waits pass; `None` when it may now, or only an event helps.
    /// `asked`: whether something that was asked for again waits.
    pub fn wakes_at(&self, asked: bool, now: Instant) -> Option<Instant> {
        let pace = self.paced_until(now);
        if asked { pace } else { pace.max(self.closed_until(now)) }
    }

    pub fn under_way(&self) -> u32 {
        self.under_way
    }

    /// Requests that may be under way, as the receiver bears them.
    pub fn limit(&self, policy: &Policy) -> u32 {
        self.limit.allows(policy.max_in_flight)
    }
}

#[cfg(test)]
mod tests {
    use common::clock::Time;

    use super::*;

    fn policy() -> Policy {
        Policy { max_in_flight: 2, ..Policy::default() }
    }

    fn id(number: u64) -> DeliveryId {
        DeliveryId::new(0, 0, number)
    }

    fn start(gate: &mut Gate, number: u64, policy: &Policy, now: Instant) -> Pass {
        let pass = gate.pass(policy, now);
        if matches!(pass, Pass::Any | Pass::Probe) {
            gate.started(id(number), false, pass, policy, now);
        }
        pass
    }

    fn end(gate: &mut Gate, number: u64, succeeded: bool, now: Instant, ms: i64) -> Option<Change> {
        let strain = Strain { succeeded, overloaded: false, duration: Duration::from_millis(1) };
        gate.ended(id(number), strain, &policy(), Moment { now, time: Time(ms) }, 0.0)
    }

    #[test]
    fn no_more_are_under_way_than_the_policy_says() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert_eq!(start(&mut gate, 1, &policy(), now), Pass::Any);
        assert_eq!(start(&mut gate, 2, &policy(), now), Pass::Any);
        assert_eq!(start(&mut gate, 3, &policy(), now), Pass::Nobody);
        gate.unsent(id(2));
        assert_eq!(start(&mut gate, 3, &policy(), now), Pass::Any);
        end(&mut gate, 1, true, now, 0);
        assert_eq!(start(&mut gate, 4, &policy(), now), Pass::Any);
    }

    #[test]
    fn a_hold_stops_all_but_what_was_asked_for_again() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let minute = Duration::from_secs(60);
        gate.hold(now + minute);
        gate.hold(now + minute / 2);
        assert_eq!(gate.pass(&policy(), now), Pass::Asked);
        assert_eq!(gate.wakes_at(false, now), Some(now + minute));
        assert_eq!(gate.wakes_at(true, now), None);
        assert_eq!(gate.pass(&policy(), now + minute), Pass::Any);
        gate.unhold(now);
        assert_eq!(gate.pass(&policy(), now), Pass::Any);
    }

    #[test]
    fn a_rate_spaces_starts_evenly_without_a_burst_after_a_rest() {
        let (mut gate, start_at) = (Gate::default(), Instant::now());
        let paced = Policy { max_rate: 10.0, max_in_flight: 1_000, ..policy() };
        let at = |ms: u64| start_at + Duration::from_millis(ms);
        assert_eq!(start(&mut gate, 1, &paced, at(0)), Pass::Any);
        assert_eq!(gate.wakes_at(false, at(0)), Some(at(100)));
        assert_eq!(start(&mut gate, 2, &paced, at(99)), Pass::Nobody);
        assert_eq!(start(&mut gate, 2, &paced, at(130)), Pass::Any, "late by less than a pause");
        assert_eq!(gate.wakes_at(false, at(130)), Some(at(200)), "the pace is kept");
        assert_eq!(start(&mut gate, 3, &paced, at(5_000)), Pass::Any);
        assert_eq!(start(&mut gate, 4, &paced, at(5_000)), Pass::Nobody, "time that is gone is gone");

        // A busy machine wakes us late: in no second more than 102 of 100.
        let (mut gate, fast) = (Gate::default(), Policy { max_rate: 100.0, ..paced });
        assert_eq!(start(&mut gate, 1, &fast, at(0)), Pass::Any);
        for id in 2..=3 {
            assert_eq!(start(&mut gate, id, &fast, at(25)), Pass::Any, "{id}");
        }
        assert_eq!(start(&mut gate, 4, &fast, at(25)), Pass::Nobody);
        assert_eq!(gate.wakes_at(false, at(25)), Some(at(30)));
    }

    #[test]
    fn an_open_circuit_lets_one_probe_through_at_a_time() {
        let (mut gate, start_at) = (Gate::default(), Instant::now());
        let at = |seconds: u64| start_at + Duration::from_secs(seconds);
        for second in 0..=10 {
            assert_eq!(start(&mut gate, second, &policy(), at(second)), Pass::Any);
            end(&mut gate, second, false, at(second), 1_000 * second as i64);
        }
        assert_eq!(start(&mut gate, 50, &policy(), at(11)), Pass::Asked);
        assert_eq!(gate.wakes_at(false, at(11)), Some(at(15)));
        assert_eq!(start(&mut gate, 50, &policy(), at(15)), Pass::Probe);
        assert_eq!(start(&mut gate, 51, &policy(), at(15)), Pass::Asked, "one at a time");
        let waits = end(&mut gate, 50, false, at(20), 20_000);
        assert_eq!(waits, Some(Change::Waits { pause: Duration::from_secs(10) }));
        assert_eq!(start(&mut gate, 51, &policy(), at(29)), Pass::Asked);
        assert_eq!(start(&mut gate, 51, &policy(), at(30)), Pass::Probe);
        assert_eq!(end(&mut gate, 51, true, at(30), 30_000), Some(Change::Closed { failures: 12 }));
        assert_eq!(start(&mut gate, 52, &policy(), at(30)), Pass::Any);
        assert_eq!(start(&mut gate, 53, &policy(), at(30)), Pass::Asked, "one at first");
    }

    #[test]
    fn few_deliveries_are_spent_before_a_circuit_opens() {
        let (mut gate, start_at) = (Gate::default(), Instant::now());
        let mut spent = 0;
        for ms in 0..60_000 {
            let now = start_at + Duration::from_millis(ms);
            if start(&mut gate, ms, &policy(), now) == Pass::Any {
                spent += 1;
                end(&mut gate, ms, false, now, ms as i64);
            }
        }
        assert!((40..60).contains(&spent), "{spent} of 60,000");
    }
}
