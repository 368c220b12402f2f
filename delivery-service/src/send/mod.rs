//! Sends requests to receivers: the room in which HTTP is spoken. What an attempt comes to is data,
//! an `Outcome`, never an error.
//!
//! Connections are pooled and go only where the egress rules allow. Redirects are not followed. At
//! least once: a request over a connection that was used before and breaks without a byte of answer
//! is sent again at once, on a fresh one, within the same budget. One that waits for a new connection
//! takes another that becomes free, when connecting takes long.

mod answer;
mod connection;
mod failure;
mod guard;
mod origin;
mod parts;
mod pool;
pub mod spare;
mod stream;
mod tls;

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use common::{
    address::Rules,
    clock::{Clock, Time},
};
use http::HeaderMap;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use self::{
    answer::{Answer, End},
    connection::{Broken, Http1, Http2, Peer},
    failure::Failure,
    guard::Guard,
    origin::Origin,
    parts::{Parts, Sent, origin_end},
    pool::{Pool, Taken},
    stream::Stream,
};
pub use self::{pool::Limits, tls::TlsError};
use crate::delivery::Fault;

/// A request as it goes out: always a POST.
#[derive(Clone)]
pub struct Request {
    /// Absolute, http or https, no fragment.
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For all of it, from connect to the answer's last byte.
    pub timeout: Duration,
}

/// What a request came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub start: Time,
    pub duration: Duration,
    /// 0 when no answer came.
    pub http_status: u16,
    /// `Fault::None` is success.
    pub fault: Fault,
    /// In words, such as "connection refused by 203.0.113.7:443".
    pub message: String,
    /// The first 1,024 bytes of the answer's body.
    pub response_body: Bytes,
    /// The address that was connected to; empty when there was none.
    pub remote_address: Arc<str>,
    /// What the answer asked for with Retry-After, on 429 and 503.
    pub retry_after: Option<Duration>,
}

/// What an operator may set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From the name's resolution to the end of TLS' handshake.
    pub connect_timeout: Duration,
    /// A PEM file of roots beside the system's.
    pub ca: Option<PathBuf>,
    pub limits: Limits,
}

/// Sends requests. Shared by all lanes.
pub struct Sender {
    guard: Guard,
    tls: TlsConnector,
    pool: Arc<Pool>,
    clock: Clock,
    connect_timeout: Duration,
}

/// How far a request has come.
#[derive(Default)]
struct Progress {
    phase: Phase,
    /// The address that is connected to, or tried.
    address: Option<SocketAddr>,
    /// The same in words, once it is connected to.
    shown: Option<Arc<str>>,
    answer: Answer,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    #[default]
    Resolve,
    Connect,
    Handshake,
    Exchange,
}

/// A request, as far as it comes without waiting.
enum Begun {
    /// It is on its way over a connection.
    Sent(Sent),
    /// There is no connection for it yet.
    Unsent(Box<Parts>),
}

/// An exchange without a whole answer.
struct Lost {
    failure: Failure,
    /// Whether the connection ended without a byte of answer.
    unheard: bool,
}

/// How often the pool is swept.
const SWEEP: Duration = Duration::from_secs(5);

/// How long connecting may take until the pool is looked at again, time after time. (A SYN that is lost is
/// sent again after a second.)
const PATIENCE: Duration = Duration::from_millis(250);

impl Default for Settings {
    fn default() -> Self {
        let limits = Limits {
            idle_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(5 * 60),
            idle_per_host: 1_024,
            idle: 4096,
        };
        Self { connect_timeout: Duration::from_secs(5), ca: None, limits }
    }
}

impl Sender {
    /// To be called in a runtime. The rules stand for good: other rules are another sender.
    pub fn new(rules: Rules, settings: Settings, clock: Clock) -> Result<Self, TlsError> {
        let tls = tls::connector(settings.ca.as_deref())?;
        let pool = Arc::new(Pool::new(settings.limits));
        tokio::spawn(sweep(Arc::downgrade(&pool)));
        Ok(Self { guard: Guard::new(rules), tls, pool, clock, connect_timeout: settings.connect_timeout })
    }

