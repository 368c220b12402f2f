//! What a run came to, as a table for people and as JSON for machines.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{measure::Sample, pace::Evenness};

/// Percentiles, in ms.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub workload: String,
    pub store: String,
    pub publish: String,
    pub seconds: f64,
    pub accepted: u64,
    pub deliveries: u64,
    /// Deliveries to receivers that hang, which nobody waited for, and the requests that these have had.
    pub hanging: Option<(u64, u64)>,
    /// Requests beyond one a delivery.
    pub repeated: u64,
    pub body_bytes: u64,
    pub accepted_per_second: f64,
    pub delivered_per_second: f64,
    /// The machine's limits, and what share of them was reached.
    pub raw_posts_per_second: Option<f64>,
    pub share_of_raw: Option<f64>,
    /// CPU of a bare POST, of its client and its receiver, µs.
    pub raw_post_us: Option<f64>,
    pub raw_events_per_second: Option<f64>,
    pub share_of_raw_events: Option<f64>,
    /// CPU of Redis for an entry of a bare stream, µs.
    pub raw_stream_us: Option<f64>,
    /// Publishing at the same rate to the answer of a service that does nothing.
    pub raw_answer: Option<Latency>,
    /// The same of one that adds the event to a Redis stream before it answers, and does nothing else.
    pub raw_stored: Option<Latency>,
    /// The machine's own, meanwhile.
    pub pace: Option<Evenness>,
    /// Publishing to the answer.
    pub answer: Latency,
    /// Publishing to arrival.
    pub arrival: Latency,
    pub processes: Vec<Cost>,
    /// CPU of services and store, µs for each delivery (each event, when nothing is delivered).
    pub cpu_us: f64,
    pub store_bytes: Option<u64>,
    pub redis_commands_per_delivery: Option<f64>,
    pub wire_bytes_per_delivery: Option<f64>,
    pub backlog: Option<Backlog>,
}

