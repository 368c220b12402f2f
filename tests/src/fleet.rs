//! Many replicas of both services on one store, publishers that load them, and the account of what was
//! sent and what arrived.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use proto::v1::{
    DeliveryPolicy, PublishEventsRequest, Webhook, WebhookType, event_service_client::EventServiceClient,
    publish_result::Outcome,
};
use tokio::task::JoinHandle;
use tonic::{Code, transport::Channel};

use crate::{
    api::{Api, added_to_cart, webhook},
    process::Process,
    receiver::{PATIENCE, Received, Receiver, answer},
};

/// Events in one call.
const BATCH: usize = 10;
/// Between two calls of a publisher.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a receiver takes to answer.
const ANSWER: Duration = Duration::from_millis(10);

pub struct Fleet {
    pub configs: Vec<Process>,
    pub deliveries: Vec<Option<Process>>,
    pub addresses: Vec<SocketAddr>,
    store: Vec<String>,
}

impl Fleet {
    /// Two config-services and so many delivery-services. `store`: delivery-services' flags.
    pub async fn start(deliveries: usize, config_store: &[&str], store: &[&str]) -> Self {
        let mut configs = Vec::new();
        for _ in 0..2 {
            configs.push(Process::config("127.0.0.1:0", config_store).await);
        }
        let store = store.iter().map(ToString::to_string).collect();
        let mut fleet = Self { configs, deliveries: Vec::new(), addresses: Vec::new(), store };
        for n in 0..deliveries {
            let process = fleet.spawn(n, "127.0.0.1:0").await;
            fleet.addresses.push(process.delivery_address());
            fleet.deliveries.push(Some(process));
        }
        fleet
    }

    async fn spawn(&self, n: usize, address: &str) -> Process {
        let store: Vec<_> = self.store.iter().map(String::as_str).collect();
        Process::delivery(address, self.configs[n % 2].config_address(), &store).await
    }

    /// Starts one again where it was.
    pub async fn restart(&mut self, n: usize) {
        let process = self.spawn(n, &self.addresses[n].to_string()).await;
        self.deliveries[n] = Some(process);
    }

    pub fn delivery(&self, n: usize) -> &Process {
        self.deliveries[n].as_ref().expect("it runs")
    }

    /// kill -9.
    pub fn kill(&mut self, n: usize) {
        self.deliveries[n].take().expect("it runs").kill();
    }

    /// SIGTERM; answers when it has ended.
    pub async fn stop(&mut self, n: usize) {
        assert!(self.deliveries[n].take().expect("it runs").stop().await.success());
    }

    /// Clients of one of each.
    pub fn api(&self, config: usize, delivery: usize) -> Api {
        Api::new(self.configs[config].config_address(), self.addresses[delivery])
    }

    /// Webhooks, each of an account of its own, in force everywhere.
    pub async fn webhooks(&self, count: usize, receiver: &Receiver, policy: &DeliveryPolicy) {
        for n in 0..count {
            let hook = webhook(&account(n), WebhookType::GlobalApplicationEvents, &receiver.url(&path(n)));
            let hook = Webhook { delivery_policy: Some(policy.clone()), ..hook };
            let made = self.api(n % 2, 0).create(hook).await;
            for delivery in 1..self.addresses.len() {
                self.api(0, delivery).in_force(&made.id).await;
            }
        }
    }
}

pub fn account(n: usize) -> String {
    format!("fleet{n}")
}

fn path(n: usize) -> String {
    format!("/lane{n}")
}

/// A receiver that answers after a short while.
pub async fn receiver() -> Receiver {
    Receiver::answering(|_| async {
        tokio::time::sleep(ANSWER).await;
        answer(200)
    })
    .await
}

/// Publishers, one for each delivery-service, that repeat what is not accepted at the others.
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<HashSet<String>>>,
    publishers: Vec<JoinHandle<()>>,
    pub refused: Arc<Mutex<HashMap<Code, usize>>>,
}

