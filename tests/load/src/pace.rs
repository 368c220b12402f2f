//! How even the machine's pace is while a workload runs: the same arithmetic every few milliseconds, by the CPU time of
//! its own thread. What other processes take does not count in that; what slows all of them down does, such as a
//! host that gives its processors to others. No latency is more even than that.

use std::{
    hint::black_box,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

const EVERY: Duration = Duration::from_millis(10);
/// Of the arithmetic: some 20 µs, unless the machine is slow.
const STEPS: u64 = 20_000;

/// A thread that counts.
pub struct Pace {
    /// It ends when this is gone.
    runs: Sender<()>,
    thread: JoinHandle<anyhow::Result<Histogram<u64>>>,
}

/// What the arithmetic took.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Evenness {
    pub p50_us: f64,
    /// How many times as long as at p50.
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Pace {
    pub fn start() -> Self {
        let (runs, ends) = channel();
        Self { runs, thread: thread::spawn(move || count(&ends)) }
    }

    /// Of all the time since the start.
    pub fn end(self) -> anyhow::Result<Evenness> {
        drop(self.runs);
        let taken = self.thread.join().ok().context("the pace was not counted")??;
        let p50 = taken.value_at_quantile(0.5).max(1) as f64;
        let times = |ns: u64| ns as f64 / p50;
        Ok(Evenness {
            p50_us: p50 / 1e3,
            p90: times(taken.value_at_quantile(0.9)),
            p99: times(taken.value_at_quantile(0.99)),
            max: times(taken.max()),
        })
    }
}

/// In ns, until `ends`.
fn count(ends: &Receiver<()>) -> anyhow::Result<Histogram<u64>> {
    let mut taken = Histogram::new(3)?;
    loop {
        let before = cpu();
        black_box((0..STEPS).fold(black_box(1_u64), |x, n| x.wrapping_mul(6_364_136_223_846_793_005) ^ n));
        taken.record(cpu().saturating_sub(before).as_nanos() as u64)?;
        if ends.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return Ok(taken);
        }
    }
}

/// What this thread has had.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
