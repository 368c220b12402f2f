//! The workload `backlog`: a receiver hangs until a backlog of deliveries stands in its lane, and then
//! answers again, while others get 100 events a second. Before that, the steady rate that the drain is
//! compared with; after it, the same others beside a bare client, which keeps the machine as busy.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::{
    args::{self, Args, Mode, Name},
    measure::sample,
    pace::Pace,
    pair::Pair,
    publish::{Published, publish},
    raw,
    receiver::now_us,
    receivers::Receivers,
    report::{Backlog, Report},
    run::drive,
    setup,
    tickets::Tickets,
    workloads::Workload,
};

const LIVE_RATE: f64 = 100.0;
/// For how long others are looked at before the drain.
const LIVE: Duration = Duration::from_secs(3);
/// How long publishing, and how long draining may take.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(20);

pub async fn run(args: &Args, run: u64, pair: &mut Pair, receivers: &Receivers) -> anyhow::Result<Report> {
    let workload = Workload::new(Name::Steady, run, 0, receivers)?;
    let ids = setup::create(pair.config, pair.delivery, &workload.webhooks).await?;
    receivers.reset(run, 1).await?;
    let tickets = Tickets::new(None, args.events, Duration::from_secs_f64(args.seconds));
    let steady = Arc::new(workload.counted_in(run, 0));
    let steady = drive(args, pair, receivers, steady, Arc::new(tickets)).await?;

    // Both kinds count in one run, each with numbers of its own.
    let (gated, run) = (Arc::new(Workload::gated(run + 1, receivers)), run + 1);
    setup::create(pair.config, pair.delivery, &gated.webhooks).await?;
    receivers.reset(run, 1).await?;
    receivers.gate(false).await?;
    let all = Arc::new(Tickets::new(None, args.backlog, PATIENCE));
    publish(args, pair.delivery, gated, all, Arc::default()).await?;
    eprintln!("load: {} deliveries stand before a receiver that hangs", args.backlog);

    let before = Live::start(args, pair, workload.counted_in(run, args.backlog));
    tokio::time::sleep(LIVE).await;
    let live = before.stop(receivers, 0).await?;
    let live_before = receivers.latency().await?;
    receivers.forget_latency().await?;

    let (cost, pace) = (sample(pair, receivers.pid).await?, Pace::start());
    let (standing, opened_us) = (args.backlog - receivers.arrived().await?.gated, now_us());
    let meanwhile = Live::start(args, pair, workload.counted_in(run, args.backlog + live));
    receivers.gate(true).await?;
    let drained = async {
        while receivers.arrived().await?.gated < args.backlog {
            tokio::time::sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, drained).await??;
    let live = meanwhile.stop(receivers, live).await?;
    let (arrived, live_meanwhile) = (receivers.arrived().await?, receivers.latency().await?);
    let (drained, pace) = (sample(pair, receivers.pid).await?, pace.end()?);

    let live_beside_posts = match ids.first().filter(|_| args.raw_seconds > 0.0) {
        Some(any) => {
            receivers.forget_latency().await?;
            let beside = Live::start(args, pair, workload.counted_in(run, args.backlog + live));
            raw::posts(args.raw_seconds, receivers, pair.delivery, any, &workload).await?;
            beside.stop(receivers, live).await?;
            Some(receivers.latency().await?)
        }
        None => None,
    };

    let mut report = Report {
        workload: args::name(Name::Backlog),
        store: args::name(args.store),
        publish: args::name(args.publish),
        ..Report::default()
    };
    report.flow(&steady);
    let seconds = arrived.gated_us.saturating_sub(opened_us).max(1) as f64 / 1e6;
    let drained_per_second = standing as f64 / seconds;
    report.deliveries = standing;
    report.costs(&cost, &drained);
    report.pace = Some(pace);
    report.backlog = Some(Backlog {
        deliveries: standing,
        drained_per_second,
        share_of_steady: drained_per_second / report.delivered_per_second,
        live_before,
        live_meanwhile,
        live_beside_posts,
    });
    Ok(report)
}

/// Events at a low rate to receivers that are well.
struct Live {
    tickets: Arc<Tickets>,
    published: Arc<Published>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Live {
    fn start(args: &Args, pair: &Pair, workload: Workload) -> Self {
        let tickets = Arc::new(Tickets::new(Some(LIVE_RATE), u64::MAX, PATIENCE));
        let published = Arc::new(Published::default());
        let args = Args { publish: Mode::Unary, callers: Some(16), ..args.clone() };
        let (address, due, count) = (pair.delivery, tickets.clone(), published.clone());
        let task =
            tokio::spawn(
                async move { publish(&args, address, Arc::new(workload), due, count).await.map(drop) },
            );
        Self { tickets, published, task }
    }

    /// Waits until all of them have arrived, after `before`; answers how many there have been.
    async fn stop(self, receivers: &Receivers, before: u64) -> anyhow::Result<u64> {
        self.tickets.stop();
        self.task.await??;
        let count = before + self.published.events.load(Relaxed);
        let arrive = async {
            loop {
                let arrived = receivers.arrived().await?;
                if arrived.distinct - arrived.gated >= count {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, arrive).await??;
        Ok(count)
    }
}
