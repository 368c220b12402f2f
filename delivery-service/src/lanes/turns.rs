//! A lane's turn: what its route says to do with it, what may start now, what is to be read, and when
//! to look again or give the lane back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::ids::WebhookId;

use super::{
    attempt::{self, Ended},
    calls::{self, Reply},
    circuit::{Circuit, Moment},
    engine::Engine,
    gate::Pass,
    held::Course,
};
use crate::{
    delivery::{Fault, State},
    queue::{Fate, Release, Settled},
    routes::{Order, Route},
};

/// Starts of one lane before the next has its turn.
const TURN: usize = 8;
/// A lane that has nothing to do is kept for so long: more often comes soon.
pub(super) const LINGER: Duration = Duration::from_millis(250);
/// Deliveries of ordered lanes that the process knows by their places.
pub(super) const ENTRIES: usize = 500_000;

impl Engine {
    /// A lane's turn.
    pub(super) fn turn(&mut self, id: WebhookId, now: Instant) {
        let Some(held) = self.lanes.get_mut(&id) else { return };
        let course = held.course(&self.parts.routes, now);
        held.ready = false;
        held.lane.advance(now);
        let (manner, (known, unread)) = (held.lane.manner, held.lane.known_to());
        match course {
            _ if self.draining => {
                let release = held.release(unread, now);
                self.give_back(id, Some(release));
            }
            // Made by another manner than what it is to be worked on by: claimed anew.
            _ if manner != course.manner() => self.give_back(id, Some(Release::Free { known, unread: true })),
            Course::End(fate, state, reason) => self.end_all(id, fate, state, reason, now),
            Course::Deliver(_) if held.stale || held.lane.is_stale() => {
                let release = held.release(true, now);
                self.give_back(id, Some(release));
            }
            Course::Deliver(route) if !held.gone => {
                if manner.batching.is_some() {
                    self.form(id, &route, now);
                }
                if self.start(id, &route, now) {
                    // It has had its turn and could go on.
                    self.make_ready(id);
                    return;
                }
                self.read(id, now, false);
                self.rest(id, now);
            }
            Course::Deliver(_) | Course::Wait => {
                self.give_back(id, Some(Release::Park));
            }
        }
    }

    /// Starts up to a turn's worth. Whether the lane could go on at once.
    fn start(&mut self, id: WebhookId, route: &Arc<Route>, now: Instant) -> bool {
        for _ in 0..TURN {
            let (safe, term) = (self.context.lease.safe(id), self.context.lease.term(id));
            let Some(held) = self.lanes.get(&id) else { return false };
            let (lease, pass) = (held.lane.lease, held.gate.pass(&route.policy, now));
            if held.unsure || !safe || pass == Pass::Nobody || !held.lane.waits() {
                return false;
            }
            let free = self.room.free(now);
            let full = self.batch_bytes >= self.parts.limits.memory_bytes && held.lane.gathers();
            if full || !has_room(held.gate.under_way(), free) || self.settling.is_full(id) {
                self.starve(id);
                return false;
            }
            let short = self.room.is_tight(now);
            let next = self.with(id, |held| {
                let parcel = held.lane.take(pass, short)?;
                held.gate.started(parcel.id(), parcel.asked(), pass, &route.policy, now);
                Some(parcel)
            });
            let Some(parcel) = next.flatten() else { return false };
            self.room.begins(now);
            self.batch_bytes += parcel.batch_bytes();
            let (context, route, ended) = (self.context.clone(), route.clone(), self.ended.clone());
            let started = Instant::now();
            tokio::spawn(async move {
                let result = attempt::run(&context, lease, term, &route, parcel, started).await;
                let _ = ended.send(Ended { lane: lease, began: now, result });
            });
        }
        true
    }

    /// Ends all that waits in a lane, its future retries too.
    fn end_all(&mut self, id: WebhookId, fate: Fate, state: State, reason: Fault, now: Instant) {
        let clock = self.context.clock.now();
        let Some((lease, all)) = self.with(id, |held| (held.lane.lease, held.lane.take_all())) else {
            return;
        };
        for mut delivery in all {
            delivery.head.end(state, reason, clock);
            self.settling
                .of(lease)
                .outcome(lease, Settled { place: delivery.place, head: delivery.head, fate });
        }
        self.with(id, |held| {
            // What its receiver was like is of no use any more.
            held.gate.circuit = Circuit::default();
            held.gate.unhold(now);
            if held.lane.next_scheduled().is_some() {
                held.lane.has_news();
            }
        });
        self.read(id, now, true);
        self.rest(id, now);
    }

    fn read(&mut self, id: WebhookId, now: Instant, early: bool) {
        let Some(held) = self.lanes.get(&id) else { return };
        if held.unsure {
            return;
        }
        let (lease, room, short) = (held.lane.lease, self.entries < ENTRIES, self.is_short_of_memory());
        let Some(ask) = self.with(id, |held| held.lane.asks(room, short, now)).flatten() else { return };
        let queue = self.parts.queue.clone();
        let read = async move { Reply::Read(lease, calls::read(&*queue, lease, ask, early, short).await) };
        self.calls.spawn(read);
    }

