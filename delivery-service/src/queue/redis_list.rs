//! Listing an account's deliveries: its lanes' indexes, merged newest first. What a page costs is
//! bounded, so that a page can be short.

use std::collections::{BTreeMap, HashMap};

use common::ids::{DeliveryId, WebhookId};
use futures_util::future::join_all;
use redis::{Value, cmd};

use super::{
    Listed, Place, Query, QueueError,
    redis::RedisQueue,
    redis_call::{Answer, TIMEOUT, command, damaged, number},
    redis_record as record,
};
use crate::delivery::{Head, State};

/// Entries of indexes that a page looks at, all lanes together, unless there are more lanes.
const LOOKS: usize = 4_000;
/// Heads that a page reads.
const HEADS: usize = 2_000;
/// Lanes in one call: it keeps Redis from others.
const CALL_LANES: usize = 100;

/// Where a delivery stands in a list; lists are read from the greatest down.
type At = (Place, WebhookId);

impl RedisQueue {
    pub(super) async fn list_page(&self, query: Query) -> Result<Listed, QueueError> {
        let lanes = match query.webhook_id {
            Some(lane) => vec![lane],
            None => self.lanes_of(&query.license_code).await?,
        };
        let sets = sets(&query.states);
        if lanes.is_empty() || sets.is_empty() || query.limit == 0 {
            return Ok(Listed::default());
        }
        let (found, horizon) = self.newest(&lanes, sets, &query).await?;

        // In the list's order; below the horizon there may be others in between.
        let mut candidates: Vec<(At, DeliveryId)> =
            found.into_iter().rev().filter(|(at, _)| horizon.is_none_or(|horizon| *at >= horizon)).collect();
        let cut = candidates.len() > HEADS;
        candidates.truncate(HEADS);
        let heads = self.heads(&candidates).await?;

        let mut listed = Listed::default();
        let mut last = None;
        for (at, id) in candidates {
            if listed.deliveries.len() == query.limit {
                listed.next = last;
                return Ok(listed);
            }
            last = Some(at);
            // Gone meanwhile, or of another account.
            let Some(head) = heads.get(&id) else { continue };
            if matches(head, &query) {
                listed.deliveries.push((head.clone(), at.0));
            }
        }
        listed.next = if cut { last } else { horizon };
        Ok(listed)
    }

    async fn lanes_of(&self, license_code: &str) -> Result<Vec<WebhookId>, QueueError> {
        let (from, to) = (format!("[{license_code}\0"), format!("({license_code}\x01"));
        let reading = self.accounts().map(|accounts| {
            let mut range = cmd("ZRANGE");
            range.arg(accounts).arg(&from).arg(&to).arg("BYLEX");
            async move { Answer::of(command(&self.connection, &range).await?) }
        });
        let mut lanes = Vec::new();
        for answer in join_all(reading).await {
            let mut answer = answer?;
            while answer.left() > 0 {
                let member = answer.bytes()?.unwrap_or_default();
                let lane = member.last_chunk().ok_or_else(|| damaged("an account's lane is none"))?;
                lanes.push(WebhookId::from_bytes(*lane));
            }
        }
        Ok(lanes)
    }

    /// The newest entries of the lanes' indexes, and down to where they are complete; `None`: to the end.
    async fn newest(
        &self,
        lanes: &[WebhookId],
        sets: &str,
        query: &Query,
    ) -> Result<(BTreeMap<At, DeliveryId>, Option<At>), QueueError> {
        let indexes = sets.split(' ').count();
        let each = (LOOKS / (lanes.len() * indexes)).clamp(1, query.limit.clamp(1, 1000));
        let by_shard = self.by_shard(lanes);
        let reading = by_shard.iter().map(|(&shard, lanes)| async move {
            let mut entries = Vec::new();
            for lanes in lanes.chunks(CALL_LANES) {
                let mut call = self.call(&self.verbs.list, shard)?;
                call.arg(each).arg(sets).arg(query.from.0);
                for &lane in lanes {
                    let upper =
                        upper(lane, query).map_or_else(|| "+inf".into(), |Place(place)| format!("({place}"));
                    call.arg(&lane.bytes()).arg(upper);
                }
                let mut answer = Answer::of(self.verbs.list.run(&self.connection, call, TIMEOUT).await?)?;
                for &lane in lanes {
                    for _ in 0..indexes {
                        let mut index = match answer.value()? {
                            Value::BulkString(history) => {
                                entries.push(newest_of(&history, lane, query, each));
                                continue;
                            }
                            index => Answer::of(index)?,
                        };
                        let mut of_index = Vec::with_capacity(index.left() / 2);
                        while index.left() > 1 {
                            let id = DeliveryId::from_bytes(index.id()?);
                            of_index.push(((Place(number(&index.value()?)?.max(0) as u64), lane), id));
                        }
                        entries.push(of_index);
                    }
                }
            }
            Ok(entries)
        });
        let mut found = BTreeMap::new();
        let mut horizon = None;
        for entries in join_all(reading).await.into_iter().collect::<Result<Vec<_>, QueueError>>()? {
            for of_index in entries {
                if of_index.len() == each {
                    horizon = horizon.max(of_index.last().map(|(at, _)| *at));
                }
                found.extend(of_index);
            }
        }
        Ok((found, horizon))
    }

