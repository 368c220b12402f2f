//! Times, numbers, and objects of the publisher's own making.

use prost_types::{Struct, Value, value::Kind};
use serde::{Serialize, Serializer};

use crate::{
    clock::Time,
    event::{CustomData, Object, Scalar},
};

/// `yyyy-MM-ddTHH:mm:ss+0000`, in UTC.
pub(super) struct TimeText(pub(super) Time);

impl Serialize for TimeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = *b"0000-00-00T00:00:00+0000";
        let mut put = |at: usize, width: usize, mut number: i64| {
            for digit in text[at..at + width].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        let (days, second) = (self.0.seconds().div_euclid(86_400), self.0.seconds().rem_euclid(86_400));
        let (year, month, day) = civil(days);
        for (at, width, number) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, second / 3600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
        ] {
            put(at, width, number);
        }
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Year, month and day of a day counted from 1970-01-01, by Howard Hinnant's `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day - (153 * shifted + 2) / 5 + 1)
}

/// Whole numbers without a fraction, others in the shortest form that reads back the same.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Up to here digits are the shortest form; beyond, it has an exponent.
        const DIGITS: f64 = 1e16;
        if self.0.fract() == 0.0 && self.0.abs() < DIGITS {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

/// A Struct, keys sorted by code point, or JSON as it came.
pub(super) struct ObjectBody<'a>(pub(super) &'a Object);

impl Serialize for ObjectBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Object::Struct(data) => StructBody(data).serialize(serializer),
            Object::Json(raw) => raw.serialize(serializer),
        }
    }
}

struct StructBody<'a>(&'a Struct);

impl Serialize for StructBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A BTreeMap's order is that of UTF-8 bytes, which is that of code points.
        serializer.collect_map(self.0.fields.iter().map(|(key, value)| (key, ValueBody(value))))
    }
}

struct ValueBody<'a>(&'a Value);

impl Serialize for ValueBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            Some(Kind::StringValue(text)) => serializer.serialize_str(text),
            Some(Kind::NumberValue(number)) => Number(*number).serialize(serializer),
            Some(Kind::BoolValue(it)) => serializer.serialize_bool(*it),
            Some(Kind::StructValue(data)) => StructBody(data).serialize(serializer),
            Some(Kind::ListValue(list)) => serializer.collect_seq(list.values.iter().map(ValueBody)),
            Some(Kind::NullValue(_)) | None => serializer.serialize_unit(),
        }
    }
}

pub(super) struct CustomDataBody<'a>(pub(super) &'a CustomData);

impl Serialize for CustomDataBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, list)| (key, Scalars(list))))
    }
}

struct Scalars<'a>(&'a [Scalar]);

impl Serialize for Scalars<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ScalarBody))
    }
}

struct ScalarBody<'a>(&'a Scalar);

impl Serialize for ScalarBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Scalar::String(text) => serializer.serialize_str(text),
            Scalar::Number(number) => Number(*number).serialize(serializer),
            Scalar::Bool(it) => serializer.serialize_bool(*it),
        }
    }
}