    /// Makes and sends a request; makes it once more when a used connection turns out to have closed.
    /// Dropped before its end, it closes its connection.
    pub async fn send(&self, make: impl Fn() -> Request) -> Outcome {
        match self.send_while(make, || true).await {
            Some(outcome) => outcome,
            None => unreachable!("it may be sent"),
        }
    }

    /// The same while it may be sent, as it may at first: that is asked again when it has waited for a connection.
    /// None: it was not sent, or is not sent once more.
    pub async fn send_while(&self, make: impl Fn() -> Request, may: impl Fn() -> bool) -> Option<Outcome> {
        let start = self.clock.now();
        let begun = Instant::now();
        let mut progress = Progress::default();
        let request = make();
        let timeout = request.timeout;
        // What needs no waiting is done before: the future, which every attempt holds, is small without it.
        let first = self.begin(request);
        let performed = self.perform(first, make, may, start, &mut progress);
        let ended = match timeout_at(begun + timeout, performed).await {
            Ok(ended) => ended.transpose()?,
            Err(_) => Err(progress.timed_out(timeout)),
        };
        let status = progress.answer.status;
        let (fault, message) = match ended {
            Ok(()) if (200..300).contains(&status) => (Fault::None, String::new()),
            Ok(()) => (Fault::Status, format!("answered {status}")),
            Err(failure) => (failure.fault, failure.message),
        };
        Some(Outcome {
            start,
            duration: begun.elapsed(),
            http_status: status,
            fault,
            message,
            retry_after: progress.answer.retry_after,
            remote_address: progress.connected(),
            response_body: progress.answer.into_body(),
        })
    }

    /// Sends a request over a connection that has been used before, if there is one.
    fn begin(&self, request: Request) -> Result<Begun, Failure> {
        let parts = Parts::of(request)?;
        Ok(match self.pool.take(parts.key(), Instant::now()) {
            Some(over) => Begun::Sent(parts.send(over)),
            None => Begun::Unsent(Box::new(parts)),
        })
    }

    /// None: it may no longer be sent.
    async fn perform(
        &self,
        first: Result<Begun, Failure>,
        make: impl Fn() -> Request,
        may: impl Fn() -> bool,
        now: Time,
        progress: &mut Progress,
    ) -> Result<Option<()>, Failure> {
        let mut begun = first?;
        let mut again = false;
        // One place that exchanges, for used and fresh connections: the future holds it once.
        loop {
            let (sent, used) = match begun {
                Begun::Sent(sent) => (sent, true),
                Begun::Unsent(parts) => {
                    // Boxed, since it is large and rare.
                    let (over, used) = Box::pin(self.connection(parts.key(), !again, progress)).await?;
                    if !may() {
                        return Ok(None);
                    }
                    (parts.send(over), used)
                }
            };
            match self.exchange(sent, now, progress).await {
                Err(Lost { unheard: true, .. }) if used => {
                    *progress = Progress::default();
                    begun = Begun::Unsent(Box::new(Parts::of(make())?));
                    again = true;
                }
                ended => return ended.map(Some).map_err(|lost| lost.failure),
            }
        }
    }

    /// A new connection; or, if that may be, one that has become free while connecting takes long, and true.
    async fn connection(
        &self,
        key: &str,
        or_used: bool,
        progress: &mut Progress,
    ) -> Result<(Taken, bool), Failure> {
        let origin = Origin::parse(key).map_err(|what| unusable(&what))?;
        let until = Instant::now() + self.connect_timeout;
        let made = {
            let mut connect = pin!(timeout_at(until, self.connect(origin, progress)));
            loop {
                match timeout(PATIENCE, &mut connect).await {
                    Ok(made) => break made,
                    Err(_) if !or_used => {}
                    Err(_) => {
                        if let Some(over) = self.pool.take(key, Instant::now()) {
                            return Ok((over, true));
                        }
                    }
                }
            }
        };
        let made = made.unwrap_or_else(|_| Err(progress.timed_out(self.connect_timeout)));
        Ok((made?, false))
    }

