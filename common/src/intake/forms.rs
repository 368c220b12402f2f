//! Forms: feedback, replies and survey responses, whose texts are free and whose shapes are not.

use std::collections::BTreeMap;

use prost_types::{ListValue, value::Kind};
use proto::v1;

use super::{Intake, Path, unknown};
use crate::event::{
    CustomData, File, FormField, FormValue, QuestionResponse, Reply, ReplyBy, Scalar, SurveyResponse, Visitor,
};

impl Intake<'_> {
    pub(super) fn survey(&mut self, survey: v1::SurveyResponse, path: &Path<'_>) -> SurveyResponse {
        self.require(&survey.id, &path.field("id"));
        let responses = path.field("question_responses");
        SurveyResponse {
            id: survey.id,
            survey_id: survey.survey_id,
            title: survey.title,
            responses: each(survey.question_responses, |i, response| {
                let path = responses.index(i);
                QuestionResponse {
                    id: response.id,
                    question_id: response.question_id,
                    question_text: response.question_text,
                    value: self.value(response.value, &path.field("value")),
                }
            }),
            custom_data: self.custom_data(survey.custom_data, &path.field("custom_data")),
            visitor: self.visitor(survey.activity, &path.field("activity")),
        }
    }

    pub(super) fn fields(&mut self, fields: Vec<v1::FormField>, path: &Path<'_>) -> Vec<FormField> {
        each(fields, |i, field| {
            let path = path.index(i);
            if !matches!(field.r#type.as_str(), "" | "default" | "custom") {
                self.refuse(&path.field("type"), "must be \"default\" or \"custom\"");
            }
            let value = self.value(field.value, &path.field("value"));
            FormField { id: field.id, label: field.label, kind: field.r#type, value }
        })
    }

    /// A value without a kind is an unanswered question: as good as unset.
    fn value(&mut self, value: Option<v1::FormValue>, path: &Path<'_>) -> Option<FormValue> {
        use v1::form_value::Kind as Wire;
        let text = |class, text| FormValue::Text { class, text };
        Some(match value?.kind? {
            Wire::Name(it) => text("name", it),
            Wire::Email(it) => text("email", it),
            Wire::Category(it) => text("category", it),
            Wire::Message(it) => text("message", it),
            Wire::Text(it) => text("text", it),
            Wire::Snapshot(it) => FormValue::Snapshot {
                thumbnail_image_url: it.thumbnail_image_url,
                full_image_url: it.full_image_url,
            },
            Wire::List(it) => FormValue::List(it.values),
            Wire::Matrix(it) => {
                FormValue::Matrix(it.values.into_iter().map(|(row, list)| (row, list.values)).collect())
            }
            Wire::File(it) => FormValue::File(self.file(it, &path.field("file"))),
            Wire::Map(it) => FormValue::Map(it.values),
            Wire::Score(it) => FormValue::Score(it),
        })
    }

    pub(super) fn replies(&mut self, replies: Vec<v1::FeedbackReply>, path: &Path<'_>) -> Vec<Reply> {
        each(replies, |i, reply| {
            let path = path.index(i);
            let by = match v1::ReplyType::try_from(reply.reply_type) {
                Ok(v1::ReplyType::Admin) => Some(ReplyBy::Admin),
                Ok(v1::ReplyType::User) => Some(ReplyBy::User),
                Ok(v1::ReplyType::Unspecified) => None,
                Err(_) => {
                    self.refuse(&path.field("reply_type"), unknown(reply.reply_type));
                    None
                }
            };
            let attachments = path.field("attachments");
            Reply {
                id: reply.id,
                by,
                replied_by_name: reply.replied_by_name,
                replied_by_email: reply.replied_by_email,
                replied_on: self.time(reply.replied_on, &path.field("replied_on")),
                replied_text: reply.replied_text,
                attachments: each(reply.attachments, |i, file| self.file(file, &attachments.index(i))),
            }
        })
    }

    fn file(&mut self, file: v1::File, path: &Path<'_>) -> File {
        if file.file_size < 0 {
            self.refuse(&path.field("file_size"), "must not be negative");
        }
        File {
            file_name: file.file_name,
            file_size: file.file_size,
            file_access_url: file.file_access_url,
            file_type: file.file_type,
        }
    }

    pub(super) fn visitor(
        &mut self,
        visitor: Option<v1::VisitorActivity>,
        path: &Path<'_>,
    ) -> Option<Visitor> {
        let visitor = visitor?;
        Some(Visitor {
            page_url: visitor.page_url,
            page_title: visitor.page_title,
            ip: visitor.ip,
            city: visitor.city,
            country: visitor.country,
            browser: visitor.browser,
            browser_version: visitor.browser_version,
            platform: visitor.platform,
            activity_on: self.time(visitor.activity_on, &path.field("activity_on")),
        })
    }

    pub(super) fn custom_data(&mut self, data: BTreeMap<String, ListValue>, path: &Path<'_>) -> CustomData {
        let mut out = CustomData::new();
        for (key, list) in data {
            let path = path.key(&key);
            let mut scalars = Vec::with_capacity(list.values.len());
            for (i, value) in list.values.into_iter().enumerate() {
                match value.kind {
                    Some(Kind::StringValue(text)) => scalars.push(Scalar::String(text)),
                    Some(Kind::NumberValue(number)) if number.is_finite() => {
                        scalars.push(Scalar::Number(number))
                    }
                    Some(Kind::NumberValue(_)) => self.refuse(&path.index(i), "must be a finite number"),
                    Some(Kind::BoolValue(it)) => scalars.push(Scalar::Bool(it)),
                    _ => self.refuse(&path.index(i), "must be a string, a number or a boolean"),
                }
            }
            out.insert(key, scalars);
        }
        out
    }
}

fn each<T, U>(items: Vec<T>, mut take: impl FnMut(usize, T) -> U) -> Vec<U> {
    items.into_iter().enumerate().map(|(i, item)| take(i, item)).collect()
}
