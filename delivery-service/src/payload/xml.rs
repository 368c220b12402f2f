//! The XML body: the same structure as the JSON one, told in elements. A key of ours is an element,
//! a free-text key an `<entry key="…">`, "@class" an attribute, a list's items elements named in the
//! singular. Every text survives a parser but for characters that XML 1.0 has no way to write:
//! those become U+FFFD.

use bytes::Bytes;
use common::{body::Body, event::Event};
use serde::Serialize;

use element::Element;

mod element;
mod escape;

/// Compact, UTF-8. Meant for feedback, replies and survey responses: webhooks of other types have no
/// XML.
pub fn render(event: &Event) -> Bytes {
    let mut out = String::with_capacity(4096);
    out.push_str(r#"<?xml version="1.0" encoding="UTF-8"?>"#);
    // Writing to a String cannot fail, and a body has no shape that elements cannot tell.
    let _ = Body::of(event).serialize(Element::document(&mut out));
    // As for JSON: exactly what it needs.
    Bytes::copy_from_slice(out.as_bytes())
}
