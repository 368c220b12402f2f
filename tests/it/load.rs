//! The load generator still works: a small run of every workload, and all that it accepts arrives.

use std::{process::Command, time::Duration};

use integration_tests::process::binary;
use serde_json::Value;

/// Reports of a run, a workload each.
async fn load(arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(binary("load"));
    command.args(arguments).args(["--json", "--seconds", "10", "--events", "1000", "--raw-seconds", "0.2"]);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = tokio::time::timeout(Duration::from_secs(120), run).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn numbers(reports: &[Value], field: &str) -> Vec<Option<u64>> {
    reports.iter().map(|report| report[field].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn load_runs_every_workload_on_the_embedded_store() {
    let reports =
        load(&["steady", "fanout", "miss", "many", "mixed", "--webhooks", "200", "--callers", "2"]).await;
    assert_eq!(numbers(&reports, "accepted"), [Some(1_000); 5]);
    let deliveries = [1_000, 10_000, 0, 1_000, 1_408].map(Some);
    assert_eq!(numbers(&reports, "deliveries"), deliveries, "each event fires what it is meant to");
    assert_eq!(reports[4]["hanging"][0], 20, "what the hanging receivers get is counted apart");
    assert!(reports.iter().all(|report| report["processes"].as_array().unwrap().len() == 4));
    assert!(reports[0]["arrival"]["p50"].as_f64().unwrap() > 0.0);
    assert!(reports[0]["share_of_raw"].as_f64().unwrap() > 0.0);
    for report in &reports {
        let pace = &report["pace"];
        assert!(pace["p50_us"].as_f64().unwrap() > 0.0 && pace["p99"].as_f64().unwrap() >= 1.0, "{pace}");
    }
    assert!(reports[0]["raw_post_us"].as_f64().unwrap() > 0.0);
    assert!(reports[2]["share_of_raw_events"].as_f64().unwrap() > 0.0);
    assert!(reports[0]["body_bytes"].as_u64().unwrap().abs_diff(1_000) < 100, "about 1 KB a body");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_publishes_in_every_way_and_drains_a_backlog_on_redis() {
    let flags = ["--store", "redis", "--backlog", "2000"];
    let unary = ["--publish", "unary", "--rate", "500", "steady"];
    let reports = load(&[&unary[..], &flags].concat()).await;
    assert_eq!(numbers(&reports, "deliveries"), [Some(1_000)]);
    assert!(reports[0]["seconds"].as_f64().unwrap() >= 1.9, "an open loop keeps its rate");
    for bare in ["raw_answer", "raw_stored"] {
        assert!(reports[0][bare]["p50"].as_f64().unwrap() > 0.0, "{bare}");
    }
    let batched = ["--publish", "batched", "steady", "backlog"];
    let reports = load(&[&batched[..], &flags].concat()).await;
    assert_eq!(reports[0]["deliveries"], 1_000);
    let backlog = &reports[1]["backlog"];
    assert!(backlog["deliveries"].as_u64().unwrap() > 1_000, "all but what was under way: {backlog}");
    assert!(backlog["drained_per_second"].as_f64().unwrap() > 0.0);
    assert!(backlog["live_beside_posts"]["p50"].as_f64().unwrap() > 0.0);
}
