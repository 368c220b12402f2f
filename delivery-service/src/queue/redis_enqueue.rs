//! Storing deliveries: batches cut into calls, lane by lane.

use std::{
    collections::{HashMap, hash_map::Entry},
    iter,
    sync::Arc,
};

use bytes::Bytes;
use common::ids::{ById, DeliveryId, Ids, WebhookId};
use futures_util::future::join_all;
use redis::{Cmd, RedisWrite, Value};
use sha2::{Digest, Sha256};

use super::{
    LaneNow, Lease, New, Place, QueueError, Stored,
    redis::{RedisQueue, millis},
    redis_call::{Answer, TIMEOUT, command, damaged, number},
    redis_record as record,
};
use crate::delivery::Fault;

/// What one call takes at most, lanes being whole: it keeps Redis from others.
const CALL_DELIVERIES: usize = 512;
const CALL_BYTES: usize = 4 << 20;
/// Bytes of an event's digest: no two of all that a store knows share it, and Redis keeps it in 16.
const DIGEST: usize = 14;

/// Lanes of one shard, each with its deliveries' indexes in the batch.
type Lanes = Vec<(WebhookId, Vec<usize>)>;

/// One shard's part of a batch.
type EnqueueCall = (u16, Lanes, Asked);

/// Bodies that go before a call, unless they are in it, and the call.
type Asked = (Option<Cmd>, Cmd);

impl RedisQueue {
    pub(super) async fn enqueue_all(&self, new: Arc<Vec<New>>) -> Vec<Result<Stored, QueueError>> {
        let mut results: Vec<Option<Result<Stored, QueueError>>> = vec![None; new.len()];
        let mut calls = Vec::new();
        for (shard, lanes) in self.plan(&new) {
            match self.memory.check(shard).and_then(|()| self.enqueue_call(shard, &lanes, &new)) {
                Ok(call) => calls.push((shard, lanes, call)),
                Err(error) => {
                    for i in lanes.into_iter().flat_map(|(_, indexes)| indexes) {
                        results[i] = Some(Err(error.clone()));
                    }
                }
            }
        }
        let mut unsure = self.leases.call(calls.iter().map(|(shard, ..)| *shard));
        let answers = self.run(calls).await;

        let (mut granted, mut known, mut emptied) = (Vec::new(), Vec::new(), false);
        for (shard, lanes, answer) in answers {
            let mut answer = match answer.and_then(Answer::of).and_then(StoredLanes::of) {
                Ok(answer) => answer,
                Err(error) => {
                    // What was asked and not answered may have been done, and what met damage in part: lanes may
                    // have been granted. What has no room has not.
                    if matches!(error, QueueError::Full(_)) {
                        known.push(shard);
                    }
                    for i in lanes.into_iter().flat_map(|(_, indexes)| indexes) {
                        results[i] = Some(Err(error.clone()));
                    }
                    continue;
                }
            };
            known.push(shard);
            emptied |= answer.emptied;
            for (lane, indexes) in lanes {
                match answer.next(&indexes, &new) {
                    Ok((stored, fence)) => {
                        granted.extend(fence.map(|fence| Lease { webhook_id: lane, fence }));
                        for (i, stored) in indexes.into_iter().zip(stored) {
                            results[i] = Some(Ok(stored));
                        }
                    }
                    Err(error) => {
                        for i in indexes {
                            results[i] = Some(Err(error.clone()));
                        }
                    }
                }
            }
        }
        drop(new);
        if emptied {
            // The store is new, or was emptied under us.
            if let Err(error) = command(&self.connection, &self.fix_shards()).await {
                tracing::warn!(%error, "the number of shards is not in the store yet");
            }
        }
        // From here on nothing is awaited: the caller learns of its leases for certain.
        for lease in granted {
            self.leases.granted(lease);
        }
        for shard in known {
            unsure.known(shard);
        }
        let lost = || Err(QueueError::Unavailable("no answer".into()));
        results.into_iter().map(|result| result.unwrap_or_else(lost)).collect()
    }

    async fn run(&self, calls: Vec<EnqueueCall>) -> Vec<(u16, Lanes, Result<Value, QueueError>)> {
        let Some(durable) = &self.durable else {
            let verb = &self.verbs.enqueue;
            let running = calls.into_iter().map(|(shard, lanes, (bodies, call))| async move {
                let answer = match bodies {
                    Some(bodies) => verb.run_after(&self.connection, bodies, call, TIMEOUT).await,
                    None => verb.run(&self.connection, call, TIMEOUT).await,
                };
                (shard, lanes, answer)
            });
            return join_all(running).await;
        };
        let (asked, calls): (Vec<_>, Vec<_>) =
            calls.into_iter().map(|(shard, lanes, (_, call))| ((shard, lanes), (shard, call))).unzip();
        let answers = durable.run(&self.verbs.enqueue, calls).await;
        asked.into_iter().zip(answers).map(|((shard, lanes), answer)| (shard, lanes, answer)).collect()
    }

