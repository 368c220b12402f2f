//! A cluster: a connection to each of its masters, and which slots are whose. Each server is connected to by itself,
//! so one that is away or silent keeps nobody waiting who is served by others. What a server has refused goes again,
//! for nothing was done of it; what was written and not answered may have been done, and does not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::RwLock;
use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    Address, Host, Master, Topology,
    masters::{of_cluster, slot_of},
    server::{Server, is_broken, server_error},
};

/// Before what was refused goes again, growing to the last: in all as long as a node takes to be known, or more.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(320);
/// For finding out whose the slots are.
const LOOK: Duration = Duration::from_secs(3);
/// For others after one has answered: one that knows whose the slots are, after one that does not.
const OTHERS: Duration = Duration::from_millis(300);
/// How often that is found out when a node does not answer: another may have taken over.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Cluster {
    pub address: Address,
    ca: Option<Vec<u8>>,
    /// The nodes that the address names.
    seeds: Vec<Arc<Server>>,
    map: RwLock<Option<Arc<Map>>>,
    /// When the last look failed, and why. Locked by who looks.
    last_failure: Mutex<Option<(Instant, RedisError)>>,
}

/// Whose the slots were at a time.
struct Map {
    nodes: Vec<(Master, Arc<Server>)>,
    since: Instant,
}

impl Map {
    fn server_of(&self, slot: u16) -> Option<Arc<Server>> {
        self.nodes.iter().find(|(master, _)| master.has(slot)).map(|(_, server)| server.clone())
    }

    fn ask_each<'c>(
        &self,
        cmd: &'c Cmd,
    ) -> FuturesUnordered<impl Future<Output = RedisResult<Value>> + use<'c>> {
        let ask = |server: Arc<Server>| async move { server.command(cmd).await?.extract_error() };
        self.nodes.iter().map(|(_, server)| ask(server.clone())).collect()
    }
}

impl Cluster {
    pub fn new(address: Address, ca: Option<&[u8]>) -> RedisResult<Self> {
        let node = |host: &Host| Server::new(address_of(&address, host), ca).map(Arc::new);
        let seeds = address.hosts.iter().map(node).collect::<RedisResult<_>>()?;
        let last_failure = Mutex::new(None);
        Ok(Self { seeds, address, ca: ca.map(<[u8]>::to_vec), map: RwLock::new(None), last_failure })
    }

    /// A command goes to who has its key, one without a key to any, and a script to all.
    pub async fn command(self: &Arc<Self>, cmd: &Cmd) -> RedisResult<Value> {
        let Some(slot) = slot_of_command(cmd) else {
            return match cmd.args_iter().next() {
                Some(Arg::Simple(b"SCRIPT")) => self.ask_all(cmd).await,
                _ => self.ask_any(cmd).await,
            };
        };
        self.until_taken(slot, |server| async move { server.command(cmd).await?.extract_error() }).await
    }

    /// Commands on keys of one slot.
    pub async fn commands(
        self: &Arc<Self>,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let slot = pipeline.cmd_iter().find_map(slot_of_command).unwrap_or_default();
        self.until_taken(slot, |server| async move {
            let answers = server.commands(pipeline, offset, count).await?;
            let refused = |answer: &Value| server_error(answer).is_some_and(|error| is_refused(&error));
            match answers.first().and_then(server_error) {
                Some(error) if answers.iter().all(refused) => Err(error),
                _ => Ok(answers),
            }
        })
        .await
    }

    /// Whoever answers first.
    pub async fn ask_any(&self, cmd: &Cmd) -> RedisResult<Value> {
        first(self.map().await?.ask_each(cmd)).await
    }

    /// Everybody; one answer is enough, and others have a little longer.
    async fn ask_all(&self, cmd: &Cmd) -> RedisResult<Value> {
        let mut asked = self.map().await?.ask_each(cmd);
        let mut all = Err(nobody());
        loop {
            let next = match &all {
                Err(_) => asked.next().await,
                Ok(_) => timeout(OTHERS, asked.next()).await.unwrap_or(None),
            };
            match next {
                Some(answer) => all = all.or(answer),
                None => return all,
            }
        }
    }

    /// All masters, those that are away included, as the cluster says now.
    pub async fn masters(&self) -> RedisResult<Vec<Master>> {
        Ok(self.look().await?.nodes.iter().map(|(master, _)| master.clone()).collect())
    }

    pub async fn server(&self, host: &Host) -> RedisResult<Arc<Server>> {
        let map = self.map().await?;
        let mut named = map.nodes.iter().filter(|(master, _)| master.host.as_ref() == Some(host));
        named.next().map(|(_, server)| server.clone()).ok_or_else(nobody)
    }

