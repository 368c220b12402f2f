//! One connection to a receiver, by HTTP/1.1 or HTTP/2, and the exchange of a request for an answer.
//!
//! An HTTP/1.1 connection is driven by the task that sends on it, not by one of its own: that saves
//! two hops a request, and a request that is dropped takes its connection with it. While it waits in
//! the pool nobody drives it; that it has closed meanwhile shows as soon as it is used again.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use common::clock::Time;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::{
    answer::{Answer, End},
    failure::cause,
    origin::Origin,
    spare,
    stream::{Heard, Stream},
};

/// The longest head of an answer; answers of more than 100 headers are refused too.
const HEAD: usize = 64 * 1024;

/// Requests at once on one HTTP/2 connection: with more, another is opened, so that receivers behind
/// one host do not wait for each other.
const STREAMS: usize = 100;

/// What an HTTP/2 connection may send unread: of one answer, and of all.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How often an HTTP/2 connection with requests under way is asked whether it lives.
const PING: Duration = Duration::from_secs(10);

/// What goes over connections.
pub type Message = Request<Full<Bytes>>;

/// The answer's head, to come. Boxed: it is large, and who waits for it is smaller without.
pub type Answering = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

/// Where a connection leads and since when.
pub struct Peer {
    pub origin: Origin,
    pub address: SocketAddr,
    /// The same in words.
    pub shown: Arc<str>,
    pub born: Instant,
}

pub struct Http1 {
    pub peer: Peer,
    send: http1::SendRequest<Full<Bytes>>,
    drive: http1::Connection<TokioIo<Stream>, Full<Bytes>>,
    /// Until the connection has ended; it must not be driven after.
    open: bool,
    heard: Heard,
}

pub struct Http2 {
    pub peer: Peer,
    send: http2::SendRequest<Full<Bytes>>,
    /// Requests under way.
    busy: AtomicUsize,
    /// How many the receiver takes at once.
    streams: Arc<AtomicUsize>,
}

/// A place on an HTTP/2 connection, for one request.
pub struct Place(Arc<Http2>);

/// Why an exchange got no whole answer.
pub struct Broken {
    pub error: hyper::Error,
    /// Whether any of an answer had come.
    pub heard: bool,
}

impl Http1 {
    pub async fn new(stream: Stream, peer: Peer) -> hyper::Result<Box<Self>> {
        let heard = stream.heard();
        let (send, drive) = http1::Builder::new()
            .max_buf_size(HEAD)
            .max_header_size(HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Box::new(Self { peer, send, drive, open: true, heard }))
    }

    /// Sends a request, whose answer `hear` waits for.
    pub fn send(&mut self, message: Message) -> Answering {
        self.heard.forget();
        Box::pin(self.send.send_request(message))
    }

    /// Reads the answer to a request.
    pub async fn hear(
        &mut self,
        answering: Answering,
        answer: &mut Answer,
        now: Time,
    ) -> Result<End, Broken> {
        let result = self.converse(answering, answer, now).await;
        // A request that was never sent was not answered, whatever came before it.
        result.map_err(|error| Broken { heard: self.heard.anything() && !error.is_canceled(), error })
    }

    async fn converse(
        &mut self,
        mut answering: Answering,
        answer: &mut Answer,
        now: Time,
    ) -> hyper::Result<End> {
        let head = poll_fn(|cx| {
            drive(&mut self.drive, &mut self.open, cx);
            answering.as_mut().poll(cx).map_ok(|response| {
                answer.begin(&response, now);
                let (head, body) = response.into_parts();
                spare::take_back(head.headers);
                body
            })
        });
        let mut body = head.await?;
        poll_fn(|cx| match answer.poll_body(&mut body, cx) {
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => {
                drive(&mut self.drive, &mut self.open, cx);
                answer.poll_body(&mut body, cx)
            }
        })
        .await
    }

    /// Whether another request can go over it, once an answer has been read whole.
    pub async fn is_reusable(&mut self) -> bool {
        if self.open && !self.send.is_ready() {
            poll_fn(|cx| {
                drive(&mut self.drive, &mut self.open, cx);
                Poll::Ready(())
            })
            .await;
        }
        self.open && self.send.is_ready()
    }
}

/// Lets a connection go on. Whatever ends it reaches the request or the body, too.
fn drive(
    connection: &mut http1::Connection<TokioIo<Stream>, Full<Bytes>>,
    open: &mut bool,
    cx: &mut Context<'_>,
) {
    if *open && Pin::new(connection).poll(cx).is_ready() {
        *open = false;
    }
}

impl Http2 {
    /// A connection with a place on it.
    pub async fn new(stream: Stream, peer: Peer) -> hyper::Result<(Arc<Self>, Place)> {
        let (send, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(HEAD as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .handshake(TokioIo::new(stream))
            .await?;
        let streams = Arc::new(AtomicUsize::new(STREAMS));
        let taken = Arc::clone(&streams);
        // Ends once nobody can send on the connection and its last answer has been read.
        tokio::spawn(poll_fn(move |cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            taken.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled.map(|ended| {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP/2 connection has ended");
                }
            })
        }));
        let connection = Arc::new(Self { peer, send, busy: AtomicUsize::new(1), streams });
        Ok((Arc::clone(&connection), Place(connection)))
    }

    /// A place for one more request, if there is one.
    pub fn place(self: &Arc<Self>) -> Option<Place> {
        let most = self.streams.load(Ordering::Relaxed).min(STREAMS);
        if self.busy.fetch_add(1, Ordering::Relaxed) < most && !self.send.is_closed() {
            return Some(Place(Arc::clone(self)));
        }
        self.busy.fetch_sub(1, Ordering::Relaxed);
        None
    }

    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }
}

impl Place {
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Whether it is a place on that connection.
    pub fn is_on(&self, connection: &Arc<Http2>) -> bool {
        Arc::ptr_eq(&self.0, connection)
    }

    /// Sends a request, whose answer `hear` waits for.
    pub fn send(&self, message: Message) -> Answering {
        Box::pin(self.0.send.clone().send_request(message))
    }

    /// Reads the answer to a request.
    pub async fn hear(&self, answering: Answering, answer: &mut Answer, now: Time) -> Result<End, Broken> {
        let result = converse(answering, answer, now).await;
        // Other answers come over the connection too: it is this one's head that tells, or a reset.
        result.map_err(|error| Broken { heard: answer.status != 0 || is_reset(&error), error })
    }
}

async fn converse(answering: Answering, answer: &mut Answer, now: Time) -> hyper::Result<End> {
    let response = answering.await?;
    answer.begin(&response, now);
    let mut body: Incoming = response.into_body();
    poll_fn(|cx| answer.poll_body(&mut body, cx)).await
}

/// Whether the receiver has ended the request alone, having looked at it.
fn is_reset(error: &hyper::Error) -> bool {
    cause::<h2::Error>(error)
        .is_some_and(|error| error.is_reset() && error.reason() != Some(h2::Reason::REFUSED_STREAM))
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