    /// A lane that can do no more for now: when to look again, or give it back.
    fn rest(&mut self, id: WebhookId, now: Instant) {
        let Some(held) = self.lanes.get_mut(&id) else { return };
        // What is due already is read when there is room for it.
        let scheduled = held.lane.next_scheduled().filter(|at| *at > now);
        let asked = held.lane.asked();
        let passes = held.gate.wakes_at(asked, now).filter(|_| held.lane.waits());
        let long = |at: Option<Instant>| at.is_none_or(|at| at > now + LINGER * 4);
        let closed = held.gate.closed_until(now);
        if closed.is_some() && held.quiet() && long(closed) && !held.lane.was_asked() {
            let release = held.release(true, now);
            return self.give_back(id, Some(release));
        }
        // What was asked for may stand behind another, which waits until then.
        let opens = closed.filter(|_| held.lane.waits());
        let mut timer = [scheduled, passes, opens].into_iter().flatten().min();
        let rests = held.quiet() && held.lane.empty() && long(scheduled);
        let blocked = rests && held.lane.is_blocked();
        if blocked && held.lane.manner.order == Order::Strict && !held.lane.was_asked() {
            // All wait for one, and for the pace.
            let until = scheduled.unwrap_or(now + LINGER).max(held.gate.paced_until(now).unwrap_or(now));
            return self.give_back(id, Some(Release::Hold { duration: until - now }));
        }
        // While some wait for a retry of their key's, others may come and go.
        if rests && !blocked {
            let since = *held.idle_since.get_or_insert(now);
            // Whoever held it next would not know its pace, nor a short hold.
            let until = (since + LINGER).max(held.gate.paced_until(now).max(closed).unwrap_or(now));
            if now >= until {
                return self.give_back(id, None);
            }
            timer = [timer, Some(until)].into_iter().flatten().min();
        } else {
            held.idle_since = None;
        }
        self.set_timer(id, timer);
    }

    pub(super) fn set_timer(&mut self, id: WebhookId, timer: Option<Instant>) {
        if let Some(held) = self.lanes.get_mut(&id)
            && held.timer != timer
        {
            if let Some(at) = held.timer.take() {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = timer {
                held.timer = Some(at);
                self.timers.insert((at, id));
            }
        }
    }

    /// Gives a lane back once nothing of it is under way.
    pub(super) fn give_back(&mut self, id: WebhookId, release: Option<Release>) {
        if self.lanes.get(&id).is_none_or(|held| !held.quiet()) {
            return;
        }
        self.remember(id);
        self.tell(id, self.moment());
        let Some(held) = self.lanes.get(&id) else { return };
        let (known, unread) = held.lane.known_to();
        let release = release.unwrap_or(Release::Free { known, unread });
        let (lease, done_to) = (held.lane.lease, held.lane.done_to(std::iter::empty()));
        if !matches!(release, Release::Free { .. }) {
            self.put_on_hold.insert(id, self.context.lease.now());
        }
        self.settling.of(lease).release(lease, release, done_to);
        self.forget(id);
    }

    /// Gives a lane back with the outcome of the one delivery that it was held for.
    pub(super) fn part(&mut self, id: WebhookId, now: Instant) {
        if self.draining || self.lanes.get(&id).is_none_or(|held| !held.is_spent(now)) {
            return;
        }
        self.remember(id);
        let Some(held) = self.lanes.get(&id) else { return };
        let (known, unread) = held.lane.known_to();
        let lease = held.lane.lease;
        self.settling.of(lease).part(lease, Release::Free { known, unread }, known);
        self.forget(id);
    }

    /// Sees to it that the next holder knows of the lane's circuit, and of its receiver's wish.
    pub(super) fn remember(&mut self, id: WebhookId) {
        if self.lanes.get(&id).is_none_or(|held| held.memo.is_empty() && !held.gate.remembers()) {
            return;
        }
        let at = self.moment();
        let Some(held) = self.lanes.get_mut(&id) else { return };
        let memo = held.next_memo(&self.parts.routes, at);
        if held.memo != memo {
            held.memo = memo.clone();
            self.settling.of(held.lane.lease).memo(held.lane.lease, memo);
        }
    }

    /// A lane that could start something waits for room.
    pub(super) fn starve(&mut self, id: WebhookId) {
        if let Some(held) = self.lanes.get_mut(&id)
            && !held.starved
        {
            held.starved = true;
            self.starved.push_back(id);
        }
    }

    /// Lanes that waited for room may look again.
    pub(super) fn feed(&mut self, count: usize) {
        self.hungry = self.hungry.saturating_add(count);
    }

    /// Those that have waited for room have it before lanes that are ready just now.
    pub(super) fn serve_starved(&mut self, at: Moment) {
        for _ in 0..std::mem::take(&mut self.hungry).min(self.starved.len()) {
            if self.room.free(at.now) == 0 || self.settling.are_full() {
                return;
            }
            let Some(id) = self.starved.pop_front() else { return };
            if let Some(held) = self.lanes.get_mut(&id) {
                held.starved = false;
            }
            self.turn(id, at.now);
            self.tell(id, at);
        }
    }
}

/// Whether a lane with so many attempts under way may start another while `free` more fit into the
/// process: nobody takes more than what is left for others, so one alone gets half of the room, and
/// whoever comes next finds some.
fn has_room(under_way: u32, free: usize) -> bool {
    free > 0 && (under_way as usize) < free
}
