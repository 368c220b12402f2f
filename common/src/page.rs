//! Page tokens and page sizes of list calls. A token is opaque, URL-safe text that carries a cursor
//! and is bound to the request that it continues: damaged, or with another request, it is refused.
//! It is no secret and no authority: whoever holds one sees what the request itself may see. Pure.

use crate::status::Violations;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// Items on a page when the request does not say.
pub const DEFAULT_SIZE: usize = 100;
/// Items on a page at most.
pub const MAX_SIZE: usize = 1_000;

const VERSION: u8 = 1;
const CHECK_LEN: usize = 8;

/// The token is damaged, of another version, or of another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a page token of this request")]
pub struct BadToken;

/// `request` is what the list depends on, in bytes that are the same for the same request: without
/// page_size and page_token, maps sorted. An empty cursor makes a token too: the last page has none.
pub fn token(request: &[u8], cursor: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(1 + CHECK_LEN + cursor.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&check(request, cursor));
    bytes.extend_from_slice(cursor);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The cursor that `token` was made from, for the same `request`.
pub fn cursor(token: &str, request: &[u8]) -> Result<Vec<u8>, BadToken> {
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadToken)?;
    let (&version, rest) = bytes.split_first().ok_or(BadToken)?;
    let (found, cursor) = rest.split_at_checked(CHECK_LEN).ok_or(BadToken)?;
    if version == VERSION && found == check(request, cursor) { Ok(cursor.to_vec()) } else { Err(BadToken) }
}

/// Where a request's list goes on: nothing for the first page.
pub fn start(page_token: &str, request: &[u8]) -> Result<Option<Vec<u8>>, BadToken> {
    if page_token.is_empty() { Ok(None) } else { cursor(page_token, request).map(Some) }
}

/// Items to put on the page; what is wrong with the number goes to `page_size` of `violations`.
pub fn size(requested: i32, violations: &mut Violations) -> usize {
    match usize::try_from(requested) {
        Ok(0) => DEFAULT_SIZE,
        Ok(size) if size <= MAX_SIZE => size,
        Ok(_) => {
            violations.add("page_size", format!("at most {MAX_SIZE}"));
            MAX_SIZE
        }
        Err(_) => {
            violations.add("page_size", "must not be negative");
            DEFAULT_SIZE
        }
    }
}

fn check(request: &[u8], cursor: &[u8]) -> [u8; CHECK_LEN] {
    let mut hash = Sha256::new();
    hash.update([VERSION]);
    hash.update((request.len() as u64).to_be_bytes());
    hash.update(request);
    hash.update(cursor);
    let mut check = [0; CHECK_LEN];
    check.copy_from_slice(&hash.finalize()[..CHECK_LEN]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_its_cursor_back_to_its_request_alone() {
        for cursor_in in [&b""[..], b"a", &[0, 255, 7], &[9; 500]] {
            let token = token(b"list acme", cursor_in);
            assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{token}");
            assert_eq!(cursor(&token, b"list acme").as_deref(), Ok(cursor_in));
            assert_eq!(cursor(&token, b"list acmf"), Err(BadToken));
            assert_eq!(cursor(&token, b""), Err(BadToken));
        }
    }

    #[test]
    fn no_damage_to_a_token_goes_unseen() {
        let whole = token(b"request", b"cursor");
        for at in 0..whole.len() {
            let damaged = format!("{}{}", &whole[..at], &whole[at + 1..]);
            assert_eq!(cursor(&damaged, b"request"), Err(BadToken), "{damaged}");
            for other in ["A", "z", "_", "=", "é", " "] {
                let damaged = format!("{}{other}{}", &whole[..at], &whole[at + 1..]);
                if damaged != whole {
                    assert_eq!(cursor(&damaged, b"request"), Err(BadToken), "{damaged}");
                }
            }
        }
        for text in ["", "x", "AQ", "AQAAAAAAAAA", &format!("{whole}A"), &"A".repeat(10_000)] {
            assert_eq!(cursor(text, b"request"), Err(BadToken), "{text}");
        }
        assert_eq!(start("", b"request"), Ok(None));
        assert_eq!(start("x", b"request"), Err(BadToken));
    }

    #[test]
    fn page_sizes_have_a_default_and_a_limit() {
        for (requested, expected, fine) in
            [(0, 100, true), (1, 1, true), (1_000, 1_000, true), (1_001, 1_000, false), (-1, 100, false)]
        {
            let mut violations = Violations::default();
            assert_eq!(size(requested, &mut violations), expected, "{requested}");
            assert_eq!(violations.is_empty(), fine, "{requested}");
        }
    }
}
