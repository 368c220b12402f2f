//! What a reader of the endpoint sees of each kind of number.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn shown(register: impl FnOnce(&mut Registry)) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    register(&mut registry);
    text(&registry).unwrap()
}

#[test]
fn counters_are_told_apart_by_their_label_from_the_start() {
    let counters = Counters::new("to", ["open", "closed"]);
    let text = shown(|registry| registry.register("changes", "Changes", counters.clone()));
    assert!(text.contains("# TYPE hookline_changes counter\n"), "{text}");
    assert!(text.contains("hookline_changes_total{to=\"open\"} 0\n"), "{text}");
    counters.add(1, 3);
    counters.add(1, 0);
    counters.add(2, 9);
    assert_eq!(counters.get(), [0, 3]);
    let text = shown(|registry| registry.register("changes", "Changes", counters.clone()));
    assert!(text.contains("hookline_changes_total{to=\"closed\"} 3\n"), "{text}");
}

#[test]
fn durations_are_counted_up_to_their_bounds_in_seconds() {
    let durations = Durations::new(&[1_000, 20_000]);
    for us in [0, 1_000, 1_001, 500_000] {
        durations.add(Duration::from_micros(us));
    }
    let text = shown(|registry| registry.register("took_seconds", "Took", durations.clone()));
    for line in [
        "hookline_took_seconds_bucket{le=\"0.001\"} 2\n",
        "hookline_took_seconds_bucket{le=\"0.02\"} 3\n",
        "hookline_took_seconds_bucket{le=\"+Inf\"} 4\n",
        "hookline_took_seconds_count 4\n",
        "hookline_took_seconds_sum 0.502001\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn what_is_asked_for_is_asked_when_it_is_shown() {
    let asked = Asked::default();
    let text = || shown(|registry| registry.register("lanes", "Lanes", asked.clone()));
    assert!(text().contains("hookline_lanes 0\n"));
    asked.ask(|| 7);
    asked.ask(|| 8);
    assert!(text().contains("hookline_lanes 7\n"));
}

#[tokio::test]
async fn only_get_metrics_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counter = Counter::<u64>::default();
    counter.inc_by(5);
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register("seen", "Seen", counter);
    tokio::spawn(accept(listener, Arc::new(registry)));
    let ask = async |request: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let metrics = ask("GET /metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("content-type: application/openmetrics-text"), "{metrics}");
    assert!(metrics.ends_with("hookline_seen_total 5\n# EOF\n"), "{metrics}");
    assert!(ask("GET /").await.starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics").await.starts_with("HTTP/1.1 405"));
}
