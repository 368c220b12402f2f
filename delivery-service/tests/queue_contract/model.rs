//! Random operations on many lanes, with crashes, against a model that knows what is open.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use common::ids::{DeliveryId, WebhookId};
use delivery_service::{
    delivery::{Place, State},
    queue::{Fate, LaneNow, Lanes, Lease, Release, Stored, Waiting},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::bench::{Backend, Bench, lane, page, settle_waiting};

const LANES: u64 = 50;
const STEPS: usize = 600;

/// What should be true of the store.
#[derive(Default)]
struct Model {
    open: BTreeMap<(WebhookId, Place), DeliveryId>,
    ended: HashMap<DeliveryId, State>,
    held: HashMap<WebhookId, Lease>,
}

/// Takes whatever is due until nothing is, and says what it was.
async fn drain<B: Backend>(bench: &Bench<B>, model: &mut Model) {
    bench.queue.wake(Lanes::Parked).await.unwrap();
    for (_, lease) in std::mem::take(&mut model.held) {
        bench.settle(lease, vec![], Some(Release::Free { known: Place(0), unread: true })).await;
    }
    // Past every retry and hold.
    bench.advance(Duration::from_secs(10)).await;
    loop {
        let claimed = bench.queue.claim(7, page(5)).await.unwrap();
        if claimed.lanes.is_empty() {
            break;
        }
        for grant in claimed.lanes {
            let mut page = grant.page;
            while page.more && page.deliveries.is_empty() {
                page = bench
                    .queue
                    .read(grant.lane, page.read_to, 0, crate::bench::page(5))
                    .await
                    .unwrap()
                    .unwrap();
            }
            let settled = page.deliveries.iter().map(|waiting| {
                let known = model.open.remove(&(grant.lane.webhook_id, waiting.place));
                assert_eq!(known, Some(waiting.head.id()), "what waits is open, and comes once");
                model.ended.insert(waiting.head.id(), State::Succeeded);
                settle_waiting(waiting, Fate::Succeeded)
            });
            let release = Release::Free { known: page.read_to, unread: page.more };
            bench.settle(grant.lane, settled.collect(), Some(release)).await;
        }
    }
    assert!(model.open.is_empty(), "left behind: {:?}", model.open);
}

fn fate(random: &mut StdRng) -> Fate {
    match random.random_range(0..7) {
        0 => Fate::Failed,
        1 => Fate::Cancelled,
        6 => Fate::Batch,
        2 | 3 => Fate::Retry { after: Duration::from_secs(random.random_range(0..8)) },
        _ => Fate::Succeeded,
    }
}

/// Settles some of a page and perhaps gives the lane back.
async fn work<B: Backend>(
    bench: &Bench<B>,
    model: &mut Model,
    random: &mut StdRng,
    lease: Lease,
    page: Vec<Waiting>,
) {
    let mut settled = Vec::new();
    for waiting in &page {
        if random.random_bool(0.2) {
            continue;
        }
        let fate = fate(random);
        let id = waiting.head.id();
        assert_eq!(model.open.get(&(lease.webhook_id, waiting.place)), Some(&id), "what waits is open");
        let ended = match fate {
            Fate::Succeeded => Some(State::Succeeded),
            Fate::Failed => Some(State::Failed),
            Fate::Cancelled => Some(State::Cancelled),
            Fate::Retry { .. } | Fate::Batch => None,
        };
        if let Some(state) = ended {
            model.open.remove(&(lease.webhook_id, waiting.place));
            model.ended.insert(id, state);
        }
        settled.push(settle_waiting(waiting, fate));
    }
    let release = match random.random_range(0..5) {
        0 => Some(Release::Hold { duration: Duration::from_secs(random.random_range(0..8)) }),
        1 => Some(Release::Park),
        2 | 3 => Some(Release::Free { known: Place(0), unread: true }),
        _ => None,
    };
    if release.is_none() {
        model.held.insert(lease.webhook_id, lease);
    } else {
        model.held.remove(&lease.webhook_id);
    }
    bench.settle(lease, settled, release).await;
}

pub async fn many_lanes_come_to_what_a_small_model_says<B: Backend>() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut bench = Bench::<B>::start().await;
    let mut model = Model::default();
    for step in 0..STEPS {
        match random.random_range(0..100) {
            0..45 => {
                let webhook_id = lane(random.random_range(0..LANES));
                let new = bench.new_for(webhook_id);
                let id = new.head.id();
                let Stored::New { place, lane: now, .. } = bench.enqueue(new).await else {
                    panic!("step {step}")
                };
                model.open.insert((webhook_id, place), id);
                let held = model.held.get(&webhook_id).map(|lease| lease.fence);
                match now {
                    LaneNow::Mine { fence, given: true } => {
                        assert_eq!(held, None, "step {step}");
                        model.held.insert(webhook_id, Lease { webhook_id, fence });
                    }
                    LaneNow::Mine { fence, given: false } => assert_eq!(Some(fence), held),
                    _ => assert_eq!(held, None, "step {step}"),
                }
            }
            45..65 => {
                for grant in bench.queue.claim(5, page(4)).await.unwrap().lanes {
                    assert!(!model.held.contains_key(&grant.lane.webhook_id), "leased once at a time");
                    work(&bench, &mut model, &mut random, grant.lane, grant.page.deliveries).await;
                }
            }
            65..80 => {
                let Some(&lease) = model.held.values().min_by_key(|lease| lease.webhook_id) else { continue };
                let read = bench.queue.read(lease, Place(0), 0, page(4)).await.unwrap().unwrap();
                work(&bench, &mut model, &mut random, lease, read.deliveries).await;
            }
            80..90 => {
                bench.advance(Duration::from_secs(1)).await;
                bench.claim(0).await;
            }
            90..94 => bench.queue.wake(Lanes::One(lane(random.random_range(0..LANES)))).await.unwrap(),
            94..98 => {
                let ended = model.ended.keys().min().copied();
                let Some(id) = ended else { continue };
                let state = model.ended[&id];
                let retried = bench.queue.retry(id).await.unwrap();
                if let delivery_service::queue::Retried::Now(found) = retried {
                    assert_eq!(state, State::Failed, "step {step}");
                    model.open.insert((found.head.webhook_id(), found.place), id);
                    model.ended.remove(&id);
                } else {
                    assert_ne!(state, State::Failed, "step {step}");
                }
            }
            _ if step % 3 == 0 => {
                bench = bench.crash().await;
                model.held.clear();
            }
            _ => {}
        }
    }
    drain(&bench, &mut model).await;
    for (id, state) in model.ended {
        assert_eq!(bench.state(id).await, state, "{id}");
    }
}
