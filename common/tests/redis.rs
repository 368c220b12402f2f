//! The connection to Redis against real servers, which the tests start themselves: one server, a
//! cluster of one node, and a sentinel.

#![cfg(test)]

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::redis::{Connection, Version, connect};
use redis::{AsyncCommands, Script};

struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    /// A server that answers.
    fn start(port: u16, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::run(port, folder, args, "Ready to accept connections")
    }

    fn sentinel(port: u16, master: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        std::fs::write(&file, format!("sentinel monitor main 127.0.0.1 {master} 1\n")).unwrap();
        let file = file.to_str().unwrap().to_owned();
        Self::run(port, folder, &["--sentinel", &file], "+monitor master main")
    }

    fn run(port: u16, folder: tempfile::TempDir, args: &[&str], ready: &str) -> Self {
        // A sentinel wants its file first.
        let (file, args) =
            if args.first() == Some(&"--sentinel") { (&args[1..2], &args[..1]) } else { (&args[..0], args) };
        let mut child = Command::new("redis-server")
            .args(file)
            .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"])
            .args(args)
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is needed: apt-get install redis-server");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(ready)), "redis-server on port {port} ended");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port, _folder: folder }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    // A cluster's bus takes the port 10,000 above.
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 55_000 {
            return port;
        }
    }
}

fn connection(url: &str) -> Connection {
    connect(&url.parse().unwrap(), None).unwrap()
}

async fn count(connection: &mut Connection) -> redis::RedisResult<i64> {
    Script::new("return redis.call('INCR', KEYS[1])").key("{a}n").invoke_async(connection).await
}

#[tokio::test]
async fn one_server_runs_scripts_and_pipelines_and_knows_its_user() {
    let server = Server::start(free_port(), &["--requirepass", "s3cret"]);
    let mut it = connection(&format!("redis://:s3cret@127.0.0.1:{}/3", server.port));
    assert_eq!(count(&mut it).await.unwrap(), 1);
    let (set, got): ((), String) = redis::pipe().set("k", "v").get("k").query_async(&mut it).await.unwrap();
    assert_eq!((set, got.as_str()), ((), "v"));
    assert!(!it.is_cluster());
    assert!(it.version().await.unwrap() >= Version(7, 0, 0));

    let error = connection(&format!("redis://:wr0ng@127.0.0.1:{}", server.port)).check().await.unwrap_err();
    assert!(!error.to_string().contains("wr0ng"), "{error}");
}

#[tokio::test]
async fn an_absent_server_fails_fast_for_all_and_is_used_once_it_is_there() {
    let port = free_port();
    let mut it = connection(&format!("redis://127.0.0.1:{port}"));
    let start = Instant::now();
    let waiting: Vec<_> =
        (0..50).map(|_| it.clone()).map(|it| tokio::spawn(async move { it.check().await })).collect();
    for one in waiting {
        assert!(one.await.unwrap().unwrap_err().is_io_error());
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());

    for _ in 0..2 {
        let server = Server::start(port, &[]);
        recovered(&mut it).await;
        drop(server);
        assert!(count(&mut it).await.is_err());
    }
}

#[tokio::test]
async fn a_server_that_was_demoted_is_left_for_its_sentinels_master() {
    let (old, new) = (Server::start(free_port(), &[]), Server::start(free_port(), &[]));
    let sentinel = Server::sentinel(free_port(), old.port);
    let mut it = connection(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port));
    recovered(&mut it).await;
    let _: () = it.set("where", "old").await.unwrap();
    let plain = |port: u16| connection(&format!("redis://127.0.0.1:{port}"));
    let mut asked = connection(&format!("redis://127.0.0.1:{}", sentinel.port));
    // What a failover does, without its waits.
    let mut demote = redis::cmd("REPLICAOF");
    demote.arg("127.0.0.1").arg(new.port).exec_async(&mut plain(old.port)).await.unwrap();
    for words in [vec!["REMOVE", "main"], vec!["MONITOR", "main", "127.0.0.1", &new.port.to_string(), "1"]] {
        redis::cmd("SENTINEL").arg(words).exec_async(&mut asked).await.unwrap();
    }
    assert!(it.set::<_, _, ()>("where", "new").await.is_err());
    recovered(&mut it).await;
    let _: () = it.set("where", "new").await.unwrap();
    assert_eq!(plain(new.port).get::<_, String>("where").await.unwrap(), "new");
}

#[tokio::test]
async fn a_cluster_is_one_and_recovers() {
    let port = free_port();
    let args = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"];
    let start = || async {
        let server = Server::start(port, &args);
        let mut node = connection(&format!("redis://127.0.0.1:{port}"));
        redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16383).exec_async(&mut node).await.unwrap();
        server
    };
    let mut it = connection(&format!("redis+cluster://127.0.0.1:{port}"));
    assert!(it.is_cluster());
    assert!(it.check().await.is_err());
    for _ in 0..2 {
        let server = start().await;
        recovered(&mut it).await;
        assert!(it.version().await.unwrap() >= Version(7, 0, 0));
        drop(server);
        assert!(count(&mut it).await.is_err());
    }
}

/// Waits until a script runs.
async fn recovered(connection: &mut Connection) {
    let start = Instant::now();
    while let Err(error) = count(connection).await {
        assert!(start.elapsed() < Duration::from_secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
