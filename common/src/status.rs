//! Errors as callers see them: every `Status` carries ErrorInfo (domain `hookline`, a reason that
//! docs/api.md lists) and the details that fit. All violations of a request go into one answer, as far
//! as the headers that it travels in hold it: clients give up on larger ones without a word.

use std::{collections::HashMap, fmt::Display, time::Duration};

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::page::BadToken;

const DOMAIN: &str = "hookline";
/// Bytes of a message. With what details may have it stays under 8 KiB, the least that clients take.
const MAX_MESSAGE: usize = 1 << 10;
/// Bytes of fields and descriptions in the details.
const MAX_DETAILS: usize = 3 << 10;

/// What is wrong with a request, field by field. Paths start at the request (`webhook.post_url`).
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation::new(field, description));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Field and description of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|v| (v.field.as_str(), v.description.as_str()))
    }

    /// OK when there is none, otherwise INVALID_ARGUMENT with all of them.
    pub fn check(self) -> Result<(), Status> {
        if self.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

impl From<Violations> for Status {
    fn from(violations: Violations) -> Status {
        let violations = fitting(violations.0);
        let message = violations
            .iter()
            .map(|v| format!("{}: {}", v.field, v.description))
            .collect::<Vec<_>>()
            .join("; ");
        let mut details = info("INVALID_ARGUMENT");
        details.set_bad_request(violations);
        Status::with_error_details(Code::InvalidArgument, short(message), details)
    }
}

/// A page token is an argument like any other.
impl From<BadToken> for Status {
    fn from(bad: BadToken) -> Status {
        invalid("page_token", bad.to_string())
    }
}

/// One violation alone.
pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Status {
    let mut violations = Violations::default();
    violations.add(field, description);
    violations.into()
}

/// NOT_FOUND: `kind` is the word for the thing, such as "webhook".
pub fn not_found(kind: &str, id: impl Display) -> Status {
    plain(Code::NotFound, "NOT_FOUND", format!("no {kind} {id}"))
}

/// ALREADY_EXISTS: the id was used for something else.
pub fn already_exists(message: impl Into<String>) -> Status {
    plain(Code::AlreadyExists, "ALREADY_EXISTS", message)
}

/// ABORTED: changed since it was read; read again and repeat.
pub fn aborted(message: impl Into<String>) -> Status {
    plain(Code::Aborted, "ETAG_MISMATCH", message)
}

/// OUT_OF_RANGE: start anew.
pub fn out_of_range(reason: &str, message: impl Into<String>) -> Status {
    plain(Code::OutOfRange, reason, message)
}

/// FAILED_PRECONDITION: `subject` is what stands in the way, such as a webhook's id.
pub fn failed_precondition(reason: &str, subject: impl Into<String>, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = info(reason);
    details.add_precondition_failure_violation(reason, subject, message.clone());
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// UNAVAILABLE: the same call may succeed after `retry_after`.
pub fn unavailable(reason: &str, message: impl Into<String>, retry_after: Duration) -> Status {
    let mut details = info(reason);
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// RESOURCE_EXHAUSTED: `subject` names the limit.
pub fn exhausted(reason: &str, subject: impl Into<String>, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = info(reason);
    details.add_quota_failure_violation(subject, message.clone());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// UNAUTHENTICATED: no credential, or one that is not known.
pub fn unauthenticated(message: impl Into<String>) -> Status {
    plain(Code::Unauthenticated, "UNAUTHENTICATED", message)
}

/// UNIMPLEMENTED: the contract names it, and it is not built yet.
pub fn not_built_yet(method: &str) -> Status {
    plain(Code::Unimplemented, "NOT_BUILT_YET", format!("{method} is not supported yet"))
}

/// INTERNAL: our fault; the cause is in the log, not in the answer.
pub fn internal(message: impl Into<String>) -> Status {
    plain(Code::Internal, "INTERNAL", message)
}

/// The same as a message, for answers that carry a status of their own.
pub fn to_proto(status: &Status) -> tonic_types::Status {
    match tonic_types::Status::decode(status.details()) {
        Ok(whole) if whole.code != 0 => whole,
        _ => tonic_types::Status {
            code: status.code() as i32,
            message: status.message().into(),
            details: Vec::new(),
        },
    }
}

fn plain(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, short(message), info(reason))
}

/// The first violations, and of the others how many there are.
fn fitting(mut violations: Vec<FieldViolation>) -> Vec<FieldViolation> {
    let mut bytes = 0;
    let room = violations.iter().take_while(|v| {
        // Each has a few bytes of framing too.
        bytes += v.field.len() + v.description.len() + 8;
        bytes <= MAX_DETAILS
    });
    let rest = violations.split_off(room.count().max(1));
    if let [first, ..] = rest.as_slice() {
        let more = format!("this and more, {} faults: mend those named first", rest.len());
        violations.push(FieldViolation::new(first.field.clone(), more));
    }
    for violation in &mut violations {
        violation.field = short(std::mem::take(&mut violation.field));
        violation.description = short(std::mem::take(&mut violation.description));
    }
    violations
}

/// The text, cut at `MAX_MESSAGE`.
fn short(text: impl Into<String>) -> String {
    let mut text = text.into();
    if text.len() > MAX_MESSAGE {
        text.truncate(text.floor_char_boundary(MAX_MESSAGE));
        text.push('…');
    }
    text
}

fn info(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_two_faults_names_both_in_one_answer() {
        let mut violations = Violations::default();
        violations.add("webhook.type", "required");
        violations.add("webhook.post_url", "not a URL");
        let status = violations.check().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let fields: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|v| v.field.clone()).collect();
        assert_eq!(fields, ["webhook.type", "webhook.post_url"]);
        assert_eq!(details.error_info().unwrap().domain, "hookline");
    }

    #[test]
    fn an_answer_stays_small_however_much_is_wrong() {
        let mut violations = Violations::default();
        for at in 0..10_000 {
            violations.add(format!("events[{at}].license_code"), "required");
        }
        let status = violations.check().unwrap_err();
        assert!(status.message().len() <= MAX_MESSAGE + 3);
        assert!(status.details().len() < 5 << 10, "{}", status.details().len());
        let details = status.get_error_details();
        let named = &details.bad_request().unwrap().field_violations;
        assert_eq!(named[0].field, "events[0].license_code");
        let rest = format!("this and more, {} faults: mend those named first", 10_000 - named.len() + 1);
        assert_eq!(named.last().unwrap().description, rest);

        for status in [invalid("x".repeat(9_000), "é".repeat(9_000)), not_found("webhook", "é".repeat(9_000))]
        {
            assert!(status.message().len() <= MAX_MESSAGE + 3 && status.details().len() < 4 << 10);
        }
    }
}
