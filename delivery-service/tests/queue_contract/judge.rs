//! Compares what a queue says when it is read with what the oracle knows.

use std::time::Duration;

use common::ids::{DeliveryId, WebhookId};
use delivery_service::{
    delivery::{Place, State},
    queue::{Claimed, Found, Listed, Page, PageLimit, Query, Scan, Standing},
};

use crate::oracle::{Is, Lane, Oracle, PARKED};

fn ms(duration: Duration) -> i64 {
    duration.as_millis() as i64
}

impl Lane {
    pub fn grant(&mut self, me: usize, fence: u64, free: bool) {
        assert!(free && fence > self.fence, "given though it is not free, or with an old fence");
        (self.held, self.fence, self.woken, self.untold) = (Some(me), fence, false, false);
    }
}

impl Oracle {
    /// A lane's open deliveries in order of place.
    pub fn open(&self, lane: WebhookId) -> Vec<(Place, DeliveryId, Is)> {
        let of = self.all.iter().filter(|(_, one)| one.lane == lane && !matches!(one.is, Is::Ended(_)));
        let mut open: Vec<_> = of.map(|(id, one)| (one.place, *id, one.is)).collect();
        open.sort_unstable();
        open
    }

    /// When a lane is due, once it is free.
    pub fn due(&self, id: WebhookId) -> Option<i64> {
        let lane = &self.lanes[&id];
        let due = self.open(id).into_iter().map(|(_, _, is)| match is {
            _ if lane.woken => 0,
            Is::Due(0) if lane.stopped < PARKED => 0,
            Is::Due(at) => at.max(lane.stopped),
            _ => lane.stopped,
        });
        due.min().filter(|at| *at < PARKED)
    }

    /// Holders that were silent for so long lose what they had.
    pub fn lapse(&mut self, silent: impl Fn(usize) -> bool) {
        for lane in self.lanes.values_mut().filter(|lane| lane.held.is_some_and(&silent)) {
            (lane.held, lane.woken) = (None, false);
        }
    }

    pub fn claimed(&mut self, me: usize, claimed: &Claimed, limit: PageLimit) {
        for (id, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.held == Some(me)) {
            let told = claimed.news.contains(id) || claimed.withdrawn.contains(id);
            assert!(told || !lane.untold, "its holder is told what happened in {id}");
            // Not what it has been told of, but that it has been told, ends a wake.
            (lane.untold, lane.woken) = (false, false);
        }
        for grant in &claimed.lanes {
            let id = grant.lane.webhook_id;
            let lane = self.lanes.get_mut(&id).unwrap();
            assert_eq!((grant.held.is_zero(), &grant.memo), (lane.stopped <= self.now, &lane.memo), "{id}");
            lane.grant(me, grant.lane.fence, lane.held.is_none() && lane.stopped < PARKED);
            self.page(me, id, &grant.page, Place(0), 0, limit);
        }
        let told = claimed.next_due.map_or(PARKED, |after| self.now + ms(after));
        for (id, _) in self.lanes.iter().filter(|(_, lane)| lane.held.is_none()) {
            let due = self.due(*id);
            assert!(due.is_none_or(|at| told <= at.max(self.now)), "{id} is due at {due:?}, told {told}");
        }
    }