    /// Cuts a batch into calls: a lane's deliveries stay together and in order.
    fn plan(&self, new: &[New]) -> Vec<(u16, Lanes)> {
        let mut place_of: ById<WebhookId, usize> = ById::default();
        let mut lanes: Lanes = Vec::new();
        for (i, New { head, .. }) in new.iter().enumerate() {
            let lane = head.webhook_id();
            let at = *place_of.entry(lane).or_insert_with(|| {
                lanes.push((lane, Vec::new()));
                lanes.len() - 1
            });
            lanes[at].1.push(i);
        }
        let mut calls: Vec<(u16, Lanes)> = Vec::new();
        let mut filling: HashMap<u16, (usize, usize, usize)> = HashMap::new();
        for (lane, indexes) in lanes {
            let shard = self.shard(lane);
            let bytes: usize = indexes.iter().map(|&i| new[i].body.len() + 256).sum();
            let call = filling.entry(shard).or_insert((usize::MAX, 0, 0));
            let full = call.1 + indexes.len() > CALL_DELIVERIES || call.2 + bytes > CALL_BYTES;
            if call.0 == usize::MAX || full {
                *call = (calls.len(), 0, 0);
                calls.push((shard, Vec::new()));
            }
            *call = (call.0, call.1 + indexes.len(), call.2 + bytes);
            calls[call.0].1.push((lane, indexes));
        }
        calls
    }

    fn enqueue_call(&self, shard: u16, lanes: &Lanes, new: &[New]) -> Result<Asked, QueueError> {
        let limits = &self.limits;
        let all = || lanes.iter().flat_map(|(lane, indexes)| indexes.iter().map(move |&i| (*lane, &new[i])));
        // Of those that share a body the first brings it.
        let mut shared: ById<[u8; 15], &Bytes> = ById::default();
        let mut brings = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        for (_, New { head, body, .. }) in all() {
            let first = match head.id().shared() {
                None => true,
                Some(common) => match shared.entry(common) {
                    Entry::Vacant(entry) => {
                        entry.insert(body);
                        true
                    }
                    Entry::Occupied(entry) if **entry.get() == *body => false,
                    Entry::Occupied(_) => {
                        return Err(damaged("deliveries share a body that is not the same"));
                    }
                },
            };
            brings.push(first);
            count += 1;
            bytes += if first { body.len() } else { 0 };
        }
        let apart = self.durable.is_none();
        let mut bodies = apart.then(|| Cmd::with_capacity(count * 2 + 2, bytes + count * 16 + 64));
        let mut call = self.call(&self.verbs.enqueue, shard)?;
        call.reserve_space_for_args(iter::repeat_n(
            if apart { 128 } else { 160 + bytes / count.max(1) },
            count * 4,
        ));
        if let Some(bodies) = &mut bodies {
            bodies.arg("HSET").arg(format!("{}bodies", self.base(shard)?));
        }
        call.arg(millis(limits.dedupe_window).max(1))
            .arg(limits.backlog_deliveries)
            .arg(limits.backlog_bytes);
        call.arg(limits.failed_kept).arg(millis(limits.ended_age)).arg(millis(limits.failed_age));
        call.arg(record::full());
        call.arg(u8::from(!apart)).arg(u8::from(!shared.is_empty()));
        let digests = all().filter(|(_, new)| new.dedupe);
        let digests: Vec<_> = digests.map(|(lane, new)| event_digest(lane, &new.head.event_id)).collect();
        let distinct = digests.iter().collect::<Ids<_>>().len() == digests.len();
        call.arg(digests.len());
        for digest in &digests {
            call.arg(digest);
        }
        let mut brings = brings.into_iter();
        for (lane, indexes) in lanes {
            let of_lane = || indexes.iter().map(|&i| &new[i]);
            call.arg(&lane.bytes()).arg(how(of_lane(), distinct, &new[indexes[0]].head.license_code));
            for New { head, body, failed, .. } in of_lane() {
                if head.id().shard() != shard {
                    return Err(damaged("a delivery's id carries another shard than its webhook's"));
                }
                call.arg(&head.id().bytes()).arg(record::new(head, body, *failed));
                let brought = brings.next().unwrap_or(true);
                match &mut bodies {
                    Some(bodies) if brought => match head.id().shared() {
                        Some(common) => bodies.arg(&common[..]).arg(&body[..]),
                        None => bodies.arg(&head.id().bytes()).arg(&body[..]),
                    },
                    Some(bodies) => bodies,
                    None => call.arg(if brought { &body[..] } else { &[] }),
                };
            }
        }
        Ok((bodies, call))
    }
}

/// A lane's answers: what was stored, the fence that the caller was given it with.
type LaneStored = (Vec<Stored>, Option<u64>);

/// What `lua/enqueue.lua` answers, lane by lane.
struct StoredLanes {
    /// What most lanes are given with that are given now, and the place of their first.
    fence: i64,
    first: i64,
    /// The store is new, or was emptied under us.
    emptied: bool,
    lanes: Answer,
}

