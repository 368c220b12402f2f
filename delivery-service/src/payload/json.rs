//! The JSON body.

use bytes::Bytes;
use common::{body::Body, event::Event};

/// Bytes that most bodies fit into.
const USUAL: usize = 2_048;

/// Compact, keys in the order that the API documents.
pub fn render(event: &Event) -> Bytes {
    let mut out = Vec::with_capacity(USUAL);
    // Serialising cannot fail: keys are strings, numbers finite, and a Vec takes every write.
    let _ = serde_json::to_writer(&mut out, &Body::of(event));
    // Bodies wait by the thousand: each in the memory that it needs, not in what it grew into.
    Bytes::copy_from_slice(&out)
}

/// An array of bodies as they are.
pub fn array<'a>(bodies: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>) -> Bytes {
    let bodies = bodies.into_iter();
    let size = bodies.clone().map(|body| body.len() + 1).sum::<usize>() + 2;
    let mut array = Vec::with_capacity(size);
    array.push(b'[');
    for body in bodies {
        if array.len() > 1 {
            array.push(b',');
        }
        array.extend_from_slice(body);
    }
    array.push(b']');
    array.into()
}
