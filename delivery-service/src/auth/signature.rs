//! Signatures by Standard Webhooks, scheme "v1": HMAC-SHA256 over `id.timestamp.body`, in base64,
//! one for each key that is valid, so that a receiver may change over while keys rotate. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use common::clock::Time;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
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

/// The `webhook-signature` header at `now`: signatures separated by spaces, in the order of `keys`,
/// expired ones left out. `timestamp` is what the `webhook-timestamp` header says. `None`: no key is
/// valid.
pub fn sign(keys: &[SigningKey], id: &str, timestamp: &str, body: &[u8], now: Time) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(keys.len() * (SIGNATURE_LENGTH + 1));
    for key in keys.iter().filter(|key| key.expires.is_none_or(|end| now < end)) {
        // Cannot fail: HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key.key) else { continue };
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        if !text.is_empty() {
            text.push(b' ');
        }
        text.extend_from_slice(b"v1,");
        let at = text.len();
        text.resize(at + SIGNATURE_LENGTH - 3, 0);
        let _ = STANDARD.encode_slice(mac.finalize().into_bytes(), &mut text[at..]);
    }
    if text.is_empty() { None } else { HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok() }
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

    fn signed(keys: &[SigningKey]) -> Option<HeaderValue> {
        sign(keys, ID, "1614265330", BODY, NOW)
    }

    #[test]
    fn the_specifications_example_is_met() {
        let header = signed(&[signing(SECRET, None)]).unwrap();
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_valid_key_signs_the_present_one_first() {
        let alone = |secret| signed(&[signing(secret, None)]).unwrap().to_str().unwrap().to_owned();
        let later = Some(Time(NOW.0 + 1));
        let header = signed(&[signing(OTHER, None), signing(SECRET, later)]).unwrap();
        assert_eq!(header, format!("{} {}", alone(OTHER), alone(SECRET)));
        for expires in [NOW, Time(NOW.0 - 1)] {
            let header = signed(&[signing(OTHER, None), signing(SECRET, Some(expires))]).unwrap();
            assert_eq!(header, alone(OTHER), "expired");
        }
        assert_eq!(signed(&[]), None);
        assert_eq!(signed(&[signing(SECRET, Some(NOW))]), None);
    }

    #[test]
    fn receivers_that_use_the_standard_library_accept_it() {
        let now = Time(jiff::Timestamp::now().as_millisecond());
        let timestamp = now.seconds().to_string();
        let keys = [signing(OTHER, None), signing(SECRET, Some(Time(i64::MAX)))];
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", HeaderValue::from_static(ID));
        headers.insert("webhook-timestamp", timestamp.parse().unwrap());
        headers.insert("webhook-signature", sign(&keys, ID, &timestamp, BODY, now).unwrap());
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
