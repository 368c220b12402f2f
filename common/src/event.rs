//! An event as Hookline knows it once it has been taken in: checked, owned, free of the wire's
//! types. What it is called in URLs and filters, and whom it is ordered with, is decided here.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::clock::Time;

/// Something that happened in one account.
#[derive(Debug, Clone)]
pub struct Event {
    /// The publisher's; a repeat within the deduplication window delivers nothing again.
    pub id: Option<String>,
    pub license_code: String,
    pub time: Time,
    pub payload: Payload,
}

#[derive(Debug, Clone)]
pub enum Payload {
    Activity(Activity),
    Feedback(Feedback),
    FeedbackReply(FeedbackThread),
    SurveyResponse(SurveyResponse),
    Journey(Journey),
}

/// A system or application event of a user; at least one of the two ids is known.
#[derive(Debug, Clone)]
pub struct Activity {
    pub name: String,
    pub category: Category,
    pub user_id: Option<String>,
    pub anonymous_id: Option<String>,
    pub event_data: Object,
    pub system_data: Object,
}

/// Who defines an activity event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    System,
    Application,
}

/// A JSON object of the publisher's.
#[derive(Debug, Clone)]
pub enum Object {
    /// Every number in it is finite, every value has a kind.
    Struct(prost_types::Struct),
    /// From "{" to "}", to be passed on byte for byte.
    Json(Box<RawValue>),
}

/// A submitted feedback form.
#[derive(Debug, Clone)]
pub struct Feedback {
    pub id: String,
    pub fields: Vec<FormField>,
    pub custom_data: CustomData,
    pub replies: Vec<Reply>,
    pub visitor: Option<Visitor>,
}

/// A feedback's replies up to and with the new one; never empty.
#[derive(Debug, Clone)]
pub struct FeedbackThread {
    pub feedback_id: String,
    pub replies: Vec<Reply>,
}

#[derive(Debug, Clone)]
pub struct SurveyResponse {
    pub id: String,
    pub survey_id: String,
    pub title: String,
    pub responses: Vec<QuestionResponse>,
    pub custom_data: CustomData,
    pub visitor: Option<Visitor>,
}

/// A change of a journey.
#[derive(Debug, Clone)]
pub struct Journey {
    pub change: JourneyChange,
    /// Of the payload's layout, from 1.
    pub version: i32,
    pub user_id: Option<String>,
    pub event_data: Object,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JourneyChange {
    Created,
    Updated,
    Activated,
    Deleted,
}

/// Lists of plain values by key.
pub type CustomData = BTreeMap<String, Vec<Scalar>>;

#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    String(String),
    /// Finite.
    Number(f64),
    Bool(bool),
}

#[derive(Debug, Clone)]
pub struct FormField {
    pub id: String,
    pub label: String,
    /// "default", "custom" or empty.
    pub kind: String,
    pub value: Option<FormValue>,
}

#[derive(Debug, Clone)]
pub struct QuestionResponse {
    pub id: String,
    pub question_id: String,
    pub question_text: String,
    pub value: Option<FormValue>,
}

#[derive(Debug, Clone)]
pub enum FormValue {
    /// `class` is one of name, email, category, message and text.
    Text {
        class: &'static str,
        text: String,
    },
    Snapshot {
        thumbnail_image_url: String,
        full_image_url: String,
    },
    List(Vec<String>),
    Matrix(BTreeMap<String, Vec<String>>),
    File(File),
    Map(BTreeMap<String, String>),
    Score(i32),
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub id: String,
    pub by: Option<ReplyBy>,
    pub replied_by_name: String,
    pub replied_by_email: String,
    pub replied_on: Option<Time>,
    pub replied_text: String,
    pub attachments: Vec<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyBy {
    Admin,
    User,
}

#[derive(Debug, Clone)]
pub struct File {
    pub file_name: String,
    /// Bytes.
    pub file_size: i64,
    pub file_access_url: String,
    pub file_type: String,
}

/// Where and with what a visitor answered a form.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub page_url: String,
    pub page_title: String,
    pub ip: String,
    pub city: String,
    pub country: String,
    pub browser: String,
    pub browser_version: String,
    pub platform: String,
    pub activity_on: Option<Time>,
}

impl Event {
    /// The `eventType` parameter of requests.
    pub fn event_type(&self) -> &str {
        match &self.payload {
            Payload::Activity(activity) => &activity.name,
            Payload::Feedback(_) => "FEEDBACK_SUBMIT",
            Payload::FeedbackReply(_) => "FEEDBACK_REPLY_SUBMIT",
            Payload::SurveyResponse(_) => "SURVEY_RESPONSE_SUBMIT",
            Payload::Journey(journey) => journey.change.event_name(),
        }
    }

    /// Events with the same key keep their order under BY_USER; empty: with no others.
    pub fn order_key(&self) -> &str {
        match &self.payload {
            Payload::Activity(activity) => {
                activity.user_id.as_deref().or(activity.anonymous_id.as_deref()).unwrap_or_default()
            }
            Payload::Feedback(feedback) => &feedback.id,
            Payload::FeedbackReply(thread) => &thread.feedback_id,
            Payload::SurveyResponse(_) => "",
            Payload::Journey(journey) => journey.user_id.as_deref().unwrap_or_default(),
        }
    }

    /// On replies, whose body does not name it: the feedback that they belong to.
    pub fn feedback_id(&self) -> Option<&str> {
        match &self.payload {
            Payload::FeedbackReply(thread) => Some(&thread.feedback_id),
            _ => None,
        }
    }
}

impl JourneyChange {
    pub fn event_name(self) -> &'static str {
        match self {
            Self::Created => "journey_created",
            Self::Updated => "journey_updated",
            Self::Activated => "journey_activated",
            Self::Deleted => "journey_deleted",
        }
    }
}

impl Category {
    /// As bodies show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Application => "application",
        }
    }
}

impl ReplyBy {
    /// As bodies show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "ADMIN",
            Self::User => "USER",
        }
    }
}

impl FormValue {
    /// Its "@class".
    pub fn class(&self) -> &'static str {
        match self {
            Self::Text { class, .. } => class,
            Self::Snapshot { .. } => "snapshot",
            Self::List(_) => "list",
            Self::Matrix(_) => "matrix",
            Self::File(_) => "file",
            Self::Map(_) => "map",
            Self::Score(_) => "score",
        }
    }
}

impl Default for Object {
    fn default() -> Self {
        Self::Struct(prost_types::Struct::default())
    }
}