    async fn heads(&self, ids: &[(At, DeliveryId)]) -> Result<HashMap<DeliveryId, Head>, QueueError> {
        let mut by_shard: HashMap<u16, Vec<DeliveryId>> = HashMap::new();
        for ((_, lane), id) in ids {
            by_shard.entry(self.shard(*lane)).or_default().push(*id);
        }
        let reading = by_shard.into_iter().map(|(shard, ids)| async move {
            let mut get = cmd("HMGET");
            get.arg(format!("{}heads", self.base(shard)?));
            for id in &ids {
                get.arg(&id.bytes());
            }
            let mut answer = Answer::of(command(&self.connection, &get).await?)?;
            let mut heads = Vec::with_capacity(ids.len());
            for id in ids {
                if let Some(stored) = answer.bytes()? {
                    heads.push((id, record::read(&stored)?.head));
                }
            }
            Ok(heads)
        });
        let heads = join_all(reading).await.into_iter().collect::<Result<Vec<_>, QueueError>>()?;
        Ok(heads.into_iter().flatten().collect())
    }
}

/// The indexes that hold deliveries in these states; all of them when none is named.
fn sets(states: &[State]) -> &'static str {
    let has = |wanted: &[State]| states.is_empty() || states.iter().any(|s| wanted.contains(s));
    let open = has(&[State::Pending, State::Retrying]);
    let ended = has(&[State::Succeeded, State::Cancelled]);
    let failed = has(&[State::Failed]);
    match (open, ended, failed) {
        (true, true, true) => "open: ok: failed:",
        (true, true, false) => "open: ok:",
        (true, false, true) => "open: failed:",
        (true, false, false) => "open:",
        (false, true, true) => "ok: failed:",
        (false, true, false) => "ok:",
        (false, false, true) => "failed:",
        (false, false, false) => "",
    }
}

/// Up to which place, exclusive, a lane is read; `None`: to its end.
fn upper(lane: WebhookId, query: &Query) -> Option<Place> {
    let after = query.after.map(|(place, webhook)| if lane < webhook { Place(place.0 + 1) } else { place });
    after.into_iter().chain(query.to).min()
}

/// Of a lane's ended ones, places and ids that stand in order of their end, the newest places of the query.
fn newest_of(history: &[u8], lane: WebhookId, query: &Query, most: usize) -> Vec<(At, DeliveryId)> {
    let upper = upper(lane, query);
    let entry = |entry: &[u8]| {
        let (place, id) = entry.split_first_chunk()?;
        let place = Place(u64::from_be_bytes(*place));
        let wanted = place >= query.from && upper.is_none_or(|upper| place < upper);
        let id = DeliveryId::from_bytes(id.try_into().ok()?);
        wanted.then_some(((place, lane), id))
    };
    let mut found: Vec<_> = history.chunks(24).filter_map(entry).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(most);
    found
}

fn matches(head: &Head, query: &Query) -> bool {
    head.license_code == query.license_code
        && (query.event_id.is_empty() || head.event_id == query.event_id)
        && (query.event_type.is_empty() || head.event_type == query.event_type)
        && (query.states.is_empty() || query.states.contains(&head.state()))
}
