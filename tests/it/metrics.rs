//! The metrics that an operator watches: a circuit that opens and closes, what was published and what
//! became of it, of both services at one address; and no name of anybody in them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use integration_tests::{
    api::{Api, added_to_cart},
    process::Process,
    receiver::{PATIENCE, Receiver, answer},
};
use proto::v1::DeliveryPolicy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::engine::{ACCOUNT, make, publish_all};

const EVENTS: usize = 100;

/// Numbers by their names and labels, and the text that they stood in.
async fn scrape(address: SocketAddr) -> (HashMap<String, f64>, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let samples = text.lines().filter_map(|line| line.strip_prefix("hookline_")?.rsplit_once(' '));
    (samples.map(|(name, number)| (name.to_owned(), number.parse().unwrap())).collect(), text)
}

/// Until a number is what it should be.
async fn until(address: SocketAddr, name: &str, number: f64) {
    let came = async {
        while scrape(address).await.0[name] != number {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, came).await;
    if came.is_err() {
        panic!("{name} should be {number}: {}", scrape(address).await.1);
    }
}

fn metrics_address(process: &Process) -> SocketAddr {
    let log = process.log();
    let line = log.iter().find(|line| line.contains("metrics are served")).expect("metrics are served");
    let record: serde_json::Value = serde_json::from_str(line).unwrap();
    record["address"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_circuit_is_seen_to_open_and_to_close() {
    let status = Arc::new(AtomicU16::new(500));
    let now = status.clone();
    let receiver = Receiver::answering(move |_| {
        let now = now.load(Ordering::SeqCst);
        async move { answer(now) }
    })
    .await;
    let data = tempfile::tempdir().unwrap();
    let mut hookline = Process::hookline(data.path(), &["--metrics-listen", "127.0.0.1:0"]).await;
    let address = metrics_address(&hookline);
    let mut api = Api::of(&hookline);
    let webhook = make(&mut api, ACCOUNT, &receiver.url("/"), DeliveryPolicy::default()).await;
    let (before, _) = scrape(address).await;
    assert_eq!(before["circuits_open"], 0.0);
    assert_eq!(before["config_writes_total{kind=\"webhook_created\"}"], 1.0);
    assert_eq!((before["route_watchers"], before["routes"]), (1.0, 1.0));

    let events: Vec<_> = (0..EVENTS).map(|n| added_to_cart(ACCOUNT, &n.to_string())).collect();
    publish_all(&mut api, [events.clone(), events[..1].to_vec()].concat()).await;
    hookline.line("the circuit has opened").await;
    until(address, "circuits_open", 1.0).await;
    let (open, _) = scrape(address).await;
    assert_eq!(open["circuit_changes_total{to=\"open\"}"], 1.0);
    assert_eq!(open["circuit_changes_total{to=\"closed\"}"], 0.0);
    assert!(open["attempts_total{result=\"status\"}"] >= 10.0, "{open:?}");
    assert_eq!(open["deliveries_total{state=\"succeeded\"}"], 0.0);

    status.store(200, Ordering::SeqCst);
    hookline.line("the circuit has closed").await;
    until(address, "deliveries_total{state=\"succeeded\"}", EVENTS as f64).await;
    let (closed, text) = scrape(address).await;
    println!("{text}");
    assert_eq!(closed["circuits_open"], 0.0);
    assert_eq!(closed["circuit_changes_total{to=\"closed\"}"], 1.0);
    assert_eq!(closed["events_published_total{result=\"accepted\"}"], EVENTS as f64);
    assert_eq!(closed["events_published_total{result=\"duplicate\"}"], 1.0);
    assert_eq!(closed["deliveries_accepted_total"], EVENTS as f64);
    assert_eq!(closed["attempts_total{result=\"succeeded\"}"], EVENTS as f64);
    let attempts =
        closed["attempts_total{result=\"succeeded\"}"] + closed["attempts_total{result=\"status\"}"];
    assert_eq!(closed["attempt_duration_seconds_count"], attempts);
    assert_eq!(closed["first_attempt_delay_seconds_count"], EVENTS as f64);
    for name in [ACCOUNT, &webhook.id, &receiver.url("")] {
        assert!(!text.contains(name), "{name} in {text}");
    }
    until(address, "attempts_in_flight", 0.0).await;
    until(address, "lanes_held", 0.0).await;
}
