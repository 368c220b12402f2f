//! What a receiver reads, as serde: every key, in the order that the API documents. Borrows from the
//! event and owns nothing. Whoever writes it in another format than JSON finds structs where keys
//! are ours, maps where they are free text, and "@class" as a struct's first field.

use serde::Serialize;

use crate::event::{Activity, Event, Feedback, Journey, Payload, SurveyResponse};

mod forms;
mod values;

use forms::{FieldBody, QuestionResponseBody, ReplyBody, VisitorBody};
use values::{CustomDataBody, ObjectBody, TimeText};

/// An event's body.
#[derive(Serialize)]
pub struct Body<'a>(Shape<'a>);

#[derive(Serialize)]
#[serde(untagged)]
enum Shape<'a> {
    Activity(ActivityBody<'a>),
    Feedback(Envelope<FeedbackBody<'a>>),
    FeedbackReply(Envelope<Vec<ReplyBody<'a>>>),
    SurveyResponse(Envelope<SurveyBody<'a>>),
    Journey(JourneyBody<'a>),
}

impl<'a> Body<'a> {
    pub fn of(event: &'a Event) -> Self {
        Self(match &event.payload {
            Payload::Activity(it) => Shape::Activity(ActivityBody::of(event, it)),
            Payload::Feedback(it) => Shape::Feedback(Envelope::of(FeedbackBody::of(event, it))),
            Payload::FeedbackReply(it) => {
                Shape::FeedbackReply(Envelope::of(it.replies.iter().map(ReplyBody::of).collect()))
            }
            Payload::SurveyResponse(it) => Shape::SurveyResponse(Envelope::of(SurveyBody::of(event, it))),
            Payload::Journey(it) => Shape::Journey(JourneyBody::of(event, it)),
        })
    }
}

#[derive(Serialize)]
struct ActivityBody<'a> {
    event_data: ObjectBody<'a>,
    system_data: ObjectBody<'a>,
    event_time: TimeText,
    event_name: &'a str,
    license_code: &'a str,
    category: &'a str,
    user_id: Option<&'a str>,
    anonymous_id: Option<&'a str>,
}

impl<'a> ActivityBody<'a> {
    fn of(event: &'a Event, activity: &'a Activity) -> Self {
        Self {
            event_data: ObjectBody(&activity.event_data),
            system_data: ObjectBody(&activity.system_data),
            event_time: TimeText(event.time),
            event_name: &activity.name,
            license_code: &event.license_code,
            category: activity.category.as_str(),
            user_id: activity.user_id.as_deref(),
            anonymous_id: activity.anonymous_id.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct JourneyBody<'a> {
    category: &'static str,
    resource: &'static str,
    version: i32,
    event_name: &'static str,
    event_time: TimeText,
    license_code: &'a str,
    user_id: Option<&'a str>,
    event_data: ObjectBody<'a>,
}

impl<'a> JourneyBody<'a> {
    fn of(event: &'a Event, journey: &'a Journey) -> Self {
        Self {
            category: "account",
            resource: "Journey",
            version: journey.version,
            event_name: journey.change.event_name(),
            event_time: TimeText(event.time),
            license_code: &event.license_code,
            user_id: journey.user_id.as_deref(),
            event_data: ObjectBody(&journey.event_data),
        }
    }
}

/// The API's answer, which feedback, replies and survey responses keep.
#[derive(Serialize)]
struct Envelope<T> {
    response: Response<T>,
}

#[derive(Serialize)]
struct Response<T> {
    data: T,
    message: &'static str,
    status: &'static str,
}

impl<T> Envelope<T> {
    fn of(data: T) -> Self {
        Self { response: Response { data, message: "success", status: "success" } }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FeedbackBody<'a> {
    license_code: &'a str,
    fields: Vec<FieldBody<'a>>,
    custom_data: CustomDataBody<'a>,
    replies: Vec<ReplyBody<'a>>,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity: Option<VisitorBody<'a>>,
}

impl<'a> FeedbackBody<'a> {
    fn of(event: &'a Event, feedback: &'a Feedback) -> Self {
        Self {
            license_code: &event.license_code,
            fields: feedback.fields.iter().map(FieldBody::of).collect(),
            custom_data: CustomDataBody(&feedback.custom_data),
            replies: feedback.replies.iter().map(ReplyBody::of).collect(),
            id: &feedback.id,
            activity: feedback.visitor.as_ref().map(VisitorBody::of),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SurveyBody<'a> {
    survey_id: &'a str,
    title: &'a str,
    license_code: &'a str,
    question_responses: Vec<QuestionResponseBody<'a>>,
    custom_data: CustomDataBody<'a>,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity: Option<VisitorBody<'a>>,
}

impl<'a> SurveyBody<'a> {
    fn of(event: &'a Event, survey: &'a SurveyResponse) -> Self {
        Self {
            survey_id: &survey.survey_id,
            title: &survey.title,
            license_code: &event.license_code,
            question_responses: survey.responses.iter().map(QuestionResponseBody::of).collect(),
            custom_data: CustomDataBody(&survey.custom_data),
            id: &survey.id,
            activity: survey.visitor.as_ref().map(VisitorBody::of),
        }
    }
}
