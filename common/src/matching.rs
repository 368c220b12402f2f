//! Which events fire a webhook. Pure.

use std::sync::Arc;

use crate::filter::Filter;

/// What an event must be to fire a webhook.
#[derive(Debug, Clone)]
pub struct Rule {
    pub kind: Kind,
    /// EVENT only: exact names, and what stands before the star of prefixes.
    pub names: Box<[Name]>,
    /// EVENT only; `None` is both.
    pub category: Option<Category>,
    pub filter: Option<Arc<Filter>>,
}

/// As `hookline.v1.WebhookType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Feedback,
    FeedbackReply,
    SurveyResponse,
    Event,
    GlobalSystemEvents,
    GlobalApplicationEvents,
    Journey,
}

/// Who defines an activity event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    System,
    Application,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Exact(Box<str>),
    /// Without its star.
    Prefix(Box<str>),
}
