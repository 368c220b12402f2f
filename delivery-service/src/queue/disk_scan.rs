//! What the embedded queue reads for lanes that are kept in order: open deliveries by place, and the
//! bodies of those that are about to start.

use bytes::Bytes;
use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};
use redb::ReadTransaction;

use super::{
    Open, QueueError, Scan, Waiting,
    disk_tables::{ASKED, BODIES, FRESH, HEADS, Kind, LANES, Mark, RETRYING, Row, place_of, places},
};
use crate::delivery::Place;

pub(super) fn scan(
    txn: &ReadTransaction,
    lane: WebhookId,
    after: Place,
    limit: usize,
    now: Time,
) -> Result<Scan, QueueError> {
    let limit = limit.clamp(1, 1_000);
    let mut found = Vec::new();
    let (from, to) = places(lane, Place(after.0.saturating_add(1)));
    for table in [FRESH, RETRYING] {
        for entry in txn.open_table(table)?.range::<&[u8; 24]>(&from..=&to)?.take(limit + 1) {
            let (key, id) = entry?;
            found.push((place_of(key.value()), *id.value()));
        }
    }
    found.sort_unstable();
    let more = found.len() > limit;
    found.truncate(limit);
    let last = Row::read(&txn.open_table(LANES)?, lane)?.map_or(0, |row| row.last_place);
    let read_to = match found.last() {
        Some((place, _)) if more => *place,
        _ => Place(last).max(after),
    };
    let heads = txn.open_table(HEADS)?;
    let mut open = Vec::with_capacity(found.len());
    for (place, id) in found {
        let Some(value) = heads.get(&id)? else { continue };
        let (mark, head) = Mark::read_all(value.value())?;
        let until = if mark.due == ASKED { now } else { Time(mark.due) };
        let due = (mark.kind == Kind::Scheduled).then(|| now.until(until));
        open.push(Open { head, place, due });
    }
    Ok(Scan { open, read_to, more })
}

pub(super) fn fetch(
    txn: &ReadTransaction,
    lane: WebhookId,
    ids: &[DeliveryId],
    bytes: usize,
) -> Result<Vec<Option<Waiting>>, QueueError> {
    let (heads, bodies) = (txn.open_table(HEADS)?, txn.open_table(BODIES)?);
    let (mut found, mut size) = (Vec::with_capacity(ids.len()), 0);
    for id in ids {
        let Some(value) = heads.get(&id.bytes())? else {
            found.push(None);
            continue;
        };
        let (mark, head) = Mark::read_all(value.value())?;
        let body = bodies.get(&id.bytes())?.map(|body| Bytes::copy_from_slice(body.value()));
        let is_open = matches!(mark.kind, Kind::Fresh | Kind::Scheduled) && head.webhook_id() == lane;
        let Some(body) = body.filter(|_| is_open) else {
            found.push(None);
            continue;
        };
        size += body.len();
        if size > bytes && !found.is_empty() {
            break;
        }
        let scheduled = mark.kind == Kind::Scheduled;
        found.push(Some(Waiting { head, body, place: mark.place, scheduled }));
    }
    Ok(found)
}
