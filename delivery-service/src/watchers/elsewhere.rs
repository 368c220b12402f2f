//! Changes on their way between replicas. Who watches an account says so in Redis; whoever stores a
//! change of it appends it to the account's stream, which those who watch read.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Change, Ended, Others, Watch};
use crate::queue::redis_watch::{READ_MOST, Wire};

/// How often streams are read.
const READ: Duration = Duration::from_millis(100);
/// How often a replica says what is watched there, and asks what is elsewhere.
const LOOK: Duration = Duration::from_millis(400);
/// After which every replica has heard of a new watch.
pub(super) const HEARD: Duration = Duration::from_secs(1);
/// Without an answer of the store for so long, other replicas may have stopped to tell.
const AWAY: Duration = Duration::from_secs(5);
/// How soon what could not be posted is told to have been lost.
const AGAIN: Duration = Duration::from_millis(400);
/// How often in a row a stream is read that has more.
const READS: usize = 32;
/// Batches that wait to be posted, and changes in one.
const POSTS: usize = 256;
const BATCH: usize = 256;

/// What is posted. A gap in an origin's sequence is something that was lost in the stream.
#[derive(Clone, PartialEq, Message)]
struct Batch {
    #[prost(fixed64, tag = "1")]
    origin: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(message, repeated, tag = "3")]
    changes: Vec<Change>,
    /// Something was to be posted before, and was not.
    #[prost(bool, tag = "4")]
    lost: bool,
}

/// Starts the tasks that post what changes here, and follow what changes at other replicas.
pub fn follow(watch: &Arc<Watch>, wire: Wire, stop: CancellationToken) {
    let (posts, posted) = mpsc::channel(POSTS);
    let others = Others { wire: wire.clone(), posts, dropped: Default::default() };
    if watch.others.set(others).is_ok() {
        let origin = rand::random();
        tokio::spawn(stop.clone().run_until_cancelled_owned(post(
            watch.clone(),
            wire.clone(),
            origin,
            posted,
        )));
        tokio::spawn(stop.run_until_cancelled_owned(read(watch.clone(), wire, origin)));
    }
}

async fn post(watch: Arc<Watch>, wire: Wire, origin: u64, mut posted: mpsc::Receiver<(String, Vec<Change>)>) {
    let mut sequences: HashMap<String, u64> = HashMap::new();
    // Accounts whose watchers have missed something, and do not know.
    let (mut lost, mut told) = (HashSet::<String>::new(), Instant::now());
    loop {
        let next = timeout(AGAIN, posted.recv()).await;
        if let Some(others) = watch.others.get() {
            lost.extend(others.dropped.write().drain());
        }
        lost.retain(|account| watch.elsewhere.read().contains(account));
        sequences.retain(|account, _| watch.elsewhere.read().contains(account));
        let mut batches: Vec<(String, &[Change])> = match &next {
            Ok(None) => return,
            Ok(Some((account, changes))) => {
                changes.chunks(BATCH).map(|some| (account.clone(), some)).collect()
            }
            Err(_) => Vec::new(),
        };
        if told.elapsed() >= AGAIN {
            told = Instant::now();
            batches.extend(lost.iter().map(|account| (account.clone(), &[][..])));
        }
        for (account, changes) in batches {
            let sequence = sequences.entry(account.clone()).or_default();
            *sequence += 1;
            let lost_before = lost.remove(&account);
            let batch = Batch { origin, sequence: *sequence, changes: changes.to_vec(), lost: lost_before };
            if let Err(error) = wire.post(&account, batch.encode_to_vec()).await {
                tracing::debug!(%error, "watchers at other replicas miss a change, and will be told so");
                lost.insert(account);
            }
        }
    }
}

async fn read(watch: Arc<Watch>, wire: Wire, origin: u64) {
    let mut ticks = tokio::time::interval(READ);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sequences: HashMap<(String, u64), u64> = HashMap::new();
    let (mut looked, mut heard) = (None::<Instant>, Instant::now());
    loop {
        ticks.tick().await;
        let mine: Vec<(String, String)> =
            watch.here.read().iter().map(|(name, account)| (name.clone(), account.cursor.clone())).collect();
        if looked.is_none_or(|at| at.elapsed() >= LOOK) {
            let names: Vec<_> = mine.iter().map(|(name, _)| name.clone()).collect();
            looked = Some(Instant::now());
            match wire.register(&names).await {
                Ok(elsewhere) => {
                    heard = Instant::now();
                    *watch.elsewhere.write() = elsewhere;
                    watch.count();
                }
                Err(error) => tracing::debug!(%error, "cannot hear what is watched elsewhere"),
            }
        }
        if heard.elapsed() > AWAY {
            watch.end(None, Ended::Away);
            continue;
        }
        sequences.retain(|(account, _), _| mine.iter().any(|(name, _)| name == account));
        for (account, mut cursor) in mine {
            for _ in 0..READS {
                let Ok(batches) = wire.read(&account, &cursor).await else { break };
                let more = batches.len() >= READ_MOST;
                for (id, bytes) in batches {
                    cursor.clone_from(&id);
                    if let Some(entry) = watch.here.write().get_mut(&account) {
                        entry.cursor = id;
                    }
                    hear(&watch, &account, &bytes, origin, &mut sequences);
                }
                if !more {
                    break;
                }
            }
        }
    }
}

/// Tells watchers here what a batch from elsewhere says.
fn hear(
    watch: &Watch,
    account: &str,
    bytes: &[u8],
    origin: u64,
    sequences: &mut HashMap<(String, u64), u64>,
) {
    let Ok(batch) = Batch::decode(bytes) else { return watch.end(Some(account), Ended::Behind) };
    if batch.origin == origin {
        return;
    }
    let last = sequences.insert((account.to_owned(), batch.origin), batch.sequence);
    // An origin begins anew at 1 when nobody had watched for a while.
    if batch.lost || last.is_some_and(|last| batch.sequence > last + 1) {
        watch.end(Some(account), Ended::Behind);
    }
    watch.tell_here(account, batch.changes);
}