    /// A page that `me` has read: what comes next, all of it, and nothing before its time.
    pub fn page(
        &mut self,
        me: usize,
        lane: WebhookId,
        page: &Page,
        after: Place,
        known: usize,
        limit: PageLimit,
    ) {
        let (mut left, mut dues) = (self.open(lane), Vec::new());
        for waiting in &page.deliveries {
            let id = waiting.head.id();
            let at =
                left.iter().position(|(_, open, _)| *open == id).expect("what waits is open, and named once");
            let (place, _, is) = left.remove(at);
            let one = &self.all[&id];
            assert_eq!((place, one.body.as_ref()), (waiting.place, Some(&waiting.body)), "{id}");
            assert_eq!(waiting.scheduled, is != Is::Fresh, "{id}");
            assert_eq!(waiting.head.asked_again, matches!(is, Is::Due(0)), "{id}");
            self.seen.insert((me, id), one.asks);
            match is {
                Is::Due(at) => dues.push((0, at)),
                _ => dues.push((1, place.0 as i64)),
            }
        }
        assert!(dues.is_sorted(), "scheduled ones by their times, then fresh ones by their places: {dues:?}");
        assert!(limit.early || dues.iter().all(|(fresh, at)| *fresh == 1 || *at <= self.now), "{dues:?}");
        let scheduled = dues.iter().filter(|(fresh, _)| *fresh == 0).count();
        assert!(page.deliveries.len() <= limit.deliveries + known.min(scheduled));
        assert!(
            !page.more || page.deliveries.len() > known || page.read_to > after,
            "a page brings something"
        );
        for (place, id, is) in left {
            let told = page.next_scheduled.map_or(PARKED, |after| self.now + ms(after));
            let is_told = match is {
                Is::Due(at) => page.more || (at > self.now && told <= at),
                _ => place <= after || (page.more && place > page.read_to),
            };
            assert!(is_told, "{id} {is:?} at {place:?} is not in {page:?}");
        }
        if let Some((_, last)) = dues.last().filter(|(fresh, _)| *fresh == 1) {
            let first = dues.iter().find(|(fresh, _)| *fresh == 1).map_or(0, |(_, at)| *at);
            assert!(Place(first as u64) > after && page.read_to.0 as i64 >= *last);
        }
    }

    pub fn scanned(&self, lane: WebhookId, scan: &Scan, after: Place, limit: usize) {
        let mut open = self.open(lane);
        open.retain(|(place, ..)| *place > after);
        assert_eq!(scan.open.len(), open.len().min(limit));
        assert!(scan.more || open.len() <= limit);
        for (one, (place, id, is)) in scan.open.iter().zip(open) {
            assert_eq!((one.place, one.head.id(), one.due.is_some()), (place, id, is != Is::Fresh));
        }
    }

    pub fn state(&self, id: DeliveryId) -> State {
        match self.all[&id].is {
            Is::Ended(state) => state,
            _ => State::Pending,
        }
    }

    pub fn found(&self, id: DeliveryId, found: Option<&Found>) {
        let (one, found) = (&self.all[&id], found.expect("what was stored is there"));
        let state =
            Some(found.head.state()).filter(|state| *state != State::Retrying).unwrap_or(State::Pending);
        assert_eq!((state, found.place), (self.state(id), one.place), "{id}");
        assert_eq!(found.body, one.body, "{id}");
        assert_eq!(found.head.end_ms > 0, matches!(one.is, Is::Ended(_)), "{id}: {:?}", found.head);
    }

    pub fn listed(&self, query: &Query, listed: &Listed) {
        let (open, ended) = (query.states.contains(&State::Retrying), &query.states);
        let meant = |state| ended.is_empty() || ended.contains(&state) || (open && state == State::Pending);
        let all = self.all.iter().filter(|(id, one)| {
            meant(self.state(**id)) && query.webhook_id.is_none_or(|lane| lane == one.lane)
        });
        let mut all: Vec<_> = all.map(|(id, one)| (one.place, one.lane, *id)).collect();
        all.sort_unstable();
        all.reverse();
        all.truncate(query.limit);
        let named: Vec<_> =
            listed.deliveries.iter().map(|(head, place)| (*place, head.webhook_id(), head.id())).collect();
        assert_eq!(named, all, "{query:?}");
    }

    pub fn stands(&self, lane: WebhookId, standing: Standing) {
        let open = self.open(lane);
        let failed =
            self.all.values().filter(|one| one.lane == lane && one.is == Is::Ended(State::Failed)).count();
        let is = (standing.known, standing.open, standing.failed, standing.oldest.is_some());
        let known = self.all.values().any(|one| one.lane == lane);
        assert_eq!(is, (known, open.len() as u64, failed as u64, !open.is_empty()), "{lane}");
    }
}
