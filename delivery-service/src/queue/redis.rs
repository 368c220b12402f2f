//! The queue on Redis: one server, or a cluster. Each verb is a script that is one atomic step of one
//! shard; a batch is one call a shard. All keys of a shard lie in one slot by their tag `{qN}`. A new
//! store has one shard on one server and 64 on a cluster. Times are the server's. Ids are 16 raw bytes.
//!
//! | key | what |
//! | --- | --- |
//! | `P:shards` | the layout of the other keys and how many shards there are, fixed at the store's first use |
//! | `P:{qN}:accounts` | zset of lanes by account, deleted webhooks' too: license, a zero and lane, all with score 0 |
//! | `P:{qN}:lanes` | zset: free lane → when it is due, ms; `+inf`: parked. Held lanes are not in it |
//! | `P:{qN}:parked` | set: parked lanes, and some that were |
//! | `P:{qN}:holders` | zset: holder → when it last said that it lives, ms |
//! | `P:{qN}:held:HOLDER` | set: the lanes it holds |
//! | `P:{qN}:hints:HOLDER` | channel: lanes that have come to its news |
//! | `P:{qN}:news:HOLDER` | set: lanes it held when something happened in them; with `w` behind: that were woken; with `c`: from which others withdrew |
//! | `P:{qN}:told:HOLDER` | set: of those, what the last answer to its claims told: until one was heard |
//! | `P:{qN}:heads` | hash: delivery id → mark and head (`redis_record.rs`) |
//! | `P:{qN}:bodies` | hash: delivery id, or what the ids of several have in common → body, of those that are open or FAILED |
//! | `P:{qN}:shares` | hash: what ids have in common → how many need their body |
//! | `P:{qN}:states` | hash: lane → what is kept of it, packed (`lua/lane.lua`): fence, holder (blanks: free), last (place), n and bytes (open), hold (until ms), lone (its only open one, when that is also its last), done (to which place all fresh ones are), age (when its history is looked at), ended (in history), late (1: some are or were scheduled), bulk and bulk_to (places: what is left of a bulk retry), license, memo, the newest of its history |
//! | `P:{qN}:bulk` | zset: lane with a bulk retry → when its next slice is due, ms |
//! | `P:{qN}:open` | zset of all open ones but lone ones in order of lane and place: lane, place (8 bytes) and delivery id, all with score 0 |
//! | `P:{qN}:sched:ID` | zset: delivery id → due ms, of the scheduled ones; under 10⁹: asked for, in that order |
//! | `P:{qN}:ok:ID` | list: history of SUCCEEDED and CANCELLED but the newest, in order of their end; blobs of place (8 bytes) and id |
//! | `P:{qN}:failed:ID` | zset: delivery id → place, of FAILED ones |
//! | `P:{qN}:written` | an empty string, set after each group of enqueues that WAIT or WAITAOF follows |
//! | `P:{qN}:evs` | zset: bucket of event ids, by its start, ms → when it is closed, ms; a window later it goes whole |
//! | `P:{qN}:ev:START` | hash: 14 bytes of SHA-256 of lane and event id → delivery id and when it was noted (4 bytes, ms since START) |

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use common::{
    ids::{DeliveryId, WebhookId},
    redis::Connection,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use prost::Message;
use redis::{Cmd, Value, cmd};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Bulk, Cancel, Cancelled, Claimed, Found, Hear, Lanes, Lease, LeaseLost, Limits, Listed, New, Page,
    PageLimit, Place, Query, Queue, QueueError, Retried, Scan, Settle, Slice, Standing, Stored, Waiting,
    redis_call::{Answer, TIMEOUT, Verb, Verbs, command, damaged, number, sorted},
    redis_durable::{Durability, Durable},
    redis_hints::listen,
    redis_leases::Leases,
    redis_memory::Memory,
    redis_record::{self as record, Record},
};
use crate::delivery::State;

/// Shards of a new store on a cluster. On one server more than one only adds calls.
const CLUSTER_SHARDS: u16 = 64;
/// Parked lanes that one call wakes at most, as `lua/wake.lua` says.
const WOKEN: i64 = 500;
/// How keys and records are laid out. Stores of another layout are refused.
const LAYOUT: &str = "layout-4";

