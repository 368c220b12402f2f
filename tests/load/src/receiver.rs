//! The receivers' process: a bare HTTP server that answers 200, and keeps count of what arrived, when
//! and whether for the first time. What it is asked comes by standard input, a word a line; each is
//! answered by a line of JSON.
//!
//! A path is `/CLASS/SLOT`: class `n` answers at once, `g` waits behind the gate, `h` hangs, `r` is the
//! raw client's. The event's id says the rest: `RUN.NUMBER.TIME`, the time in µs.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use crate::report::{Latency, histogram, latencies};

/// Bits that tell which deliveries have arrived: events × slots.
const CAPACITY: u64 = 1 << 28;
/// Histograms, so that connections seldom meet at one.
const SHARDS: usize = 16;
/// Longer than any receiver is waited for.
const HANGS: Duration = Duration::from_secs(90);

/// What has arrived since the run began.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Arrived {
    /// Deliveries, each once.
    pub distinct: u64,
    /// All requests.
    pub requests: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// When the last one did, µs.
    pub last_us: u64,
    /// Deliveries of class `g`, and when the last one came.
    pub gated: u64,
    pub gated_us: u64,
    /// Requests of class `h`: nothing else counts them.
    pub hung: u64,
}

struct Counts {
    run: AtomicU64,
    slots: AtomicU64,
    seen: Vec<AtomicU64>,
    distinct: AtomicU64,
    requests: AtomicU64,
    gated: AtomicU64,
    gated_us: AtomicU64,
    hung: AtomicU64,
    bytes: AtomicU64,
    last_us: AtomicU64,
    latency: Vec<Mutex<Histogram<u64>>>,
    /// More events than there is room for: nothing can be said of them.
    overflowed: AtomicBool,
}

pub async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("{}", listener.local_addr()?);
    let counts = Arc::new(Counts::new()?);
    let (gate, gated) = watch::channel(true);
    tokio::spawn(accept(listener, counts.clone(), gated));
    let mut asked = lines();
    while let Some(line) = asked.recv().await {
        let mut words = line.split(' ');
        match words.next() {
            Some("reset") => {
                let mut number = || words.next().and_then(|word| word.parse().ok()).context("a number");
                counts.reset(number()?, number()?);
            }
            Some("gate") => drop(gate.send(words.next() == Some("open"))),
            Some("forget") => counts.forget_latency(),
            Some("latency") => {
                println!("{}", serde_json::to_string(&counts.latency()?)?);
                continue;
            }
            _ => {}
        }
        println!("{}", serde_json::to_string(&counts.arrived()?)?);
    }
    Ok(())
}

/// What is asked by standard input; it ends with the generator.
pub fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

impl Counts {
    fn new() -> anyhow::Result<Self> {
        let mut latency = Vec::new();
        for _ in 0..SHARDS {
            latency.push(Mutex::new(histogram()?));
        }
        Ok(Self {
            run: AtomicU64::default(),
            slots: AtomicU64::new(1),
            seen: (0..CAPACITY / 64).map(|_| AtomicU64::default()).collect(),
            distinct: AtomicU64::default(),
            requests: AtomicU64::default(),
            gated: AtomicU64::default(),
            gated_us: AtomicU64::default(),
            hung: AtomicU64::default(),
            bytes: AtomicU64::default(),
            last_us: AtomicU64::default(),
            latency,
            overflowed: AtomicBool::default(),
        })
    }

    fn reset(&self, run: u64, slots: u64) {
        // What is still under way of the run before does not count.
        self.run.store(run, Relaxed);
        self.slots.store(slots.max(1), Relaxed);
        for word in &self.seen {
            if word.load(Relaxed) != 0 {
                word.store(0, Relaxed);
            }
        }
        for count in [&self.distinct, &self.requests, &self.gated, &self.hung, &self.bytes, &self.last_us] {
            count.store(0, Relaxed);
        }
        self.forget_latency();
    }

    fn forget_latency(&self) {
        self.latency.iter().for_each(|shard| shard.lock().reset());
    }

    fn arrived(&self) -> anyhow::Result<Arrived> {
        anyhow::ensure!(!self.overflowed.load(Relaxed), "more events than the receiver can tell apart");
        Ok(Arrived {
            distinct: self.distinct.load(Relaxed),
            requests: self.requests.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            last_us: self.last_us.load(Relaxed),
            gated: self.gated.load(Relaxed),
            gated_us: self.gated_us.load(Relaxed),
            hung: self.hung.load(Relaxed),
        })
    }

    /// From publishing to arrival, but for class `g`. It takes a while.
    fn latency(&self) -> anyhow::Result<Latency> {
        let mut all = histogram()?;
        for shard in &self.latency {
            all.add(&*shard.lock())?;
        }
        Ok(latencies(&all))
    }

    fn note(&self, class: u8, slot: u64, event: &[u8], bytes: u64, shard: usize) {
        let mut parts = event.split(|byte| *byte == b'.').map(number);
        let mut part = || parts.next().flatten().unwrap_or_default();
        let (run, n, sent_us) = (part(), part(), part());
        if run != self.run.load(Relaxed) {
            return;
        }
        if class == b'h' {
            self.hung.fetch_add(1, Relaxed);
            return;
        }
        let now = now_us();
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        let bit = n * self.slots.load(Relaxed) + slot;
        let Some(word) = self.seen.get((bit / 64) as usize) else {
            self.overflowed.store(true, Relaxed);
            return;
        };
        if word.fetch_or(1 << (bit % 64), Relaxed) & (1 << (bit % 64)) != 0 {
            return;
        }
        self.distinct.fetch_add(1, Relaxed);
        self.last_us.store(now, Relaxed);
        if class == b'g' {
            self.gated.fetch_add(1, Relaxed);
            self.gated_us.store(now, Relaxed);
        } else {
            self.latency[shard % SHARDS].lock().saturating_record(now.saturating_sub(sent_us));
        }
    }
}

async fn accept(listener: TcpListener, counts: Arc<Counts>, gate: watch::Receiver<bool>) {
    let mut connections = 0;
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        connections += 1;
        let (counts, gate, shard) = (counts.clone(), gate.clone(), connections);
        let service = service_fn(move |request| receive(request, counts.clone(), gate.clone(), shard));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn receive(
    request: Request<Incoming>,
    counts: Arc<Counts>,
    mut gate: watch::Receiver<bool>,
    shard: usize,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    let path = head.uri.path().as_bytes();
    let class = path.get(1).copied().unwrap_or_default();
    let slot = path.get(3..).and_then(number).unwrap_or_default();
    let event = head.headers.get("x-event-id").map_or(&[][..], |value| value.as_bytes());
    counts.note(class, slot, event, bytes as u64, shard);
    match class {
        // Closed when the process ends: then nobody waits.
        b'g' => drop(gate.wait_for(|open| *open).await),
        b'h' => tokio::time::sleep(HANGS).await,
        _ => {}
    }
    Ok(Response::new(Empty::new()))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// µs since 1970: the clock that the processes share.
#[allow(clippy::disallowed_methods, reason = "a measurement of real time")]
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
