//! Real redis-servers for scenarios, each on ports and a folder of its own, ended with the scenario: one,
//! a cluster with or without replicas, and a master with a replica that sentinels watch.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// How long servers may take to come up, to form a cluster, to elect a master.
const PATIENCE: Duration = Duration::from_secs(60);

/// One redis-server.
pub struct Redis {
    pub port: u16,
    child: Child,
    folder: TempDir,
    arguments: Vec<String>,
}

/// A Redis Cluster: its masters, then their replicas in the same order, if it has any.
pub struct Cluster {
    pub nodes: Vec<Redis>,
    masters: usize,
}

/// A master and its replica, and three sentinels that agree on which is which.
pub struct Sentinels {
    pub servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Redis {
    /// With an append-only file, as in production.
    pub async fn start() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "everysec"]).await
    }

    pub async fn with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::run(folder, arguments.iter().map(ToString::to_string).collect()).await
    }

    async fn run(folder: TempDir, arguments: Vec<String>) -> Self {
        let port = free_port();
        let child = spawn(port, folder.path(), &arguments);
        let redis = Self { port, child, folder, arguments };
        redis.ready().await;
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name, such as STOP or CONT.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Starts it again where it was, with what it had on disk.
    pub async fn restart(&mut self) {
        self.child = spawn(self.port, self.folder.path(), &self.arguments);
        self.ready().await;
    }

    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Asks it something, in words.
    pub async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).await.unwrap()
    }

    async fn try_ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = redis::Client::open(self.url())?.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }

    /// Waits until an answer of its contains all of these.
    async fn says(&self, words: &[&str], texts: &[&str]) {
        let said = async {
            loop {
                // One that becomes a master lets go of its clients.
                let answer: String = self.try_ask(words).await.unwrap_or_default();
                if texts.iter().all(|text| answer.contains(text)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let said = tokio::time::timeout(PATIENCE, said).await;
        said.unwrap_or_else(|_| panic!("{words:?} of {} should say {texts:?}", self.port));
    }

    /// Waits until it answers and has loaded what it had.
    async fn ready(&self) {
        let client = redis::Client::open(self.url()).unwrap();
        let answers = async {
            loop {
                if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                    && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, answers).await.expect("redis-server should answer");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    pub async fn start(masters: u16) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..masters {
            let own = ["--cluster-enabled", "yes", "--appendonly", "yes", "--cluster-node-timeout", "1500"];
            nodes.push(Redis::with(&own).await);
        }
        let slots = 16_384 / u32::from(masters);
        for (n, node) in nodes.iter().enumerate() {
            let first = n as u32 * slots;
            let last = if n + 1 == nodes.len() { 16_383 } else { first + slots - 1 };
            let (first, last) = (first.to_string(), last.to_string());
            node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await;
            node.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]).await;
        }
        let cluster = Self { nodes, masters: masters.into() };
        cluster.whole().await;
        cluster
    }

    /// Each master with a replica that has what it has.
    pub async fn with_replicas(masters: u16) -> Self {
        let mut cluster = Self::start(masters).await;
        for _ in 0..masters {
            let own = [
                "--cluster-enabled",
                "yes",
                "--appendonly",
                "yes",
                "--cluster-node-timeout",
                "1500",
                "--cluster-replica-validity-factor",
                "0",
            ];
            let node = Redis::with(&own).await;
            node.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &cluster.nodes[0].port.to_string()]).await;
            cluster.nodes.push(node);
        }
        cluster.whole().await;
        for n in 0..cluster.masters {
            let id: String = cluster.nodes[n].ask(&["CLUSTER", "MYID"]).await;
            let replica = &cluster.nodes[cluster.masters + n];
            replica.ask::<()>(&["CLUSTER", "REPLICATE", &id]).await;
            replica.says(&["INFO", "replication"], &["role:slave", "master_link_status:up"]).await;
        }
        cluster.whole().await;
        cluster
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// From now on one that lacks a master goes on with what lies on the others.
    pub async fn goes_on_in_part(&self) {
        for node in &self.nodes {
            node.ask::<()>(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await;
        }
    }

    /// kill -9 of a master; answers when its replica has taken its place.
    pub async fn lose_master(&mut self, n: usize) {
        self.nodes[n].kill();
        self.replica_takes_over(n).await;
    }

    pub async fn replica_takes_over(&self, n: usize) {
        self.nodes[self.masters + n].says(&["INFO", "replication"], &["role:master"]).await;
    }

    /// Every node sees every other and all slots.
    async fn whole(&self) {
        let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
        for node in &self.nodes {
            node.says(&["CLUSTER", "INFO"], &["cluster_state:ok", &known]).await;
        }
    }
}

impl Sentinels {
    pub async fn start() -> Self {
        let master = Redis::start().await;
        let port = master.port.to_string();
        let replica = Redis::with(&["--appendonly", "yes", "--replicaof", "127.0.0.1", &port]).await;
        replica.says(&["INFO", "replication"], &["master_link_status:up"]).await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("sentinel.conf");
            let text = format!(
                "sentinel monitor main 127.0.0.1 {port} 2\nsentinel down-after-milliseconds main 1000\n\
                 sentinel failover-timeout main 5000\n"
            );
            std::fs::write(&file, text).unwrap();
            sentinels.push(Redis::run(folder, vec!["--sentinel".into()]).await);
        }
        let ready = ["num-slaves,1", "num-other-sentinels,2"];
        for sentinel in &sentinels {
            let seen = async {
                loop {
                    let facts: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", "main"]).await;
                    let facts: Vec<_> = facts.chunks(2).map(|fact| fact.join(",")).collect();
                    if ready.iter().all(|fact| facts.iter().any(|known| known == fact)) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(PATIENCE, seen).await.expect("the sentinels should find each other");
        }
        Self { servers: vec![master, replica], sentinels }
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+sentinel://{}/main", hosts.join(","))
    }

    /// kill -9 of the master; answers when the replica is the master.
    pub async fn lose_master(&mut self) {
        self.servers[0].kill();
        self.servers[1].says(&["INFO", "replication"], &["role:master"]).await;
    }
}

/// The URL of what says that it is Redis 6.2.14, for as long as the runtime lives.
pub async fn old_redis() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_as_old(stream));
        }
    });
    format!("redis://{address}")
}

/// Commands are arrays of strings: every other line is a word.
async fn answer_as_old(stream: tokio::net::TcpStream) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(head)) = lines.next_line().await {
        let count: usize = head.trim_start_matches('*').parse().unwrap();
        let mut words = Vec::new();
        for _ in 0..count {
            lines.next_line().await.unwrap();
            words.push(lines.next_line().await.unwrap().unwrap());
        }
        let info = "# Server\r\nredis_version:6.2.14\r\n";
        let answer = match words[0].to_uppercase().as_str() {
            "INFO" => format!("${}\r\n{info}\r\n", info.len()),
            _ => "+OK\r\n".to_owned(),
        };
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn spawn(port: u16, folder: &Path, arguments: &[String]) -> Child {
    // A sentinel has a file, which stands first.
    let file = folder.join("sentinel.conf");
    Command::new("redis-server")
        .args(file.exists().then_some(file))
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is needed: ./test installs it, or apt-get install redis-server")
}

/// A port that is free now, and whose cluster bus port (10,000 above) is too.
fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        if port < 55_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}
