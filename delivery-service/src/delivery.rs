//! A delivery as it is stored: a head that is rewritten as it goes on, and a body that never
//! changes. The head is a protobuf message of our own, so that old records stay readable.

use std::time::Duration;

use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};
use prost::Message;

/// What is stored of a delivery beside its body and its place.
#[derive(Clone, PartialEq, Message)]
pub struct Head {
    /// Ids in halves: numbers need no memory of their own.
    #[prost(fixed64, tag = "1")]
    id_high: u64,
    #[prost(fixed64, tag = "2")]
    id_low: u64,
    #[prost(fixed64, tag = "22")]
    webhook_id_high: u64,
    #[prost(fixed64, tag = "23")]
    webhook_id_low: u64,
    #[prost(string, tag = "3")]
    pub license_code: String,
    #[prost(string, tag = "4")]
    pub event_id: String,
    /// The `eventType` parameter.
    #[prost(string, tag = "5")]
    pub event_type: String,
    /// XML when true, else JSON.
    #[prost(bool, tag = "6")]
    pub xml: bool,
    /// Set on replies: the `x-event-feedback-id` header.
    #[prost(string, optional, tag = "7")]
    pub feedback_id: Option<String>,
    /// The publisher's, passed on.
    #[prost(string, optional, tag = "8")]
    pub traceparent: Option<String>,
    #[prost(enumeration = "State", tag = "9")]
    pub state: i32,
    /// Attempts made; the last `KEPT_ATTEMPTS` stand in `attempts`.
    #[prost(uint32, tag = "10")]
    pub attempt_count: u32,
    #[prost(message, repeated, tag = "11")]
    pub attempts: Vec<Attempt>,
    /// Of `attempt_count`, those before the last RetryDelivery: retries count from there.
    #[prost(uint32, tag = "12")]
    pub renewed_at: u32,
    /// When the next attempt is due, ms; 0 when at once or never.
    #[prost(int64, tag = "13")]
    pub next_attempt_ms: i64,
    /// When it ended, ms; 0 while it has not.
    #[prost(int64, tag = "14")]
    pub end_ms: i64,
    #[prost(enumeration = "Fault", tag = "15")]
    pub end_reason: i32,
    /// Whom order by user orders it with.
    #[prost(string, tag = "16")]
    pub order_key: String,
    #[prost(uint32, tag = "17")]
    pub body_bytes: u32,
    /// Set by `renew`, until the next attempt has ended.
    #[prost(bool, tag = "18")]
    pub asked_again: bool,
    /// The batch that it goes in, from before that one's first attempt on; empty: it goes alone, or its
    /// batch is still to be made.
    #[prost(bytes = "vec", tag = "19")]
    batch_id: Vec<u8>,
    /// The place of that batch's last member.
    #[prost(uint64, tag = "20")]
    batch_last: u64,
    /// How often it was renewed: the store sees whether an attempt knew of the last time.
    #[prost(uint32, tag = "21")]
    pub renewals: u32,
}

/// As `hookline.v1.DeliveryState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum State {
    Unspecified = 0,
    Pending = 1,
    Retrying = 2,
    Succeeded = 3,
    Failed = 4,
    Cancelled = 5,
}

/// As `hookline.v1.AttemptError`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Fault {
    None = 0,
    Dns = 1,
    Connect = 2,
    Tls = 3,
    Timeout = 4,
    Status = 5,
    Disconnected = 6,
    Protocol = 7,
    ForbiddenAddress = 8,
    Authentication = 9,
    Disabled = 10,
    BacklogFull = 11,
}

/// One request to the receiver, and what it came to.
#[derive(Clone, PartialEq, Message)]
pub struct Attempt {
    /// From 1.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(int64, tag = "2")]
    pub start_ms: i64,
    #[prost(uint64, tag = "3")]
    pub duration_us: u64,
    /// 0 when no answer came.
    #[prost(uint32, tag = "4")]
    pub http_status: u32,
    #[prost(enumeration = "Fault", tag = "5")]
    pub fault: i32,
    #[prost(string, tag = "6")]
    pub message: String,
    /// The first 1,024 bytes of the answer's body.
    #[prost(bytes = "vec", tag = "7")]
    pub response_body: Vec<u8>,
    /// The address that was connected to.
    #[prost(string, tag = "8")]
    pub remote_address: String,
}

/// How many attempts a head keeps: the newest.
pub const KEPT_ATTEMPTS: usize = 32;

impl Head {
    pub fn new(id: DeliveryId, webhook_id: WebhookId) -> Self {
        let (id_high, id_low) = halves(id.bytes());
        let (webhook_id_high, webhook_id_low) = halves(webhook_id.bytes());
        Self {
            id_high,
            id_low,
            webhook_id_high,
            webhook_id_low,
            state: State::Pending as i32,
            ..Self::default()
        }
    }

    pub fn id(&self) -> DeliveryId {
        DeliveryId::from_bytes(whole(self.id_high, self.id_low))
    }

    pub fn webhook_id(&self) -> WebhookId {
        WebhookId::from_bytes(whole(self.webhook_id_high, self.webhook_id_low))
    }

    /// Retries that its policy has been charged for.
    pub fn retries_used(&self) -> u32 {
        (self.attempt_count - self.renewed_at.min(self.attempt_count)).saturating_sub(1)
    }

