//! The keys that sign a webhook's requests: one present, and those before it that still sign, so that
//! a receiver can change keys without losing a request.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{clock::Time, status};
use proto::v1::{SigningKey, SigningSecret, signing_secret::PreviousSecret};
use tonic::Status;

use super::{TRIES, Webhooks, changed};
use crate::{
    store::{Record, Updated},
    unavailable,
};

/// How long a key signs on once another has taken its place.
const SIGNS_ON: Duration = Duration::from_secs(24 * 3600);
/// Keys that sign at once, the present one included: a receiver checks every signature.
const MAX_KEYS: usize = 5;

impl Webhooks {
    /// Makes a new key and lets the one before sign for a while.
    pub(super) async fn rotate(&self, webhook_id: &str) -> Result<SigningSecret, Status> {
        for _ in 0..TRIES {
            let stored = self.find(webhook_id, "webhook_id").await?;
            let now = self.clock.now();
            let signing_keys = rotated(&stored.signing_keys, fresh_key(), now).ok_or_else(|| {
                status::failed_precondition(
                    "TOO_MANY_SIGNING_KEYS",
                    webhook_id,
                    "five keys still sign: rotate again once the oldest has expired (see GetSigningSecret)",
                )
            })?;
            let expected = stored.revision;
            let record = Record { signing_keys, ..stored };
            match self.store.update(record, expected).await.map_err(unavailable)? {
                Updated::Done(record) => {
                    tracing::info!(webhook = record.webhook.id, "a webhook has a new signing key");
                    return Ok(secret(&record.signing_keys, now));
                }
                Updated::Changed => {}
                Updated::Gone => return Err(status::not_found("webhook", webhook_id)),
            }
        }
        Err(changed())
    }
}

/// A key by Standard Webhooks: "whsec_" and 32 random bytes in base64.
pub(super) fn fresh_key() -> SigningKey {
    let bytes: [u8; 32] = rand::random();
    SigningKey { secret: format!("whsec_{}", STANDARD.encode(bytes)), expire_time: None }
}

/// The keys as their owner sees them: those that have expired are gone.
pub(super) fn secret(keys: &[SigningKey], now: Time) -> SigningSecret {
    let mut signing = keys.iter().filter(|key| signs(key, now));
    SigningSecret {
        secret: signing.next().map(|key| key.secret.clone()).unwrap_or_default(),
        previous: signing
            .map(|key| PreviousSecret { secret: key.secret.clone(), expire_time: key.expire_time })
            .collect(),
        public_key: String::new(),
    }
}

/// `fresh` first, then those that still sign; nothing when there are too many of them.
fn rotated(keys: &[SigningKey], fresh: SigningKey, now: Time) -> Option<Vec<SigningKey>> {
    let mut still: Vec<_> = keys.iter().filter(|key| signs(key, now)).cloned().collect();
    if still.len() >= MAX_KEYS {
        return None;
    }
    for key in &mut still {
        key.expire_time.get_or_insert_with(|| (now + SIGNS_ON).into());
    }
    still.insert(0, fresh);
    Some(still)
}

fn signs(key: &SigningKey, now: Time) -> bool {
    key.expire_time.is_none_or(|end| {
        let now = prost_types::Timestamp::from(now);
        (end.seconds, end.nanos) > (now.seconds, now.nanos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_signs_for_a_day_after_the_next_and_five_sign_at_most() {
        let mut now = Time(1_000);
        let mut keys = vec![fresh_key()];
        let first = keys[0].secret.clone();
        for _ in 0..4 {
            keys = rotated(&keys, fresh_key(), now).unwrap();
        }
        assert_eq!(secret(&keys, now).previous.len(), 4);
        assert_eq!(secret(&keys, now).previous[3].secret, first);
        assert_eq!(rotated(&keys, fresh_key(), now), None);
        now = now + SIGNS_ON;
        assert_eq!(secret(&keys, now).previous, []);
        let next = rotated(&keys, fresh_key(), now).unwrap();
        assert_eq!(next.len(), 2);
        assert_eq!(next[1].secret, keys[0].secret);
        assert_eq!(next[1].expire_time, Some((now + SIGNS_ON).into()));
    }
}
