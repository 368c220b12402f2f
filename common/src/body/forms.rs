//! What forms are made of: fields, values, replies, files, visitors.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::values::TimeText;
use crate::event::{File, FormField, FormValue, QuestionResponse, Reply, Visitor};

#[derive(Serialize)]
pub(super) struct FieldBody<'a> {
    id: &'a str,
    label: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<ValueBody<'a>>,
}

impl<'a> FieldBody<'a> {
    pub(super) fn of(field: &'a FormField) -> Self {
        Self {
            id: &field.id,
            label: &field.label,
            r#type: &field.kind,
            value: field.value.as_ref().map(ValueBody),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QuestionResponseBody<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    question_id: &'a str,
    question_text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<ValueBody<'a>>,
}

impl<'a> QuestionResponseBody<'a> {
    pub(super) fn of(response: &'a QuestionResponse) -> Self {
        Self {
            id: &response.id,
            question_id: &response.question_id,
            question_text: &response.question_text,
            value: response.value.as_ref().map(ValueBody),
        }
    }
}

struct ValueBody<'a>(&'a FormValue);

impl Serialize for ValueBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_struct("value", 5)?;
        body.serialize_field("@class", self.0.class())?;
        match self.0 {
            FormValue::Text { text, .. } => body.serialize_field("text", text)?,
            FormValue::Snapshot { thumbnail_image_url, full_image_url } => {
                body.serialize_field("thumbnailImageUrl", thumbnail_image_url)?;
                if full_image_url.is_empty() {
                    body.skip_field("fullImageUrl")?;
                } else {
                    body.serialize_field("fullImageUrl", full_image_url)?;
                }
            }
            FormValue::List(values) => body.serialize_field::<Vec<String>>("values", values)?,
            FormValue::Matrix(rows) => {
                body.serialize_field::<BTreeMap<String, Vec<String>>>("values", rows)?
            }
            FormValue::File(file) => {
                body.serialize_field("fileName", &file.file_name)?;
                body.serialize_field("fileSize", &file.file_size)?;
                body.serialize_field("fileAccessUrl", &file.file_access_url)?;
                body.serialize_field("fileType", &file.file_type)?;
            }
            FormValue::Map(values) => body.serialize_field::<BTreeMap<String, String>>("values", values)?,
            FormValue::Score(score) => body.serialize_field("value", score)?,
        }
        body.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReplyBody<'a> {
    replied_by_email: &'a str,
    replied_by_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    replied_on: Option<TimeText>,
    replied_text: &'a str,
    attachments: Vec<FileBody<'a>>,
    reply_type: &'a str,
    id: &'a str,
}

impl<'a> ReplyBody<'a> {
    pub(super) fn of(reply: &'a Reply) -> Self {
        Self {
            replied_by_email: &reply.replied_by_email,
            replied_by_name: &reply.replied_by_name,
            replied_on: reply.replied_on.map(TimeText),
            replied_text: &reply.replied_text,
            attachments: reply.attachments.iter().map(FileBody::of).collect(),
            reply_type: reply.by.map(|by| by.as_str()).unwrap_or_default(),
            id: &reply.id,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FileBody<'a> {
    file_name: &'a str,
    file_size: i64,
    file_access_url: &'a str,
    file_type: &'a str,
}

impl<'a> FileBody<'a> {
    fn of(file: &'a File) -> Self {
        Self {
            file_name: &file.file_name,
            file_size: file.file_size,
            file_access_url: &file.file_access_url,
            file_type: &file.file_type,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VisitorBody<'a> {
    page_url: &'a str,
    page_title: &'a str,
    ip: &'a str,
    city: &'a str,
    country: &'a str,
    browser: &'a str,
    browser_version: &'a str,
    platform: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity_on: Option<TimeText>,
}

impl<'a> VisitorBody<'a> {
    pub(super) fn of(visitor: &'a Visitor) -> Self {
        Self {
            page_url: &visitor.page_url,
            page_title: &visitor.page_title,
            ip: &visitor.ip,
            city: &visitor.city,
            country: &visitor.country,
            browser: &visitor.browser,
            browser_version: &visitor.browser_version,
            platform: &visitor.platform,
            activity_on: visitor.activity_on.map(TimeText),
        }
    }
}
