//! One attempt at one delivery or batch, top to bottom: is the lease still good, build and sign the request,
//! send it, decide what follows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::clock::{Clock, Time};

use super::{lease::LeaseClock, limit::Strain, parcel::Parcel, room::Lateness};
use crate::{
    delivery::{Attempt, Fault, Head, State},
    queue::{Fate, Lease},
    retry::{self, Verdict},
    routes::Route,
    send::{Outcome, Sender},
};

/// What an attempt needs beside its delivery.
pub struct Context {
    pub sender: Arc<Sender>,
    pub lease: LeaseClock,
    pub clock: Clock,
    pub late: Lateness,
}

/// What became of an attempt.
#[derive(Debug)]
pub struct Ended {
    pub lane: Lease,
    pub began: Instant,
    pub result: Result<Delivered, Parcel>,
}

impl Ended {
    pub fn parcel(&self) -> &Parcel {
        match &self.result {
            Ok(delivered) => &delivered.parcel,
            Err(unsent) => unsent,
        }
    }
}

/// An attempt was made.
#[derive(Debug)]
pub struct Delivered {
    pub parcel: Parcel,
    /// Of all that is in it.
    pub fate: Fate,
    pub strain: Strain,
    /// How long the receiver wants to be left alone.
    pub hold: Option<Duration>,
    /// The receiver is gone: what to tell of it.
    pub gone: Option<String>,
    /// Of the route that it was sent by.
    pub revision: u64,
}

/// Makes an attempt that was started then, under this term of the leases. What is no longer safe comes back unsent.
pub async fn run(
    context: &Context,
    lane: Lease,
    term: u64,
    route: &Route,
    mut parcel: Parcel,
    started: Instant,
) -> Result<Delivered, Parcel> {
    context.late.note(started.elapsed());
    let is_safe = || context.lease.still(lane.webhook_id, term);
    if !is_safe() {
        return Err(parcel);
    }
    let (body, now) = (parcel.pack(), context.clock.now());
    let sent = context.sender.send_while(|| parcel.request(route, body.clone(), now), is_safe).await;
    let Some(outcome) = sent else { return Err(parcel) };
    for delivery in parcel.deliveries_mut() {
        delivery.head.add(record(&delivery.head, &outcome));
    }
    let jitter = rand::random();
    let verdict = match parcel.leader() {
        Some(head) => retry::decide(&route.policy, head, &outcome, jitter),
        None => Verdict::Succeeded,
    };
    let gone = (verdict == Verdict::Gone).then(|| outcome.message.clone());
    let (mut fate, now) = (Fate::Succeeded, context.clock.now());
    for delivery in parcel.deliveries_mut() {
        fate = follow(&mut delivery.head, &verdict, now);
    }
    let attempt = parcel.leader().map_or(0, |head| head.attempt_count);
    tracing::debug!(
        delivery = %parcel.id(), webhook = %lane.webhook_id, attempt, of = parcel.deliveries().len(),
        status = outcome.http_status, fault = ?outcome.fault, fate = ?fate, "an attempt has ended"
    );
    let (strain, hold) = (strain(&outcome), retry::hold(&outcome));
    Ok(Delivered { parcel, fate, strain, hold, gone, revision: route.revision })
}

/// Writes into the head what follows from its last attempt.
fn follow(head: &mut Head, verdict: &Verdict, now: Time) -> Fate {
    match verdict {
        Verdict::Succeeded => {
            head.end(State::Succeeded, Fault::None, now);
            Fate::Succeeded
        }
        Verdict::Retry { after, .. } => {
            let after = *after;
            head.reschedule(after, now);
            Fate::Retry { after }
        }
        Verdict::Failed | Verdict::Gone => {
            head.end(State::Failed, Fault::None, now);
            Fate::Failed
        }
    }
}

/// What an outcome says of how the receiver is.
fn strain(outcome: &Outcome) -> Strain {
    let overloaded = match outcome.fault {
        Fault::Timeout | Fault::Connect | Fault::Disconnected => true,
        Fault::Status => outcome.http_status == 429 || outcome.http_status >= 500,
        _ => false,
    };
    Strain { succeeded: outcome.fault == Fault::None, overloaded, duration: outcome.duration }
}

/// An attempt as it is kept.
pub fn record(head: &Head, outcome: &Outcome) -> Attempt {
    Attempt {
        number: head.attempt_count + 1,
        start_ms: outcome.start.0,
        duration_us: outcome.duration.as_micros() as u64,
        http_status: outcome.http_status.into(),
        fault: outcome.fault as i32,
        message: outcome.message.clone(),
        response_body: outcome.response_body.to_vec(),
        remote_address: outcome.remote_address.as_ref().into(),
    }
}