/// Deliveries in Redis.
pub struct RedisQueue {
    pub(super) connection: Connection,
    pub(super) verbs: Verbs,
    pub(super) limits: Limits,
    prefix: String,
    /// What the keys of each shard begin with.
    bases: Vec<String>,
    /// This process, as it leases lanes.
    holder: String,
    pub(super) leases: Leases,
    pub(super) looked: Mutex<(Instant, i64)>,
    /// From where on each shard's lanes are looked at next for old history, as Redis' cursor says.
    pub(super) turns: Mutex<Vec<String>>,
    /// Of several shards those that no claim reaches, and when one tries again: they are asked nothing else, so that
    /// nobody waits for them who could be served by others.
    pub(super) away: Mutex<Vec<Option<Instant>>>,
    pub(super) offset_ms: Arc<AtomicI64>,
    pub(super) memory: Memory,
    /// The way of deliveries into Redis, where its memory is not enough.
    pub(super) durable: Option<Durable>,
    listening: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What Redis is to be asked for beyond its own settings.
#[derive(Debug, Clone, Default)]
pub struct Safety {
    pub durability: Durability,
    /// Bytes that each server may use, if it has no lower limit of its own.
    pub memory_limit: Option<u64>,
}

impl RedisQueue {
    /// Opens the store, or makes one. `prefix` begins every key, so that stores can share a server.
    pub async fn open(connection: Connection, prefix: &str, limits: Limits) -> Result<Arc<Self>, QueueError> {
        Self::open_with(connection, prefix, limits, Safety::default(), Arc::default()).await
    }

    /// The same with more asked of Redis; see `check_durability`.
    pub async fn open_safely(
        connection: Connection,
        prefix: &str,
        limits: Limits,
        safety: Safety,
    ) -> Result<Arc<Self>, QueueError> {
        Self::open_with(connection, prefix, limits, safety, Arc::default()).await
    }

    /// The same, `offset_ms` added to the server's time: for tests.
    pub async fn open_at(
        connection: Connection,
        prefix: &str,
        limits: Limits,
        offset_ms: Arc<AtomicI64>,
    ) -> Result<Arc<Self>, QueueError> {
        Self::open_with(connection, prefix, limits, Safety::default(), offset_ms).await
    }

    async fn open_with(
        connection: Connection,
        prefix: &str,
        limits: Limits,
        safety: Safety,
        offset_ms: Arc<AtomicI64>,
    ) -> Result<Arc<Self>, QueueError> {
        let new = if connection.is_cluster() { CLUSTER_SHARDS } else { 1 };
        let answer = command(&connection, &fix_shards(prefix, new)).await?;
        let shards = if answer == Value::Nil { new } else { fixed_shards(&answer)? };
        let bases: Vec<_> = (0..shards).map(|n| format!("{prefix}:{{q{n}}}:")).collect();
        Ok(Arc::new(Self {
            memory: Memory::watch(connection.clone(), &bases, safety.memory_limit).await,
            durable: Durable::new(connection.clone(), &bases, safety.durability),
            listening: Mutex::default(),
            bases,
            turns: Mutex::new(vec!["0".to_owned(); shards.into()]),
            away: Mutex::new(vec![None; shards.into()]),
            looked: Mutex::new((Instant::now(), i64::MIN)),
            holder: format!("{:016x}", rand::random::<u64>()),
            prefix: prefix.to_owned(),
            verbs: Verbs::new(),
            leases: Leases::default(),
            connection,
            limits,
            offset_ms,
        }))
    }

    pub(super) fn base(&self, shard: u16) -> Result<&str, QueueError> {
        self.bases.get(usize::from(shard)).map(String::as_str).ok_or_else(|| damaged("no such shard"))
    }

    pub(super) fn shard(&self, lane: WebhookId) -> u16 {
        lane.shard(self.shards())
    }

    pub(super) fn by_shard(&self, lanes: &[WebhookId]) -> HashMap<u16, Vec<WebhookId>> {
        let mut by_shard: HashMap<_, Vec<_>> = HashMap::new();
        for &lane in lanes {
            by_shard.entry(self.shard(lane)).or_default().push(lane);
        }
        by_shard
    }

