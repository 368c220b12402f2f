//! Where the egress rules do not lead, no connection is made, whether by name or by address.

use common::address::Rules;
use delivery_service::{delivery::Fault, send::Settings};

use crate::receiver::{Receiver, development, request, sender_with};

#[tokio::test]
async fn a_forbidden_address_is_never_connected_to() {
    let (receiver, _requests) = Receiver::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let port = receiver.address.port();
    let rules = Rules { allow_http: true, ..Rules::default() };
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"] {
        let sender = sender_with(rules.clone(), Settings::default());
        let outcome = sender.send(|| request(format!("http://{host}:{port}/"))).await;
        assert_eq!((outcome.fault, outcome.http_status), (Fault::ForbiddenAddress, 0), "{host}: {outcome:?}");
        assert_eq!(*outcome.remote_address, *"");
        let named = host != "localhost" || outcome.message.starts_with("localhost resolves to");
        assert!(named, "{}", outcome.message);
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn names_lead_where_the_rules_allow() {
    let (receiver, _requests) = Receiver::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let url = format!("http://localhost:{}/", receiver.address.port());
    let outcome = sender_with(development(), Settings::default()).send(|| request(url.clone())).await;
    assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 204), "{outcome:?}");
    assert_eq!(*outcome.remote_address, *receiver.address.to_string());
}

#[tokio::test]
async fn ports_and_schemes_are_checked_too() {
    let https_only = Rules::default();
    let table = [
        (development(), "http://127.0.0.1:22/", "port 22"),
        (development(), "https://127.0.0.1:25/", "port 25"),
        (https_only, "http://203.0.113.7/", "http"),
    ];
    for (rules, url, word) in table {
        let outcome = sender_with(rules, Settings::default()).send(|| request(url)).await;
        assert_eq!(outcome.fault, Fault::ForbiddenAddress, "{url}: {outcome:?}");
        assert!(outcome.message.contains(word), "{url}: {}", outcome.message);
    }
}