    /// A new connection.
    async fn connect(&self, origin: Origin, progress: &mut Progress) -> Result<Taken, Failure> {
        let addresses = self.guard.addresses(&origin).await?;
        progress.phase = Phase::Connect;
        progress.address = addresses.first().map(|address| SocketAddr::new(*address, origin.port));
        let (stream, address) = self.guard.connect(&addresses, origin.port).await?;
        progress.phase = Phase::Handshake;
        progress.address = Some(address);
        let (stream, http2) = if origin.tls {
            let name = origin.server_name();
            let name = name.ok_or_else(|| Failure::new(Fault::Tls, "no certificate can name the host"))?;
            let stream =
                self.tls.connect(name, stream).await.map_err(|error| Failure::tls(address, &error))?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (Stream::tls(stream), http2)
        } else {
            (Stream::plain(stream), false)
        };
        let born = Instant::now();
        let peer = Peer { origin, address, shown: address.to_string().into(), born };
        let failed = |error| Failure::exchange(address, &error, false);
        if !http2 {
            return Ok(Taken::Http1(Http1::new(stream, peer).await.map_err(failed)?));
        }
        let (connection, place) = Http2::new(stream, peer).await.map_err(failed)?;
        self.pool.share(connection, born);
        Ok(Taken::Http2(place))
    }

    async fn exchange(&self, sent: Sent, now: Time, progress: &mut Progress) -> Result<(), Lost> {
        match sent {
            Sent::Http1(mut connection, answering) => {
                progress.exchanges(&connection.peer);
                let end = connection.hear(answering, &mut progress.answer, now).await;
                let end = end.map_err(|broken| Lost::of(connection.peer.address, broken))?;
                // A connection with more of an answer than is read is closed.
                if end == End::Whole && connection.is_reusable().await {
                    self.pool.put(connection, Instant::now());
                }
            }
            Sent::Http2(place, answering) => {
                progress.exchanges(place.peer());
                place.hear(answering, &mut progress.answer, now).await.map_err(|broken| {
                    self.pool.retire(&place);
                    Lost::of(place.peer().address, broken)
                })?;
            }
        }
        Ok(())
    }
}

impl Lost {
    fn of(address: SocketAddr, broken: Broken) -> Self {
        let failure = Failure::exchange(address, &broken.error, broken.heard);
        let unheard = failure.fault == Fault::Disconnected && !broken.heard;
        Self { failure, unheard }
    }
}

impl Progress {
    /// The address that was connected to.
    fn connected(&mut self) -> Arc<str> {
        let address = self.address.filter(|_| self.phase > Phase::Connect);
        let shown = self.shown.take().filter(|_| address.is_some());
        shown.or_else(|| Some(address?.to_string().into())).unwrap_or_default()
    }

    /// A request is on its way to this peer.
    fn exchanges(&mut self, peer: &Peer) {
        self.phase = Phase::Exchange;
        self.address = Some(peer.address);
        self.shown = Some(Arc::clone(&peer.shown));
    }

    /// `limit` has passed.
    fn timed_out(&self, limit: Duration) -> Failure {
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        let message = match self.phase {
            Phase::Resolve => {
                return Failure::new(Fault::Dns, format!("the name was not resolved within {limit:?}"));
            }
            Phase::Connect => format!("no connection to {address} within {limit:?}"),
            Phase::Handshake => format!("no TLS with {address} within {limit:?}"),
            Phase::Exchange if self.answer.status == 0 => {
                format!("no answer from {address} within {limit:?}")
            }
            Phase::Exchange => format!("the answer of {address} was not whole within {limit:?}"),
        };
        Failure::new(Fault::Timeout, message)
    }
}

/// Sweeps a pool for as long as it has a sender.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep(Instant::now());
    }
}

/// Without headers, body and all of the URL but its host: they hold secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = &self.url[..origin_end(&self.url)];
        write!(f, "Request({origin}, {} headers, {} bytes)", self.headers.len(), self.body.len())
    }
}

fn unusable(what: &str) -> Failure {
    Failure::new(Fault::Connect, what)
}
