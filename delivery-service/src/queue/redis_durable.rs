//! How durable a delivery is in Redis before its publisher is told that it is accepted. Beyond Redis'
//! memory, deliveries are written down a connection of their own to each server, one group of calls at a
//! time, and WAIT or WAITAOF follows down the same connection: they speak of what that connection wrote.
//! Too few acknowledgements are an error; what was written is delivered all the same. Until they have come,
//! this process writes to that server once in a while only, and others seldom wait for it.

use std::{
    collections::HashMap,
    str::FromStr,
    time::{Duration, Instant},
};

use common::redis::{Connection, Master, Version, slot};
use futures_util::future::{join, join_all};
use redis::{Cmd, Value, aio::MultiplexedConnection, cmd};
use tokio::{sync::Mutex, time::timeout};

use super::{
    QueueError,
    redis_call::{Verb, ask, sorted},
};

/// For writing and acknowledging, connecting included: within what a publisher waits for a Redis that is away.
const LIMIT: Duration = Duration::from_millis(1_900);
/// For acknowledgements: an `appendfsync everysec` takes up to a second and a bit.
const ACKNOWLEDGED: Duration = Duration::from_millis(1_500);
/// For those of what was written before, where they were late: a round trip to the replicas …
const CAUGHT_UP: Duration = Duration::from_millis(50);
/// … and how long no more than that is asked: a write finds out what a wait does not, such as that a slot has moved.
const HELD_OFF: Duration = Duration::from_secs(5);
/// The first version with WAITAOF.
const WAITAOF: Version = Version(7, 2, 0);

/// What an accepted delivery is safe from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of ours: Redis has it in memory, and on disk and at replicas as soon as it does that.
    #[default]
    Memory,
    /// A crash of Redis: it is on its disk.
    Fsync,
    /// The loss of Redis' machine: so many replicas have it.
    Replicas(u32),
}

impl FromStr for Durability {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("replicas=").map(str::parse)) {
            ("memory", _) => Ok(Self::Memory),
            ("fsync", _) => Ok(Self::Fsync),
            (_, Some(Ok(replicas @ 1..=16))) => Ok(Self::Replicas(replicas)),
            _ => Err("must be memory, fsync, or replicas=N with N from 1 to 16"),
        }
    }
}

/// Why Redis cannot give the durability that is asked for.
pub type Unfit = String;

/// Whether Redis is set up for the durability that is asked for.
pub async fn check_durability(
    connection: &Connection,
    durability: Durability,
) -> Result<Result<(), Unfit>, QueueError> {
    for master in connection.masters().await.map_err(sorted)? {
        let name = master.name();
        match durability {
            Durability::Memory => {}
            Durability::Fsync => {
                if let Err(unfit) = how_to_fsync(connection, &master).await? {
                    return Ok(Err(unfit));
                }
            }
            Durability::Replicas(wanted) => {
                let info = connection.info(&master, "replication", &["connected_slaves"]).await;
                let there = info.map_err(sorted)?.first().cloned().flatten().and_then(|n| n.parse().ok());
                if there.unwrap_or(0) < wanted {
                    tracing::warn!(
                        server = name,
                        replicas = there.unwrap_or(0),
                        wanted,
                        "Redis has fewer replicas than --durability asks for: publishing is UNAVAILABLE until they are there"
                    );
                }
            }
        }
    }
    Ok(Ok(()))
}

/// What is asked of a server after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ack {
    /// It answers no sooner than it has synced.
    Always,
    Synced,
    Replicas(u32),
}

