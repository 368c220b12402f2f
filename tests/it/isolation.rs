//! No receiver harms another: one that hangs on every request, with more to come than it takes, beside 99
//! that are well. Theirs arrive as soon after publishing as without it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    fleet::size,
    process::Process,
    receiver::{Receiver, answer},
    redis::Redis,
};
use proto::v1::{CreateWebhookRequest, WebhookType};
use tokio::task::JoinSet;

use crate::engine::publish_all;

const HEALTHY: usize = 99;
const HANGS: Duration = Duration::from_secs(15);
/// What waits for the one that hangs from the start: more than its window in memory.
const BACKLOG: usize = 1_000;
/// Runs of each kind in a round, and rounds at most: the median is that of all runs so far.
const RUNS: usize = 5;
const ROUNDS: usize = 6;

/// One run's load: events a second over all, those of them to the one that hangs, and seconds.
type Size = (usize, usize, usize);

fn path(n: usize) -> String {
    format!("well{n}")
}

/// Starts everything anew and publishes; the 99th percentile of the healthy ones' times from publishing
/// to arrival. `hanging`: whether the other one is there too.
async fn p99(store: &[&str], hanging: bool, (rate, to_hanging, seconds): Size) -> Duration {
    let healthy = Receiver::start().await;
    let hangs = Receiver::answering(|_| async {
        tokio::time::sleep(HANGS).await;
        answer(200)
    })
    .await;
    let config = Process::config("127.0.0.1:0", store).await;
    let delivery = Process::delivery("127.0.0.1:0", config.config_address(), store).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    let urls = (0..HEALTHY).map(|n| (path(n), healthy.url("/")));
    let mut calls = JoinSet::new();
    for (account, url) in urls.chain([("hangs".into(), hangs.url("/"))]) {
        let hook = webhook(&account, WebhookType::GlobalApplicationEvents, &url);
        let (mut api, request) =
            (api.clone(), CreateWebhookRequest { webhook: Some(hook), ..Default::default() });
        calls.spawn(async move {
            let made = api.webhooks.create_webhook(request).await.unwrap().into_inner();
            api.in_force(&made.id).await;
        });
    }
    calls.join_all().await;
    if hanging {
        let backlog = (0..BACKLOG).map(|n| added_to_cart("hangs", &format!("before{n}")));
        publish_all(&mut api, backlog.collect()).await;
        hangs.next().await;
    }
    // Their connections are there.
    for n in 0..HEALTHY {
        api.publish(added_to_cart(&path(n), "first")).await.unwrap();
    }
    for _ in 0..HEALTHY {
        healthy.next().await;
    }

    let mut published = JoinSet::new();
    let mut arrived = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate as u32);
    let mut count = 0;
    let publish = async {
        for n in 0..rate * seconds {
            ticks.tick().await;
            let account = match n * to_hanging % rate < to_hanging {
                true if !hanging => continue,
                true => "hangs".to_owned(),
                false => {
                    count += 1;
                    path(count % HEALTHY)
                }
            };
            let mut api = api.clone();
            published.spawn(async move {
                let event = added_to_cart(&account, &n.to_string());
                let began = Instant::now();
                api.publish(event).await.unwrap();
                (account != "hangs").then(|| (n.to_string(), began))
            });
        }
    };
    let expected = (0..rate * seconds).filter(|n| n * to_hanging % rate >= to_hanging).count();
    let arrive = async {
        for _ in 0..expected {
            let request = healthy.next().await;
            let id = request.header("x-event-id").to_owned();
            assert!(arrived.insert(id.clone(), request.at).is_none(), "{id} came twice");
        }
    };
    tokio::join!(publish, arrive);
    let mut times: Vec<_> = published
        .join_all()
        .await
        .into_iter()
        .flatten()
        .map(|(id, began)| arrived[&id].saturating_duration_since(began))
        .collect();
    times.sort_unstable();
    assert_eq!(times.len(), expected);
    let hung = hangs.most_under_way();
    assert_eq!(hung > 0, hanging, "{hung} requests hung");
    times[times.len() * 99 / 100]
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A store's flags, new each time, and what has to live as long.
async fn is_isolated<S>(what: &str, mut store: impl AsyncFnMut() -> (Vec<String>, S)) {
    let load = size((300, 60, 1), (1_000, 60, 30));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // More runs where a few do not say it: others may use the machine in some of them.
    for _ in 0..ROUNDS {
        for _ in 0..RUNS {
            for (hanging, times) in [(false, &mut without), (true, &mut with)] {
                let (flags, _lives) = store().await;
                let flags: Vec<_> = flags.iter().map(String::as_str).collect();
                times.push(p99(&flags, hanging, load).await);
            }
        }
        println!("{what}: p99 to 99 receivers {without:?}, with one that hangs {with:?}");
        let (without, with) = (median(&without), median(&with));
        println!("{what}: p99 in the median {without:?}, with one that hangs {with:?}");
        if with <= (without + Duration::from_millis(5)).max(without * 3 / 2) {
            return;
        }
    }
    panic!("one that hangs delays the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_delays_no_other_on_redis() {
    is_isolated("Redis", async || {
        let redis = Redis::start().await;
        (vec!["--redis-url".into(), redis.url()], redis)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_delays_no_other_on_the_embedded_store() {
    is_isolated("embedded", async || {
        let data = tempfile::tempdir().unwrap();
        (vec!["--data-dir".into(), data.path().to_str().unwrap().to_owned()], data)
    })
    .await;
}
