//! A receiver that is dead costs next to nothing: behind an open circuit its deliveries wait, however many
//! they are, and delivery-service does not work for them.

use std::time::{Duration, Instant};

use integration_tests::{
    api::{Api, added_to_cart, webhook},
    fleet::size,
    process::Process,
    receiver::{Receiver, answer},
};
use proto::v1::{
    CircuitState, GetWebhookStatusRequest, PublishEventsRequest, WebhookStatus, WebhookType,
    publish_result::Outcome,
};

/// Events in one call.
const BATCH: usize = 1_000;
/// Of one core.
const MOST: f64 = 0.01;
/// How long the circuit may take to open: failures must spread over 10 s.
const PATIENCE: Duration = Duration::from_secs(120);

async fn status(api: &mut Api, webhook_id: &str) -> WebhookStatus {
    let request = GetWebhookStatusRequest { webhook_id: webhook_id.into() };
    api.deliveries.get_webhook_status(request).await.unwrap().into_inner()
}

/// `fails`: how a receiver does, for the reader of what is printed.
async fn waiting_is_cheap(fails: &str, url: &str) {
    let (backlog, stretch) = size((3_000, Duration::from_secs(5)), (100_000, Duration::from_secs(60)));
    let folder = tempfile::tempdir().unwrap();
    let data = ["--data-dir", folder.path().to_str().unwrap()];
    let config = Process::config("127.0.0.1:0", &data).await;
    let delivery = Process::delivery("127.0.0.1:0", config.config_address(), &data).await;
    let mut api = Api::new(config.config_address(), delivery.delivery_address());
    let hook = api.create(webhook("dead", WebhookType::GlobalApplicationEvents, url)).await;
    for from in (0..backlog).step_by(BATCH) {
        let events = (from..backlog.min(from + BATCH)).map(|n| added_to_cart("dead", &n.to_string()));
        let request = PublishEventsRequest { events: events.collect() };
        let results = api.events.publish_events(request).await.unwrap().into_inner().results;
        assert!(results.iter().all(|result| matches!(result.outcome, Some(Outcome::Accepted(_)))));
    }
    let opens = async {
        loop {
            let status = status(&mut api, &hook.id).await;
            if status.circuit() == CircuitState::Open && status.in_flight_count == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, opens).await.expect("the circuit should open");

    let (before, began) = (delivery.cpu(), Instant::now());
    tokio::time::sleep(stretch).await;
    let took = began.elapsed();
    let share = (delivery.cpu() - before).as_secs_f64() / took.as_secs_f64();
    println!(
        "{backlog} deliveries behind a circuit that is open, of a receiver that {fails}: {:.2} % of a core \
         over {:.0} s",
        share * 100.0,
        took.as_secs_f64()
    );
    assert!(share < MOST, "{share} of a core");
    let status = status(&mut api, &hook.id).await;
    assert_eq!(status.backlog_count as usize, backlog, "all wait");
    assert_ne!(status.circuit(), CircuitState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_behind_a_circuit_that_is_open_takes_no_cpu() {
    let receiver = Receiver::answering(|_| async { answer(500) }).await;
    let failing = receiver.url("/");
    let refusing = Receiver::start().await.url("/");
    tokio::join!(
        waiting_is_cheap("answers 500", &failing),
        waiting_is_cheap("refuses connections", &refusing),
    );
}
