//! Storing what became of deliveries, and giving leases back: batches cut into calls, lane by lane.

use std::{collections::HashMap, iter, sync::Arc};

use common::ids::{Ids, WebhookId};
use futures_util::future::join_all;
use prost::Message;
use redis::{Cmd, RedisWrite, Value};

use super::{
    Fate, LeaseLost, QueueError, Release, Settle, Settled,
    redis::{RedisQueue, millis},
    redis_call::{Answer, TIMEOUT},
    redis_record as record,
};

/// Deliveries and lanes of one call, these whole: it keeps Redis from others, and a larger one saves nothing.
const CALL: usize = 128;

/// One call's lanes, each once.
#[derive(Default)]
struct Part {
    indexes: Vec<usize>,
    lanes: Ids<WebhookId>,
    deliveries: usize,
}

impl Part {
    fn has_room(&self, settle: &Settle) -> bool {
        let filled = self.deliveries + self.indexes.len() + settle.deliveries.len();
        filled < CALL && !self.lanes.contains(&settle.lane.webhook_id)
    }

    fn add(&mut self, index: usize, settle: &Settle) {
        self.indexes.push(index);
        self.lanes.insert(settle.lane.webhook_id);
        self.deliveries += settle.deliveries.len();
    }
}

impl RedisQueue {
    pub(super) async fn settle_all(
        &self,
        lanes: Arc<Vec<Settle>>,
    ) -> Result<Vec<Result<(), LeaseLost>>, QueueError> {
        let mut shards: HashMap<u16, Vec<Part>> = HashMap::new();
        for (i, settle) in lanes.iter().enumerate() {
            let calls = shards.entry(self.shard(settle.lane.webhook_id)).or_default();
            if !calls.last().is_some_and(|call| call.has_room(settle)) {
                calls.push(Part::default());
            }
            if let Some(call) = calls.last_mut() {
                call.add(i, settle);
            }
        }
        let all = &lanes;
        // One after the other in a shard: lane by lane, in order.
        let running = shards.into_iter().map(|(shard, calls)| async move {
            let mut answers = Vec::new();
            for Part { indexes, .. } in calls {
                let call = self.settle_call(shard, indexes.iter().map(|&i| &all[i]))?;
                let mut answer = Answer::of(self.verbs.settle.run(&self.connection, call, TIMEOUT).await?)?;
                for i in indexes {
                    answers.push((i, self.settled(&all[i], answer.value()?)));
                }
            }
            Ok(answers)
        });
        let answers = join_all(running).await;
        drop(lanes);
        let mut answers: Vec<_> =
            answers.into_iter().collect::<Result<Vec<_>, QueueError>>()?.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|(i, _)| *i);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    fn settled(&self, settle: &Settle, answer: Value) -> Result<(), LeaseLost> {
        if answer == Value::Int(1) {
            if settle.release.is_some() {
                self.leases.ended(settle.lane);
            }
            return Ok(());
        }
        if let Value::BulkString(reason) = answer {
            let reason = String::from_utf8_lossy(&reason);
            tracing::error!(webhook = %settle.lane.webhook_id, %reason, "a lane in Redis is damaged");
        }
        self.leases.ended(settle.lane);
        Err(LeaseLost)
    }

    fn settle_call<'a>(
        &self,
        shard: u16,
        lanes: impl Iterator<Item = &'a Settle> + Clone,
    ) -> Result<Cmd, QueueError> {
        let limits = &self.limits;
        let mut call = self.call(&self.verbs.settle, shard)?;
        let count = lanes.clone().map(|settle| settle.deliveries.len() + 3).sum();
        call.reserve_space_for_args(iter::repeat_n(224, count));
        call.arg(limits.ended_kept).arg(limits.failed_kept);
        call.arg(millis(limits.ended_age)).arg(millis(limits.failed_age));
        for settle in lanes {
            let ends = |fate: Fate| matches!(fate, Fate::Succeeded | Fate::Cancelled);
            let ended = settle.deliveries.iter().filter(|d| ends(d.fate));
            let others = settle.deliveries.iter().filter(|d| !ends(d.fate));
            let bytes = ended.clone().map(|d| u64::from(d.head.body_bytes)).sum();
            call.arg(&settle.lane.webhook_id.bytes()).arg(header(settle, bytes, others.clone().count()));
            call.arg(ended.clone().flat_map(entry).collect::<Vec<u8>>());
            for settled in ended {
                call.arg(record::ended(&settled.head, settled.place));
            }
            for settled in others {
                call.arg(&settled.head.id().bytes());
                match settled.fate {
                    Fate::Retry { after } => call.arg(millis(after)),
                    Fate::Batch => call.arg("b"),
                    _ => call.arg(""),
                };
                call.arg(settled.head.renewals);
                match settled.fate {
                    Fate::Batch => call.arg(settled.head.membership()),
                    _ => call.arg(settled.head.encode_to_vec()),
                };
            }
        }
        Ok(call)
    }
}

/// As history has it.
fn entry(settled: &Settled) -> impl Iterator<Item = u8> {
    settled.place.0.to_be_bytes().into_iter().chain(settled.head.id().bytes())
}

/// What `lua/settle.lua` takes apart as HEADER, and the memo.
fn header(settle: &Settle, bytes: u64, others: usize) -> Vec<u8> {
    let (release, known, hold) = match settle.release {
        None => (b'k', 0, 0),
        Some(Release::Free { known, unread }) => (if unread { b'u' } else { b'f' }, known.0, 0),
        Some(Release::Hold { duration }) => (b'h', 0, millis(duration)),
        Some(Release::Park) => (b'p', 0, 0),
    };
    let mut header = Vec::with_capacity(64);
    header.push(if others > 0 { release.to_ascii_uppercase() } else { release });
    for number in [settle.lane.fence, settle.done_to.0, bytes, known, hold] {
        header.extend(number.to_be_bytes());
    }
    header.extend(u32::try_from(others).unwrap_or(u32::MAX).to_be_bytes());
    if let Some(memo) = &settle.memo {
        header.push(b'm');
        header.extend(memo);
    }
    header
}