async fn how_to_fsync(connection: &Connection, master: &Master) -> Result<Result<Ack, Unfit>, QueueError> {
    let name = master.name();
    let info = connection.info(master, "persistence", &["aof_enabled"]).await.map_err(sorted)?;
    if info.first().cloned().flatten().as_deref() != Some("1") {
        return Ok(Err(format!("--durability fsync needs appendonly yes at {name}")));
    }
    let sync = connection.config(master, "appendfsync").await.map_err(sorted)?;
    let waits = connection.version_of(master).await.map_err(sorted)? >= WAITAOF;
    Ok(match sync.as_deref() {
        Some("always") => Ok(Ack::Always),
        Some("no") => Err(format!(
            "--durability fsync needs appendfsync always, or everysec with Redis 7.2 or Valkey, at {name}: it is no"
        )),
        _ if waits => Ok(Ack::Synced),
        _ => Err(format!(
            "--durability fsync needs appendfsync always at {name}, which is older than 7.2 and has no WAITAOF"
        )),
    })
}

/// Deliveries' way to Redis beyond its memory.
pub(super) struct Durable {
    connection: Connection,
    durability: Durability,
    /// What the keys of each shard begin with.
    bases: Vec<String>,
    lines: Mutex<Lines>,
}

/// To each server, as far as they are known.
#[derive(Default)]
struct Lines {
    masters: Vec<Master>,
    open: HashMap<String, Line>,
}

#[derive(Clone)]
struct Line {
    connection: MultiplexedConnection,
    ack: Ack,
    /// When it was last seen that what had been written was not acknowledged in time, unless it was since.
    late_since: Option<Instant>,
}

impl Durable {
    /// `None` when Redis' memory is enough.
    pub fn new(connection: Connection, bases: &[String], durability: Durability) -> Option<Self> {
        let durable = Self { connection, durability, bases: bases.to_vec(), lines: Mutex::default() };
        (durability != Durability::Memory).then_some(durable)
    }

    /// Runs a group of calls, each of one shard, and waits until what they wrote is as durable as it is
    /// to be. One group at a time.
    pub async fn run(&self, verb: &Verb, calls: Vec<(u16, Cmd)>) -> Vec<Result<Value, QueueError>> {
        let mut lines = self.lines.lock().await;
        if lines.masters.is_empty() {
            match timeout(LIMIT / 2, self.connection.masters()).await {
                Ok(Ok(masters)) => lines.masters = masters,
                Ok(Err(error)) => return vec![Err(sorted(error)); calls.len()],
                Err(_) => return vec![Err(late()); calls.len()],
            }
        }
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut answers: Vec<Result<Value, QueueError>> = vec![Err(late()); calls.len()];
        for (i, (shard, _)) in calls.iter().enumerate() {
            let Some(base) = self.bases.get(usize::from(*shard)) else { continue };
            let Some(master) = lines.masters.iter().position(|master| master.has(slot(base))) else {
                continue;
            };
            match groups.iter_mut().find(|(of, _)| *of == master) {
                Some((_, group)) => group.push(i),
                None => groups.push((master, vec![i])),
            }
        }
        let (Lines { masters, open }, calls) = (&*lines, &calls);
        let running = groups.into_iter().map(|(master, group)| async move {
            let master = &masters[master];
            let known = open.get(&master.name()).cloned();
            let base = &self.bases[usize::from(calls[group[0]].0)];
            let calls = group.iter().map(|&i| &calls[i].1).collect();
            let done = timeout(LIMIT, self.group(verb, master, known, base, calls)).await;
            (master.name(), group, done.unwrap_or_else(|_| Err(late())))
        });
        let done = join_all(running).await;
        for (name, group, result) in done {
            match result {
                Ok((line, results)) => {
                    lines.open.insert(name, line);
                    for (i, result) in group.into_iter().zip(results) {
                        answers[i] = result;
                    }
                }
                // The server may be another by now.
                Err(error) => {
                    lines.open.remove(&name);
                    lines.masters.clear();
                    for i in group {
                        answers[i] = Err(error.clone());
                    }
                }
            }
        }
        answers
    }

