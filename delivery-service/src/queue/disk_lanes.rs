//! What the embedded queue keeps of lanes in memory: those that are leased, and those that have
//! something to do and when. Idle, parked and empty lanes are not here at all. Pure; what a group of
//! commands changed can be undone when its commit fails.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use common::{clock::Time, ids::WebhookId};

use super::Lease;

/// How long leases live without a `claim`.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// How long a lane that cannot be read is left alone. Not for ever: a read that failed may go well later, and whoever
/// has to mend the lane is told of it again.
pub(super) const ASIDE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Free, and has something to do then (ms).
    Free { due: i64 },
    /// Leased. `woken`: somebody woke it and the holder has not been told.
    Held { fence: u64, woken: bool },
}

#[derive(Debug)]
pub(super) struct Lanes {
    lanes: HashMap<WebhookId, Lane>,
    due: BTreeSet<(i64, WebhookId)>,
    /// Lanes that could not be read, and before when they are not due, whatever comes in.
    aside: HashMap<WebhookId, i64>,
    news: HashSet<WebhookId>,
    fence: u64,
    /// By a clock that only goes forward: when the leases end.
    alive_until: Duration,
    /// What lanes were before the group that is under way, oldest first.
    before: Vec<(WebhookId, Option<Lane>)>,
}

impl Lanes {
    /// Fences are above `fence`.
    pub fn new(fence: u64, monotonic: Duration) -> Self {
        Self {
            lanes: HashMap::new(),
            due: BTreeSet::new(),
            aside: HashMap::new(),
            news: HashSet::new(),
            fence,
            alive_until: monotonic + LEASE,
            before: Vec::new(),
        }
    }

    pub fn get(&self, id: WebhookId) -> Option<Lane> {
        self.lanes.get(&id).copied()
    }

    pub fn holds(&self, lease: Lease) -> bool {
        matches!(self.get(lease.webhook_id), Some(Lane::Held { fence, .. }) if fence == lease.fence)
    }

    /// Leases a lane; its fence.
    pub fn grant(&mut self, id: WebhookId) -> u64 {
        self.fence += 1;
        self.aside.remove(&id);
        self.put(id, Some(Lane::Held { fence: self.fence, woken: false }));
        self.fence
    }

    /// A lane is free, and due then (ms), or has nothing to do.
    pub fn free(&mut self, id: WebhookId, due: Option<i64>) {
        self.news.remove(&id);
        self.put(id, due.map(|due| Lane::Free { due }));
    }

    /// A leased lane cannot be read: it is free, and left alone for a while, or until it is woken.
    pub fn put_aside(&mut self, lease: Lease, now: Time) {
        if self.holds(lease) {
            let until = (now + ASIDE).0;
            self.aside.insert(lease.webhook_id, until);
            self.free(lease.webhook_id, Some(until));
        }
    }

    /// A free lane has something to do then; a held one's holder hears of it. Whether it is due `now`.
    pub fn has_work(&mut self, id: WebhookId, at: i64, now: Time) -> bool {
        match self.get(id) {
            Some(Lane::Held { .. }) => {
                self.news.insert(id);
                false
            }
            Some(Lane::Free { due }) if due <= at => due <= now.0,
            _ => {
                self.put(id, Some(Lane::Free { due: at }));
                at <= now.0 && !self.aside.contains_key(&id)
            }
        }
    }

    /// Whatever a lane waits for, it is due now; when it is held, at the latest once it is given back.
    pub fn wake(&mut self, id: WebhookId, now: Time) {
        match self.get(id) {
            Some(Lane::Held { fence, .. }) => {
                self.put(id, Some(Lane::Held { fence, woken: true }));
                self.news.insert(id);
            }
            _ => {
                self.aside.remove(&id);
                self.put(id, Some(Lane::Free { due: now.0 }));
            }
        }
    }

    /// Takes up to `count` due lanes, the longest due first; outside of groups.
    pub fn claim(&mut self, count: usize, now: Time, monotonic: Duration) -> Vec<Lease> {
        self.lapse(now, monotonic);
        self.alive_until = monotonic + LEASE;
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(&(due, webhook_id)) = self.due.first()
            && due <= now.0
        {
            taken.push(Lease { webhook_id, fence: self.grant(webhook_id) });
        }
        self.before.clear();
        taken
    }

    /// Takes leases back as if they had never been given; outside of groups.
    pub fn give_back(&mut self, leases: &[Lease], now: Time) {
        for &lease in leases {
            if self.holds(lease) {
                self.free(lease.webhook_id, Some(now.0));
            }
        }
        self.before.clear();
    }

    /// What happened in held lanes since the last call, and those of them that were woken.
    pub fn take_news(&mut self) -> (Vec<WebhookId>, Vec<WebhookId>) {
        let news: Vec<_> = self.news.drain().collect();
        let was_woken = |id: &WebhookId| match self.lanes.get_mut(id) {
            Some(Lane::Held { woken, .. }) => std::mem::take(woken),
            _ => false,
        };
        let woken = news.iter().copied().filter(was_woken).collect();
        (news, woken)
    }

    pub fn next_due(&self) -> Option<i64> {
        self.due.first().map(|&(due, _)| due)
    }

    /// Ends all leases when their holder has not been heard of for too long; outside of groups.
    pub fn lapse(&mut self, now: Time, monotonic: Duration) {
        if monotonic < self.alive_until {
            return;
        }
        let is_held = |lane: &Lane| matches!(lane, Lane::Held { .. });
        let held: Vec<_> = self.lanes.iter().filter(|(_, lane)| is_held(lane)).map(|(&id, _)| id).collect();
        for id in held {
            self.free(id, Some(now.0));
        }
        self.before.clear();
        self.alive_until = monotonic + LEASE;
    }

    /// What the group changed stands.
    pub fn keep(&mut self) {
        self.before.clear();
    }

    /// What the group changed is undone.
    pub fn undo(&mut self) {
        for (id, lane) in std::mem::take(&mut self.before).into_iter().rev() {
            self.put(id, lane);
        }
        self.before.clear();
    }

    fn put(&mut self, id: WebhookId, mut lane: Option<Lane>) {
        if let (Some(Lane::Free { due }), Some(&until)) = (&mut lane, self.aside.get(&id)) {
            *due = until.max(*due);
        }
        let old = match lane {
            Some(lane) => self.lanes.insert(id, lane),
            None => self.lanes.remove(&id),
        };
        if let Some(Lane::Free { due }) = old {
            self.due.remove(&(due, id));
        }
        if let Some(Lane::Free { due }) = lane {
            self.due.insert((due, id));
        }
        self.before.push((id, old));
    }
}
