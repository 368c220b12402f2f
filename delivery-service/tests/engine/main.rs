//! The engine over a store that fails by chance: what was accepted is delivered, whatever happens to the
//! calls; nothing is lost, and nothing stays behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod circuit;
mod damaged;
mod faulty;
mod full;
mod given_back;
mod late;
mod leases;
mod operator;
#[path = "../../../tests/src/receiver.rs"]
#[allow(dead_code)]
mod receiver;
mod retrying;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use common::{
    address::Rules,
    clock::{Clock, Time},
    event::{Event, Payload},
    ids::{DeliveryId, WebhookId},
    intake as checked,
    matching::Rule,
    status::Violations,
};
use delivery_service::{
    delivery::State,
    intake::Intake,
    lanes::{self, Lanes},
    metrics::Metrics,
    queue::{self, Queue, disk::DiskQueue, group::Group},
    routes::{
        Batching, Order, Policy, Route, RouteState, UrlParameters,
        disable::Disabling,
        table::{Edit, Staging, Table},
        upstream::Upstream,
    },
    send::{self, Sender},
};
use faulty::Faulty;
use proto::v1;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use receiver::{Receiver, answer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const WEBHOOKS: u64 = 12;
const EVENTS: usize = 80;
const PATIENCE: Duration = Duration::from_secs(60);

fn account(n: u64) -> String {
    format!("account-{n}")
}

fn order(n: u64) -> Order {
    [Order::Unordered, Order::ByUser, Order::Strict][n as usize % 3]
}

fn user(event: usize) -> usize {
    event % 7
}

/// What arrives for ordered webhooks: of each user, or of all, no event after a later one. Of each there are
/// the first and the last event of the last request.
#[derive(Default)]
struct InOrder(HashMap<(u64, usize), (usize, usize)>);

impl InOrder {
    /// A request with these webhooks' events.
    fn arrived(&mut self, members: impl Iterator<Item = (u64, usize)>) {
        let mut request: HashMap<(u64, usize), (usize, usize)> = HashMap::new();
        for (webhook, event) in members {
            let whose = match order(webhook) {
                Order::Unordered => continue,
                Order::ByUser => user(event),
                Order::Strict => 0,
            };
            let (_, last) = request.entry((webhook, whose)).or_insert((event, event));
            assert!(event >= *last, "{event} after {last} in a request to webhook {webhook}");
            *last = event;
        }
        for (key, (first, last)) in request {
            if let Some(before) = self.0.insert(key, (first, last)) {
                // It comes again, or after all before it.
                assert!(first == before.0 || first > before.1, "{first} after {before:?} at {key:?}");
            }
        }
    }
}

fn route(n: u64, url: &str) -> Route {
    let webhook =
        v1::Webhook { r#type: v1::WebhookType::GlobalApplicationEvents as i32, ..Default::default() };
    let policy = Policy {
        timeout: Duration::from_secs(5),
        retry_delays: vec![Duration::from_millis(20); 30].into(),
        max_in_flight: 8,
        order: order(n),
        batch: (n >= WEBHOOKS / 2).then_some(Batching {
            max_events: 5,
            max_delay: Duration::from_millis(30),
            one_type: n.is_multiple_of(2),
        }),
        ..Policy::default()
    };
    Route {
        webhook_id: WebhookId::new(1, n.into()),
        revision: 1,
        license_code: account(n).into(),
        rule: Rule::of(&webhook).unwrap(),
        state: RouteState::Active,
        xml: false,
        post_url: url.into(),
        url_parameters: UrlParameters::None,
        headers: [].into(),
        authorization: None,
        signing_keys: [].into(),
        policy,
    }
}

fn event(account: &str, id: usize) -> Event {
    let activity = v1::Activity {
        event_name: "ordered".into(),
        category: v1::EventCategory::Application as i32,
        user_id: format!("user-{}", user(id)),
        ..Default::default()
    };
    let event = v1::Event {
        id: id.to_string(),
        license_code: account.into(),
        payload: Some(v1::event::Payload::Activity(activity)),
        ..Default::default()
    };
    let event = checked::event(event, Time(1_800_000_000_000), "event", &mut Violations::default()).unwrap();
    assert!(matches!(event.payload, Payload::Activity(_)));
    event
}

/// An engine over a store, for these routes.
fn engine(
    queue: Arc<dyn Queue>,
    all: Vec<Route>,
    clock: Clock,
    limits: lanes::Limits,
    stop: CancellationToken,
) -> (Lanes, JoinHandle<()>, Arc<Table>) {
    let routes = Arc::new(Table::default());
    let mut staging = Staging::default();
    for route in all {
        staging.apply(Edit::Put(Arc::new(route)));
    }
    routes.replace(staging);
    let rules = Rules { development: true, ..Rules::default() };
    let upstream = Upstream::new("http://127.0.0.1:9", None, None).unwrap();
    let parts = lanes::Parts {
        queue,
        routes: routes.clone(),
        sender: Arc::new(Sender::new(rules, send::Settings::default(), Clock::System).unwrap()),
        disable: Disabling::start(upstream, routes.clone(), stop.clone()),
        clock,
        limits,
        metrics: Metrics::default(),
    };
    let (lanes, done) = Lanes::start(parts, stop);
    (lanes, done, routes)
}

/// An engine at work, and who takes events in for it.
struct Running {
    intake: Intake,
    stop: CancellationToken,
    done: JoinHandle<()>,
}

fn start(store: Arc<dyn Queue>, url: &str) -> Running {
    let stop = CancellationToken::new();
    let all = (0..WEBHOOKS).map(|n| route(n, url)).collect();
    let (lanes, done, routes) =
        engine(store.clone(), all, Clock::System, lanes::Limits::default(), stop.clone());
    let group = Group::start(store.clone(), lanes);
    let intake = Intake::new(routes, group, Clock::System, store.shards());
    Running { intake, stop, done }
}

/// One run: publishers that repeat themselves, receivers that fail now and then, a store that does too.
async fn nothing_is_lost(seed: u64) {
    println!("seed {seed} (SEED={seed} repeats it)");
    let chance = std::sync::Mutex::new(StdRng::seed_from_u64(seed));
    let receiver = Receiver::answering(move |_| {
        let fails = chance.lock().unwrap().random_range(0..10) == 0;
        async move { answer(if fails { 500 } else { 200 }) }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskQueue::open(folder.path(), Clock::System, queue::Limits::default(), 0).unwrap();
    let store: Arc<dyn Queue> = Arc::new(Faulty::new(disk.clone(), seed, 6));
    let Running { intake, stop, done } = start(store, &receiver.url("/"));

    let mut accepted: HashMap<DeliveryId, (u64, usize)> = HashMap::new();
    for id in 0..EVENTS {
        for n in 0..WEBHOOKS {
            // A publisher that is refused repeats itself with the same id.
            loop {
                let results = intake.accept(vec![event(&account(n), id)], None).await;
                if let Ok(result) = &results[0] {
                    accepted.extend(result.delivery_ids.iter().map(|delivery| (*delivery, (n, id))));
                    break;
                }
            }
        }
    }
    assert_eq!(accepted.len(), EVENTS * WEBHOOKS as usize, "one delivery an event and webhook");
    let mut batches: HashMap<String, String> = HashMap::new();
    let published: HashMap<String, _> = accepted.iter().map(|(id, event)| (id.to_string(), *event)).collect();
    let mut order = InOrder::default();
    let waiting = async {
        let mut missing: HashSet<String> = published.keys().cloned().collect();
        while !missing.is_empty() {
            let received = receiver.next().await;
            let id = received.header("webhook-id").to_owned();
            let members = received.headers.get("webhook-delivery-ids").map(|ids| ids.to_str().unwrap());
            let members = members.unwrap_or(&id).to_owned();
            for member in members.split(',') {
                missing.remove(member);
            }
            order.arrived(members.split(',').map(|member| published[member]));
            let before = batches.entry(id).or_insert_with(|| members.clone());
            assert_eq!(*before, members, "a batch keeps its members");
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("all that was accepted should arrive");
    for id in accepted.keys() {
        let ended = async {
            while State::try_from(disk.get(*id).await.unwrap().unwrap().head.state) != Ok(State::Succeeded) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("all that arrived should be settled");
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE, done).await.expect("the engine should stop").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_delivered_whatever_happens_to_calls_to_the_store() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        return nothing_is_lost(seed).await;
    }
    let runs = if std::env::var_os("HOOKLINE_LONG").is_some() { 100 } else { 3 };
    for _ in 0..runs {
        nothing_is_lost(rand::random()).await;
    }
}
