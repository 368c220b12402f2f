//! Receivers that refuse, hang, break off or talk nonsense: each failure by its name, in words that
//! name the address.

use std::time::Duration;

use delivery_service::{delivery::Fault, send::Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use crate::receiver::{Receiver, development, read_request, request, sender, sender_with};

const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outcome = sender().send(|| request(format!("http://{address}/"))).await;
    assert_eq!((outcome.fault, outcome.http_status), (Fault::Connect, 0));
    assert_eq!(outcome.message, format!("connection refused by {address}"));
    assert_eq!(*outcome.remote_address, *"", "nothing was connected to");
}

#[tokio::test]
async fn there_is_no_such_name() {
    let outcome = sender().send(|| request("http://no-such-name.invalid/")).await;
    assert_eq!(outcome.fault, Fault::Dns, "{outcome:?}");
    assert!(outcome.message.contains("no-such-name.invalid"), "{}", outcome.message);
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_an_outcome_too() {
    for url in ["", "/", "ftp://h.example/", "http://", "http://a@127.0.0.1/", "http://127.0.0.1/a b"] {
        let outcome = sender().send(|| request(url)).await;
        assert_eq!((outcome.fault, outcome.http_status), (Fault::Connect, 0), "{url}: {outcome:?}");
        assert!(outcome.message.starts_with("the URL"), "{}", outcome.message);
    }
}

#[tokio::test]
async fn no_answer_comes_in_time() {
    let (receiver, mut closed) = Receiver::hanging_after("").await;
    let mut request = request(receiver.url("/"));
    request.timeout = SHORT;
    let outcome = sender().send(|| request.clone()).await;
    assert_eq!((outcome.fault, outcome.http_status), (Fault::Timeout, 0));
    assert_eq!(outcome.message, format!("no answer from {} within 150ms", receiver.address));
    assert_eq!(*outcome.remote_address, *receiver.address.to_string());
    assert!(outcome.duration >= SHORT);
    assert!(closed.recv().await.is_some(), "the connection is closed");
}

#[tokio::test]
async fn the_body_does_not_end_in_time() {
    let (receiver, mut closed) =
        Receiver::hanging_after("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let mut request = request(receiver.url("/"));
    request.timeout = SHORT;
    let outcome = sender().send(|| request.clone()).await;
    assert_eq!((outcome.fault, outcome.http_status), (Fault::Timeout, 200));
    assert_eq!(outcome.message, format!("the answer of {} was not whole within 150ms", receiver.address));
    assert_eq!(&outcome.response_body[..], b"half");
    assert!(closed.recv().await.is_some(), "the connection is closed");
}

#[tokio::test]
async fn a_handshake_does_not_end_within_the_budget_to_connect() {
    let (receiver, mut closed) = Receiver::hanging_after("").await;
    let settings = Settings { connect_timeout: SHORT, ..Settings::default() };
    let outcome =
        sender_with(development(), settings).send(|| request(format!("https://{}/", receiver.address))).await;
    assert_eq!(outcome.fault, Fault::Timeout);
    assert_eq!(outcome.message, format!("no TLS with {} within 150ms", receiver.address));
    assert!(closed.recv().await.is_some(), "the connection is closed");
}

#[tokio::test]
async fn an_endless_body_is_cut_and_the_status_decides() {
    for (status, fault) in [(200, Fault::None), (500, Fault::Status)] {
        let (told, mut closed) = mpsc::unbounded_channel();
        let receiver = Receiver::new(move |mut stream, _| {
            let told = told.clone();
            async move {
                read_request(&mut stream).await;
                let head = format!("HTTP/1.1 {status} Any\r\ntransfer-encoding: chunked\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let chunk = format!("1000\r\n{}\r\n", "y".repeat(4096));
                while stream.write_all(chunk.as_bytes()).await.is_ok() {}
                let _ = told.send(());
            }
        })
        .await;
        let outcome = sender().send(|| request(receiver.url("/"))).await;
        assert_eq!((outcome.fault, outcome.http_status), (fault, status), "{outcome:?}");
        assert_eq!(outcome.response_body, "y".repeat(1024));
        assert!(closed.recv().await.is_some(), "the connection is closed");
    }
}

#[tokio::test]
async fn the_connection_breaks_before_the_answer_is_whole() {
    let table = [
        ("", 0, "it answered"),
        ("HTTP/1.1 200 OK\r\nconte", 0, "its answer was whole"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", 200, "its answer was whole"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", 200, "its answer was whole"),
    ];
    for (answer, status, before) in table {
        let receiver = Receiver::closing_after(answer).await;
        let outcome = sender().send(|| request(receiver.url("/"))).await;
        assert_eq!((outcome.fault, outcome.http_status), (Fault::Disconnected, status), "{answer:?}");
        let expected = format!("{} closed the connection before {before}", receiver.address);
        assert_eq!(outcome.message, expected, "{answer:?}");
        assert_eq!(receiver.connections(), 1, "a fresh connection is not tried again");
    }
}

#[tokio::test]
async fn the_connection_is_reset() {
    let receiver = Receiver::new(|mut stream, _| async move {
        // Closed with a request unread, a connection is reset.
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let outcome = sender().send(|| request(receiver.url("/"))).await;
    assert_eq!(outcome.fault, Fault::Disconnected);
    assert!(outcome.message.contains(&receiver.address.to_string()), "{}", outcome.message);
}

#[tokio::test]
async fn the_answer_is_no_http() {
    let table = [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "<html>hello</html>\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf\r\n",
    ];
    for answer in table {
        let (receiver, _requests) = Receiver::answering(answer).await;
        let outcome = sender().send(|| request(receiver.url("/"))).await;
        assert_eq!(outcome.fault, Fault::Protocol, "{answer:?}: {outcome:?}");
        let expected = format!("the answer of {} is no HTTP", receiver.address);
        assert!(outcome.message.starts_with(&expected), "{answer:?}: {}", outcome.message);
    }
}

#[tokio::test]
async fn a_head_over_64_kib_is_refused_and_one_below_is_read() {
    for (size, fault) in [(60 * 1024, Fault::None), (64 * 1024, Fault::Protocol), (1 << 20, Fault::Protocol)]
    {
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(size));
        let (receiver, _requests) = Receiver::answering(head).await;
        let outcome = sender().send(|| request(receiver.url("/"))).await;
        assert_eq!(outcome.fault, fault, "{size}: {outcome:?}");
        if fault == Fault::Protocol {
            let expected = format!("the head of {}'s answer is over 64 KiB", receiver.address);
            assert_eq!(outcome.message, expected);
        }
    }
}

#[tokio::test]
async fn a_request_that_is_dropped_closes_its_connection() {
    let (receiver, mut closed) = Receiver::hanging_after("").await;
    let sender = sender();
    {
        let mut sending = std::pin::pin!(sender.send(|| request(receiver.url("/"))));
        tokio::select! {
            _ = &mut sending => panic!("no answer can have come"),
            () = async { while receiver.connections() == 0 { tokio::task::yield_now().await } } => {}
        }
    }
    assert!(closed.recv().await.is_some());
}
