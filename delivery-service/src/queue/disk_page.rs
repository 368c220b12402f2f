//! What a lane's holder reads of the embedded queue, page after page. The writer reads it, for most of what is
//! asked for has just come in: it is in memory still, and need not get into the file for being read. What is damaged
//! is an error when it would come first, or is scheduled; otherwise what is read ends before it.

use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};

use super::{
    LaneGrant, Lease, Open, Page, PageLimit, QueueError, Scan, Waiting,
    disk_tables::{ASKED, Kind, Mark, PARKED, Tables, due_of, place_of, places, schedule},
    disk_work::Done,
};
use crate::delivery::Place;

/// What is asked for.
pub(super) enum Read {
    /// After a place, knowing so many due scheduled ones.
    Page(Place, usize, PageLimit),
    /// After a place, so many.
    Scan(Place, usize),
    /// So many bytes.
    Fetch(Vec<DeliveryId>, usize),
}

pub(super) fn read(tables: &Tables<'_>, lane: WebhookId, read: Read, now: Time) -> Result<Done, QueueError> {
    match read {
        Read::Page(after, known, limit) => page(tables, lane, after, known, limit, now).map(Done::Page),
        Read::Scan(after, limit) => scan(tables, lane, after, limit, now).map(Done::Scan),
        Read::Fetch(ids, bytes) => fetch(tables, lane, &ids, bytes).map(Done::Fetched),
    }
}

/// What a holder gets of a lane that it has just been leased.
pub(super) fn grant(
    tables: &Tables<'_>,
    lease: Lease,
    limit: PageLimit,
    now: Time,
) -> Result<LaneGrant, QueueError> {
    let lane = lease.webhook_id;
    let row = tables.lanes.get(lane)?;
    let until = tables.stopped.get(&lane.bytes())?.map(i64::from_le_bytes);
    let held = until.filter(|&until| until != PARKED).map(|until| now.until(Time(until)));
    Ok(LaneGrant {
        lane: lease,
        license_code: row.license_code,
        held: held.unwrap_or_default(),
        memo: row.memo,
        page: page(tables, lane, Place(0), 0, limit, now)?,
    })
}

fn page(
    tables: &Tables<'_>,
    lane: WebhookId,
    after: Place,
    known_scheduled: usize,
    limit: PageLimit,
    now: Time,
) -> Result<Page, QueueError> {
    let mut page = Page { read_to: after, ..Page::default() };
    let mut bytes = 0;
    // What the holder already has comes again, and must not take the place of what it does not have.
    let most = limit.deliveries.max(1).saturating_add(known_scheduled);
    let has_room = |page: &Page, bytes: usize| {
        page.deliveries.len() < most && (page.deliveries.len() <= known_scheduled || bytes < limit.bytes)
    };
    let (from, to) = schedule(lane);
    for entry in tables.scheduled.range(&from, &to)? {
        let (key, id) = entry?;
        let due = due_of(&key);
        if due > now.0 && !limit.early {
            page.next_scheduled = Some(now.until(Time(due)));
            break;
        }
        if !has_room(&page, bytes) {
            page.more = true;
            return Ok(page);
        }
        let waiting = waiting(tables, id)?;
        bytes += waiting.body.len();
        page.deliveries.push(waiting);
    }
    // Known ones that have been settled meanwhile leave no room for more fresh ones than asked for.
    let most = limit.deliveries.max(1) + page.deliveries.len().min(known_scheduled);
    let (from, to) = places(lane, Place(after.0.saturating_add(1)));
    for entry in tables.fresh.range(&from, &to)? {
        let (key, id) = entry?;
        if page.deliveries.len() >= most || !has_room(&page, bytes) {
            page.more = true;
            return Ok(page);
        }
        let waiting = match waiting(tables, id) {
            Err(QueueError::Damaged(_)) if page.deliveries.len() > known_scheduled => {
                page.more = true;
                return Ok(page);
            }
            waiting => waiting?,
        };
        bytes += waiting.body.len();
        page.deliveries.push(waiting);
        page.read_to = place_of(&key);
    }
    // Nothing fresh is beyond: all that the lane ever had is known.
    page.read_to = page.read_to.max(Place(tables.lanes.get(lane)?.last_place));
    Ok(page)
}

fn waiting(tables: &Tables<'_>, id: [u8; 16]) -> Result<Waiting, QueueError> {
    let missing = || QueueError::Damaged(format!("delivery {:?} is incomplete", DeliveryId::from_bytes(id)));
    open(tables, id)?.ok_or_else(missing)
}

/// An open delivery that has its body.
fn open(tables: &Tables<'_>, id: [u8; 16]) -> Result<Option<Waiting>, QueueError> {
    let Some((mark, head)) = tables.heads.read(&id, Mark::read_all)?.transpose()? else { return Ok(None) };
    let is_open = matches!(mark.kind, Kind::Fresh | Kind::Scheduled);
    let body = if is_open { tables.bodies.get(DeliveryId::from_bytes(id))? } else { None };
    let scheduled = mark.kind == Kind::Scheduled;
    Ok(body.map(|body| Waiting { head, body, place: mark.place, scheduled }))
}

fn scan(
    tables: &Tables<'_>,
    lane: WebhookId,
    after: Place,
    limit: usize,
    now: Time,
) -> Result<Scan, QueueError> {
    let limit = limit.clamp(1, 1_000);
    let mut found = Vec::new();
    let (from, to) = places(lane, Place(after.0.saturating_add(1)));
    for table in [&tables.fresh, &tables.retrying] {
        for entry in table.range(&from, &to)?.take(limit + 1) {
            let (key, id) = entry?;
            found.push((place_of(&key), id));
        }
    }
    found.sort_unstable();
    let more = found.len() > limit;
    found.truncate(limit);
    let read_to = match found.last() {
        Some((place, _)) if more => *place,
        _ => Place(tables.lanes.get(lane)?.last_place).max(after),
    };
    let mut open: Vec<Open> = Vec::with_capacity(found.len());
    for (place, id) in found {
        let read = tables.heads.read(&id, Mark::read_all)?.transpose();
        if let (Err(QueueError::Damaged(_)), Some(last)) = (&read, open.last()) {
            let read_to = last.place;
            return Ok(Scan { open, read_to, more: true });
        }
        let Some((mark, head)) = read? else { continue };
        let until = if mark.due == ASKED { now } else { Time(mark.due) };
        let due = (mark.kind == Kind::Scheduled).then(|| now.until(until));
        open.push(Open { head, place, due });
    }
    Ok(Scan { open, read_to, more })
}

fn fetch(
    tables: &Tables<'_>,
    lane: WebhookId,
    ids: &[DeliveryId],
    bytes: usize,
) -> Result<Vec<Option<Waiting>>, QueueError> {
    let (mut found, mut size) = (Vec::with_capacity(ids.len()), 0);
    for id in ids {
        let waiting = match open(tables, id.bytes()) {
            Err(QueueError::Damaged(_)) if !found.is_empty() => break,
            waiting => waiting?.filter(|waiting| waiting.head.webhook_id() == lane),
        };
        size += waiting.as_ref().map_or(0, |waiting| waiting.body.len());
        if size > bytes && !found.is_empty() {
            break;
        }
        found.push(waiting);
    }
    Ok(found)
}
