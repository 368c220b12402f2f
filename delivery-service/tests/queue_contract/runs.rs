//! Thousands of the model's random runs, in two halves for two processors. `HOOKLINE_SEED` runs one again.

use std::time::Instant;

use delivery_service::queue::Limits;
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    bench::Backend,
    model::{BACKLOG, Run, Trace, WINDOW},
    oracle::Oracle,
};

const OPERATIONS: u32 = 50;

/// Whether it was in time to be judged to its end.
async fn run<B: Backend>(backend: &mut B, seed: u64) -> bool {
    backend.renew().await;
    let mut run = Run {
        backend,
        start: Instant::now(),
        random: StdRng::seed_from_u64(seed),
        oracle: Oracle {
            now: 1_000,
            backlog: BACKLOG as usize,
            window: WINDOW.as_millis() as i64,
            ..Oracle::default()
        },
        holders: Vec::new(),
        beats: Vec::new(),
        published: Vec::new(),
        settles: Vec::new(),
        trace: Trace(seed, Vec::new()),
    };
    let whole = async {
        for _ in 0..B::HOLDERS {
            run.open().await?;
        }
        for _ in 0..OPERATIONS {
            run.step().await?;
        }
        run.drain().await
    };
    whole.await.is_some()
}

pub async fn random_runs_come_to_what_an_oracle_says<B: Backend>() {
    half::<B>().await;
}

pub async fn so_do_those_beside_them<B: Backend>() {
    half::<B>().await;
}

async fn half<B: Backend>() {
    let limits = Limits { dedupe_window: WINDOW, backlog_deliveries: BACKLOG, ..Limits::default() };
    let mut backend = B::start(limits).await;
    if let Some(seed) = std::env::var("HOOKLINE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        assert!(run(&mut backend, seed).await, "it took too long to be judged");
        return;
    }
    let runs = B::RUNS / 2 * if std::env::var_os("HOOKLINE_LONG").is_some() { 10 } else { 1 };
    let (first, mut judged, start): (u64, _, _) = (rand::random(), 0, Instant::now());
    for seed in (0..runs).map(|run| first.wrapping_add(run)) {
        judged += u64::from(run(&mut backend, seed).await);
    }
    println!("seeds {first} and on: {judged} of {runs} runs judged to their end, in {:?}", start.elapsed());
    assert!(judged > runs / 10, "this machine is too slow");
}
