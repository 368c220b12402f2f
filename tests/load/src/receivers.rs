//! The receivers' process and the empty service, as seen from the generator: this binary again, under
//! another role, asked by lines and ended with the run.

use std::{net::SocketAddr, process::Stdio};

use anyhow::Context;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
};

use crate::{receiver::Arrived, report::Latency};

pub struct Receivers {
    pub address: SocketAddr,
    pub pid: u32,
    pipe: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    _child: Child,
}

impl Receivers {
    /// Starts this binary in a role, with what belongs to it; it prints the address that it listens at.
    pub async fn start(role: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("a pipe to the receiver")?;
        let mut lines = BufReader::new(child.stdout.take().context("a pipe from the receiver")?).lines();
        let address = lines.next_line().await?.context("the receiver has ended")?.parse()?;
        let pid = child.id().context("the receiver has ended")?;
        Ok(Self { address, pid, pipe: Mutex::new((input, lines)), _child: child })
    }

    pub fn url(&self, class: char, slot: usize) -> String {
        format!("http://{}/{class}/{slot}", self.address)
    }

    /// From now on events of this run count, each delivered to as many slots at most.
    pub async fn reset(&self, run: u64, slots: usize) -> anyhow::Result<()> {
        self.tell(&format!("reset {run} {slots}")).await
    }

    /// Requests of class `g` are answered while the gate is open.
    pub async fn gate(&self, open: bool) -> anyhow::Result<()> {
        self.tell(if open { "gate open" } else { "gate closed" }).await
    }

    /// Measures latencies anew.
    pub async fn forget_latency(&self) -> anyhow::Result<()> {
        self.tell("forget").await
    }

    /// How many have arrived: cheap enough to ask all the time, as how long they took is not.
    pub async fn arrived(&self) -> anyhow::Result<Arrived> {
        self.ask("count").await
    }

    /// From publishing to arrival.
    pub async fn latency(&self) -> anyhow::Result<Latency> {
        self.ask("latency").await
    }

    async fn tell(&self, word: &str) -> anyhow::Result<()> {
        self.ask::<Arrived>(word).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(&self, word: &str) -> anyhow::Result<T> {
        let (input, lines) = &mut *self.pipe.lock().await;
        input.write_all(format!("{word}\n").as_bytes()).await?;
        let line = lines.next_line().await?.context("the receiver has ended")?;
        Ok(serde_json::from_str(&line)?)
    }
}
