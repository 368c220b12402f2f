//! What the load generator can be told.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};

/// Which of its processes this is: the generator starts the others itself.
pub enum Role {
    Receiver,
    /// A service, and where it adds events to a stream before it answers: a Redis and a key.
    Empty(Option<(String, String)>),
}

/// Loads a pair of services and reports what it takes: rates, latencies, CPU, memory
#[derive(Debug, Clone, Parser)]
#[command(name = "load")]
pub struct Args {
    /// One after the other, on the same services
    #[arg(required = true)]
    pub workloads: Vec<Name>,

    /// Where the services keep what they own
    #[arg(long, default_value = "embedded")]
    pub store: Store,

    /// A Redis of one's own, instead of one that is started here with an append-only file
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,

    /// Services that run already: both addresses
    #[arg(long, value_name = "IP:PORT", requires = "delivery_addr")]
    pub config_addr: Option<SocketAddr>,
    #[arg(long, value_name = "IP:PORT", requires = "config_addr")]
    pub delivery_addr: Option<SocketAddr>,

    /// How to publish
    #[arg(long, default_value = "streamed")]
    pub publish: Mode,

    /// Publishers: callers with one request under way each, or streams [default: 256, batched 64, streams 4]
    #[arg(long)]
    pub callers: Option<usize>,

    /// Events in one call, when batched
    #[arg(long, default_value = "100")]
    pub batch: usize,

    /// Events of a stream without an answer
    #[arg(long, default_value = "1000")]
    pub window: usize,

    /// Events a second, whatever the answers take (an open loop); without it, as fast as they come back
    #[arg(long)]
    pub rate: Option<f64>,

    /// Publishing ends after so many seconds …
    #[arg(long, default_value = "10")]
    pub seconds: f64,

    /// … or so many events
    #[arg(long, default_value = "10000000")]
    pub events: u64,

    /// Publishers pause while so many deliveries are under way
    #[arg(long, default_value = "20000")]
    pub ahead: u64,

    /// Webhooks of `many`
    #[arg(long, default_value = "100000")]
    pub webhooks: usize,

    /// Deliveries that wait in `backlog`
    #[arg(long, default_value = "200000")]
    pub backlog: u64,

    /// Seconds for the machine's limits, half of them before a workload, half after; 0 leaves them out
    #[arg(long, default_value = "3")]
    pub raw_seconds: f64,

    /// JSON to standard output, a line for each workload
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// 100 webhooks in 10 accounts, one matches each event
    Steady,
    /// 100 webhooks in 10 accounts, ten match each event
    Fanout,
    /// No webhook matches
    Miss,
    /// 100,000 webhooks in 10,000 accounts, evenly hit
    Many,
    /// A receiver that hung for 200,000 deliveries answers again, others go on at 100/s
    Backlog,
    /// All kinds of events, JSON and XML, 1 % of the receivers hang
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    Embedded,
    Redis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Unary,
    Batched,
    Streamed,
}

impl Role {
    /// By the process' first argument.
    pub fn of_process() -> Option<Self> {
        match std::env::args().nth(1)?.as_str() {
            "receiver" => Some(Self::Receiver),
            "empty" => Some(Self::Empty(std::env::args().nth(2).zip(std::env::args().nth(3)))),
            _ => None,
        }
    }
}

impl Args {
    pub fn callers(&self) -> usize {
        let usual = match self.publish {
            Mode::Unary => 256,
            Mode::Batched => 64,
            Mode::Streamed => 4,
        };
        self.callers.unwrap_or(usual).max(1)
    }
}

/// The name of a value, as it is given.
pub fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
