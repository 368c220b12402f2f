//! What the binaries refuse to start with, all of it said at once, with exit status 64.

use integration_tests::process::{Process, binary};

fn output(name: &str, flags: &[&str]) -> (i32, String) {
    let output = std::process::Command::new(binary(name)).args(flags).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn all_problems_are_said_at_once() {
    let flags = ["--config-addr", "0.0.0.0:50051", "--redis-url", "http://x", "--redis-prefix", "{}"];
    let (code, text) = output("config-service", &flags);
    assert_eq!(code, 64, "{text}");
    for problem in ["--insecure", "--route-token-file", "--redis-url", "--redis-prefix"] {
        assert!(text.contains(problem), "{problem} in {text}");
    }
    let (code, text) =
        output("delivery-service", &["--delivery-addr", "0.0.0.0:50052", "--config-url", "ftp://x"]);
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("--insecure") && text.contains("--config-url"), "{text}");
    let (code, text) = output("hookline", &["--no-such-flag"]);
    assert_eq!(code, 64, "{text}");
    for name in ["hookline", "config-service", "delivery-service"] {
        let (code, text) = output(name, &["--help"]);
        assert_eq!(code, 0);
        assert!(text.contains("--redis-url") && text.contains("HOOKLINE_REDIS_URL"), "{text}");
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let _first = Process::hookline(data.path(), &[]).await;
    let folder = data.path().to_str().unwrap();
    let flags = ["--data-dir", folder, "--config-addr", "127.0.0.1:0", "--delivery-addr", "127.0.0.1:0"];
    let mut second = Process::spawn("hookline", &flags);
    second.line("another process").await;
    assert!(!second.ended().await.success());
}
