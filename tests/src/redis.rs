//! Real redis-servers for scenarios, each on ports and a folder of its own, ended with the scenario.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// One redis-server.
pub struct Redis {
    pub port: u16,
    child: Child,
    folder: TempDir,
    arguments: Vec<String>,
}

/// A Redis Cluster of masters without replicas.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

impl Redis {
    /// With an append-only file, as in production.
    pub async fn start() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "everysec"]).await
    }

    pub async fn with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
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

    /// Starts it again where it was, with what it had on disk.
    pub async fn restart(&mut self) {
        self.child = spawn(self.port, self.folder.path(), &self.arguments);
        self.ready().await;
    }

    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
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
        tokio::time::timeout(Duration::from_secs(20), answers).await.expect("redis-server should answer");
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
            nodes.push(Redis::with(&["--cluster-enabled", "yes", "--appendonly", "yes"]).await);
        }
        let slots = 16_384 / u32::from(masters);
        for (n, node) in nodes.iter().enumerate() {
            let mut connection = node.connect().await;
            let first = n as u32 * slots;
            let last = if n + 1 == nodes.len() { 16_383 } else { first + slots - 1 };
            command(&mut connection, "ADDSLOTSRANGE", &[first.to_string(), last.to_string()]).await;
            command(&mut connection, "MEET", &["127.0.0.1".into(), nodes[0].port.to_string()]).await;
        }
        let cluster = Self { nodes };
        tokio::time::timeout(Duration::from_secs(30), cluster.whole())
            .await
            .expect("the cluster should form");
        cluster
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Every node sees every other and all slots.
    async fn whole(&self) {
        for node in &self.nodes {
            let mut connection = node.connect().await;
            loop {
                let info: String =
                    redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.unwrap();
                let known = format!("cluster_known_nodes:{}", self.nodes.len());
                if info.contains("cluster_state:ok") && info.contains(&known) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn command(connection: &mut redis::aio::MultiplexedConnection, name: &str, arguments: &[String]) {
    redis::cmd("CLUSTER").arg(name).arg(arguments).query_async::<()>(connection).await.unwrap();
}

fn spawn(port: u16, folder: &Path, arguments: &[String]) -> Child {
    Command::new("redis-server")
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
