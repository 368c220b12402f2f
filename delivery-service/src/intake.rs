//! From an event to its deliveries: match, render once per format, store. An event is accepted when a
//! delivery for every webhook that it fires is durable.

use std::{cell::OnceCell, sync::Arc};

use bytes::Bytes;
use common::{
    clock::{Clock, Time},
    event::Event,
    filter::Subject,
    ids::DeliveryId,
};

use crate::{
    delivery::{Fault, Head},
    payload,
    queue::{New, QueueError, Stored, group::Group},
    routes::{
        Route, RouteState,
        table::{Known, Table},
    },
};

/// Takes events in.
#[derive(Clone)]
pub struct Intake {
    routes: Arc<Table>,
    group: Group,
    clock: Clock,
    shards: u16,
}

/// What became of an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    pub event_id: String,
    /// One for each webhook that fires.
    pub delivery_ids: Vec<DeliveryId>,
    /// Every webhook that fires had this event already.
    pub duplicate: bool,
}

/// Why an event was not accepted. What was stored of it is delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// Nobody knows yet which webhooks there are.
    #[error("the webhooks are not known yet")]
    NoRoutes,
    #[error(transparent)]
    Store(#[from] QueueError),
}

impl Intake {
    pub fn new(routes: Arc<Table>, group: Group, clock: Clock, shards: u16) -> Self {
        Self { routes, group, clock, shards }
    }

    /// Accepts events, each on its own, in order. `traceparent` is the publisher's.
    pub async fn accept(
        &self,
        events: Vec<Event>,
        traceparent: Option<&str>,
    ) -> Vec<Result<Accepted, NotAccepted>> {
        if !self.routes.synced() {
            return events.iter().map(|_| Err(NotAccepted::NoRoutes)).collect();
        }
        let mut counts = Vec::with_capacity(events.len());
        let mut new = Vec::with_capacity(events.len());
        let mut known = Vec::with_capacity(events.len());
        for event in events {
            let before = new.len();
            let id = self.deliveries(event, traceparent, &mut new, &mut known);
            counts.push((id, new.len() - before));
        }
        let ids: Vec<_> = new.iter().map(|new| new.head.id()).collect();
        let stored = if new.is_empty() { Vec::new() } else { self.group.enqueue(new, known).await };
        let mut stored = ids.into_iter().zip(stored);
        counts.into_iter().map(|(id, count)| accepted(id, stored.by_ref().take(count))).collect()
    }

    /// The deliveries of an event; answers its id.
    fn deliveries(
        &self,
        event: Event,
        traceparent: Option<&str>,
        new: &mut Vec<New>,
        known: &mut Vec<Known>,
    ) -> String {
        let bodies = Bodies { event: &event, json: OnceCell::new(), xml: OnceCell::new() };
        let routes = self.routes.known_matching(&event, || Subject::parse(bodies.json()));
        let now = self.clock.now();
        let event_id = event_id(&event, now);
        let (mut routes, before) = (routes.peekable(), new.len());
        let (mut json, mut xml) = (Alike::default(), Alike::default());
        while let Some(fired) = routes.next() {
            let alone = new.len() == before && routes.peek().is_none();
            let Some(route) = &fired.route else { continue };
            let alike = if route.xml { &mut xml } else { &mut json };
            let (chance, number) = if alone { (rand::random(), 0) } else { alike.next() };
            let shard = route.webhook_id.shard(self.shards);
            let id = DeliveryId::new(shard, now.0, chance).sharing(number);
            new.push(bodies.delivery(route, id, &event_id, traceparent));
            known.push(fired);
        }
        event_id
    }
}

/// An event's bodies, each rendered when it is first wanted and shared from then on.
struct Bodies<'a> {
    event: &'a Event,
    json: OnceCell<Bytes>,
    xml: OnceCell<Bytes>,
}

impl Bodies<'_> {
    fn json(&self) -> &Bytes {
        self.json.get_or_init(|| payload::json::render(self.event))
    }

    fn xml(&self) -> &Bytes {
        self.xml.get_or_init(|| payload::xml::render(self.event))
    }

    fn delivery(&self, route: &Route, id: DeliveryId, event_id: &str, traceparent: Option<&str>) -> New {
        let body = if route.xml { self.xml() } else { self.json() }.clone();
        let mut head = head(self.event, route, id, event_id);
        head.traceparent = traceparent.map(str::to_owned);
        head.body_bytes = body.len() as u32;
        let failed = (route.state == RouteState::Disabled).then_some(Fault::Disabled);
        New { head, body, dedupe: self.event.id.is_some(), failed }
    }
}

