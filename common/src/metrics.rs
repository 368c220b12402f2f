//! Numbers for Prometheus: an endpoint that serves GET /metrics, and the kinds of numbers that services
//! count with. Counting is one or two atomic additions: labels are resolved when a number is made, no
//! lock is taken, and nothing is allocated. No label is ever a webhook, an account or a URL.

use std::{
    array,
    collections::HashMap,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, exemplar::Exemplar, info::Info},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

pub use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What all names begin with.
const PREFIX: &str = "hookline";
/// Readers at once; others wait.
const READERS: usize = 16;
/// How long a reader may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves what `register` puts into the registry, until the process ends: how a service drains can be
/// watched too. Without an address nothing is served, and counting goes on all the same.
pub async fn serve(listen: Option<SocketAddr>, register: impl FnOnce(&mut Registry)) -> anyhow::Result<()> {
    let Some(listen) = listen else { return Ok(()) };
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register("build", "What runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    register(&mut registry);
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen} for metrics"))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "metrics are served");
    tokio::spawn(accept(listener, Arc::new(registry)));
    Ok(())
}

async fn accept(listener: TcpListener, registry: Arc<Registry>) {
    let room = Arc::new(Semaphore::new(READERS));
    while let Ok(place) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let registry = registry.clone();
                tokio::spawn(async move {
                    converse(stream, &registry).await;
                    drop(place);
                });
            }
            // Such as too many open files.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn converse(stream: TcpStream, registry: &Registry) {
    let answer = service_fn(async |request| Ok::<_, Infallible>(answer(&request, registry)));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // A reader that breaks off asks again.
    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
}

fn answer<B>(request: &Request<B>, registry: &Registry) -> Response<Full<Bytes>> {
    let empty = |status| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return empty(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Ok(shown) = text(registry) else { return empty(StatusCode::INTERNAL_SERVER_ERROR) };
    let mut response = Response::new(Full::from(shown));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(OPEN_METRICS));
    response
}

/// All that is in the registry, as it is served.
pub fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// Counters under one name, told apart by a label with few values, all of them known.
#[derive(Debug, Clone)]
pub struct Counters<const N: usize> {
    label: &'static str,
    values: [&'static str; N],
    counters: Arc<[Counter; N]>,
}

impl<const N: usize> Counters<N> {
    pub fn new(label: &'static str, values: [&'static str; N]) -> Self {
        Self { label, values, counters: Arc::new(array::from_fn(|_| Counter::default())) }
    }

    /// Counts `count` more under the value at `index`; beyond the last there is none to count under.
    pub fn add(&self, index: usize, count: u64) {
        if count > 0
            && let Some(counter) = self.counters.get(index)
        {
            counter.inc_by(count);
        }
    }

    /// In the order of the values.
    pub fn get(&self) -> [u64; N] {
        array::from_fn(|index| self.counters[index].get())
    }
}

impl<const N: usize> EncodeMetric for Counters<N> {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        for (value, counter) in self.values.iter().zip(&*self.counters) {
            counter.encode(encoder.encode_family(&[(self.label, *value)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// How long something takes, counted up to each of its bounds and beyond.
#[derive(Debug, Clone)]
pub struct Durations {
    /// In microseconds, growing.
    bounds: &'static [u64],
    counts: Arc<[AtomicU64]>,
    sum_us: Arc<AtomicU64>,
}

impl Durations {
    pub fn new(bounds_us: &'static [u64]) -> Self {
        let counts = (0..=bounds_us.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds: bounds_us, counts, sum_us: Arc::default() }
    }

    pub fn add(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = self.bounds.partition_point(|bound| *bound < us);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let seconds = |us: u64| us as f64 / 1e6;
        let bounds = self.bounds.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let exemplars: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;
        encoder.encode_histogram(seconds(self.sum_us.load(Ordering::Relaxed)), count, &buckets, exemplars)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A number that is asked for when it is shown; 0 until someone knows it.
#[derive(Clone, Default)]
pub struct Asked(Arc<OnceLock<Answer>>);

type Answer = Box<dyn Fn() -> usize + Send + Sync>;

impl Asked {
    /// Says who knows it: the first who does stays.
    pub fn ask(&self, answer: impl Fn() -> usize + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(answer));
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

impl EncodeMetric for Asked {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        encoder.encode_gauge(&self.0.get().map_or(0, |answer| answer()))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

#[cfg(test)]
mod tests;
