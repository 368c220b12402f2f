//! Deliveries as callers see them, and back: what a list is narrowed by, and where its pages go on.
//! Pure.

use std::time::Duration;

use bytes::Bytes;
use common::{clock::Time, ids::WebhookId, intake::license_code_fault, page, status::Violations};
use prost::Message;
use prost_types::Timestamp;
use proto::v1;
use tonic::Status;

use crate::{
    delivery::{Attempt, Head, Place, State},
    queue::{Found, Query},
    send::Outcome,
};

/// States to narrow by: more than there are.
const MAX_STATES: usize = 32;
/// Places beyond this one are never given: it is what stores can hold.
const LAST_PLACE: Place = Place((1 << 53) - 1);

/// All of a delivery but its body.
pub fn delivery(head: Head, place: Place) -> v1::Delivery {
    let state = head.state();
    let open = matches!(state, State::Pending | State::Retrying);
    let next_attempt_time = open.then(|| next_attempt(&head, place).into());
    v1::Delivery {
        id: head.id().to_string(),
        batch_id: head.batch().map(|(id, _)| id.to_string()).unwrap_or_default(),
        webhook_id: head.webhook_id().to_string(),
        state: head.state,
        create_time: Some(place.time().into()),
        next_attempt_time,
        end_time: (!open && head.end_ms > 0).then(|| Time(head.end_ms).into()),
        attempt_count: i32::try_from(head.attempt_count).unwrap_or(i32::MAX),
        body: Bytes::new(),
        content_type: head.content_type().into(),
        end_reason: head.end_reason,
        attempts: head.attempts.into_iter().map(attempt).collect(),
        license_code: head.license_code,
        event_id: head.event_id,
        event_type: head.event_type,
    }
}

/// When an open delivery is or was due: one that waits for no time of its own has been since it was
/// accepted, or since its last attempt.
fn next_attempt(head: &Head, place: Place) -> Time {
    if head.next_attempt_ms > 0 {
        return Time(head.next_attempt_ms);
    }
    let ended = |last: &Attempt| Time(last.start_ms) + Duration::from_micros(last.duration_us);
    head.attempts.last().map_or(place.time(), ended)
}

/// With its body, while that is kept.
pub fn found(found: Found) -> v1::Delivery {
    let body = found.body.unwrap_or_default();
    v1::Delivery { body, ..delivery(found.head, found.place) }
}

/// As lists show it: with its last attempt alone.
pub fn listed(mut head: Head, place: Place) -> v1::Delivery {
    let earlier = head.attempts.len().saturating_sub(1);
    head.attempts.drain(..earlier);
    delivery(head, place)
}

fn attempt(attempt: Attempt) -> v1::Attempt {
    v1::Attempt {
        number: i32::try_from(attempt.number).unwrap_or(i32::MAX),
        start_time: Some(Time(attempt.start_ms).into()),
        duration: Duration::from_micros(attempt.duration_us).try_into().ok(),
        http_status: i32::try_from(attempt.http_status).unwrap_or_default(),
        error: attempt.fault,
        error_message: attempt.message,
        response_body: attempt.response_body,
        remote_address: attempt.remote_address,
    }
}

/// An attempt that belongs to no stored delivery.
pub fn outcome(outcome: Outcome) -> v1::Attempt {
    v1::Attempt {
        number: 1,
        start_time: Some(outcome.start.into()),
        duration: outcome.duration.try_into().ok(),
        http_status: outcome.http_status.into(),
        error: outcome.fault as i32,
        error_message: outcome.message,
        response_body: outcome.response_body.to_vec(),
        remote_address: outcome.remote_address.as_ref().into(),
    }
}

/// A state as the contract spells it.
pub fn word(state: State) -> &'static str {
    match state {
        State::Unspecified => "UNSPECIFIED",
        State::Pending => "PENDING",
        State::Retrying => "RETRYING",
        State::Succeeded => "SUCCEEDED",
        State::Failed => "FAILED",
        State::Cancelled => "CANCELLED",
    }
}