    /// Asks until a node takes it, for 0.6 s and what it takes to find out which one has it. A slot that is being
    /// moved is refused by the node that it is moved to as well: its keys may be at either.
    async fn until_taken<T, F>(self: &Arc<Self>, slot: u16, ask: impl Fn(Arc<Server>) -> F) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            let map = self.map().await?;
            let answer = match map.server_of(slot) {
                Some(server) => ask(server).await,
                None => Err(nobody()),
            };
            match answer {
                Err(error) if is_refused(&error) && pause <= LAST_PAUSE => {
                    sleep(pause).await;
                    pause *= 2;
                    // When nobody can say, the same is asked again.
                    let _ = self.look().await;
                }
                Err(error) => {
                    if is_broken(&error) && map.since.elapsed() >= AGAIN {
                        self.clone().look_meanwhile();
                    }
                    return Err(error);
                }
                answer => return answer,
            }
        }
    }

    async fn map(&self) -> RedisResult<Arc<Map>> {
        let map = self.map.read().clone();
        match map {
            Some(map) => Ok(map),
            None => self.look().await,
        }
    }

    fn look_meanwhile(self: Arc<Self>) {
        if self
            .last_failure
            .try_lock()
            .is_ok_and(|last| last.as_ref().is_none_or(|(at, _)| at.elapsed() >= AGAIN))
        {
            tokio::spawn(async move { self.look().await.map(drop) });
        }
    }

    /// Finds out whose the slots are. One look answers for all who waited for it.
    async fn look(&self) -> RedisResult<Arc<Map>> {
        let asked = Instant::now();
        let mut last = self.last_failure.lock().await;
        let before = self.map.read().clone();
        match (&before, &*last) {
            (Some(map), _) if map.since >= asked => return Ok(map.clone()),
            (_, Some((at, error))) if *at >= asked => return Err(error.clone()),
            _ => {}
        }
        let known = self.known(before.as_deref());
        let since = Instant::now();
        let found = timeout(LOOK, view(&known)).await.unwrap_or_else(|_| Err(nobody()));
        match found.and_then(|masters| self.connected(masters, &known)) {
            Ok(nodes) => {
                let map = Arc::new(Map { nodes, since });
                *self.map.write() = Some(map.clone());
                *last = None;
                Ok(map)
            }
            Err(error) => {
                *last = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Those that were found, and those that the address names.
    fn known(&self, map: Option<&Map>) -> Vec<Arc<Server>> {
        let found = map.into_iter().flat_map(|map| &map.nodes).map(|(_, server)| server.clone());
        let mut known: Vec<_> = found.collect();
        for seed in &self.seeds {
            if known.iter().all(|server| server.address != seed.address) {
                known.push(seed.clone());
            }
        }
        known
    }

    /// Each with the connection that there is, or a new one.
    fn connected(
        &self,
        masters: Vec<Master>,
        known: &[Arc<Server>],
    ) -> RedisResult<Vec<(Master, Arc<Server>)>> {
        let connected = masters.into_iter().filter_map(|master| {
            let address = address_of(&self.address, master.host.as_ref()?);
            let server = match known.iter().find(|server| server.address == address) {
                Some(server) => Ok(server.clone()),
                None => Server::new(address, self.ca.as_deref()).map(Arc::new),
            };
            Some(server.map(|server| (master, server)))
        });
        connected.collect()
    }
}

/// Whose the slots are: as the first says that sees enough of the cluster. Another one may have been left behind
/// in a failover, and is believed when those that do take too long.
async fn view(nodes: &[Arc<Server>]) -> RedisResult<Vec<Master>> {
    let ask = |server: Arc<Server>| async move { of_cluster(&server).await };
    let mut asked: FuturesUnordered<_> = nodes.iter().cloned().map(ask).collect();
    let (mut doubtful, mut last) = (None, nobody());
    loop {
        let next = match &doubtful {
            None => asked.next().await,
            Some(_) => timeout(OTHERS, asked.next()).await.unwrap_or(None),
        };
        match next {
            Some(Ok((masters, true))) => return Ok(masters),
            Some(Ok((masters, false))) => doubtful = doubtful.or(Some(masters)),
            Some(Err(error)) => last = error,
            None => return doubtful.ok_or(last),
        }
    }
}

/// The answer of the first that gives one, or the last error.
async fn first<T>(mut asked: FuturesUnordered<impl Future<Output = RedisResult<T>>>) -> RedisResult<T> {
    let mut last = nobody();
    while let Some(answer) = asked.next().await {
        match answer {
            Err(error) => last = error,
            answer => return answer,
        }
    }
    Err(last)
}

/// One of its nodes.
fn address_of(cluster: &Address, host: &Host) -> Address {
    Address { topology: Topology::Single, hosts: vec![host.clone()], ..cluster.clone() }
}

/// The slot of a command's first key, for the commands that are used here.
fn slot_of_command(cmd: &Cmd) -> Option<u16> {
    let mut args = cmd.args_iter().map(|arg| if let Arg::Simple(arg) = arg { arg } else { b"" });
    let at = match args.next()? {
        b"EVAL" | b"EVALSHA" => 2,
        b"PING" | b"INFO" | b"SCRIPT" => return None,
        _ => 0,
    };
    args.nth(at).map(slot_of)
}

fn nobody() -> RedisError {
    (ErrorKind::ClusterConnectionNotFound, "no node has answered").into()
}

/// Whether a node says that it is not the one, or not now; or there was none to send it to.
fn is_refused(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    matches!(
        error.kind(),
        ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
            | ErrorKind::ClusterConnectionNotFound
    )
}

#[cfg(test)]
mod tests {
    use redis::cmd;

    use super::*;

    #[test]
    fn a_command_goes_to_who_has_its_first_key() {
        let at = slot_of(b"{a}b");
        for words in ["EVALSHA 0123 2 {a}b {a}c x", "EVAL code 1 {a}b {z}", "SET {a}b {z} NX GET", "GET {a}b"]
        {
            let mut words = words.split(' ');
            let mut command = cmd(words.next().unwrap());
            command.arg(words.collect::<Vec<_>>());
            assert_eq!(slot_of_command(&command), Some(at));
        }
        assert_eq!(slot_of_command(cmd("INFO").arg("server")), None);
        assert_eq!(slot_of_command(&cmd("PING")), None);
    }

    #[test]
    fn what_was_refused_goes_again_and_what_may_have_been_done_does_not() {
        let refused = RedisError::from((ServerErrorKind::Moved.into(), "moved"));
        assert!(is_refused(&refused) && is_refused(&nobody()));
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(!is_refused(&broken));
    }
}