#[derive(Debug, Serialize)]
pub struct Cost {
    pub name: &'static str,
    pub cpu_seconds_per_10_000: f64,
    pub rss_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Backlog {
    pub deliveries: u64,
    pub drained_per_second: f64,
    pub share_of_steady: f64,
    /// Publishing to arrival at other receivers at 100 events/s.
    pub live_before: Latency,
    pub live_meanwhile: Latency,
    /// The same while nothing is drained, and a bare client posts to the same receiver as fast as it can.
    pub live_beside_posts: Option<Latency>,
}

/// Of times from 1 µs to 10 min; longer ones count as 10 min.
pub fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

/// Of a histogram in µs.
pub fn latencies(of: &Histogram<u64>) -> Latency {
    let ms = |quantile| of.value_at_quantile(quantile) as f64 / 1_000.0;
    Latency { p50: ms(0.5), p90: ms(0.9), p99: ms(0.99), p999: ms(0.999), max: of.max() as f64 / 1_000.0 }
}

impl Report {
    /// What it cost, between two samples.
    pub fn costs(&mut self, before: &Sample, after: &Sample) {
        let count = if self.deliveries == 0 { self.accepted } else { self.deliveries }.max(1) as f64;
        for (before, after) in before.processes.iter().zip(&after.processes) {
            let cpu = after.cpu_seconds - before.cpu_seconds;
            if !["receiver", "generator"].contains(&after.name) {
                self.cpu_us += cpu / count * 1e6;
            }
            let cost = Cost {
                name: after.name,
                cpu_seconds_per_10_000: cpu / count * 1e4,
                rss_bytes: after.rss_bytes,
            };
            self.processes.push(cost);
        }
        let each =
            |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?) as f64 / count);
        self.store_bytes = after.store_bytes;
        self.redis_commands_per_delivery = each(before.redis_commands, after.redis_commands);
        self.wire_bytes_per_delivery = each(before.wire_bytes, after.wire_bytes);
    }

    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
        } else {
            println!("{}", self.table());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut rows = vec![
            format!("{}, {}, {}", self.workload, self.store, self.publish),
            row("events accepted", format!("{} in {:.1} s", self.accepted, self.seconds)),
            row("accepted/s", format!("{:.0}", self.accepted_per_second)),
            row("delivered/s", format!("{:.0}", self.delivered_per_second)),
        ];
        let share = |rate: Option<f64>, share: Option<f64>| {
            Some(format!("{:.0}/s, of which that is {:.1} %", rate?, share? * 100.0))
        };
        let raw = share(self.raw_posts_per_second, self.share_of_raw);
        rows.extend(raw.map(|text| row("bare POSTs", text)));
        rows.extend(self.raw_post_us.map(|us| row("a bare POST", format!("{us:.1} us of CPU"))));
        let raw = share(self.raw_events_per_second, self.share_of_raw_events);
        rows.extend(raw.map(|text| row("bare events", text)));
        rows.extend(self.raw_answer.map(|raw| row("bare answer", raw.text())));
        rows.extend(self.raw_stored.map(|raw| row("bare answer, stored", raw.text())));
        rows.push(row("publish to answer", self.answer.text()));
        if self.deliveries > 0 {
            rows.push(row("publish to arrival", self.arrival.text()));
            let all = format!("{}, all arrived, {} of them again", self.deliveries, self.repeated);
            rows.push(row("deliveries", all));
            if let Some((count, requests)) = self.hanging {
                let text = format!("{count}, {requests} requests; not waited for");
                rows.push(row("to those that hang", text));
            }
            rows.push(row("body", format!("{} B", self.body_bytes)));
        }
        rows.extend(self.pace.map(|pace| row("the same arithmetic", pace.text())));
        let times = |us: f64, bare: Option<f64>, what: &str| {
            bare.map_or_else(String::new, |bare| format!(", as much as {:.1} {what}", us / bare))
        };
        let posts = times(self.cpu_us, self.raw_post_us, "bare POSTs");
        rows.push(row("services and store", format!("{:.1} us of CPU each{posts}", self.cpu_us)));
        for cost in &self.processes {
            let (cpu, memory) = (cost.cpu_seconds_per_10_000, mib(cost.rss_bytes));
            let bare = self.raw_stream_us.filter(|_| cost.name == "redis");
            let entries = times(cpu * 100.0, bare, "entries of a bare stream");
            rows.push(row(cost.name, format!("{cpu:.3} s of CPU for 10,000, {memory} of memory{entries}")));
        }
        rows.extend(self.store_bytes.map(|bytes| row("store", mib(bytes))));
        let commands = self.redis_commands_per_delivery;
        rows.extend(commands.map(|count| row("Redis commands", format!("{count:.2} each"))));
        let raw = self.raw_stream_us;
        rows.extend(raw.map(|us| row("bare stream", format!("{us:.1} us of Redis each"))));
        let wire = self.wire_bytes_per_delivery;
        rows.extend(wire.map(|bytes| row("over loopback", format!("{bytes:.0} B each"))));
        if let Some(backlog) = &self.backlog {
            let drained = format!(
                "{} at {:.0}/s, {:.0} % of steady",
                backlog.deliveries,
                backlog.drained_per_second,
                backlog.share_of_steady * 100.0
            );
            rows.push(row("backlog drained", drained));
            rows.push(row("others before", backlog.live_before.text()));
            rows.push(row("others meanwhile", backlog.live_meanwhile.text()));
            rows.extend(backlog.live_beside_posts.map(|live| row("beside bare POSTs", live.text())));
        }
        rows.join("\n")
    }
}

impl Latency {
    fn text(&self) -> String {
        let Self { p50, p90, p99, p999, max } = self;
        format!("p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.1} ms")
    }
}

impl Evenness {
    fn text(&self) -> String {
        let Self { p50_us, p90, p99, max } = self;
        format!("p50 {p50_us:.1} us of CPU, p90 {p90:.1}, p99 {p99:.1}, max {max:.1} times that")
    }
}

fn row(name: &str, value: String) -> String {
    format!("  {name:<19} {value}")
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
