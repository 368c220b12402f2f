//! Takes an event in: every rule of event.proto's comments, all violations at once, each under the
//! path of its field. What is unset or nameless to us is refused here, so that nothing behind has to
//! ask again. Strings are moved, not copied.

use std::fmt;

use prost_types::Timestamp;
use proto::v1;

use crate::{
    clock::Time,
    event::{Activity, Category, Event, Feedback, FeedbackThread, Journey, JourneyChange, Payload},
    status::Violations,
};

mod forms;
mod objects;

/// Bytes of an id of free text that goes into a header or is kept to order by. A header is up to three times
/// as long, and servers take 8 KiB of them.
const MAX_FREE_ID: usize = 256;

#[cfg(test)]
mod tests;

/// The event, or what is wrong with it under `field` ("event", "events[3]").
pub fn event(event: v1::Event, now: Time, field: &str, violations: &mut Violations) -> Option<Event> {
    let mut intake = Intake { violations, faults: 0 };
    let path = Path::Root(field);
    let id = intake.id(event.id, &path.field("id"));
    intake.license_code(&event.license_code, &path.field("license_code"));
    let time = intake.time(event.event_time, &path.field("event_time")).unwrap_or(now);
    let payload = intake.payload(event.payload, &path);
    match payload {
        Some(payload) if intake.faults == 0 => {
            Some(Event { id, license_code: event.license_code, time, payload })
        }
        _ => None,
    }
}

/// What is wrong with a license code; `None` when it is one.
pub fn license_code_fault(code: &str) -> Option<&'static str> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
    (!(1..=64).contains(&code.len()) || !code.bytes().all(known))
        .then_some("must be 1 to 64 characters of A-Z a-z 0-9 . _ ~ -")
}

/// Where a field stands; written out only for a violation.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root(&'a str),
    Field(&'a Path<'a>, &'static str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    fn field(&'a self, name: &'static str) -> Self {
        Self::Field(self, name)
    }

    fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }

    fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(root) => f.write_str(root),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            // A key as long as a page is cut.
            Self::Key(parent, key) => match key.char_indices().nth(64) {
                Some((end, _)) => write!(f, "{parent}[{:?}]", &key[..end]),
                None => write!(f, "{parent}[{key:?}]"),
            },
        }
    }
}

struct Intake<'v> {
    violations: &'v mut Violations,
    faults: usize,
}