impl Load {
    /// Loads the webhooks of so many accounts until `finish`. Its events' ids begin with `name`.
    pub fn start(name: &str, addresses: &[SocketAddr], accounts: usize) -> Self {
        let (stop, accepted, refused) =
            <(Arc<AtomicBool>, Arc<Mutex<HashSet<_>>>, Arc<Mutex<HashMap<_, _>>>)>::default();
        let publishers = (0..addresses.len()).map(|at| {
            let clients: Vec<_> =
                (0..addresses.len()).map(|n| client(addresses[(at + n) % addresses.len()])).collect();
            let (stop, accepted, refused) = (stop.clone(), accepted.clone(), refused.clone());
            let name = name.to_owned();
            tokio::spawn(async move {
                let mut batch = 0;
                while !stop.load(Ordering::SeqCst) {
                    let ids = (0..BATCH).map(|n| {
                        (format!("{name}-{at}-{batch}-{n}"), account((batch * BATCH + n) % accounts))
                    });
                    publish(&clients, ids.collect(), &accepted, &refused).await;
                    batch += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        let publishers = publishers.collect();
        Self { stop, accepted, publishers, refused }
    }

    pub fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    /// Waits until so many more are accepted.
    pub async fn more(&self, count: usize) {
        let goal = self.accepted() + count;
        let came = async {
            while self.accepted() < goal {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let patience = PATIENCE * 3 + Duration::from_millis(10) * count as u32;
        let came = tokio::time::timeout(patience, came).await;
        came.unwrap_or_else(|_| {
            panic!("{count} more should be accepted: {:?}", self.refused.lock().unwrap())
        });
    }

    /// Ends the publishers once all that they sent is accepted; the ids of those events.
    pub async fn finish(self) -> HashSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        for publisher in self.publishers {
            tokio::time::timeout(PATIENCE * 3, publisher)
                .await
                .expect("publishing should come to an end")
                .unwrap();
        }
        Arc::try_unwrap(self.accepted).unwrap().into_inner().unwrap()
    }
}

fn client(address: SocketAddr) -> EventServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    // A paused process answers nobody.
    EventServiceClient::new(endpoint.timeout(Duration::from_secs(3)).connect_lazy())
}

/// Until all of them are accepted.
async fn publish(
    clients: &[EventServiceClient<Channel>],
    mut ids: Vec<(String, String)>,
    accepted: &Mutex<HashSet<String>>,
    refused: &Mutex<HashMap<Code, usize>>,
) {
    for client in clients.iter().cycle() {
        let events = ids.iter().map(|(id, account)| added_to_cart(account, id)).collect();
        let answer = client.clone().publish_events(PublishEventsRequest { events }).await;
        match answer {
            Ok(answer) => {
                let results = answer.into_inner().results;
                let mut again = Vec::new();
                for (id, result) in ids.into_iter().zip(results) {
                    match result.outcome {
                        Some(Outcome::Accepted(_)) => drop(accepted.lock().unwrap().insert(id.0)),
                        Some(Outcome::Refused(why)) => {
                            let code = Code::from(why.code);
                            assert_eq!(code, Code::Unavailable, "{why:?}");
                            *refused.lock().unwrap().entry(code).or_default() += 1;
                            again.push(id);
                        }
                        None => panic!("an event was not answered"),
                    }
                }
                ids = again;
            }
            Err(status) => *refused.lock().unwrap().entry(status.code()).or_default() += 1,
        }
        if ids.is_empty() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What arrived.
#[derive(Default)]
pub struct Arrived {
    /// By event.
    seen: HashMap<String, usize>,
    pub requests: Vec<Received>,
}

impl Arrived {
    pub async fn take(&mut self, receiver: &Receiver) {
        for request in receiver.arrived().await {
            *self.seen.entry(request.header("x-event-id").to_owned()).or_default() += 1;
            self.requests.push(request);
        }
    }

    /// Waits until all of these have arrived, and no more come; says how many came twice.
    pub async fn all(&mut self, what: &str, sent: &HashSet<String>, receiver: &Receiver) -> usize {
        let since = Instant::now();
        loop {
            self.take(receiver).await;
            let missing = sent.iter().filter(|id| !self.seen.contains_key(*id)).count();
            if missing == 0 {
                break;
            }
            assert!(since.elapsed() < PATIENCE * 2, "{what}: {missing} of {} have not arrived", sent.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // What is under way twice comes at the latest when a lease has run out.
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.take(receiver).await;
        let twice: usize = self.seen.values().map(|count| count - 1).sum();
        println!("{what}: {} sent, {} received, {twice} duplicated", sent.len(), self.seen.len());
        twice
    }

    /// How many came again that had come before `at`.
    pub fn repeated_of(&self, at: Instant) -> usize {
        let id = |request: &Received| request.header("x-event-id").to_owned();
        let before: HashSet<_> = self.requests.iter().filter(|request| request.at < at).map(id).collect();
        before.iter().filter(|id| self.seen[*id] > 1).count()
    }

    /// For each lane the time from `since` until its next request; the longest.
    pub fn longest_wait(&self, since: Instant, lanes: usize) -> Duration {
        let wait = |n: usize| {
            let path = format!("{}?", path(n));
            let of_lane = self.requests.iter().filter(|request| request.target.starts_with(&path));
            of_lane
                .filter_map(|request| request.at.checked_duration_since(since))
                .min()
                .expect("a request in each lane")
        };
        (0..lanes).map(wait).max().unwrap_or_default()
    }
}

/// `small`, or, where scenarios run at full size, `long`.
pub fn size<T>(small: T, long: T) -> T {
    if std::env::var_os("HOOKLINE_LONG").is_some() { long } else { small }
}
