//! A run: the services and receivers are started once, then each workload has its webhooks made, is
//! published, waited for and reported.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::{
    args::{self, Args, Name},
    backlog,
    measure::sample,
    pace::Pace,
    pair::Pair,
    publish::{Published, publish},
    raw::{self, Limits},
    receiver::{Arrived, now_us},
    receivers::Receivers,
    report::{Latency, Report, latencies},
    setup,
    tickets::Tickets,
    workloads::Workload,
};

/// How often it is looked at what has arrived.
const LOOK: Duration = Duration::from_millis(50);
/// Looks between two lines of progress.
const LINE: u32 = 20;
/// How long nothing may arrive before the rest is given up.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(args: &Args) -> anyhow::Result<()> {
    let receivers = Receivers::start(&["receiver"]).await?;
    let mut pair = Pair::start(args).await?;
    for (n, &name) in args.workloads.iter().enumerate() {
        // Numbers that no other run on the same stores has had.
        let run = now_us() / 1_000 * 100 + n as u64 * 2;
        let report = match name {
            Name::Backlog => backlog::run(args, run, &mut pair, &receivers).await?,
            _ => workload(args, name, run, &mut pair, &receivers).await?,
        };
        report.print(args.json)?;
    }
    Ok(())
}

async fn workload(
    args: &Args,
    name: Name,
    run: u64,
    pair: &mut Pair,
    receivers: &Receivers,
) -> anyhow::Result<Report> {
    let workload = Arc::new(Workload::new(name, run, args.webhooks, receivers)?);
    let ids = setup::create(pair.config, pair.delivery, &workload.webhooks).await?;
    let any = ids.first().context("a workload has webhooks")?;
    let asks = args.raw_seconds > 0.0;
    let (mut limits, mut raw_events, mut raw_stored) = (Vec::new(), None, None);
    if asks && name != Name::Miss {
        limits.push(raw::limits(args.raw_seconds / 2.0, pair, receivers, any, &workload).await?);
    }
    if asks && (name == Name::Miss || args.rate.is_some()) {
        raw_events = Some(raw::events(args, &workload).await?);
        raw_stored = raw::stored(args, pair, &workload).await?;
    }
    receivers.reset(run, workload.slots).await?;
    let mut report = Report {
        workload: args::name(name),
        store: args::name(args.store),
        publish: args::name(args.publish),
        ..Report::default()
    };
    let (before, pace) = (sample(pair, receivers.pid).await?, Pace::start());
    let time = Duration::from_secs_f64(args.seconds);
    let tickets = Arc::new(Tickets::new(args.rate, args.events, time));
    let driven = drive(args, pair, receivers, workload.clone(), tickets).await?;
    report.flow(&driven);
    report.costs(&before, &sample(pair, receivers.pid).await?);
    report.pace = Some(pace.end()?);
    if !limits.is_empty() {
        limits.push(raw::limits(args.raw_seconds / 2.0, pair, receivers, any, &workload).await?);
        let mean = |of: fn(&Limits) -> Option<f64>| {
            Some(limits.iter().map(of).sum::<Option<f64>>()? / limits.len() as f64)
        };
        report.raw_posts_per_second = mean(|limits| Some(limits.posts_per_second));
        report.share_of_raw = report.raw_posts_per_second.map(|raw| report.delivered_per_second / raw);
        report.raw_post_us = mean(|limits| limits.post_us);
        report.raw_stream_us = mean(|limits| limits.stream_us);
    }
    if args.rate.is_some() {
        report.raw_answer = raw_events.map(|(_, answer)| answer);
        report.raw_stored = raw_stored;
    } else {
        report.raw_events_per_second = raw_events.map(|(rate, _)| rate);
        report.share_of_raw_events = raw_events.map(|(rate, _)| report.accepted_per_second / rate);
    }
    Ok(report)
}

/// What was published, and what arrived of it: everything.
pub struct Driven {
    pub accepted: u64,
    pub deliveries: u64,
    /// To receivers that hang.
    pub hanging: u64,
    pub answered: Histogram<u64>,
    pub publishing: Duration,
    /// To the last arrival.
    pub whole: Duration,
    pub arrived: Arrived,
    pub latency: Latency,
}

