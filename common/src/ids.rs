//! The names of things: webhook ids and delivery ids, as small values that are cheap to copy, hash
//! and compare. Text that is no id never becomes one.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    str::FromStr,
};

use ulid::Ulid;

/// "wh_" and a ULID. Orders by creation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookId(u128);

/// 32 lower-case hex digits: the shard of its lane (2 bytes), the time (6 bytes, ms), chance (7 bytes), and which
/// one it is of those that share a body (1 byte; 0: it shares with none). These have all else in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DeliveryId([u8; 16]);

/// Maps and sets by id.
pub type ById<Id, T> = HashMap<Id, T, HashesIds>;
pub type Ids<Id> = HashSet<Id, HashesIds>;
pub type HashesIds = BuildHasherDefault<IdHasher>;

/// Hashes ids. Most of an id is chance, and it was made here: there is no need to guard against keys that
/// somebody chose, as the default hasher does at five times the price.
#[derive(Debug, Clone, Copy, Default)]
pub struct IdHasher(u64);

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct NotAnId;

impl WebhookId {
    /// A new id. `chance` is random; `now_ms` orders it among others.
    pub fn new(now_ms: i64, chance: u128) -> Self {
        Self(Ulid::from_parts(now_ms.max(0) as u64, chance).0)
    }

    pub fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Which of `shards` (a power of two) holds the webhook's lane.
    pub fn shard(self, shards: u16) -> u16 {
        (self.0 as u16) & (shards - 1)
    }
}

impl DeliveryId {
    /// Of `chance` the lower 7 bytes.
    pub fn new(shard: u16, now_ms: i64, chance: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&shard.to_be_bytes());
        bytes[2..8].copy_from_slice(&now_ms.to_be_bytes()[2..]);
        bytes[8..15].copy_from_slice(&chance.to_be_bytes()[1..]);
        Self(bytes)
    }

    /// The one of this number among those that share a body.
    pub fn sharing(mut self, number: u8) -> Self {
        self.0[15] = number;
        self
    }

    /// What it has in common with those that it shares a body with, if it does.
    pub fn shared(self) -> Option<[u8; 15]> {
        let [common @ .., number] = self.0;
        (number > 0).then_some(common)
    }

    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn shard(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The golden ratio spreads what differs over all bits: tables look at the highest and the lowest.
        let mixed = u128::from(self.0.rotate_left(23) ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (mixed >> 64) as u64 ^ mixed as u64;
    }

    /// The length of what comes: always the same.
    fn write_usize(&mut self, _: usize) {}

    fn write_u128(&mut self, id: u128) {
        self.write_u64((id >> 64) as u64);
        self.write_u64(id as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; ulid::ULID_LEN];
        write!(f, "wh_{}", Ulid(self.0).array_to_str(&mut buffer))
    }
}

impl fmt::Debug for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WebhookId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let ulid = Ulid::from_string(text.strip_prefix("wh_").ok_or(NotAnId)?).map_err(|_| NotAnId)?;
        let id = Self(ulid.0);
        // ULID parsers take lower case and overflow too; an id has one spelling.
        if id.to_string() == text { Ok(id) } else { Err(NotAnId) }
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 32];
        // Cannot fail: 16 bytes are 32 digits.
        let _ = hex::encode_to_slice(self.0, &mut text);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DeliveryId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let mut bytes = [0; 16];
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NotAnId);
        }
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAnId)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn ids_that_differ_little_hash_apart() {
        let hash = |id: WebhookId| HashesIds::default().hash_one(id);
        let of_one_ms = (0..4_096).map(|n| hash(WebhookId::new(1_700_000_000_000, n)));
        let of_one_chance = (0..4_096).map(|n| hash(WebhookId::new(1_700_000_000_000 + n, 7)));
        for hashes in [of_one_ms.collect::<Vec<_>>(), of_one_chance.collect()] {
            let apart = |bits: fn(u64) -> u64| hashes.iter().map(|hash| bits(*hash)).collect::<HashSet<_>>();
            assert_eq!(apart(|hash| hash >> 57).len(), 128, "of all highest bits");
            // By chance 4,096 balls leave a third of 4,096 boxes empty.
            assert!(apart(|hash| hash & 4_095).len() > 2_400, "lowest bits");
        }
    }

    #[test]
    fn ids_read_back_as_written_and_nothing_else_is_one() {
        let webhook = WebhookId::new(1_700_000_000_000, 42);
        assert_eq!(webhook.to_string().parse(), Ok(webhook));
        assert_eq!(WebhookId::from_bytes(webhook.bytes()), webhook);
        let delivery = DeliveryId::new(513, 1_700_000_000_000, 7);
        assert_eq!(delivery.to_string().len(), 32);
        assert_eq!(delivery.to_string().parse(), Ok(delivery));
        assert_eq!(delivery.shard(), 513);
        assert_eq!(delivery.shared(), None);
        let (first, last) = (delivery.sharing(1), delivery.sharing(255));
        assert_ne!(first, last);
        assert_eq!(first.shared(), last.shared());
        assert_eq!(first.shared().as_ref().map(|common| &common[..]), delivery.bytes().get(..15));
        assert_eq!(first.to_string().parse(), Ok(first));
        for text in ["", "wh_", "wh_abc", &webhook.to_string().to_lowercase(), "x", &webhook.to_string()[3..]]
        {
            assert_eq!(text.parse::<WebhookId>(), Err(NotAnId), "{text}");
        }
        for text in ["", "00", &delivery.to_string().to_uppercase().replace('0', "A"), &"g".repeat(32)] {
            assert_eq!(text.parse::<DeliveryId>(), Err(NotAnId), "{text}");
        }
    }
}
