//! What a newcomer runs first: the demo, and the lines that a started Hookline prints for pasting.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use integration_tests::process::binary;

#[test]
fn the_demo_delivers_every_fixture_and_ends_well_any_number_of_times() {
    for _ in 0..2 {
        let started = Instant::now();
        let output = Command::new(binary("hookline")).arg("--demo").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{errors}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        for shown in
            ["POST ", "webhook-signature: v1,", "eventType=FEEDBACK_SUBMIT", "<response>", "Added to Cart"]
        {
            assert!(text.contains(shown), "{shown} in {text}");
        }
    }
}

#[test]
fn the_three_printed_lines_work_when_pasted() {
    let data = tempfile::tempdir().unwrap();
    let mut child = Command::new(binary("hookline"))
        .args(["--config-addr", "127.0.0.1:0", "--delivery-addr", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // A pasted line goes on where it ends in a backslash.
    let mut printed = Vec::new();
    let mut command = String::new();
    for line in lines {
        if !command.is_empty() || line.trim_start().starts_with("grpcurl ") {
            let whole = line.trim_end();
            command += whole.strip_suffix('\\').unwrap_or(whole);
            if !whole.ends_with('\\') {
                printed.push(std::mem::take(&mut command));
            }
        }
        if printed.len() == 3 {
            break;
        }
    }
    assert_eq!(printed.len(), 3);
    let tool = std::env::var("GRPCURL").unwrap_or_else(|_| "grpcurl".into());
    for line in &printed {
        let pasted = line.trim_start().replacen("grpcurl", &tool, 1);
        let output = Command::new("sh").args(["-c", &pasted]).output().unwrap();
        assert!(output.status.success(), "{pasted}: {}", String::from_utf8_lossy(&output.stderr));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
