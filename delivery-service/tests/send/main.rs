//! The sender against real receivers: those that behave, those that do not, and those that may not be
//! reached.

#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

mod failures;
mod forbidden;
mod pool;
mod receiver;
mod tls;

use std::time::Duration;

use common::clock::Time;
use delivery_service::delivery::Fault;
use receiver::{NOW, Receiver, request, sender};

#[tokio::test]
async fn an_answer_is_told_in_full() {
    let (receiver, mut requests) =
        Receiver::answering("HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\nfine").await;
    let outcome = sender().send(|| request(receiver.url("/a%2Fb?x=1"))).await;
    assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 201), "{outcome:?}");
    assert_eq!(outcome.message, "");
    assert_eq!(&outcome.response_body[..], b"fine");
    assert_eq!(*outcome.remote_address, *receiver.address.to_string());
    assert_eq!(outcome.start, NOW);
    assert!(outcome.duration > Duration::ZERO);
    let sent = requests.recv().await.unwrap();
    let mut lines: Vec<_> = sent.lines().collect();
    lines[1..4].sort_unstable();
    let host = format!("host: {}", receiver.address);
    let expected =
        ["POST /a%2Fb?x=1 HTTP/1.1", "content-length: 6", "content-type: text/plain", &host, "", "a body"];
    assert_eq!(lines, expected, "and no other header, no accept-encoding");
}

#[tokio::test]
async fn a_url_without_a_path_is_sent_with_the_shortest() {
    let (receiver, mut requests) = Receiver::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let sender = sender();
    for (url, target) in [("", "/"), ("?", "/?"), ("?x=1", "/?x=1"), ("/?", "/?"), ("//a?b?c", "//a?b?c")] {
        assert_eq!(sender.send(|| request(receiver.url(url))).await.fault, Fault::None);
        let sent = requests.recv().await.unwrap();
        assert_eq!(sent.lines().next(), Some(&*format!("POST {target} HTTP/1.1")), "{url}");
    }
}

#[tokio::test]
async fn the_status_decides_and_redirects_are_not_followed() {
    for status in [200, 204, 299, 301, 302, 307, 400, 404, 410, 429, 500, 503] {
        let (receiver, mut requests) = Receiver::answering(format!(
            "HTTP/1.1 {status} Anything\r\nlocation: /elsewhere\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
        let outcome = sender().send(|| request(receiver.url("/"))).await;
        assert_eq!(outcome.http_status, status);
        if status < 300 {
            assert_eq!((outcome.fault, &*outcome.message), (Fault::None, ""));
        } else {
            assert_eq!((outcome.fault, &*outcome.message), (Fault::Status, &*format!("answered {status}")));
        }
        let asked = matches!(status, 429 | 503).then_some(Duration::from_secs(7));
        assert_eq!(outcome.retry_after, asked, "{status}");
        assert!(requests.recv().await.is_some());
        assert!(requests.try_recv().is_err(), "{status}: one request and no more");
    }
}

#[tokio::test]
async fn answers_that_come_before_the_answer_are_ignored() {
    let (receiver, _requests) = Receiver::answering(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    )
    .await;
    let outcome = sender().send(|| request(receiver.url("/"))).await;
    assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 204), "{outcome:?}");
}

#[tokio::test]
async fn retry_after_may_be_a_date() {
    let date =
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(60 + NOW.seconds() as u64));
    let (receiver, _requests) =
        Receiver::answering(format!("HTTP/1.1 503 Busy\r\nretry-after: {date}\r\ncontent-length: 0\r\n\r\n"))
            .await;
    let outcome = sender().send(|| request(receiver.url("/"))).await;
    assert_eq!(outcome.retry_after, Some(NOW.until(Time(NOW.0 + 60_000))));
}

#[tokio::test]
async fn bodies_come_whole_in_chunks_and_by_the_connections_end() {
    let long = "x".repeat(60_000);
    let table = [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len()),
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
            long.len()
        ),
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{long}"),
        format!("HTTP/1.0 200 OK\r\n\r\n{long}"),
    ];
    for answer in table {
        let receiver = Receiver::closing_after(answer.clone()).await;
        let outcome = sender().send(|| request(receiver.url("/"))).await;
        assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 200), "{outcome:?}");
        assert_eq!(&outcome.response_body[..], &long.as_bytes()[..1024], "{}", &answer[..40]);
    }
}

#[tokio::test]
async fn a_large_body_goes_out_whole() {
    let (receiver, mut requests) = Receiver::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut request = request(receiver.url("/"));
    request.body = "0123456789".repeat(100_000).into();
    let body = request.body.clone();
    assert_eq!(sender().send(|| request.clone()).await.fault, Fault::None);
    let sent = requests.recv().await.unwrap();
    assert!(sent.split_once("\r\n\r\n").unwrap().1.as_bytes() == body);
}
