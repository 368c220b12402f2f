//! An event's JSON body as filters see it. Reads what intake lets through, numbers of any size and
//! lone surrogates included: no key is hidden by what stands under another.

use std::collections::BTreeMap;

use super::value::Json;

/// Built once an event, shared by all filters.
#[derive(Debug)]
pub struct Subject {
    pub(super) root: Json,
}

/// Far above what intake lets through, far below what the stack takes.
const MAX_DEPTH: usize = 128;

impl Subject {
    /// Of the JSON body that receivers get; of anything else, null.
    pub fn parse(json: &[u8]) -> Self {
        let mut reader = Reader { json, at: 0 };
        let root = reader.value(0).filter(|_| {
            reader.space();
            reader.at == json.len()
        });
        Self { root: root.unwrap_or(Json::Null) }
    }
}

struct Reader<'j> {
    json: &'j [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether it was there; then it is behind.
    fn take(&mut self, token: &[u8]) -> bool {
        let there = self.json[self.at..].starts_with(token);
        if there {
            self.at += token.len();
        }
        there
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.space();
        match self.peek()? {
            b'{' => self.map(depth),
            b'[' => self.list(depth),
            b'"' => self.text().map(Json::Text),
            b't' => self.take(b"true").then_some(Json::Bool(true)),
            b'f' => self.take(b"false").then_some(Json::Bool(false)),
            b'n' => self.take(b"null").then_some(Json::Null),
            _ => self.number(),
        }
    }

    fn map(&mut self, depth: usize) -> Option<Json> {
        self.at += 1;
        let mut map = BTreeMap::new();
        self.space();
        if self.take(b"}") {
            return Some(Json::Map(map));
        }
        loop {
            self.space();
            let key = self.text()?;
            self.space();
            if !self.take(b":") {
                return None;
            }
            // Of a key that comes twice, the last counts.
            let value = self.value(depth + 1)?;
            map.insert(key, value);
            self.space();
            if self.take(b"}") {
                return Some(Json::Map(map));
            }
            if !self.take(b",") {
                return None;
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Json> {
        self.at += 1;
        let mut list = Vec::new();
        self.space();
        if self.take(b"]") {
            return Some(Json::List(list.into()));
        }
        loop {
            list.push(self.value(depth + 1)?);
            self.space();
            if self.take(b"]") {
                return Some(Json::List(list.into()));
            }
            if !self.take(b",") {
                return None;
            }
        }
    }

    fn number(&mut self) -> Option<Json> {
        let rest = &self.json[self.at..];
        let len = rest.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
        let text = std::str::from_utf8(&rest[..len.count()]).ok()?;
        self.at += text.len();
        match text.parse() {
            Ok(int) => Some(Json::Int(int)),
            Err(_) => text.parse().ok().map(Json::number),
        }
    }

    fn text(&mut self) -> Option<Box<str>> {
        if !self.take(b"\"") {
            return None;
        }
        let mut text = Vec::new();
        loop {
            let rest = &self.json[self.at..];
            let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
            text.extend_from_slice(&rest[..plain]);
            self.at += plain + 1;
            if rest[plain] == b'"' {
                return String::from_utf8(text).ok().map(String::into_boxed_str);
            }
            let escaped = self.escaped()?;
            text.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// What stands behind a backslash. A surrogate without its other half is U+FFFD.
    fn escaped(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += 1;
        Some(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex()?;
                let after = self.at;
                if (0xD800..0xDC00).contains(&high) && self.take(b"\\u") {
                    let low = self.hex()?;
                    if (0xDC00..0xE000).contains(&low) {
                        return char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00));
                    }
                    self.at = after;
                }
                char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = std::str::from_utf8(self.json.get(self.at..self.at + 4)?).ok()?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}
