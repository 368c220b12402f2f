//! Header maps that have been used, for the requests to come: one is more than the allocator gives quickly,
//! and every request needs one. Each thread has its own.

use std::cell::RefCell;

use http::HeaderMap;

/// Kept by a thread.
const KEPT: usize = 64;
/// A map that takes more headers is an exception, and large.
const HEADERS: usize = 48;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map with room for so many headers.
pub fn headers(capacity: usize) -> HeaderMap {
    let mut headers = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    headers.reserve(capacity);
    headers
}

/// Takes a map back; what is in it is forgotten.
pub fn take_back(mut headers: HeaderMap) {
    headers.clear();
    if (1..=HEADERS).contains(&headers.capacity()) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(headers);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::AUTHORIZATION};

    use super::*;

    #[test]
    fn a_map_comes_back_empty_and_only_if_it_is_not_large() {
        let mut used = headers(20);
        used.insert(AUTHORIZATION, HeaderValue::from_static("secret"));
        let capacity = used.capacity();
        take_back(used);
        take_back(HeaderMap::with_capacity(HEADERS * 4));
        take_back(HeaderMap::new());
        let next = headers(1);
        assert!(next.is_empty());
        assert_eq!(next.capacity(), capacity, "the same");
        assert!(headers(1).capacity() < capacity, "the others were not kept");
    }
}
