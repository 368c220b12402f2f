//! What one request carries: a delivery alone, or a batch of them, whose body is an array of theirs.

use bytes::Bytes;
use common::{clock::Time, ids::DeliveryId};

use crate::{delivery::Head, payload, queue::Waiting, request, routes::Route, send::Request};

#[derive(Debug)]
pub enum Parcel {
    One(Box<Waiting>),
    Batch(Batch),
}

#[derive(Debug)]
pub struct Batch {
    pub id: DeliveryId,
    /// In order of place; at least one.
    pub members: Vec<Waiting>,
    /// Of their bodies.
    pub bytes: usize,
}

impl Parcel {
    pub fn one(delivery: Waiting) -> Self {
        Self::One(Box::new(delivery))
    }

    /// The `webhook-id` of its request.
    pub fn id(&self) -> DeliveryId {
        match self {
            Self::One(delivery) => delivery.head.id(),
            Self::Batch(batch) => batch.id,
        }
    }

    pub fn deliveries(&self) -> &[Waiting] {
        match self {
            Self::One(delivery) => std::slice::from_ref(&**delivery),
            Self::Batch(batch) => &batch.members,
        }
    }

    pub fn deliveries_mut(&mut self) -> &mut [Waiting] {
        match self {
            Self::One(delivery) => std::slice::from_mut(&mut **delivery),
            Self::Batch(batch) => &mut batch.members,
        }
    }

    /// Whether any of it was asked for again.
    pub fn asked(&self) -> bool {
        self.deliveries().iter().any(|delivery| delivery.head.asked_again)
    }

    /// Bytes that a batch takes beside what the lane counts.
    pub fn batch_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Batch(batch) => batch.bytes,
        }
    }

    /// The delivery by whose retries it goes on: of a batch the one that has most of them left.
    pub fn leader(&self) -> Option<&Head> {
        self.deliveries().iter().map(|delivery| &delivery.head).min_by_key(|head| head.retries_used())
    }

    /// The body of its requests. A batch's members have pieces of it from then on: they are in memory once.
    pub fn pack(&mut self) -> Bytes {
        match self {
            Self::One(delivery) => delivery.body.clone(),
            Self::Batch(batch) => {
                let body = payload::json::array(batch.members.iter().map(|member| &*member.body));
                // Behind the bracket, and with a comma between two.
                let mut at = 1;
                for member in &mut batch.members {
                    let end = at + member.body.len();
                    member.body = body.slice(at..end);
                    at = end + 1;
                }
                body
            }
        }
    }

    /// The request of an attempt that starts `now`, with the body that it was packed into.
    pub fn request(&self, route: &Route, body: Bytes, now: Time) -> Request {
        match self {
            Self::One(delivery) => request::build(route, &delivery.head, body, now),
            Self::Batch(batch) => {
                let ids: Vec<_> = batch.members.iter().map(|member| member.head.id()).collect();
                let event_type = batch.members.first().map_or("", |first| &first.head.event_type);
                request::build_batch(route, batch.id, event_type, &ids, body, now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use common::ids::WebhookId;

    use super::*;
    use crate::delivery::Place;

    #[test]
    fn members_of_a_packed_batch_still_have_their_bodies() {
        let member = |n: u64, body: &'static str| Waiting {
            head: Head::new(DeliveryId::new(0, 1, n), WebhookId::new(1, 1)),
            body: body.into(),
            place: Place(n),
            scheduled: false,
        };
        let members = vec![member(1, "{}"), member(2, r#"{"a":[1,2]}"#), member(3, "7")];
        let mut parcel = Parcel::Batch(Batch { id: DeliveryId::new(0, 1, 9), members, bytes: 14 });
        for _ in 0..2 {
            assert_eq!(parcel.pack(), r#"[{},{"a":[1,2]},7]"#);
            assert!(parcel.deliveries().iter().map(|member| &member.body).eq(["{}", r#"{"a":[1,2]}"#, "7"]));
        }
    }
}