impl Intake<'_> {
    fn refuse(&mut self, path: &Path<'_>, why: impl fmt::Display) {
        self.faults += 1;
        self.violations.add(path, why);
    }

    fn require(&mut self, text: &str, path: &Path<'_>) {
        if text.is_empty() {
            self.refuse(path, "required");
        }
    }

    fn bound(&mut self, id: &str, path: &Path<'_>) {
        if id.len() > MAX_FREE_ID {
            self.refuse(path, format!("must be at most {MAX_FREE_ID} bytes"));
        }
    }

    fn id(&mut self, id: String, path: &Path<'_>) -> Option<String> {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        if id.len() > 64 || !id.bytes().all(known) {
            self.refuse(path, "must be at most 64 characters of A-Z a-z 0-9 . _ : -");
        }
        set(id)
    }

    fn license_code(&mut self, code: &str, path: &Path<'_>) {
        if code.is_empty() {
            self.refuse(path, "required");
        } else if let Some(fault) = license_code_fault(code) {
            self.refuse(path, fault);
        }
    }

    fn time(&mut self, time: Option<Timestamp>, path: &Path<'_>) -> Option<Time> {
        // 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z, as google.protobuf.Timestamp says.
        const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        let time = time?;
        if !SECONDS.contains(&time.seconds) {
            self.refuse(path, "must lie in the years 0001 to 9999");
            return None;
        }
        if !(0..1_000_000_000).contains(&time.nanos) {
            self.refuse(path, "nanos must be 0 to 999,999,999");
            return None;
        }
        Some(Time(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000))
    }

    fn payload(&mut self, payload: Option<v1::event::Payload>, path: &Path<'_>) -> Option<Payload> {
        use v1::event::Payload as Wire;
        match payload {
            Some(Wire::Activity(it)) => self.activity(it, &path.field("activity")).map(Payload::Activity),
            Some(Wire::Feedback(it)) => Some(Payload::Feedback(self.feedback(it, &path.field("feedback")))),
            Some(Wire::FeedbackReply(it)) => {
                Some(Payload::FeedbackReply(self.thread(it, &path.field("feedback_reply"))))
            }
            Some(Wire::SurveyResponse(it)) => {
                Some(Payload::SurveyResponse(self.survey(it, &path.field("survey_response"))))
            }
            Some(Wire::Journey(it)) => self.journey(it, &path.field("journey")).map(Payload::Journey),
            None => {
                self.refuse(&path.field("payload"), "required: what happened, one of the oneof's fields");
                None
            }
        }
    }

    fn activity(&mut self, activity: v1::Activity, path: &Path<'_>) -> Option<Activity> {
        let name = activity.event_name;
        match name.chars().count() {
            0 => self.refuse(&path.field("event_name"), "required"),
            1..=100 => {}
            _ => self.refuse(&path.field("event_name"), "must be at most 100 characters"),
        }
        let category = self.category(activity.category, &path.field("category"));
        if activity.user_id.is_empty() && activity.anonymous_id.is_empty() {
            self.refuse(&path.field("user_id"), "required: user_id, anonymous_id or both");
        }
        let user_id = self.user(activity.user_id, &path.field("user_id"));
        let anonymous_id = self.user(activity.anonymous_id, &path.field("anonymous_id"));
        let event_data = self.object(activity.event_data, activity.event_data_json, path, EVENT_DATA);
        let system_data = self.object(activity.system_data, activity.system_data_json, path, SYSTEM_DATA);
        Some(Activity { name, category: category?, user_id, anonymous_id, event_data, system_data })
    }

    fn category(&mut self, category: i32, path: &Path<'_>) -> Option<Category> {
        match v1::EventCategory::try_from(category) {
            Ok(v1::EventCategory::System) => return Some(Category::System),
            Ok(v1::EventCategory::Application) => return Some(Category::Application),
            Ok(v1::EventCategory::Unspecified) => self.refuse(path, "required"),
            Err(_) => self.refuse(path, unknown(category)),
        }
        None
    }

    fn user(&mut self, id: String, path: &Path<'_>) -> Option<String> {
        if id.chars().count() > 100 {
            self.refuse(path, "must be at most 100 characters");
        }
        set(id)
    }

    fn journey(&mut self, journey: v1::Journey, path: &Path<'_>) -> Option<Journey> {
        let change = match v1::JourneyChange::try_from(journey.change) {
            Ok(v1::JourneyChange::Created) => Some(JourneyChange::Created),
            Ok(v1::JourneyChange::Updated) => Some(JourneyChange::Updated),
            Ok(v1::JourneyChange::Activated) => Some(JourneyChange::Activated),
            Ok(v1::JourneyChange::Deleted) => Some(JourneyChange::Deleted),
            Ok(v1::JourneyChange::Unspecified) => {
                self.refuse(&path.field("change"), "required");
                None
            }
            Err(_) => {
                self.refuse(&path.field("change"), unknown(journey.change));
                None
            }
        };
        if journey.version < 0 {
            self.refuse(&path.field("version"), "must not be negative");
        }
        let event_data = self.object(journey.event_data, journey.event_data_json, path, EVENT_DATA);
        self.bound(&journey.user_id, &path.field("user_id"));
        let version = journey.version.max(1);
        Some(Journey { change: change?, version, user_id: set(journey.user_id), event_data })
    }

    fn feedback(&mut self, feedback: v1::Feedback, path: &Path<'_>) -> Feedback {
        self.require(&feedback.id, &path.field("id"));
        self.bound(&feedback.id, &path.field("id"));
        Feedback {
            id: feedback.id,
            fields: self.fields(feedback.fields, &path.field("fields")),
            custom_data: self.custom_data(feedback.custom_data, &path.field("custom_data")),
            replies: self.replies(feedback.replies, &path.field("replies")),
            visitor: self.visitor(feedback.activity, &path.field("activity")),
        }
    }

    fn thread(&mut self, thread: v1::FeedbackThread, path: &Path<'_>) -> FeedbackThread {
        self.require(&thread.feedback_id, &path.field("feedback_id"));
        self.bound(&thread.feedback_id, &path.field("feedback_id"));
        if thread.replies.is_empty() {
            self.refuse(&path.field("replies"), "required: at least the new reply");
        }
        FeedbackThread {
            feedback_id: thread.feedback_id,
            replies: self.replies(thread.replies, &path.field("replies")),
        }
    }
}

const EVENT_DATA: (&str, &str) = ("event_data", "event_data_json");
const SYSTEM_DATA: (&str, &str) = ("system_data", "system_data_json");

/// Proto3 has no unset strings: an empty one is.
fn set(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn unknown(number: i32) -> String {
    format!("unknown number {number}")
}
