//! The JSON body.

use bytes::Bytes;
use common::{body::Body, event::Event};

/// Compact, keys in the order that the API documents.
pub fn render(event: &Event) -> Bytes {
    // Serialising cannot fail: keys are strings, numbers finite, and a Vec takes every write.
    serde_json::to_vec(&Body::of(event)).unwrap_or_default().into()
}