/// What the ids of deliveries have in common whose body is the same, so that a store can keep it once.
#[derive(Default)]
struct Alike {
    chance: u64,
    number: u8,
}

impl Alike {
    /// The next one's chance, and its number among those that have that in common.
    fn next(&mut self) -> (u64, u8) {
        if self.number == 0 || self.number == u8::MAX {
            *self = Self { chance: rand::random(), number: 0 };
        }
        self.number += 1;
        (self.chance, self.number)
    }
}

/// The publisher's id, or one that is assigned.
pub fn event_id(event: &Event, now: Time) -> String {
    let assigned = || format!("evt_{}", ulid::Ulid::from_parts(now.0.max(0) as u64, rand::random()));
    event.id.clone().unwrap_or_else(assigned)
}

/// What a delivery says of its event, whichever way it is sent.
pub fn head(event: &Event, route: &Route, id: DeliveryId, event_id: &str) -> Head {
    let mut head = Head::new(id, route.webhook_id);
    head.license_code = event.license_code.clone();
    head.event_id = event_id.to_owned();
    head.event_type = event.event_type().to_owned();
    head.feedback_id = event.feedback_id().map(str::to_owned);
    head.order_key = event.order_key().to_owned();
    head.xml = route.xml;
    head
}

/// An event is accepted when all of its deliveries are stored.
fn accepted(
    event_id: String,
    stored: impl Iterator<Item = (DeliveryId, Result<Stored, QueueError>)>,
) -> Result<Accepted, NotAccepted> {
    let mut delivery_ids = Vec::new();
    let mut duplicates = 0;
    let mut failure = None;
    for (id, result) in stored {
        match result {
            Ok(Stored::Duplicate { id: first }) => {
                duplicates += 1;
                delivery_ids.push(first);
            }
            Ok(Stored::New { .. } | Stored::Ended { .. }) => delivery_ids.push(id),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => {
            let duplicate = duplicates > 0 && duplicates == delivery_ids.len();
            Ok(Accepted { event_id, delivery_ids, duplicate })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{delivery::Place, queue::LaneNow};

    fn id(n: u64) -> DeliveryId {
        DeliveryId::new(0, 0, n)
    }

    fn fresh() -> Result<Stored, QueueError> {
        Ok(Stored::New { place: Place(1), before: Place(0), lane: LaneNow::Due })
    }

    #[test]
    fn those_alike_have_all_but_a_number_in_common() {
        let mut alike = Alike::default();
        let all: Vec<_> = (0..300).map(|_| alike.next()).collect();
        let ids = |all: &[(u64, u8)]| {
            all.iter().map(|(chance, n)| DeliveryId::new(0, 0, *chance).sharing(*n)).collect::<Vec<_>>()
        };
        let distinct = |ids: &[DeliveryId]| ids.iter().collect::<HashSet<_>>().len();
        assert_eq!(distinct(&ids(&all)), 300);
        let shared = |all| ids(all).iter().map(|id| id.shared()).collect::<HashSet<_>>();
        assert_eq!((shared(&all[..255]).len(), shared(&all[255..]).len(), shared(&all).len()), (1, 1, 2));
        assert!(!shared(&all).contains(&None));
    }

    #[test]
    fn an_event_is_accepted_when_every_delivery_is_stored() {
        let duplicate = || Ok(Stored::Duplicate { id: id(9) });
        let full = || Err(QueueError::Full("disk".into()));
        let ended = || Ok(Stored::Ended { place: Place(1), reason: Fault::BacklogFull });
        let of = |results: Vec<Result<Stored, QueueError>>| {
            accepted("e".into(), results.into_iter().enumerate().map(|(n, r)| (id(n as u64), r)))
                .map(|accepted| (accepted.delivery_ids, accepted.duplicate))
        };
        assert_eq!(of(vec![]), Ok((vec![], false)), "no webhook fires");
        assert_eq!(of(vec![fresh(), ended()]), Ok((vec![id(0), id(1)], false)));
        assert_eq!(of(vec![duplicate(), fresh()]), Ok((vec![id(9), id(1)], false)), "a webhook made since");
        assert_eq!(of(vec![duplicate()]), Ok((vec![id(9)], true)));
        assert_eq!(of(vec![fresh(), full()]), Err(QueueError::Full("disk".into()).into()));
    }
}