/// What a list asks for, and what its page tokens are bound to.
pub fn query(request: &v1::ListDeliveriesRequest) -> Result<(Query, Vec<u8>), Status> {
    let mut violations = Violations::default();
    if let Some(fault) = license_code_fault(&request.license_code) {
        violations.add("license_code", fault);
    }
    let states = states(&request.states, &mut violations);
    let from = place(request.start_time, "start_time", &mut violations).unwrap_or_default();
    let to = place(request.end_time, "end_time", &mut violations);
    let limit = page::size(request.page_size, &mut violations);
    violations.check()?;
    let bound = v1::ListDeliveriesRequest { page_size: 0, page_token: String::new(), ..request.clone() }
        .encode_to_vec();
    let after = page::start(&request.page_token, &bound)?.map(|bytes| cursor(&bytes).ok_or(page::BadToken));
    let query = Query {
        license_code: request.license_code.clone(),
        // Text that is no id names no webhook: the caller looks at `nothing` first.
        webhook_id: request.webhook_id.parse().ok(),
        event_id: request.event_id.clone(),
        event_type: request.event_type.clone(),
        states,
        from,
        to,
        after: after.transpose()?,
        limit,
    };
    Ok((query, bound))
}

fn states(numbers: &[i32], violations: &mut Violations) -> Vec<State> {
    if numbers.len() > MAX_STATES {
        violations.add("states", format!("at most {MAX_STATES}: {} were given", numbers.len()));
        return Vec::new();
    }
    let mut states = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.iter().enumerate() {
        match State::try_from(*number) {
            Ok(State::Unspecified) | Err(_) => {
                violations.add(format!("states[{index}]"), "no state of a delivery")
            }
            Ok(state) => states.push(state),
        }
    }
    states
}

/// The states that a watch is narrowed to.
pub fn watched(request: &v1::WatchDeliveriesRequest) -> Result<Vec<State>, Status> {
    let mut violations = Violations::default();
    if let Some(fault) = license_code_fault(&request.license_code) {
        violations.add("license_code", fault);
    }
    let states = states(&request.states, &mut violations);
    violations.check()?;
    Ok(states)
}

/// From which place to below which one a bulk retry goes.
pub fn span(request: &v1::RetryDeliveriesRequest) -> Result<(Place, Place), Status> {
    let mut violations = Violations::default();
    let from = place(request.start_time, "start_time", &mut violations).unwrap_or_default();
    let to = place(request.end_time, "end_time", &mut violations).unwrap_or(LAST_PLACE);
    violations.check()?;
    Ok((from, to))
}

/// Whether the request is narrowed to a webhook that there cannot be.
pub fn nothing(request: &v1::ListDeliveriesRequest) -> bool {
    !request.webhook_id.is_empty() && request.webhook_id.parse::<WebhookId>().is_err()
}

/// The first place at or after a time.
fn place(time: Option<Timestamp>, field: &str, violations: &mut Violations) -> Option<Place> {
    let Timestamp { seconds, nanos } = time?;
    if !(0..1_000_000_000).contains(&nanos) {
        violations.add(field, "no valid time");
        return None;
    }
    // Places tell milliseconds; a part of one is past those that begin before it.
    let ms = seconds.clamp(0, 1 << 40) * 1_000 + (i64::from(nanos) + 999_999) / 1_000_000;
    Some(Place::at(Time(ms)).min(LAST_PLACE))
}

/// The page that follows `at`.
pub fn token(at: (Place, WebhookId), bound: &[u8]) -> String {
    let mut bytes = at.0.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(&at.1.bytes());
    page::token(bound, &bytes)
}

fn cursor(bytes: &[u8]) -> Option<(Place, WebhookId)> {
    let (place, webhook_id) = bytes.split_first_chunk()?;
    Some((Place(u64::from_be_bytes(*place)), WebhookId::from_bytes(webhook_id.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_a_watch_are_narrowed_by_a_few_states() {
        for (given, faults) in [(vec![1; 32], ""), (vec![1; 33], "states: at most 32: 33 were given")] {
            let list = v1::ListDeliveriesRequest {
                license_code: "a".into(),
                states: given.clone(),
                ..Default::default()
            };
            let watch =
                v1::WatchDeliveriesRequest { license_code: "a".into(), states: given, ..Default::default() };
            for status in [query(&list).err(), watched(&watch).err()] {
                assert_eq!(status.as_ref().map_or("", |it| it.message()), faults);
            }
        }
    }
}
