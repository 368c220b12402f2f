//! Receivers that do what a test tells them, byte by byte, on 127.0.0.1.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{
    address::Rules,
    clock::{Clock, Time},
};
use delivery_service::send::{Request, Sender, Settings};
use http::{HeaderMap, HeaderValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// When tests take place: Sun, 06 Nov 1994 08:49:37 GMT.
pub const NOW: Time = Time(784_111_777_000);

pub fn development() -> Rules {
    Rules { development: true, ..Rules::default() }
}

pub fn sender() -> Sender {
    sender_with(development(), Settings::default())
}

pub fn sender_with(rules: Rules, settings: Settings) -> Sender {
    Sender::new(rules, settings, Clock::by_hand(NOW)).unwrap()
}

pub fn request(url: impl Into<String>) -> Request {
    let headers =
        HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
    Request {
        url: url.into(),
        headers,
        body: Bytes::from_static(b"a body"),
        timeout: Duration::from_secs(10),
    }
}

/// A receiver under a script.
pub struct Receiver {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Receiver {
    /// Runs `serve` for each connection; its second argument counts them, from 1.
    pub async fn new<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(serve(stream, number));
            }
        });
        Self { address, connections }
    }

    /// Answers each request of each connection with `answer`, and tells what it read.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (told, requests) = mpsc::unbounded_channel();
        let answer = Arc::new(answer.into());
        let receiver = Self::new(move |mut stream, _| {
            let (told, answer) = (told.clone(), Arc::clone(&answer));
            async move {
                while let Some(request) = read_request(&mut stream).await {
                    let _ = told.send(request);
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        (receiver.await, requests)
    }

    /// Reads a request, sends `answer`, and closes.
    pub async fn closing_after(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        let receiver = Self::new(move |mut stream, _| {
            let answer = Arc::clone(&answer);
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(&answer).await;
            }
        });
        receiver.await
    }

    /// Reads a request, sends `answer`, and does nothing until the other end closes.
    pub async fn hanging_after(answer: impl Into<Vec<u8>>) -> (Self, mpsc::UnboundedReceiver<()>) {
        let (told, closed) = mpsc::unbounded_channel();
        let answer = Arc::new(answer.into());
        let receiver = Self::new(move |mut stream, _| {
            let (told, answer) = (told.clone(), Arc::clone(&answer));
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.read(&mut [0]).await;
                let _ = told.send(());
            }
        });
        (receiver.await, closed)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A request's head and body; `None` when the connection ends first.
pub async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}
