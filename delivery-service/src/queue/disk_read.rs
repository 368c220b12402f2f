//! The embedded queue's verbs that only read: each from one snapshot, off the async threads.

use std::collections::BinaryHeap;

use bytes::Bytes;
use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};
use redb::{ReadOnlyTable, ReadTransaction};

use super::{
    Found, LaneGrant, Lease, Listed, Page, PageLimit, Query, QueueError, Waiting,
    disk_tables::{
        ACCOUNTS, BODIES, ENDED, FAILED, FRESH, HEADS, LANES, Mark, PARKED, RETRYING, Row, SCHEDULED,
        STOPPED, account_key, at, due_of, first16, place_of, places, schedule,
    },
};
use crate::delivery::{Head, Place, State};

/// Heads that one page of a list looks at.
const LOOKED_AT: usize = 2_000;

/// What a holder gets of a lane that it has just been leased.
pub(super) fn grant(
    txn: &ReadTransaction,
    lease: Lease,
    limit: PageLimit,
    now: Time,
) -> Result<LaneGrant, QueueError> {
    let lane = lease.webhook_id;
    let row = Row::read(&txn.open_table(LANES)?, lane)?.unwrap_or_default();
    let until = txn.open_table(STOPPED)?.get(&lane.bytes())?.map(|until| until.value());
    let held = until.filter(|&until| until != PARKED).map(|until| now.until(Time(until)));
    Ok(LaneGrant {
        lane: lease,
        license_code: row.license_code,
        held: held.unwrap_or_default(),
        memo: row.memo,
        page: page(txn, lane, Place(0), 0, limit, now)?,
    })
}

pub(super) fn page(
    txn: &ReadTransaction,
    lane: WebhookId,
    after: Place,
    known_scheduled: usize,
    limit: PageLimit,
    now: Time,
) -> Result<Page, QueueError> {
    let (heads, bodies) = (txn.open_table(HEADS)?, txn.open_table(BODIES)?);
    let mut page = Page { read_to: after, ..Page::default() };
    let mut bytes = 0;
    // What the holder already has comes again, and must not take the place of what it does not have.
    let most = limit.deliveries.max(1).saturating_add(known_scheduled);
    let has_room = |page: &Page, bytes: usize| {
        page.deliveries.len() < most && (page.deliveries.len() <= known_scheduled || bytes < limit.bytes)
    };
    let (from, to) = schedule(lane);
    for entry in txn.open_table(SCHEDULED)?.range::<&[u8; 32]>(&from..=&to)? {
        let (key, id) = entry?;
        let due = due_of(key.value());
        if due > now.0 && !limit.early {
            page.next_scheduled = Some(now.until(Time(due)));
            break;
        }
        if !has_room(&page, bytes) {
            page.more = true;
            return Ok(page);
        }
        let waiting = waiting(&heads, &bodies, id.value(), true)?;
        bytes += waiting.body.len();
        page.deliveries.push(waiting);
    }
    // Known ones that have been settled meanwhile leave no room for more fresh ones than asked for.
    let most = limit.deliveries.max(1) + page.deliveries.len().min(known_scheduled);
    let (from, to) = places(lane, Place(after.0.saturating_add(1)));
    for entry in txn.open_table(FRESH)?.range::<&[u8; 24]>(&from..=&to)? {
        let (key, id) = entry?;
        if page.deliveries.len() >= most || !has_room(&page, bytes) {
            page.more = true;
            return Ok(page);
        }
        let waiting = waiting(&heads, &bodies, id.value(), false)?;
        bytes += waiting.body.len();
        page.deliveries.push(waiting);
        page.read_to = place_of(key.value());
    }
    // Nothing fresh is beyond: all that the lane ever had is known.
    let last = Row::read(&txn.open_table(LANES)?, lane)?.map_or(0, |row| row.last_place);
    page.read_to = page.read_to.max(Place(last));
    Ok(page)
}

type ById = ReadOnlyTable<&'static [u8; 16], &'static [u8]>;

fn waiting(heads: &ById, bodies: &ById, id: &[u8; 16], scheduled: bool) -> Result<Waiting, QueueError> {
    let missing = || QueueError::Damaged(format!("delivery {:?} is incomplete", DeliveryId::from_bytes(*id)));
    let (mark, head) = Mark::read_all(heads.get(id)?.ok_or_else(missing)?.value())?;
    let body = Bytes::copy_from_slice(bodies.get(id)?.ok_or_else(missing)?.value());
    Ok(Waiting { head, body, place: mark.place, scheduled })
}

pub(super) fn get(txn: &ReadTransaction, id: DeliveryId) -> Result<Option<Found>, QueueError> {
    let Some(value) = txn.open_table(HEADS)?.get(&id.bytes())? else { return Ok(None) };
    let (mark, head) = Mark::read_all(value.value())?;
    let body = txn.open_table(BODIES)?.get(&id.bytes())?;
    Ok(Some(Found { head, place: mark.place, body: body.map(|body| Bytes::copy_from_slice(body.value())) }))
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
        return Ok(accounts.get(key(lane.bytes()).as_slice())?.map(|_| lane).into_iter().collect());
    }
    let (first, last) = (key([0; 16]), key([255; 16]));
    let lanes = accounts.range::<&[u8]>(first.as_slice()..=last.as_slice())?.map(|entry| {
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
