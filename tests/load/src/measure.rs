//! What the system says of processes and stores: CPU time and memory from /proc, bytes of the store,
//! bytes over loopback. What cannot be told is left out.

use std::{fs, path::Path};

use crate::pair::{Pair, Where, info};

/// Of all that /proc counts in ticks, on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

#[derive(Debug, Clone)]
pub struct Sample {
    pub processes: Vec<Process>,
    /// What the store holds: Redis' memory, or files.
    pub store_bytes: Option<u64>,
    /// Commands that Redis has carried out, in scripts too.
    pub redis_commands: Option<u64>,
    /// Received over the loopback interface, by anyone.
    pub wire_bytes: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Process {
    pub name: &'static str,
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
}

pub async fn sample(pair: &mut Pair, receiver: u32) -> anyhow::Result<Sample> {
    let ours = [("receiver", receiver), ("generator", std::process::id())];
    let processes = pair.processes.iter().copied().chain(ours).filter_map(process).collect();
    let (mut store_bytes, mut redis_commands) = (None, None);
    match &mut pair.store {
        Where::Unknown => {}
        Where::Folder(folder) => store_bytes = Some(size(folder)),
        Where::Redis { connection, .. } => {
            store_bytes = info(connection, "used_memory").await?;
            redis_commands = info(connection, "total_commands_processed").await?;
        }
    }
    Ok(Sample { processes, store_bytes, redis_commands, wire_bytes: loopback() })
}

pub fn process((name, pid): (&'static str, u32)) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, can hold spaces; utime and stime are the 12th and 13th after it.
    let after = stat.rsplit_once(')')?.1;
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = rss.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Process { name, cpu_seconds: ticks.iter().sum::<f64>() / TICKS, rss_bytes: kib << 10 })
}

/// What the files of a folder take on the disk.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

fn loopback() -> Option<u64> {
    let devices = fs::read_to_string("/proc/net/dev").ok()?;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("lo:"))?;
    line.split_whitespace().next()?.parse().ok()
}
