//! A short text as a key: kept where the key is, not elsewhere. Of many accounts each is looked up
//! seldom, and every step to another place of the memory is then a wait.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
};

/// Bytes that are kept in place. (With them it is as long as a `String`.)
const SHORT: usize = 22;

/// Compares and hashes as its bytes.
#[derive(Clone)]
pub enum Short {
    Here { length: u8, bytes: [u8; SHORT] },
    Elsewhere(Box<[u8]>),
}

impl Short {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Here { length, bytes } => &bytes[..usize::from(*length)],
            Self::Elsewhere(bytes) => bytes,
        }
    }
}

impl From<&str> for Short {
    fn from(text: &str) -> Self {
        if text.len() > SHORT {
            return Self::Elsewhere(text.as_bytes().into());
        }
        let mut bytes = [0; SHORT];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self::Here { length: text.len() as u8, bytes }
    }
}

impl Borrow<[u8]> for Short {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Hash for Short {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialEq for Short {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Short {}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn texts_of_any_length_are_found_by_their_bytes() {
        let texts = ["", "a", &"b".repeat(SHORT), &"b".repeat(SHORT + 1), "äöü\0", "äöü"];
        let map: HashMap<Short, usize> =
            texts.iter().enumerate().map(|(n, text)| ((*text).into(), n)).collect();
        assert_eq!(map.len(), texts.len());
        for (n, text) in texts.iter().enumerate() {
            assert_eq!(map.get(text.as_bytes()), Some(&n), "{text}");
        }
        assert_eq!(map.get("b".as_bytes()), None);
        assert_eq!(size_of::<Short>(), size_of::<String>());
    }
}