/// Publishes, and waits until all has arrived.
pub async fn drive(
    args: &Args,
    pair: &Pair,
    receivers: &Receivers,
    workload: Arc<Workload>,
    tickets: Arc<Tickets>,
) -> anyhow::Result<Driven> {
    let (began, began_us) = (Instant::now(), now_us());
    let published = Arc::new(Published::default());
    let publishing = publish(args, pair.delivery, workload, tickets.clone(), published.clone());
    let mut publishing = std::pin::pin!(publishing);
    let mut progress = Progress::new(receivers, &published);
    let answered = loop {
        tokio::select! {
            ended = &mut publishing => break ended?,
            () = tokio::time::sleep(LOOK) => {
                let ahead = progress.look().await?;
                tickets.pause(ahead > args.ahead);
            }
        }
    };
    let publishing = began.elapsed();
    while progress.look().await? > 0 {
        anyhow::ensure!(progress.since.elapsed() < PATIENCE, "lost: {}", progress.line());
        tokio::time::sleep(LOOK / 5).await;
    }
    let (arrived, latency) = (receivers.arrived().await?, receivers.latency().await?);
    let deliveries = published.deliveries.load(Relaxed);
    anyhow::ensure!(arrived.distinct <= deliveries, "more arrived than was accepted");
    Ok(Driven {
        accepted: published.events.load(Relaxed),
        deliveries,
        hanging: published.hanging.load(Relaxed),
        answered,
        publishing,
        whole: Duration::from_micros(arrived.last_us.saturating_sub(began_us)).max(publishing),
        arrived,
        latency,
    })
}

/// What has been accepted and has arrived, and a line of it every second.
struct Progress<'a> {
    receivers: &'a Receivers,
    published: &'a Published,
    looks: u32,
    accepted: u64,
    distinct: u64,
    /// When something arrived last.
    since: Instant,
    last: (Instant, u64, u64),
}

impl<'a> Progress<'a> {
    fn new(receivers: &'a Receivers, published: &'a Published) -> Self {
        let now = Instant::now();
        Self { receivers, published, looks: 0, accepted: 0, distinct: 0, since: now, last: (now, 0, 0) }
    }

    /// How many deliveries are under way.
    async fn look(&mut self) -> anyhow::Result<u64> {
        let distinct = self.receivers.arrived().await?.distinct;
        if distinct != self.distinct {
            self.since = Instant::now();
        }
        self.distinct = distinct;
        self.accepted = self.published.events.load(Relaxed);
        self.looks += 1;
        if self.looks.is_multiple_of(LINE) {
            eprintln!("load: {}", self.line());
            self.last = (Instant::now(), self.accepted, self.distinct);
        }
        Ok(self.published.deliveries.load(Relaxed).saturating_sub(distinct))
    }

    fn line(&self) -> String {
        let (at, accepted, distinct) = self.last;
        let seconds = at.elapsed().as_secs_f64();
        let rate = |now: u64, then: u64| (now - then) as f64 / seconds;
        format!(
            "{} accepted, {:.0}/s; {} arrived, {:.0}/s; {} under way",
            self.accepted,
            rate(self.accepted, accepted),
            self.distinct,
            rate(self.distinct, distinct),
            self.published.deliveries.load(Relaxed).saturating_sub(self.distinct)
        )
    }
}

impl Report {
    /// Rates and latencies.
    pub fn flow(&mut self, driven: &Driven) {
        let Driven { accepted, deliveries, hanging, answered, publishing, whole, arrived, latency } = driven;
        self.seconds = whole.as_secs_f64();
        self.accepted = *accepted;
        self.deliveries = *deliveries;
        self.hanging = (*hanging > 0).then_some((*hanging, arrived.hung));
        self.repeated = arrived.requests.saturating_sub(arrived.distinct);
        self.body_bytes = arrived.bytes / arrived.requests.max(1);
        self.accepted_per_second = *accepted as f64 / publishing.as_secs_f64();
        self.delivered_per_second = *deliveries as f64 / whole.as_secs_f64();
        self.answer = latencies(answered);
        self.arrival = *latency;
    }
}
