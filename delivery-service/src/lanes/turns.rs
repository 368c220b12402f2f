//! A lane's turn: what its route says to do with it, what may start now, what is to be read, and when
//! to look again or give the lane back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::ids::WebhookId;

use super::{
    Parts, attempt,
    calls::{Reply, page_limit},
    engine::Engine,
};
use crate::{
    delivery::{Fault, State},
    queue::{Fate, Release, Settled},
    routes::{Route, RouteState},
};

/// Starts of one lane before the next has its turn.
const TURN: usize = 8;
/// A lane that has nothing to do is kept for so long: more often comes soon.
const LINGER: Duration = Duration::from_millis(250);
/// Outcomes that may wait for the store before nothing new starts.
const UNSTORED: usize = 20_000;

/// What a lane's route says to do with it.
enum Course {
    Deliver(Arc<Route>),
    Wait,
    End(Fate, State, Fault),
}

impl Engine {
    /// A lane's turn.
    pub(super) fn turn(&mut self, id: WebhookId, now: Instant) {
        let Some(held) = self.lanes.get_mut(&id) else { return };
        held.ready = false;
        match course(&self.parts, id) {
            _ if self.draining => self.give_back(id, None),
            Course::End(fate, state, reason) => self.end_all(id, fate, state, reason, now),
            Course::Deliver(route) if !held.gone => {
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
            let room = self.attempts < self.parts.limits.attempts && self.settling.waiting() < UNSTORED;
            let safe = self.context.lease.safe();
            let next = self.with(id, |held| {
                if held.unsure || !safe || !room { None } else { held.lane.start(&route.policy, now) }
            });
            let Some(Some(delivery)) = next else {
                if !room && !self.starved.contains(&id) {
                    self.starved.push_back(id);
                }
                return false;
            };
            let Some(lease) = self.lanes.get(&id).map(|held| held.lane.lease) else { return false };
            self.attempts += 1;
            let (context, route, ended) = (self.context.clone(), route.clone(), self.ended.clone());
            tokio::spawn(async move {
                let end = attempt::run(&context, lease, &route, delivery).await;
                let _ = ended.send(end);
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
            self.with(id, |held| held.lane.ended());
            self.settling.outcome(lease, Settled { place: delivery.place, head: delivery.head, fate });
        }
        self.with(id, |held| {
            if held.lane.next_scheduled().is_some() {
                held.lane.has_news();
            }
        });
        self.read(id, now, true);
        self.rest(id, now);
    }

    fn read(&mut self, id: WebhookId, now: Instant, early: bool) {
        let Some(held) = self.lanes.get_mut(&id) else { return };
        if held.unsure {
            return;
        }
        let Some((after, known)) = held.lane.wants_page(now) else { return };
        held.lane.reading();
        let (queue, lease) = (self.parts.queue.clone(), held.lane.lease);
        let limit = page_limit(early);
        self.calls.spawn(async move { Reply::Page(lease, queue.read(lease, after, known, limit).await) });
    }

    /// A lane that can do no more for now: when to look again, or give it back.
    fn rest(&mut self, id: WebhookId, now: Instant) {
        let Some(held) = self.lanes.get_mut(&id) else { return };
        let wakes = held.lane.wakes_at(now);
        let long = |at: Option<Instant>| at.is_none_or(|at| at > now + LINGER * 4);
        let held_back = held.lane.held_until().filter(|at| *at > now);
        if held.lane.quiet() && held_back.is_some() && long(held_back) {
            let duration = held_back.map_or(Duration::ZERO, |at| at - now);
            return self.give_back(id, Some(Release::Hold { duration }));
        }
        let mut timer = wakes;
        if held.lane.quiet() && held.lane.empty() && long(held.lane.next_scheduled()) {
            let since = *held.idle_since.get_or_insert(now);
            if now >= since + LINGER {
                return self.give_back(id, None);
            }
            timer = [timer, Some(since + LINGER)].into_iter().flatten().min();
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
    fn give_back(&mut self, id: WebhookId, release: Option<Release>) {
        let Some(held) = self.lanes.get(&id) else { return };
        if !held.lane.quiet() {
            return;
        }
        let (known, unread) = held.lane.known_to();
        let release = release.unwrap_or(Release::Free { known, unread });
        self.settling.release(held.lane.lease, release, held.lane.done_to(std::iter::empty()));
        self.forget(id);
    }
}

/// What is to be done with the lane of this webhook.
fn course(parts: &Parts, id: WebhookId) -> Course {
    match parts.routes.route(id) {
        Some(route) => match route.state {
            RouteState::Active => Course::Deliver(route),
            RouteState::Paused => Course::Wait,
            RouteState::Disabled => Course::End(Fate::Failed, State::Failed, Fault::Disabled),
        },
        None if parts.routes.is_deleted(id) => Course::End(Fate::Cancelled, State::Cancelled, Fault::None),
        None => Course::Wait,
    }
}
