//! Signatures by Standard Webhooks, scheme "v1": HMAC-SHA256 over `id.timestamp.body`, in base64,
//! one for each key that is valid, so that a receiver may change over while keys rotate. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use common::clock::Time;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::routes::SigningKey;

/// What secrets of the scheme begin with.
const PREFIX: &str = "whsec_";

/// "v1," and 32 bytes in base64.
const SIGNATURE_LENGTH: usize = 3 + 44;

/// The key in a secret as customers see it: "whsec_" and base64. `None`: it is not one.
pub fn key(secret: &str) -> Option<Box<[u8]>> {
    let key = STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?;
    (!key.is_empty()).then(|| key.into())
}

/// How long the signatures of `keys` are together, at most.
pub fn length(keys: &[SigningKey]) -> usize {
    keys.len() * (SIGNATURE_LENGTH + 1)
}

/// Appends the value of the `webhook-signature` header at `now`: signatures separated by spaces, in
/// the order of `keys`, expired ones left out; nothing when no key is valid. `text` holds the values
/// of the `webhook-id` header, to `id_end`, and of the `webhook-timestamp` header, to its end.
pub fn sign(keys: &[SigningKey], id_end: usize, body: &[u8], now: Time, text: &mut Vec<u8>) {
    let start = text.len();
    for key in keys.iter().filter(|key| key.expires.is_none_or(|end| now < end)) {
        // Cannot fail: HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key.key) else { continue };
        let (id, timestamp) = text[..start].split_at(id_end);
        for part in [id, b".", timestamp, b".", body] {
            mac.update(part);
        }
        if text.len() > start {
            text.push(b' ');
        }
        text.extend_from_slice(b"v1,");
        let at = text.len();
        text.resize(at + SIGNATURE_LENGTH - 3, 0);
        // Cannot fail: 32 bytes are 44 characters.
        let _ = STANDARD.encode_slice(mac.finalize().into_bytes(), &mut text[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const NOW: Time = Time(1_614_265_330_000);

    fn signing(secret: &str, expires: Option<Time>) -> SigningKey {
        SigningKey { key: key(secret).unwrap(), expires }
    }

    fn signed(keys: &[SigningKey]) -> String {
        signed_at(NOW, keys)
    }

    fn signed_at(now: Time, keys: &[SigningKey]) -> String {
        let mut text = format!("{ID}{}", now.seconds()).into_bytes();
        let start = text.len();
        sign(keys, ID.len(), BODY, now, &mut text);
        assert!(text.len() - start <= length(keys));
        String::from_utf8(text.split_off(start)).unwrap()
    }

    #[test]
    fn the_specifications_example_is_met() {
        let header = signed(&[signing(SECRET, None)]);
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_valid_key_signs_the_present_one_first() {
        let alone = |secret| signed(&[signing(secret, None)]);
        let later = Some(Time(NOW.0 + 1));
        let header = signed(&[signing(OTHER, None), signing(SECRET, later)]);
        assert_eq!(header, format!("{} {}", alone(OTHER), alone(SECRET)));
        for expires in [NOW, Time(NOW.0 - 1)] {
            let header = signed(&[signing(OTHER, None), signing(SECRET, Some(expires))]);
            assert_eq!(header, alone(OTHER), "expired");
        }
        assert_eq!(signed(&[]), "");
        assert_eq!(signed(&[signing(SECRET, Some(NOW))]), "");
    }

    #[test]
    fn receivers_that_use_the_standard_library_accept_it() {
        let now = Time(jiff::Timestamp::now().as_millisecond());
        let keys = [signing(OTHER, None), signing(SECRET, Some(Time(i64::MAX)))];
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", ID.parse().unwrap());
        headers.insert("webhook-timestamp", now.seconds().into());
        headers.insert("webhook-signature", signed_at(now, &keys).parse().unwrap());
        for secret in [SECRET, OTHER] {
            let receiver = standardwebhooks::Webhook::new(secret).unwrap();
            assert!(receiver.verify(BODY, &headers).is_ok());
            assert!(receiver.verify(b"something else", &headers).is_err());
        }
    }

    #[test]
    fn what_is_no_secret_is_no_key() {
        for secret in ["", "whsec_", "whsec_%%%", "whsk_MfKQ9r8G", &SECRET[6..]] {
            assert_eq!(key(secret), None, "{secret}");
        }
        assert_eq!(key(SECRET).unwrap().len(), 24);
    }
}
