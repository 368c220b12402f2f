//! Errors as callers see them: every `Status` carries ErrorInfo (domain `hookline`, a reason that
//! docs/api.md lists) and the details that fit. All violations of a request go into one answer, as far
//! as the headers that it travels in hold it: clients give up on larger ones without a word.

use std::{collections::HashMap, fmt::Display, time::Duration};

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::page::BadToken;

const DOMAIN: &str = "hookline";
/// Bytes of a message, as percent-encoded. With the details, which hold it too and are sent as base64, an
/// answer's headers stay under 8 KiB, the least that clients take.
const MAX_MESSAGE: usize = 1 << 10;
/// Bytes of fields and descriptions in the details.
const MAX_DETAILS: usize = 5 << 9;

/// What is wrong with a request, field by field. Paths start at the request (`webhook.post_url`). Keeps
/// what an answer has room for and counts the others: a request has room for millions.
#[derive(Debug, Default)]
pub struct Violations {
    /// The last of them may be past the room: its field stands for those that are only counted.
    kept: Vec<FieldViolation>,
    /// Of those kept.
    bytes: usize,
    count: usize,
}

impl Violations {
    /// Writes the two out only while there is room.
    pub fn add(&mut self, field: impl Display, description: impl Display) {
        self.count += 1;
        if self.bytes <= MAX_DETAILS {
            let violation = FieldViolation::new(short(field.to_string()), short(description.to_string()));
            // Each has a few bytes of framing too.
            self.bytes += violation.field.len() + violation.description.len() + 8;
            self.kept.push(violation);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Field and description of each that is kept.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.kept.iter().map(|v| (v.field.as_str(), v.description.as_str()))
    }

    /// OK when there is none, otherwise INVALID_ARGUMENT with all of them.
    pub fn check(self) -> Result<(), Status> {
        if self.is_empty() { Ok(()) } else { Err(self.into()) }
    }

    /// The first violations, and of the others how many there are.
    fn fitting(mut self) -> Vec<FieldViolation> {
        let rest = self.count - self.kept.len() + 1;
        if self.bytes > MAX_DETAILS
            && let Some(last) = self.kept.last_mut()
        {
            last.description = format!("this and more, {rest} faults: mend those named first");
        }
        self.kept
    }
}

impl From<Violations> for Status {
    fn from(violations: Violations) -> Status {
        let violations = violations.fitting();
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
pub fn invalid(field: impl Display, description: impl Display) -> Status {
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

/// The text, cut at `MAX_MESSAGE`.
fn short(text: impl Into<String>) -> String {
    let mut text = text.into();
    let mut bytes = 0;
    let past = text.char_indices().find(|(_, c)| {
        bytes += sent(*c);
        bytes > MAX_MESSAGE
    });
    if let Some((at, _)) = past {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Bytes of a character in a header.
fn sent(c: char) -> usize {
    let plain = c.is_ascii_graphic() && !"\"#%<>`?{}".contains(c);
    if plain { 1 } else { 3 * c.len_utf8() }
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

    #[test]
    fn the_headers_of_an_answer_are_ones_that_clients_take() {
        for text in ["x", " ", "é", "\u{1F600}", "\"#%<>`?{}"] {
            for (field, description) in [(1, 1), (1, 5_000), (5_000, 1), (1_000, 200), (5_000, 5_000)] {
                let mut violations = Violations::default();
                for _ in 0..1_000 {
                    violations.add(text.repeat(field), text.repeat(description));
                }
                let answer = Status::from(violations).into_http::<()>();
                // As HTTP/2 counts them, with 32 for each.
                let bytes: usize =
                    answer.headers().iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
                assert!(bytes < 8 << 10, "{bytes} of {field} and {description} times {text:?}");
            }
        }
    }

    #[test]
    fn what_an_answer_has_no_room_for_is_counted_and_not_written_out() {
        struct Counted<'a>(&'a std::cell::Cell<usize>);
        impl Display for Counted<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.set(self.0.get() + 1);
                f.write_str(&"x".repeat(100))
            }
        }
        let written = std::cell::Cell::new(0);
        let mut violations = Violations::default();
        for _ in 0..2_000_000 {
            violations.add(Counted(&written), "required");
        }
        assert!(written.get() < 100 && violations.iter().count() < 100, "{}", written.get());
        let status = violations.check().unwrap_err();
        let details = status.get_error_details();
        let named = &details.bad_request().unwrap().field_violations;
        let rest = format!("this and more, {} faults: mend those named first", 2_000_000 - named.len() + 1);
        assert_eq!(named.last().unwrap().description, rest);
    }
}
