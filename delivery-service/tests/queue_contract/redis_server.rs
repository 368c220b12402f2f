//! Real Redis servers for tests: one, or a cluster of three, on free ports. They end with their last
//! user, and hold nothing on disk unless asked to.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Arc, Weak},
    time::Duration,
};

use common::redis::connect;
use redis::{Cmd, Value, cmd};
use tempfile::TempDir;
use tokio::sync::Mutex;

pub struct Server {
    program: String,
    child: Child,
    port: u16,
    args: Vec<String>,
    folder: TempDir,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&["--appendonly", "no"])
    }

    /// A server that answers.
    pub fn with(args: &[&str]) -> Self {
        Self::of("redis-server", args)
    }

    /// Valkey, which has WAITAOF.
    pub fn valkey(args: &[&str]) -> Self {
        let program = std::env::var("VALKEY_SERVER").unwrap_or_else(|_| "valkey-server".into());
        Self::of(&program, args)
    }

    /// One more of the same program.
    pub fn another(&self, args: &[&str]) -> Self {
        Self::of(&self.program, args)
    }

    fn of(program: &str, args: &[&str]) -> Self {
        // Another process may take the port in between.
        for _ in 0..5 {
            let port = free_port();
            let folder = tempfile::tempdir().unwrap();
            let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
            if let Some(child) = run(program, port, &folder, &args) {
                return Self { program: program.to_owned(), child, port, args, folder };
            }
        }
        panic!("{program} does not start");
    }

    pub fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// It hangs, and nobody is told.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// On the same port and folder.
    pub fn start_again(&mut self) {
        self.kill();
        self.child = run(&self.program, self.port, &self.folder, &self.args).expect("the port is free again");
    }

    /// Asks the server something, past the queue.
    pub async fn ask(&self, cmd: &Cmd) -> Value {
        let connection = connect(&self.address().parse().unwrap(), None).unwrap();
        cmd.query_async(&mut connection.clone()).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(program: &str, port: u16, folder: &TempDir, args: &[String]) -> Option<Child> {
    let mut child = Command::new(program)
        .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"])
        .args(args)
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "these tests need {program} ({error}): ./test gets it; or apt-get install redis-server, and \
                 valkey-server from Debian's backports, VALKEY_SERVER naming it"
            )
        });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.any(|line| line.is_ok_and(|line| line.contains("Ready to accept connections")));
    std::thread::spawn(move || lines.for_each(drop));
    if ready {
        return Some(child);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// One whose cluster port, 10,000 above, is in range.
fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 55_000 {
            return port;
        }
    }
}

pub struct Cluster {
    pub nodes: Vec<Server>,
}

impl Cluster {
    /// The one that running tests share.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    pub async fn start() -> Self {
        let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let nodes: Vec<_> = (0..3).map(|_| Server::with(&args)).collect();
        for (i, node) in nodes.iter().enumerate() {
            let (first, last) = (i * 16_384 / 3, (i + 1) * 16_384 / 3 - 1);
            node.ask(cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last)).await;
            node.ask(cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(i + 1)).await;
        }
        for node in &nodes[1..] {
            nodes[0].ask(cmd("CLUSTER").arg("MEET").arg("127.0.0.1").arg(node.port)).await;
        }
        // Nodes say no sooner that they know each other.
        for _ in 0..600 {
            let mut ready = 0;
            for node in &nodes {
                let info = node.ask(cmd("CLUSTER").arg("INFO")).await;
                let info: String = redis::from_redis_value(info).unwrap();
                ready +=
                    usize::from(info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3"));
            }
            if ready == 3 {
                return Self { nodes };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the cluster does not come up");
    }

    /// Which node has a slot at the start.
    pub fn owner(slot: u16) -> usize {
        (usize::from(slot) * 3 + 2) / 16_384
    }

    pub fn address(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }
}
