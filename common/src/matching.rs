//! Which events fire a webhook. Pure.

use std::sync::Arc;

use proto::v1;

pub use crate::event::Category;
use crate::{
    event::{Activity, Event, Payload},
    filter::{Filter, FilterError, Subject},
};

#[cfg(test)]
mod tests;

/// System events that webhooks never carry.
pub const UNDELIVERABLE: [&str; 7] = [
    "app_installed",
    "app_upgraded",
    "app_crashed",
    "app_uninstalled",
    "user_logged_in",
    "user_logged_out",
    "user_session_started",
];

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Exact(Box<str>),
    /// Without its star.
    Prefix(Box<str>),
}

/// The webhook says nothing that could be matched; what is stored has been checked, so a newer
/// version wrote it.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error("unknown webhook type {0}")]
    Type(i32),
    #[error("unknown event category {0}")]
    Category(i32),
    #[error("filter: {0}")]
    Filter(#[from] FilterError),
}

impl Rule {
    /// A webhook's rule, its filter compiled.
    pub fn of(webhook: &v1::Webhook) -> Result<Self, RuleError> {
        let kind = Kind::of(webhook.r#type).ok_or(RuleError::Type(webhook.r#type))?;
        let category = match v1::EventCategory::try_from(webhook.event_category) {
            Ok(v1::EventCategory::Unspecified) => None,
            Ok(v1::EventCategory::System) => Some(Category::System),
            Ok(v1::EventCategory::Application) => Some(Category::Application),
            Err(_) => return Err(RuleError::Category(webhook.event_category)),
        };
        let filter = match webhook.filter.as_str() {
            "" => None,
            source => Some(Arc::new(Filter::compile(source)?)),
        };
        let names = webhook.event_names.iter().map(|name| Name::of(name)).collect();
        Ok(Self { kind, names, category, filter })
    }

    /// Whether the event fires the webhook, its filter apart.
    pub fn fires_without_filter(&self, event: &Event) -> bool {
        match (self.kind, &event.payload) {
            (Kind::Feedback, Payload::Feedback(_))
            | (Kind::FeedbackReply, Payload::FeedbackReply(_))
            | (Kind::SurveyResponse, Payload::SurveyResponse(_))
            | (Kind::Journey, Payload::Journey(_)) => true,
            (Kind::Event, Payload::Activity(it)) => {
                !undeliverable(it)
                    && self.category.is_none_or(|category| category == it.category)
                    && self.names.iter().any(|name| name.matches(&it.name))
            }
            (Kind::GlobalSystemEvents, Payload::Activity(it)) => {
                it.category == Category::System && !undeliverable(it)
            }
            (Kind::GlobalApplicationEvents, Payload::Activity(it)) => it.category == Category::Application,
            _ => false,
        }
    }

    /// Why the event does not fire the webhook, in words; `None` when it does.
    pub fn mismatch(&self, event: &Event, subject: &Subject) -> Option<String> {
        if !self.fires_without_filter(event) {
            return Some(self.mismatch_without_filter(event));
        }
        match &self.filter {
            Some(filter) => filter.verdict(subject).err().map(|why| format!("the filter {why}")),
            None => None,
        }
    }

    fn mismatch_without_filter(&self, event: &Event) -> String {
        let takes = match self.kind {
            Kind::Feedback => "the webhook takes feedback alone",
            Kind::FeedbackReply => "the webhook takes replies to feedback alone",
            Kind::SurveyResponse => "the webhook takes survey responses alone",
            Kind::Journey => "the webhook takes changes of journeys alone",
            Kind::Event | Kind::GlobalSystemEvents | Kind::GlobalApplicationEvents => {
                "the webhook takes activity events alone"
            }
        };
        let Payload::Activity(activity) = &event.payload else { return takes.to_owned() };
        let (name, category) = (&activity.name, activity.category.as_str());
        match self.kind {
            Kind::GlobalApplicationEvents => "the webhook takes application events alone".to_owned(),
            Kind::Event | Kind::GlobalSystemEvents if undeliverable(activity) => {
                format!("webhooks never carry the system event {name:?}")
            }
            Kind::GlobalSystemEvents => "the webhook takes system events alone".to_owned(),
            Kind::Event if self.category.is_some_and(|it| it != activity.category) => {
                format!("the webhook does not take {category} events")
            }
            Kind::Event => format!("the webhook does not name the event {name:?}"),
            _ => takes.to_owned(),
        }
    }
}

impl Kind {
    /// By its number in `hookline.v1.WebhookType`.
    pub fn of(number: i32) -> Option<Self> {
        Some(match v1::WebhookType::try_from(number).ok()? {
            v1::WebhookType::Unspecified => return None,
            v1::WebhookType::Feedback => Self::Feedback,
            v1::WebhookType::FeedbackReply => Self::FeedbackReply,
            v1::WebhookType::SurveyResponse => Self::SurveyResponse,
            v1::WebhookType::Event => Self::Event,
            v1::WebhookType::GlobalSystemEvents => Self::GlobalSystemEvents,
            v1::WebhookType::GlobalApplicationEvents => Self::GlobalApplicationEvents,
            v1::WebhookType::Journey => Self::Journey,
        })
    }
}

impl Name {
    /// One of a webhook's `event_names`.
    pub fn of(name: &str) -> Self {
        match name.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(name.into()),
        }
    }

    pub fn matches(&self, event_name: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *event_name,
            Self::Prefix(prefix) => event_name.starts_with(&**prefix),
        }
    }
}

fn undeliverable(activity: &Activity) -> bool {
    activity.category == Category::System && UNDELIVERABLE.contains(&activity.name.as_str())
}
