//! A receiver in another language checks what it gets, with the library that Standard Webhooks gives it.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    process::Process,
    receiver::Receiver,
};
use proto::v1::{GetSigningSecretRequest, RotateSigningSecretRequest, WebhookType};

const CHECK: &str = r#"
import sys, json
from standardwebhooks import Webhook
given = json.load(sys.stdin)
print(Webhook(given["secret"]).verify(given["body"], given["headers"])["event_name"])
"#;

fn python_verifies(secret: &str, received: &integration_tests::receiver::Received) -> bool {
    let python = std::env::var("HOOKLINE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut child = Command::new(python)
        .args(["-c", CHECK])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is needed: ./test installs it");
    let headers: serde_json::Map<String, serde_json::Value> =
        ["webhook-id", "webhook-timestamp", "webhook-signature"]
            .into_iter()
            .map(|name| (name.to_owned(), received.header(name).into()))
            .collect();
    let body = std::str::from_utf8(&received.body).unwrap();
    let given = serde_json::json!({"secret": secret, "body": body, "headers": headers}).to_string();
    child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("ModuleNotFoundError"), "./test installs standardwebhooks: {errors}");
    output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == "Added to Cart"
}

#[tokio::test]
async fn python_verifies_with_the_present_key_and_with_the_one_before() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let hookline = Process::hookline(data.path(), &[]).await;
    let mut api = Api::of(&hookline);
    let account = "~99199077";
    let made = api.create(webhook(account, WebhookType::GlobalApplicationEvents, &receiver.url("/"))).await;
    let request = GetSigningSecretRequest { webhook_id: made.id.clone() };
    let first = api.webhooks.get_signing_secret(request).await.unwrap().into_inner().secret;
    api.publish(added_to_cart(account, "one")).await.unwrap();
    assert!(python_verifies(&first, &receiver.next().await));

    let request = RotateSigningSecretRequest { webhook_id: made.id };
    let second = api.webhooks.rotate_signing_secret(request).await.unwrap().into_inner();
    assert_eq!(second.previous[0].secret, first);
    let mut n = 0;
    let received = loop {
        n += 1;
        api.publish(added_to_cart(account, &format!("r{n}"))).await.unwrap();
        let received = receiver.next().await;
        if received.header("webhook-signature").split(' ').count() == 2 {
            break received;
        }
    };
    assert!(python_verifies(&second.secret, &received));
    assert!(python_verifies(&first, &received), "the old key signs for 24 h more");
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    assert!(!python_verifies(other, &received));
}
