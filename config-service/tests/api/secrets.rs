//! The keys of webhooks and accounts.

use proto::v1::{
    GetAccountRequest, GetSigningSecretRequest, RotateSecretKeyRequest, RotateSigningSecretRequest,
};

use super::*;

#[tokio::test]
async fn a_rotated_key_signs_on_and_five_are_enough() {
    let mut config = Config::start().await;
    let webhook_id = config.create(webhook()).await.unwrap().id;
    let get = GetSigningSecretRequest { webhook_id: webhook_id.clone() };
    let first = config.webhooks.get_signing_secret(get.clone()).await.unwrap().into_inner();
    // "whsec_" and 32 bytes in base64.
    assert!(first.secret.starts_with("whsec_") && first.secret.len() == 50, "{}", first.secret.len());
    assert_eq!(first.previous, []);
    let rotate = RotateSigningSecretRequest { webhook_id };
    for before in 0..4 {
        let rotated = config.webhooks.rotate_signing_secret(rotate.clone()).await.unwrap().into_inner();
        assert_eq!(rotated.previous.len(), before + 1);
        assert_eq!(rotated.previous[before].secret, first.secret);
        assert!(rotated.previous[before].expire_time.is_some());
        assert_eq!(config.webhooks.get_signing_secret(get.clone()).await.unwrap().into_inner(), rotated);
    }
    let refused = config.webhooks.rotate_signing_secret(rotate).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.get_error_details().precondition_failure().is_some());
    let nothing = config.webhooks.get_signing_secret(GetSigningSecretRequest::default()).await.unwrap_err();
    assert_eq!(fields(&nothing), ["webhook_id"]);
}

#[tokio::test]
async fn an_account_keeps_the_key_it_was_made_with_until_that_is_rotated() {
    let mut config = Config::start().await;
    let get = |code: &str| GetAccountRequest { license_code: code.into() };
    let made = config.accounts.get_account(get("new")).await.unwrap().into_inner();
    assert_eq!((made.license_code.as_str(), made.secret_key.len()), ("new", 32));
    assert_eq!(config.accounts.get_account(get("new")).await.unwrap().into_inner(), made);
    config.create(Webhook { license_code: "new".into(), ..webhook() }).await.unwrap();
    assert_eq!(config.accounts.get_account(get("new")).await.unwrap().into_inner(), made);
    let rotate = RotateSecretKeyRequest { license_code: "new".into() };
    let rotated = config.accounts.rotate_secret_key(rotate).await.unwrap().into_inner();
    assert_ne!(rotated.secret_key, made.secret_key);
    assert_eq!(rotated.create_time, made.create_time);
    assert_eq!(config.accounts.get_account(get("new")).await.unwrap().into_inner(), rotated);
    for code in ["", "a b"] {
        let refused = config.accounts.get_account(get(code)).await.unwrap_err();
        assert_eq!(fields(&refused), ["license_code"]);
        let rotate = RotateSecretKeyRequest { license_code: code.into() };
        assert_eq!(fields(&config.accounts.rotate_secret_key(rotate).await.unwrap_err()), ["license_code"]);
    }
}