    /// One server's calls, among them one of the shard whose keys begin with `base`: the answers, and the line that
    /// they came by.
    async fn group(
        &self,
        verb: &Verb,
        master: &Master,
        line: Option<Line>,
        base: &str,
        calls: Vec<&Cmd>,
    ) -> Result<(Line, Vec<Result<Value, QueueError>>), QueueError> {
        let mut line = match line {
            Some(line) => line,
            None => self.dial(master).await?,
        };
        if line.late_since.is_some_and(|since| since.elapsed() < HELD_OFF)
            && let Some(missing) = line.acknowledge(CAUGHT_UP).await?
        {
            return Ok((line, vec![Err(missing); calls.len()]));
        }
        let answers = join_all(calls.into_iter().map(|call| verb.call(&line.connection, call))).await;
        // After anything but an answer the line is not trusted.
        if let Some(broken) = answers.iter().find_map(|answer| match answer {
            Err(error @ QueueError::Unavailable(_)) => Some(error.clone()),
            _ => None,
        }) {
            return Err(broken);
        }
        let (marked, missing) = join(line.mark(base), line.acknowledge(ACKNOWLEDGED)).await;
        let mut missing = missing?;
        line.late_since = missing.is_some().then(Instant::now);
        match marked {
            Ok(()) => {}
            Err(full @ QueueError::Full(_)) => missing = Some(full),
            Err(broken) => return Err(broken),
        }
        let judged = answers.into_iter().map(|answer| match &missing {
            Some(missing) => answer.and(Err(missing.clone())),
            None => answer,
        });
        Ok((line, judged.collect()))
    }

    async fn dial(&self, master: &Master) -> Result<Line, QueueError> {
        let ack = match self.durability {
            Durability::Replicas(replicas) => Ack::Replicas(replicas),
            // It may be another server than at the start.
            _ => how_to_fsync(&self.connection, master).await?.map_err(QueueError::Unavailable)?,
        };
        let connection = self.connection.dial(master, None).await.map_err(sorted)?;
        Ok(Line { connection, ack, late_since: None })
    }
}

impl Line {
    /// Writes something. A repeat writes nothing, and what it repeats may have come down another line: once something
    /// later has come down this one, an acknowledgement speaks of that too. Where none is asked for, it would be a sync
    /// for nothing.
    async fn mark(&self, base: &str) -> Result<(), QueueError> {
        if self.ack == Ack::Always {
            return Ok(());
        }
        let mut set = cmd("SET");
        set.arg(format!("{base}written")).arg("");
        ask(&self.connection, &set).await.map_err(sorted).map(drop)
    }

    /// Waits for what was written down the line; says what is missing.
    async fn acknowledge(&self, limit: Duration) -> Result<Option<QueueError>, QueueError> {
        let limit = limit.as_millis() as u64;
        let missing = match self.ack {
            Ack::Always => None,
            Ack::Synced => {
                let mut wait = cmd("WAITAOF");
                wait.arg(1).arg(0).arg(limit);
                let answer = ask(&self.connection, &wait).await.map_err(sorted)?;
                let (synced, _): (i64, i64) =
                    redis::from_redis_value(answer).map_err(|e| sorted(e.into()))?;
                (synced < 1).then(|| format!("Redis had not synced to disk within {limit} ms"))
            }
            Ack::Replicas(wanted) => {
                let mut wait = cmd("WAIT");
                wait.arg(wanted).arg(limit);
                let answer = ask(&self.connection, &wait).await.map_err(sorted)?;
                let there: i64 = redis::from_redis_value(answer).map_err(|e| sorted(e.into()))?;
                (there < i64::from(wanted))
                    .then(|| format!("{there} of {wanted} replicas had it within {limit} ms"))
            }
        };
        Ok(missing.map(QueueError::Unavailable))
    }
}

fn late() -> QueueError {
    QueueError::Unavailable(format!("Redis did not answer within {} ms", LIMIT.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_and_others_refused() {
        for (text, level) in [
            ("memory", Some(Durability::Memory)),
            ("fsync", Some(Durability::Fsync)),
            ("replicas=2", Some(Durability::Replicas(2))),
            ("replicas=0", None),
            ("replicas=-1", None),
            ("replicas=", None),
            ("replicas", None),
            ("Fsync", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), level, "{text}");
        }
    }
}