    /// The batch that it goes in, and the place of that one's last member.
    pub fn batch(&self) -> Option<(DeliveryId, Place)> {
        let id = self.batch_id.as_slice().try_into().ok()?;
        Some((DeliveryId::from_bytes(id), Place(self.batch_last)))
    }

    /// Makes it a member of a batch.
    pub fn join(&mut self, batch: DeliveryId, last: Place) {
        (self.batch_id, self.batch_last) = (batch.bytes().to_vec(), last.0);
    }

    /// What, behind an encoded head, makes it a member of this one's batch: later fields win.
    pub fn membership(&self) -> Vec<u8> {
        let (batch_id, batch_last) = (self.batch_id.clone(), self.batch_last);
        Self { batch_id, batch_last, ..Self::default() }.encode_to_vec()
    }

    /// A caller asks for it again: its retries start anew and it goes ahead of others, past a hold
    /// or an open circuit, until an attempt has been made. One that had failed leaves its batch.
    pub fn renew(&mut self) {
        if self.state() == State::Failed {
            self.batch_id.clear();
        }
        self.asked_again = true;
        self.renewals += 1;
        self.renewed_at = self.attempt_count;
        self.next_attempt_ms = 0;
        self.end_ms = 0;
        self.set_end_reason(Fault::None);
        self.set_state(if self.attempt_count == 0 { State::Pending } else { State::Retrying });
    }

    pub fn content_type(&self) -> &'static str {
        if self.xml { "application/xml; charset=utf-8" } else { "application/json; charset=utf-8" }
    }

    /// Notes an attempt that has ended.
    pub fn add(&mut self, attempt: Attempt) {
        self.asked_again = false;
        self.attempt_count += 1;
        if self.attempts.len() >= KEPT_ATTEMPTS {
            self.attempts.remove(0);
        }
        // Most need one.
        self.attempts.reserve_exact(1);
        self.attempts.push(attempt);
    }

    /// Ends it.
    pub fn end(&mut self, state: State, reason: Fault, now: Time) {
        self.set_state(state);
        self.set_end_reason(reason);
        self.end_ms = now.0;
        self.next_attempt_ms = 0;
    }

    /// Lets it wait for its next attempt.
    pub fn reschedule(&mut self, after: Duration, now: Time) {
        self.set_state(State::Retrying);
        self.next_attempt_ms = (now + after).0;
    }
}

fn halves(bytes: [u8; 16]) -> (u64, u64) {
    let number = u128::from_be_bytes(bytes);
    ((number >> 64) as u64, number as u64)
}

fn whole(high: u64, low: u64) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

/// Where a delivery stands among those of the store: the order of acceptance, carrying its time.
/// Within a lane unique and growing; `0` is before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Place(pub u64);

/// Bits of a place below its milliseconds: more in one ms borrow from the next. 41 + 11 bits stay
/// exact in a double, which is what Redis' scores and Lua's numbers are.
const PLACE_BITS: u32 = 11;

impl Place {
    /// The first place of a millisecond.
    pub fn at(time: Time) -> Self {
        Self((time.0.max(0) as u64) << PLACE_BITS)
    }

    /// The place after `last` for what is accepted `now`.
    pub fn next(last: Place, now: Time) -> Self {
        Self(Self::at(now).0.max(last.0 + 1))
    }

    /// When it was accepted.
    pub fn time(self) -> Time {
        Time((self.0 >> PLACE_BITS) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_grow_and_tell_the_time() {
        let now = Time(1_800_000_000_000);
        let first = Place::next(Place(0), now);
        let second = Place::next(first, now);
        assert_eq!(first.time(), now);
        assert!(second > first);
        assert!(Place::next(second, Time(now.0 - 5_000)) > second, "a clock set back");
        assert!(second.0 < 1 << 53);
    }

    #[test]
    fn a_batch_is_joined_by_what_is_written_behind_and_left_after_failing() {
        let (batch, last) = (DeliveryId::new(9, 9, 9), Place(77));
        let mut head = Head::new(DeliveryId::new(1, 2, 3), WebhookId::new(4, 5));
        head.event_id = "kept".into();
        let before = head.encode_to_vec();
        assert_eq!(head.batch(), None);
        head.join(DeliveryId::new(8, 8, 8), Place(66));
        let first = head.membership();
        head.join(batch, last);
        let read = Head::decode([before, first, head.membership()].concat().as_slice()).unwrap();
        assert_eq!((read.batch(), &*read.event_id), (Some((batch, last)), "kept"));
        head.reschedule(Duration::ZERO, Time(1));
        head.renew();
        assert_eq!(head.batch(), Some((batch, last)), "one that waits stays in it");
        head.end(State::Failed, Fault::None, Time(1));
        head.renew();
        assert_eq!(head.batch(), None);
    }

    #[test]
    fn only_the_newest_attempts_are_kept_and_all_are_counted() {
        let mut head = Head::new(DeliveryId::new(1, 2, 3), WebhookId::new(4, 5));
        for number in 1..=40 {
            head.add(Attempt { number, ..Attempt::default() });
        }
        assert_eq!((head.attempt_count, head.attempts.len(), head.attempts[0].number), (40, 32, 9));
        assert_eq!(head.retries_used(), 39);
        head.renewed_at = 40;
        assert_eq!(head.retries_used(), 0);
        let read = Head::decode(head.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read, head);
    }
}
