//! Objects of the publisher's own making: a Struct, or JSON text that goes out byte for byte.

use prost_types::{Struct, Value, value::Kind};
use serde_json::value::RawValue;

use super::{Intake, Path};
use crate::event::Object;

/// Levels of objects and lists, the outermost counted. Of objects in a Struct decoding takes fewer.
const DEPTH: usize = 64;

impl Intake<'_> {
    /// `names` are those of the Struct and of its JSON twin.
    pub(super) fn object(
        &mut self,
        data: Option<Struct>,
        json: String,
        parent: &Path<'_>,
        names: (&'static str, &'static str),
    ) -> Object {
        let (path, json_path) = (parent.field(names.0), parent.field(names.1));
        if json.is_empty() {
            let data = data.unwrap_or_default();
            self.fields_of(&data, &path, 1);
            return Object::Struct(data);
        }
        if data.is_some() {
            self.refuse(&json_path, format!("not together with {}", names.0));
        }
        match raw(json) {
            Ok(raw) => Object::Json(raw),
            Err(why) => {
                self.refuse(&json_path, why);
                Object::default()
            }
        }
    }

    fn fields_of(&mut self, data: &Struct, path: &Path<'_>, depth: usize) {
        if depth > DEPTH {
            return self.refuse(path, too_deep());
        }
        for (key, value) in &data.fields {
            self.value_of(value, &path.key(key), depth);
        }
    }

    fn value_of(&mut self, value: &Value, path: &Path<'_>, depth: usize) {
        match &value.kind {
            Some(Kind::NumberValue(number)) if !number.is_finite() => {
                self.refuse(path, "must be a finite number")
            }
            Some(Kind::StructValue(data)) => self.fields_of(data, path, depth + 1),
            Some(Kind::ListValue(_)) if depth >= DEPTH => self.refuse(path, too_deep()),
            Some(Kind::ListValue(list)) => {
                for (i, value) in list.values.iter().enumerate() {
                    self.value_of(value, &path.index(i), depth + 1);
                }
            }
            Some(_) => {}
            None => self.refuse(path, "has no kind of value"),
        }
    }
}

fn raw(mut json: String) -> Result<Box<RawValue>, String> {
    const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
    json.truncate(json.trim_end_matches(SPACE).len());
    json.drain(..json.len() - json.trim_start_matches(SPACE).len());
    if !json.starts_with('{') {
        return Err("must be a JSON object".to_owned());
    }
    // Few texts open as many as that; counting takes a tenth of looking at each byte.
    if openings(json.as_bytes()) > DEPTH && depth(json.as_bytes()) > DEPTH {
        return Err(too_deep());
    }
    // Checks the grammar without recursion, and keeps the text as it is.
    RawValue::from_string(json).map_err(|e| format!("must be a JSON object by RFC 8259: {e}"))
}

/// How many braces and brackets open, also within strings: no text is deeper.
fn openings(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count()
}

/// How deep objects and lists go. True for JSON; some number for anything else.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for &byte in json {
        if escaped {
            escaped = false;
        } else if quoted {
            match byte {
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => quoted = true,
                b'{' | b'[' => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    deepest
}

fn too_deep() -> String {
    format!("must be at most {DEPTH} levels deep")
}
