//! Connections are used again while they may be, and a request is not lost because one had closed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use delivery_service::{
    delivery::Fault,
    send::{Limits, Sender, Settings},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Barrier, mpsc},
};

use crate::receiver::{Receiver, development, read_request, request, sender, sender_with};

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

async fn succeeds(sender: &Sender, receiver: &Receiver) {
    let outcome = sender.send(|| request(receiver.url("/"))).await;
    assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 204), "{outcome:?}");
    assert_eq!(*outcome.remote_address, *receiver.address.to_string());
}

fn limited(limits: impl FnOnce(&mut Limits)) -> Sender {
    let mut settings = Settings::default();
    limits(&mut settings.limits);
    sender_with(development(), settings)
}

#[tokio::test]
async fn a_connection_is_used_again() {
    for answer in [NO_CONTENT, "HTTP/1.1 204 Fine\r\ncontent-length: 0\r\n\r\n"] {
        let (receiver, _requests) = Receiver::answering(answer).await;
        let sender = sender();
        for _ in 0..5 {
            succeeds(&sender, &receiver).await;
        }
        assert_eq!(receiver.connections(), 1);
    }
}

#[tokio::test]
async fn a_connection_with_a_body_that_was_read_is_used_again() {
    let (receiver, _requests) =
        Receiver::answering("HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n2\r\noh\r\n0\r\n\r\n")
            .await;
    let sender = sender();
    for _ in 0..3 {
        assert_eq!(sender.send(|| request(receiver.url("/"))).await.fault, Fault::Status);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn what_has_become_too_old_or_too_many_is_not_used_again() {
    let table = [
        limited(|limits| limits.max_age = Duration::ZERO),
        limited(|limits| limits.idle_timeout = Duration::ZERO),
        limited(|limits| limits.idle_per_host = 0),
    ];
    for sender in table {
        let (receiver, _requests) = Receiver::answering(NO_CONTENT).await;
        for _ in 0..3 {
            succeeds(&sender, &receiver).await;
        }
        assert_eq!(receiver.connections(), 3);
    }
}

#[tokio::test]
async fn a_full_pool_makes_room_for_the_newest() {
    let sender = limited(|limits| limits.idle = 1);
    let (first, _requests) = Receiver::answering(NO_CONTENT).await;
    let (second, _others) = Receiver::answering(NO_CONTENT).await;
    for receiver in [&first, &second, &second, &first] {
        succeeds(&sender, receiver).await;
    }
    assert_eq!((first.connections(), second.connections()), (2, 1));
}

#[tokio::test]
async fn requests_at_once_take_a_connection_each() {
    let together = Arc::new(Barrier::new(3));
    let receiver = Receiver::new(move |mut stream, _| {
        let together = Arc::clone(&together);
        async move {
            while read_request(&mut stream).await.is_some() {
                together.wait().await;
                let _ = stream.write_all(NO_CONTENT.as_bytes()).await;
            }
        }
    })
    .await;
    let sender = sender();
    for _ in 0..2 {
        tokio::join!(
            succeeds(&sender, &receiver),
            succeeds(&sender, &receiver),
            succeeds(&sender, &receiver)
        );
    }
    assert_eq!(receiver.connections(), 3);
}

#[tokio::test]
async fn a_connection_that_closed_while_it_waited_is_replaced() {
    let receiver = Receiver::closing_after(NO_CONTENT).await;
    let sender = sender();
    for _ in 0..5 {
        succeeds(&sender, &receiver).await;
    }
    assert_eq!(receiver.connections(), 5);
}

#[tokio::test]
async fn a_connection_that_closes_as_it_is_used_again_is_replaced_at_once() {
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let receiver = Receiver::new(move |mut stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            // Answers one request, takes another and closes.
            read_request(&mut stream).await;
            seen.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(NO_CONTENT.as_bytes()).await;
            if read_request(&mut stream).await.is_some() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let sender = sender();
    succeeds(&sender, &receiver).await;
    succeeds(&sender, &receiver).await;
    assert_eq!((receiver.connections(), requests.load(Ordering::SeqCst)), (2, 3));
}

#[tokio::test]
async fn a_connection_that_says_more_than_it_was_asked_is_replaced() {
    let more = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
    let (receiver, _requests) = Receiver::answering(format!("{NO_CONTENT}{more}")).await;
    let sender = sender();
    for _ in 0..3 {
        succeeds(&sender, &receiver).await;
    }
    assert_eq!(receiver.connections(), 3);
}

#[tokio::test]
async fn a_used_connection_that_breaks_within_an_answer_is_not_tried_again() {
    let receiver = Receiver::new(move |mut stream, _| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(NO_CONTENT.as_bytes()).await;
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 2").await;
    })
    .await;
    let sender = sender();
    succeeds(&sender, &receiver).await;
    let outcome = sender.send(|| request(receiver.url("/"))).await;
    assert_eq!(outcome.fault, Fault::Disconnected, "{outcome:?}");
    assert_eq!(receiver.connections(), 1);
}

/// A lease may run out while a connection is made.
#[tokio::test]
async fn what_may_no_longer_be_sent_once_there_is_a_connection_is_not() {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let receiver = Receiver::new(move |mut stream, _| {
        let heard = heard.clone();
        async move {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            heard.send(bytes).unwrap();
        }
    })
    .await;
    let sender = sender();
    let sent = sender.send_while(|| request(receiver.url("/")), || false).await;
    assert!(sent.is_none(), "{sent:?}");
    assert_eq!(hears.recv().await.unwrap(), b"", "it was connected to, and nothing was written");
}
