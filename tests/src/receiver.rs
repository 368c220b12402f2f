//! A real HTTP receiver on loopback: hands over each request as it arrives, and answers as it is told.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

/// How long `next` waits before the scenario has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

pub type Answer = Response<Full<Bytes>>;
type Answering = Arc<dyn Fn(Received) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

pub struct Receiver {
    address: SocketAddr,
    requests: Mutex<mpsc::UnboundedReceiver<Received>>,
    under_way: Arc<Gauge>,
    task: JoinHandle<()>,
}

/// How many requests are under way, and the most that ever were.
#[derive(Debug, Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Receiver {
    /// Answers 200 to everything.
    pub async fn start() -> Self {
        Self::answering(|_| async { answer(200) }).await
    }

    /// Answers as `answering` says.
    pub async fn answering<F, A>(answering: F) -> Self
    where
        F: Fn(Received) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        Self::on(SocketAddr::from(([127, 0, 0, 1], 0)), answering).await
    }

    /// The same at an address of one's own: a receiver that comes back.
    pub async fn on<F, A>(address: SocketAddr, answering: F) -> Self
    where
        F: Fn(Received) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1_024).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let under_way = Arc::new(Gauge::default());
        let answering: Answering = Arc::new(move |received| Box::pin(answering(received)));
        let task = tokio::spawn(accept(listener, sender, answering, under_way.clone()));
        Self { address, requests: Mutex::new(requests), under_way, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next request; the scenario has failed when none comes.
    pub async fn next(&self) -> Received {
        let mut requests = self.requests.lock().await;
        let next = tokio::time::timeout(PATIENCE, requests.recv()).await;
        next.expect("a request should have arrived").expect("the receiver has ended")
    }

    /// Requests that have arrived and were not taken.
    pub async fn arrived(&self) -> Vec<Received> {
        let mut requests = self.requests.lock().await;
        std::iter::from_fn(|| requests.try_recv().ok()).collect()
    }

    /// The most requests that were ever under way at once.
    pub fn most_under_way(&self) -> usize {
        self.under_way.most.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn answer(status: u16) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// A parameter of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let (_, value) =
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
        let mut bytes = Vec::new();
        let mut rest = value.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            if *first == b'%' {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
                rest = &after[2..];
            } else {
                bytes.push(*first);
                rest = after;
            }
        }
        Some(String::from_utf8(bytes).unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

async fn accept(
    listener: TcpListener,
    requests: mpsc::UnboundedSender<Received>,
    answering: Answering,
    under_way: Arc<Gauge>,
) {
    // The connections end with this task.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (requests, answering, under_way) = (requests.clone(), answering.clone(), under_way.clone());
        let service = service_fn(move |request| {
            receive(request, requests.clone(), answering.clone(), under_way.clone())
        });
        connections.spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn receive(
    request: http::Request<Incoming>,
    requests: mpsc::UnboundedSender<Received>,
    answering: Answering,
    under_way: Arc<Gauge>,
) -> Result<Answer, Infallible> {
    let now = under_way.now.fetch_add(1, Ordering::SeqCst) + 1;
    under_way.most.fetch_max(now, Ordering::SeqCst);
    let _leaves = Leaves(under_way);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|whole| whole.to_bytes()).unwrap_or_default();
    let received = Received {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: parts.headers,
        body,
        at: Instant::now(),
    };
    let _ = requests.send(received.clone());
    Ok(answering(received).await)
}

/// Counts a request out, also when its connection broke.
struct Leaves(Arc<Gauge>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}