impl StoredLanes {
    fn of(mut answer: Answer) -> Result<Self, QueueError> {
        let (fence, first) = (answer.number()?, answer.number()?);
        Ok(Self { fence, first, emptied: answer.number()? == 1, lanes: answer.array()? })
    }

    fn next(&mut self, indexes: &[usize], new: &[New]) -> Result<LaneStored, QueueError> {
        // They follow each other.
        let all_from =
            |first: i64| Answer::from((first..).map(Value::Int).take(indexes.len()).collect::<Vec<_>>());
        let (lane, before, places) = match self.lanes.value()? {
            Value::Int(before) => (lane_now(self.fence, true), place(before), all_from(self.first)),
            Value::BulkString(plain) => {
                let (who, given, before, first) = plain_answer(&plain)?;
                (lane_now(who, given), before, all_from(first))
            }
            listed => {
                let mut answer = Answer::of(listed)?;
                let who = match answer.value()? {
                    Value::BulkString(reason) => {
                        return Err(QueueError::Damaged(String::from_utf8_lossy(&reason).into_owned()));
                    }
                    who => number(&who)?,
                };
                (lane_now(who, answer.number()? == 1), place(answer.number()?), answer)
            }
        };
        stored(lane, before, places, indexes, new)
    }
}

fn stored(
    lane: LaneNow,
    mut before: Place,
    mut places: Answer,
    indexes: &[usize],
    new: &[New],
) -> Result<LaneStored, QueueError> {
    let mut all = Vec::with_capacity(indexes.len());
    for &i in indexes {
        all.push(match places.value()? {
            Value::Int(place) if place > 0 => {
                let place = Place(place as u64);
                Stored::New { place, before: std::mem::replace(&mut before, place), lane }
            }
            Value::Int(place) => {
                before = Place(place.unsigned_abs());
                Stored::Ended { place: before, reason: new[i].failed.unwrap_or(Fault::BacklogFull) }
            }
            Value::BulkString(id) => {
                let id = id.as_slice().try_into().map_err(|_| damaged("an event's delivery is no id"))?;
                Stored::Duplicate { id: DeliveryId::from_bytes(id) }
            }
            _ => return Err(damaged("an answer that is none")),
        });
    }
    let fence = match lane {
        LaneNow::Mine { fence, given: true } => Some(fence),
        _ => None,
    };
    Ok((all, fence))
}

fn place(number: i64) -> Place {
    Place(number.max(0) as u64)
}

/// What `lua/enqueue.lua` answers as PLAIN: who, whether given now, last place before, the first place.
fn plain_answer(plain: &[u8]) -> Result<(i64, bool, Place, i64), QueueError> {
    let (who, rest) = plain.split_first_chunk().ok_or_else(|| damaged("an answer that is cut short"))?;
    let (given, rest) = rest.split_first().ok_or_else(|| damaged("an answer that is cut short"))?;
    let (before, rest) = rest.split_first_chunk().ok_or_else(|| damaged("an answer that is cut short"))?;
    let first = rest.try_into().map_err(|_| damaged("an answer that is cut short"))?;
    let before = Place(u64::from_be_bytes(*before));
    Ok((i64::from_be_bytes(*who), *given == 1, before, i64::from_be_bytes(first)))
}

fn lane_now(who: i64, given: bool) -> LaneNow {
    match who {
        0 => LaneNow::NotNow,
        fence if fence > 0 => LaneNow::Mine { fence: fence as u64, given },
        _ => LaneNow::Due,
    }
}

/// What `lua/enqueue.lua` takes as HOW, whether a lane's deliveries can be stored all alike, and the license.
fn how<'a>(news: impl Iterator<Item = &'a New> + Clone, distinct: bool, license: &str) -> Vec<u8> {
    let all = |dedupe| news.clone().all(|new| new.dedupe == dedupe && new.failed.is_none());
    let letter = match (all(true), all(false)) {
        (true, _) if distinct => b'd',
        (_, true) => b'n',
        _ => b'm',
    };
    let bytes: u64 = news.clone().map(|new| new.body.len() as u64).sum();
    let count = u32::try_from(news.clone().count()).unwrap_or(u32::MAX);
    let mut how = Vec::with_capacity(16 + license.len());
    how.push(letter);
    how.extend(count.to_be_bytes());
    how.extend(bytes.to_be_bytes());
    if letter == b'm' {
        how.extend(news.map(|new| {
            let letter = if new.failed.is_some() { b'f' } else { b'n' };
            if new.dedupe { letter.to_ascii_uppercase() } else { letter }
        }));
    }
    how.extend(license.as_bytes());
    how
}

/// What an event id is known by in its lane: long ids would take much room.
fn event_digest(lane: WebhookId, event_id: &str) -> [u8; DIGEST] {
    let digest = Sha256::new().chain_update(lane.bytes()).chain_update(event_id).finalize();
    let mut short = [0; DIGEST];
    short.copy_from_slice(&digest[..DIGEST]);
    short
}
