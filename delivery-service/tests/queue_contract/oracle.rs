//! What should be true of a queue, said plainly: it hears of every call that writes, with its answer, and
//! objects to an answer that breaks a promise. Its time, in ms, stands still during calls.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use common::ids::{DeliveryId, WebhookId};
use delivery_service::{
    delivery::{Place, State},
    queue::{Fate, LaneNow, Lanes, LeaseLost, New, Release, Retried, Settle, Stored},
};

pub const PARKED: i64 = i64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Is {
    Fresh,
    /// Scheduled; 0: asked for again, so before all others.
    Due(i64),
    Ended(State),
}

pub struct One {
    pub lane: WebhookId,
    pub place: Place,
    pub body: Option<Bytes>,
    pub is: Is,
    pub asks: u32,
    event: String,
    /// Until when its event is known.
    until: i64,
}

#[derive(Default)]
pub struct Lane {
    pub held: Option<usize>,
    pub fence: u64,
    pub stopped: i64,
    /// Woken: as soon as it is free it is due, whatever it waits for.
    pub woken: bool,
    /// Something has happened that its holder has not heard of.
    pub untold: bool,
    pub memo: Bytes,
    pub last: Place,
}

#[derive(Default)]
pub struct Oracle {
    pub now: i64,
    pub backlog: usize,
    pub window: i64,
    pub all: BTreeMap<DeliveryId, One>,
    pub lanes: BTreeMap<WebhookId, Lane>,
    /// How often what a holder has read had been asked for by then.
    pub seen: HashMap<(usize, DeliveryId), u32>,
}

impl Oracle {
    pub fn stored(&mut self, me: usize, new: &New, stored: &Stored) {
        let (id, at, event) = (new.head.id(), new.head.webhook_id(), &new.head.event_id);
        let open = self.open(at).len();
        let lane = self.lanes.entry(at).or_default();
        let known = |(_, one): &(_, &One)| one.lane == at && one.event == *event && one.until > self.now;
        let known = self.all.iter().find(known).map(|(id, _)| *id);
        let (place, is) = match *stored {
            Stored::Duplicate { id } => return assert_eq!(known, Some(id)),
            Stored::Ended { place, .. } => (place, Is::Ended(State::Failed)),
            Stored::New { place, before, lane: told } => {
                let stopped = lane.stopped > self.now;
                let free = lane.held.is_none() && !stopped && open == 0 && lane.memo.is_empty();
                match told {
                    LaneNow::Mine { fence, .. } if lane.held == Some(me) => assert_eq!(fence, lane.fence),
                    LaneNow::Mine { fence, given } => lane.grant(me, fence, free && given),
                    LaneNow::Due => assert!(lane.held.is_none() && !free && lane.stopped < PARKED),
                    LaneNow::NotNow => assert!(lane.held.map_or(stopped, |holder| holder != me)),
                }
                assert_eq!(before, lane.last);
                lane.untold |= told == LaneNow::NotNow;
                (place, Is::Fresh)
            }
        };
        assert!(known.is_none() && place > lane.last, "an event once in its window; in order of acceptance");
        assert_eq!(is != Is::Fresh, new.failed.is_some() || open >= self.backlog, "ended without a cause");
        lane.last = place;
        let (event, until) = (event.clone(), self.now + self.window);
        let body = (is == Is::Fresh || new.failed.is_some()).then(|| new.body.clone());
        self.all.insert(id, One { lane: at, place, body, is, asks: 0, event, until });
    }

    pub fn settled(&mut self, me: usize, settle: &Settle, settled: Result<(), LeaseLost>) {
        let lane = self.lanes.entry(settle.lane.webhook_id).or_default();
        let mine = lane.held == Some(me) && lane.fence == settle.lane.fence;
        assert_eq!(settled.is_ok(), mine, "who has the lane settles, and nobody else");
        for settled in settle.deliveries.iter().filter(|_| mine) {
            let one = self.all.get_mut(&settled.head.id()).unwrap();
            let seen = self.seen.get(&(me, settled.head.id())).copied().unwrap_or_default();
            one.is = match (one.is, settled.fate) {
                (Is::Ended(State::Cancelled), Fate::Succeeded) => Is::Ended(State::Succeeded),
                (ended @ Is::Ended(_), _) | (ended, Fate::Batch) => ended,
                (_, Fate::Succeeded) => Is::Ended(State::Succeeded),
                (_, Fate::Cancelled) => Is::Ended(State::Cancelled),
                _ if seen < one.asks => Is::Due(0),
                (_, Fate::Failed) => Is::Ended(State::Failed),
                (_, Fate::Retry { after }) => Is::Due(self.now + after.as_millis() as i64),
            };
            one.body.take_if(|_| matches!(one.is, Is::Ended(State::Succeeded | State::Cancelled)));
        }
        if let (true, Some(release)) = (mine, settle.release) {
            let until = match release {
                Release::Hold { duration } => self.now + duration.as_millis() as i64,
                Release::Park => PARKED,
                Release::Free { .. } => 0,
            };
            (lane.held, lane.stopped) = (None, if lane.woken { 0 } else { until });
        }
    }

    pub fn retried(&mut self, id: DeliveryId, retried: &Retried) {
        let one = self.all.get_mut(&id).unwrap();
        match retried {
            Retried::Now(found) => {
                assert!(found.body.is_some() && one.body == found.body);
                (one.is, one.asks) = (Is::Due(0), one.asks + 1);
                self.lanes.entry(one.lane).or_default().untold = true;
            }
            Retried::Ended(state) => assert_eq!(Is::Ended(*state), one.is),
            _ => assert!(one.is == Is::Ended(State::Failed) && one.body.is_none()),
        }
    }

    pub fn cancelled(&mut self, me: usize, lane: WebhookId, ids: &[DeliveryId]) {
        for id in ids {
            let one = self.all.get_mut(id).unwrap();
            (one.is, one.body) = (Is::Ended(State::Cancelled), None);
        }
        let lane = self.lanes.entry(lane).or_default();
        lane.untold |= !ids.is_empty() && lane.held != Some(me);
    }

    pub fn woken(&mut self, which: Lanes) {
        for (id, lane) in &mut self.lanes {
            let parked = lane.stopped == PARKED;
            let wakes = match &which {
                Lanes::These(these) => these.contains(id),
                Lanes::Parked => parked,
            };
            if wakes {
                (lane.stopped, lane.woken, lane.untold) = (0, true, true);
            }
        }
    }
}