    /// The shards' keys of lanes by account.
    pub(super) fn accounts(&self) -> impl Iterator<Item = String> {
        self.bases.iter().map(|base| format!("{base}accounts"))
    }

    pub(super) fn fix_shards(&self) -> Cmd {
        fix_shards(&self.prefix, self.shards())
    }

    /// Begins a script's call with what all of them take, unless its shard is away.
    pub(super) fn call(&self, verb: &Verb, shard: u16) -> Result<Cmd, QueueError> {
        if matches!(self.away.lock().get(usize::from(shard)), Some(Some(_))) {
            return Err(QueueError::Unavailable("this part of Redis does not answer".into()));
        }
        self.begin(verb, shard)
    }

    /// The same in any case.
    pub(super) fn begin(&self, verb: &Verb, shard: u16) -> Result<Cmd, QueueError> {
        let mut call = verb.on(self.base(shard)?);
        call.arg(&self.holder).arg(self.offset_ms.load(Ordering::Relaxed));
        Ok(call)
    }

    async fn get_record(&self, id: DeliveryId) -> Result<Option<(Vec<u8>, Option<Vec<u8>>)>, QueueError> {
        if id.shard() >= self.shards() {
            return Ok(None);
        }
        let mut call = self.call(&self.verbs.get, id.shard())?;
        call.arg(&id.bytes());
        let mut answer = Answer::of(self.verbs.get.run(&self.connection, call, TIMEOUT).await?)?;
        let record = answer.bytes()?;
        record.map(|record| answer.bytes().map(|body| (record, body))).transpose()
    }
}

#[async_trait]
impl Queue for RedisQueue {
    fn shards(&self) -> u16 {
        self.bases.len() as u16
    }

    async fn enqueue(&self, new: Arc<Vec<New>>) -> Vec<Result<Stored, QueueError>> {
        self.enqueue_all(new).await
    }

    async fn claim(&self, lanes: usize, page: PageLimit) -> Result<Claimed, QueueError> {
        self.claim_all(lanes, page).await
    }

    async fn read(
        &self,
        lane: Lease,
        after: Place,
        known_scheduled: usize,
        page: PageLimit,
    ) -> Result<Result<Page, LeaseLost>, QueueError> {
        let mut call = self.call(&self.verbs.read, self.shard(lane.webhook_id))?;
        call.arg(&lane.webhook_id.bytes()).arg(lane.fence).arg(after.0).arg(known_scheduled);
        call.arg(page.deliveries.clamp(1, 2000)).arg(page.bytes).arg(u8::from(page.early));
        let answer = self.verbs.read.run(&self.connection, call, TIMEOUT).await?;
        if answer == Value::Int(0) {
            self.leases.ended(lane);
            return Ok(Err(LeaseLost));
        }
        record::page(answer).map(Ok)
    }

    async fn scan(
        &self,
        lane: Lease,
        after: Place,
        limit: usize,
    ) -> Result<Result<Scan, LeaseLost>, QueueError> {
        self.scan_lane(lane, after, limit).await
    }

    async fn fetch(
        &self,
        lane: Lease,
        ids: Vec<DeliveryId>,
        bytes: usize,
    ) -> Result<Result<Vec<Option<Waiting>>, LeaseLost>, QueueError> {
        self.fetch_bodies(lane, ids, bytes).await
    }

    async fn settle(&self, lanes: Arc<Vec<Settle>>) -> Result<Vec<Result<(), LeaseLost>>, QueueError> {
        self.settle_all(lanes).await
    }

