//! What callers read of the embedded queue: each from one snapshot, off the async threads.

use std::collections::BinaryHeap;

use common::ids::{DeliveryId, WebhookId};
use redb::{ReadOnlyTable, ReadTransaction};

use super::{
    Found, Listed, Query, QueueError, disk_bodies,
    disk_tables::{
        ACCOUNTS, ENDED, FAILED, FRESH, HEADS, Mark, RETRYING, account_key, at, first16, place_of,
    },
};
use crate::delivery::{Head, Place, State};

/// Heads that one page of a list looks at.
const LOOKED_AT: usize = 2_000;

pub(super) fn get(txn: &ReadTransaction, id: DeliveryId) -> Result<Option<Found>, QueueError> {
    let Some(value) = txn.open_table(HEADS)?.get(&id.bytes())? else { return Ok(None) };
    let (mark, head) = Mark::read_all(value.value())?;
    Ok(Some(Found { head, place: mark.place, body: disk_bodies::body(txn, id)? }))
}

/// Where a delivery stands among those of one lane.
struct Lists {
    open: Vec<ReadOnlyTable<&'static [u8; 24], &'static [u8; 16]>>,
    history: Vec<ReadOnlyTable<&'static [u8; 24], &'static [u8; 24]>>,
}

impl Lists {
    /// Those that can hold deliveries in these states; all for none.
    fn open(txn: &ReadTransaction, states: &[State]) -> Result<Self, QueueError> {
        let any = |of: &[State]| states.is_empty() || states.iter().any(|state| of.contains(state));
        let mut lists = Self { open: Vec::new(), history: Vec::new() };
        if any(&[State::Pending, State::Retrying]) {
            lists.open = vec![txn.open_table(FRESH)?, txn.open_table(RETRYING)?];
        }
        if any(&[State::Succeeded, State::Cancelled]) {
            lists.history.push(txn.open_table(ENDED)?);
        }
        if any(&[State::Failed]) {
            lists.history.push(txn.open_table(FAILED)?);
        }
        Ok(lists)
    }

    /// The newest of a lane's places from `from` to below `to`, and whose it is.
    fn newest(
        &self,
        lane: WebhookId,
        from: Place,
        to: Place,
    ) -> Result<Option<(Place, [u8; 16])>, QueueError> {
        if from >= to {
            return Ok(None);
        }
        let mut newest = None;
        let range = at(lane, from)..at(lane, to);
        let range = &range.start..&range.end;
        for table in &self.open {
            let entry = table.range::<&[u8; 24]>(range.clone())?.next_back().transpose()?;
            newest = newest.max(entry.map(|(key, id)| (place_of(key.value()), *id.value())));
        }
        for table in &self.history {
            let entry = table.range::<&[u8; 24]>(range.clone())?.next_back().transpose()?;
            newest = newest.max(entry.map(|(key, id)| (place_of(key.value()), first16(id.value()))));
        }
        Ok(newest)
    }
}

/// An account's lanes are merged: a heap of where each goes on, of which only the top is looked up.
pub(super) fn list(txn: &ReadTransaction, query: &Query) -> Result<Listed, QueueError> {
    let lists = Lists::open(txn, &query.states)?;
    let heads = txn.open_table(HEADS)?;
    let end = query.to.unwrap_or(Place(u64::MAX));
    // (place, lane, its newest delivery below that place when known)
    let mut next: BinaryHeap<(Place, WebhookId, Option<[u8; 16]>)> = lanes(txn, query)?
        .into_iter()
        .map(|lane| {
            let to = match query.after {
                Some((place, after)) if lane < after => end.min(Place(place.0.saturating_add(1))),
                Some((place, _)) => end.min(place),
                None => end,
            };
            (to, lane, None)
        })
        .collect();
    let mut listed = Listed::default();
    let mut looked_at = 0;
    while let Some((place, lane, found)) = next.pop() {
        let Some(id) = found else {
            if let Some((place, id)) = lists.newest(lane, query.from, place)? {
                next.push((place, lane, Some(id)));
            }
            continue;
        };
        next.push((place, lane, None));
        looked_at += 1;
        let value = heads.get(&id)?;
        let head = value.map(|value| Mark::read_all(value.value())).transpose()?;
        if let Some((_, head)) = head
            && matches(query, &head)
        {
            listed.deliveries.push((head, place));
        }
        if listed.deliveries.len() >= query.limit.max(1) || looked_at >= LOOKED_AT {
            listed.next = Some((place, lane));
            break;
        }
    }
    Ok(listed)
}

/// The lanes that a query can concern.
fn lanes(txn: &ReadTransaction, query: &Query) -> Result<Vec<WebhookId>, QueueError> {
    let accounts = txn.open_table(ACCOUNTS)?;
    let key = |lane| account_key(&query.license_code, lane);
    if let Some(lane) = query.webhook_id {
        return Ok(accounts.get(&*key(lane.bytes()))?.map(|_| lane).into_iter().collect());
    }
    let (first, last) = (key([0; 16]), key([255; 16]));
    let lanes = accounts.range::<&[u8]>(&*first..=&*last)?.map(|entry| {
        let (key, _) = entry?;
        let key = key.value();
        Ok(WebhookId::from_bytes(first16(&key[key.len().saturating_sub(16)..])))
    });
    lanes.collect()
}

fn matches(query: &Query, head: &Head) -> bool {
    let is = |wanted: &str, has: &str| wanted.is_empty() || wanted == has;
    is(&query.license_code, &head.license_code)
        && is(&query.event_id, &head.event_id)
        && is(&query.event_type, &head.event_type)
        && (query.states.is_empty() || query.states.contains(&head.state()))
}
