//! The real binaries as processes: started on ports of their own, watched by their logs, killed, paused
//! and stopped as a scenario says, and gone when it ends.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::sync::mpsc;

/// How long a process may take to say that it listens, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a log that a failed scenario shows.
const SHOWN: usize = 60;

/// A process of ours.
pub struct Process {
    name: &'static str,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    lines: mpsc::UnboundedReceiver<String>,
    /// By service: config-service, delivery-service.
    addresses: HashMap<String, SocketAddr>,
}

/// Where the binary is: beside this one, or above a test's folder, or where `HOOKLINE_BIN_DIR` says.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("HOOKLINE_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let this = std::env::current_exe().unwrap();
        let folder = this.parent().unwrap();
        if folder.ends_with("deps") { folder.parent().unwrap() } else { folder }.to_owned()
    });
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: ./test builds it, or cargo build --bins", path.display());
    path
}

impl Process {
    /// Starts `hookline` on a data folder, and waits until both services listen.
    pub async fn hookline(data: &Path, flags: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        let own = ["--data-dir", data, "--config-addr", "127.0.0.1:0", "--delivery-addr", "127.0.0.1:0"];
        Self::start("hookline", &[&own, flags].concat(), &["config-service", "delivery-service"]).await
    }

    pub async fn config(address: &str, flags: &[&str]) -> Self {
        Self::start("config-service", &[&["--config-addr", address], flags].concat(), &["config-service"])
            .await
    }

    pub async fn delivery(address: &str, config: SocketAddr, flags: &[&str]) -> Self {
        let url = format!("http://{config}");
        let own = ["--delivery-addr", address, "--config-url", &url];
        Self::start("delivery-service", &[&own, flags].concat(), &["delivery-service"]).await
    }

    async fn start(name: &'static str, flags: &[&str], services: &[&str]) -> Self {
        let mut process = Self::spawn(name, flags);
        for service in services {
            let line = process.line(&format!("{service} listens")).await;
            let record: serde_json::Value = serde_json::from_str(&line).unwrap();
            let address = record["address"].as_str().expect("an address").parse().unwrap();
            process.addresses.insert((*service).to_owned(), address);
        }
        process
    }

    /// Starts a binary and waits for nothing.
    pub fn spawn(name: &'static str, flags: &[&str]) -> Self {
        let mut child = Command::new(binary(name))
            .args(flags)
            .args(["--log-format", "json"])
            .env_remove("HOOKLINE_DATA_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, lines) = mpsc::unbounded_channel();
        let (errors, kept) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line.clone());
                let _ = sender.send(line);
            }
        });
        Self { name, child, log, lines, addresses: HashMap::new() }
    }

    /// Waits until one of its services says that it is ready.
    pub async fn ready(&mut self, service: &str) {
        let address = self.address(service).to_string();
        let is_ready = |line: &str| line.contains(r#""message":"ready""#) && line.contains(&address);
        if self.log().iter().any(|line| is_ready(line)) {
            return;
        }
        while !is_ready(&self.line("ready").await) {}
    }

    /// The next line of its log that contains `text`.
    pub async fn line(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.lines.recv().await {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("{} ended without saying {text:?}", self.name)
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("{} should have said {text:?}", self.name))
    }

    /// All that it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn address(&self, service: &str) -> SocketAddr {
        self.addresses[service]
    }

    pub fn config_address(&self) -> SocketAddr {
        self.address("config-service")
    }

    pub fn delivery_address(&self) -> SocketAddr {
        self.address("delivery-service")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it ever had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux says so");
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes << 10
    }

    /// The CPU time that it has taken, in user mode and for it in the kernel.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name, in parentheses, can hold spaces; utime and stime are the 12th and 13th after it.
        let (_, after) = stat.rsplit_once(')').expect("Linux says so");
        let ticks = after.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name, such as STOP or TERM.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// SIGTERM, and how it ended.
    pub async fn stop(self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> ExitStatus {
        // The log ends when the process does.
        let over = async { while self.lines.recv().await.is_some() {} };
        tokio::time::timeout(PATIENCE, over).await.expect("the process should have ended");
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log.lock().unwrap();
            let from = log.len().saturating_sub(SHOWN);
            eprintln!("--- the end of the log of {} ---\n{}", self.name, log[from..].join("\n"));
        }
    }
}