    async fn wake(&self, lanes: Lanes) -> Result<(), QueueError> {
        match lanes {
            Lanes::These(lanes) => {
                let calls = self.by_shard(&lanes).into_iter().map(|(shard, lanes)| async move {
                    let mut call = self.call(&self.verbs.wake, shard)?;
                    for lane in lanes {
                        call.arg(&lane.bytes());
                    }
                    self.verbs.wake.run(&self.connection, call, TIMEOUT).await
                });
                join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            }
            Lanes::Parked => {
                let shards = (0..self.shards()).map(|shard| async move {
                    loop {
                        let call = self.call(&self.verbs.wake, shard)?;
                        let woken = self.verbs.wake.run(&self.connection, call, TIMEOUT).await?;
                        if number(&woken)? < WOKEN {
                            return Ok(());
                        }
                    }
                });
                join_all(shards).await.into_iter().collect::<Result<Vec<()>, QueueError>>()?;
            }
        }
        Ok(())
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<Found>, QueueError> {
        let Some((record, body)) = self.get_record(id).await? else { return Ok(None) };
        let Record { head, place, .. } = record::read(&record)?;
        Ok(Some(Found { head, place, body: body.map(Into::into) }))
    }

    async fn list(&self, query: Query) -> Result<Listed, QueueError> {
        self.list_page(query).await
    }

    async fn retry(&self, id: DeliveryId) -> Result<Retried, QueueError> {
        // The head is renewed here and put in place of the one that was read, if that still stands.
        for _ in 0..16 {
            let Some((stored, body)) = self.get_record(id).await? else { return Ok(Retried::NotFound) };
            let Record { mut head, place, .. } = record::read(&stored)?;
            if let state @ (State::Succeeded | State::Cancelled) = head.state() {
                return Ok(Retried::Ended(state));
            }
            let Some(body) = body else { return Ok(Retried::NoBody) };
            head.renew();
            let mut call = self.call(&self.verbs.retry, id.shard())?;
            call.arg(&id.bytes()).arg(&head.webhook_id().bytes()).arg(&stored);
            call.arg(head.encode_to_vec()).arg(head.renewals);
            if number(&self.verbs.retry.run(&self.connection, call, TIMEOUT).await?)? == 1 {
                return Ok(Retried::Now(Box::new(Found { head, place, body: Some(body.into()) })));
            }
        }
        Err(QueueError::Unavailable("the delivery changes all the time".into()))
    }

    fn on_news(&self, hear: Hear) {
        let listening = listen(self.connection.clone(), &self.bases, &self.holder, hear);
        *self.listening.lock() = Some(listening);
    }

    async fn lane_status(&self, lane: WebhookId) -> Result<Standing, QueueError> {
        self.status_of(lane).await
    }

    async fn cancel(&self, lane: WebhookId, which: Cancel) -> Result<Cancelled, QueueError> {
        self.cancel_some(lane, which).await
    }

    async fn retry_bulk(&self, lane: WebhookId, from: Place, to: Place) -> Result<Bulk, QueueError> {
        self.start_bulk(lane, from, to).await
    }

    async fn bulk_retries(&self) -> Result<Vec<WebhookId>, QueueError> {
        self.bulks().await
    }

    async fn retry_slice(&self, lane: WebhookId, most: usize) -> Result<Slice, QueueError> {
        self.slice(lane, most).await
    }

    async fn stop_bulk(&self, lane: WebhookId) -> Result<(), QueueError> {
        self.end_bulk(lane).await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        // Of a cluster any node: what the others have is served.
        self.connection.check().await.map_err(sorted)
    }
}

fn fix_shards(prefix: &str, shards: u16) -> Cmd {
    let mut set = cmd("SET");
    set.arg(format!("{prefix}:shards")).arg(format!("{LAYOUT} {shards}")).arg("NX").arg("GET");
    set
}

/// How many shards a store has, if its keys are laid out as here.
fn fixed_shards(answer: &Value) -> Result<u16, QueueError> {
    let Value::BulkString(fixed) = answer else { return Err(damaged("the number of shards is none")) };
    let fixed = String::from_utf8_lossy(fixed);
    let Some(shards) = fixed.strip_prefix(LAYOUT).and_then(|fixed| fixed.strip_prefix(' ')) else {
        return Err(damaged("the store was made by another version, which laid it out in another way"));
    };
    let shards = shards.parse().ok().filter(|shards: &u16| shards.is_power_of_two());
    shards.ok_or_else(|| damaged("the number of shards is not a power of two"))
}

/// As scripts take it; no more than 100 years, so that times stay whole numbers.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(100 * 365 * 24 * 3_600_000)
}
