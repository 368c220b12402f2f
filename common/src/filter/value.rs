//! What expressions come to. Values borrow from the event and the filter; what is made on the way is
//! shared, so that a copy costs nothing.

use std::{cmp::Ordering, collections::BTreeMap, rc::Rc};

/// A JSON value. Whole numbers that fit are `Int`, however they were written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Box<str>),
    List(Box<[Json]>),
    Map(BTreeMap<Box<str>, Json>),
}

#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Text<'a>),
    List(List<'a>),
    Map(Map<'a>),
}

#[derive(Debug, Clone)]
pub(super) enum Text<'a> {
    Of(&'a str),
    Made(Rc<str>),
}

#[derive(Debug, Clone)]
pub(super) enum List<'a> {
    Of(&'a [Json]),
    Made(Rc<[Value<'a>]>),
}

#[derive(Debug, Clone)]
pub(super) enum Map<'a> {
    Of(&'a BTreeMap<Box<str>, Json>),
    Made(Rc<[(Value<'a>, Value<'a>)]>),
}

impl Json {
    /// Whole numbers are int.
    pub(super) fn number(number: f64) -> Self {
        match whole(number) {
            Some(int) => Self::Int(int),
            None => Self::Double(number),
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn of(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(it) => Self::Bool(*it),
            Json::Int(it) => Self::Int(*it),
            Json::Double(it) => Self::Double(*it),
            Json::Text(it) => Self::Text(Text::Of(it)),
            Json::List(it) => Self::List(List::Of(it)),
            Json::Map(it) => Self::Map(Map::Of(it)),
        }
    }

    /// Whole numbers are int.
    pub(super) fn number(number: f64) -> Self {
        match whole(number) {
            Some(int) => Self::Int(int),
            None => Self::Double(number),
        }
    }

    pub(super) fn made(text: impl Into<Rc<str>>) -> Self {
        Self::Text(Text::Made(text.into()))
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an int",
            Self::Double(_) => "a double",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// Of a number.
    pub(super) fn as_double(&self) -> Option<f64> {
        match self {
            Self::Int(it) => Some(*it as f64),
            Self::Double(it) => Some(*it),
            _ => None,
        }
    }

    /// Which of two is less; `None` when they have no order.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Double(b)) => order_mixed(*a, *b),
            (Self::Double(a), Self::Int(b)) => order_mixed(*b, *a).map(Ordering::reverse),
            (Self::Text(a), Self::Text(b)) => Some(a.as_str().cmp(b.as_str())),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Of(text) => text,
            Self::Made(text) => text,
        }
    }
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Of(list) => list.len(),
            Self::Made(list) => list.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Of(list) => list.get(index).map(Value::of),
            Self::Made(list) => list.get(index).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<'a> Map<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Of(map) => map.len(),
            Self::Made(entries) => entries.len(),
        }
    }

    /// Steps of a look-up: what an expression has made is searched from end to end.
    pub(super) fn cost_of_get(&self, key: &Value<'_>) -> usize {
        let bytes = if let Value::Text(key) = key { key.as_str().len() } else { 0 };
        let compared = match self {
            Self::Of(_) => 1,
            Self::Made(entries) => entries.len(),
        };
        compared.saturating_mul(1 + bytes / 8)
    }

    /// Keys that are no strings are found only in maps that the expression made.
    pub(super) fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match (self, key) {
            (Self::Of(map), Value::Text(key)) => map.get(key.as_str()).map(Value::of),
            (Self::Of(_), _) => None,
            (Self::Made(entries), key) => entries
                .iter()
                .find(|(it, _)| it.order(key) == Some(Ordering::Equal))
                .map(|(_, value)| value.clone()),
        }
    }

    pub(super) fn keys(&self) -> List<'a> {
        List::Made(match self {
            Self::Of(map) => map.keys().map(|key| Value::Text(Text::Of(key))).collect(),
            Self::Made(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
        })
    }
}

fn whole(number: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    (number.fract() == 0.0 && (-LIMIT..LIMIT).contains(&number)).then_some(number as i64)
}

/// Exact, also where an i64 has no f64 of its own.
fn order_mixed(int: i64, double: f64) -> Option<Ordering> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        None
    } else if double >= LIMIT {
        Some(Ordering::Less)
    } else if double < -LIMIT {
        Some(Ordering::Greater)
    } else {
        let fraction = 0.0_f64.partial_cmp(&double.fract())?;
        Some(int.cmp(&(double.trunc() as i64)).then(fraction))
    }
}
