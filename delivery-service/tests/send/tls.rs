//! TLS is verified, HTTP/2 is spoken where the receiver speaks it.

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use bytes::Bytes;
use delivery_service::{
    delivery::Fault,
    send::{Sender, Settings},
};
use http_body_util::{BodyExt, Full};
use hyper::{Response, Version, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Barrier, Notify},
};
use tokio_rustls::TlsAcceptor;

use crate::receiver::{Receiver, development, request, sender, sender_with};

/// A certificate for "localhost", the acceptor that shows it, and the file to trust it by.
struct Identity {
    acceptor: TlsAcceptor,
    folder: tempfile::TempDir,
}

impl Identity {
    fn new(protocols: &[&str]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), folder }
    }

    fn trusting(&self) -> Sender {
        let ca: Option<PathBuf> = Some(self.folder.path().join("ca.pem"));
        sender_with(development(), Settings { ca, ..Settings::default() })
    }
}

/// What a receiver answers to a request.
type Answer = Response<Full<Bytes>>;

/// A receiver that speaks TLS, and HTTP as it was agreed.
async fn receiver<F>(
    identity: &Identity,
    answer: impl Fn(http::Request<Bytes>) -> F + Clone + Send + 'static,
) -> Receiver
where
    F: Future<Output = Answer> + Send + 'static,
{
    let acceptor = identity.acceptor.clone();
    Receiver::new(move |stream: TcpStream, _| {
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: http::Request<Incoming>| {
                let answer = answer.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    Ok::<_, Infallible>(answer(http::Request::from_parts(head, body)).await)
                }
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

/// Answers with the version and the URL that it saw.
async fn echo(request: http::Request<Bytes>) -> Answer {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or("-");
    let body = String::from_utf8_lossy(request.body());
    let told = format!("{:?} {} {} {host} {body}", request.version(), request.method(), request.uri());
    Response::new(Full::from(told))
}

fn url(receiver: &Receiver, path: &str) -> String {
    format!("https://localhost:{}{path}", receiver.address.port())
}

#[tokio::test]
async fn the_version_is_agreed_upon() {
    let table: [(&[&str], Version); 4] = [
        (&["h2", "http/1.1"], Version::HTTP_2),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ];
    for (protocols, version) in table {
        let identity = Identity::new(protocols);
        let receiver = receiver(&identity, echo).await;
        let sender = identity.trusting();
        let port = receiver.address.port();
        let expected = match version {
            Version::HTTP_2 => format!("HTTP/2.0 POST https://localhost:{port}/a?b=c - a body"),
            _ => format!("HTTP/1.1 POST /a?b=c localhost:{port} a body"),
        };
        for _ in 0..3 {
            let outcome = sender.send(|| request(url(&receiver, "/a?b=c"))).await;
            assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 200), "{outcome:?}");
            assert_eq!(outcome.response_body, expected);
            assert_eq!(*outcome.remote_address, *receiver.address.to_string());
        }
        assert_eq!(receiver.connections(), 1, "{protocols:?}");
    }
}

#[tokio::test]
async fn certificates_are_verified() {
    let identity = Identity::new(&["h2"]);
    let receiver = receiver(&identity, echo).await;
    let by_address = format!("https://{}/", receiver.address);
    let table = [
        (sender(), url(&receiver, "/"), "UnknownIssuer"),
        (identity.trusting(), by_address, "not valid for name"),
    ];
    for (sender, url, word) in table {
        let outcome = sender.send(|| request(url.clone())).await;
        assert_eq!((outcome.fault, outcome.http_status), (Fault::Tls, 0), "{outcome:?}");
        assert!(outcome.message.starts_with(&format!("TLS with {} failed", receiver.address)));
        assert!(outcome.message.contains(word), "{}", outcome.message);
        assert_eq!(*outcome.remote_address, *receiver.address.to_string());
    }
}

#[tokio::test]
async fn a_receiver_without_tls_is_a_tls_failure() {
    let plain = Receiver::new(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let closing = Receiver::new(|_, _| async {}).await;
    for receiver in [plain, closing] {
        let outcome = sender().send(|| request(format!("https://{}/", receiver.address))).await;
        assert_eq!(outcome.fault, Fault::Tls, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_file_of_roots_that_cannot_be_used_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for ca in [empty, folder.path().join("missing.pem")] {
        let settings = Settings { ca: Some(ca.clone()), ..Settings::default() };
        let error = Sender::new(development(), settings, Default::default()).err().unwrap();
        assert!(error.to_string().contains(&*ca.to_string_lossy()), "{error}");
    }
}

#[tokio::test]
async fn one_http2_connection_carries_many_requests_at_once() {
    let identity = Identity::new(&["h2"]);
    let together = Arc::new(Barrier::new(20));
    let receiver = receiver(&identity, move |request: http::Request<Bytes>| {
        let together = Arc::clone(&together);
        async move {
            if request.uri().path() == "/together" {
                together.wait().await;
            }
            Response::new(Full::default())
        }
    })
    .await;
    let sender = identity.trusting();
    assert_eq!(sender.send(|| request(url(&receiver, "/alone"))).await.fault, Fault::None);
    let sent = (0..20).map(|_| sender.send(|| request(url(&receiver, "/together"))));
    for outcome in futures_util::future::join_all(sent).await {
        assert_eq!(outcome.fault, Fault::None, "{outcome:?}");
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn an_http2_answer_is_limited_too() {
    let identity = Identity::new(&["h2"]);
    let receiver = receiver(&identity, |request: http::Request<Bytes>| async move {
        if request.uri().path() == "/body" {
            return Response::new(Full::from("z".repeat(1 << 20)));
        }
        let head = Response::builder().header("x", "x".repeat(100 * 1024));
        head.body(Full::default()).unwrap()
    })
    .await;
    let sender = identity.trusting();
    let outcome = sender.send(|| request(url(&receiver, "/body"))).await;
    assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 200), "{outcome:?}");
    assert_eq!(outcome.response_body, "z".repeat(1024));
    let outcome = sender.send(|| request(url(&receiver, "/head"))).await;
    assert_eq!(outcome.fault, Fault::Protocol, "{outcome:?}");
}

#[tokio::test]
async fn an_http2_connection_that_has_closed_is_replaced() {
    let identity = Identity::new(&["h2"]);
    let acceptor = identity.acceptor.clone();
    let receiver = Receiver::new(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            // Answers one request, takes another and closes.
            let seen = Arc::new(Barrier::new(2));
            let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let gone = Arc::clone(&seen);
            let service = service_fn(move |_: http::Request<Incoming>| {
                let (seen, count) = (Arc::clone(&seen), Arc::clone(&count));
                async move {
                    if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
                        seen.wait().await;
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            let serve = auto::Builder::new(TokioExecutor::new());
            tokio::select! {
                _ = serve.serve_connection(TokioIo::new(stream), service) => {}
                _ = gone.wait() => {}
            }
        }
    })
    .await;
    let sender = identity.trusting();
    for _ in 0..2 {
        let outcome = sender.send(|| request(url(&receiver, "/"))).await;
        assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 200), "{outcome:?}");
    }
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn a_request_that_connects_for_long_takes_a_connection_that_becomes_free() {
    let identity = Identity::new(&["http/1.1"]);
    let acceptor = identity.acceptor.clone();
    let (connecting, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (second, gone) = (Arc::clone(&connecting), Arc::clone(&closed));
    let receiver = Receiver::new(move |mut stream, number| {
        let (acceptor, second, gone) = (acceptor.clone(), Arc::clone(&second), Arc::clone(&gone));
        async move {
            if number > 1 {
                // Takes the connection and never answers its handshake.
                second.notify_one();
                while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                gone.notify_one();
                return;
            }
            let stream = acceptor.accept(stream).await.unwrap();
            let service = service_fn(|request: http::Request<Incoming>| {
                let second = Arc::clone(&second);
                async move {
                    if request.uri().path() == "/first" {
                        second.notified().await;
                    }
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    let sender = identity.trusting();
    assert_eq!(sender.send(|| request(url(&receiver, "/"))).await.fault, Fault::None);
    let (first, other) = tokio::join!(
        sender.send(|| request(url(&receiver, "/first"))),
        sender.send(|| request(url(&receiver, "/other")))
    );
    for outcome in [first, other] {
        assert_eq!((outcome.fault, outcome.http_status), (Fault::None, 200), "{outcome:?}");
        assert_eq!(*outcome.remote_address, *receiver.address.to_string());
    }
    assert_eq!(receiver.connections(), 2);
    closed.notified().await;
}
