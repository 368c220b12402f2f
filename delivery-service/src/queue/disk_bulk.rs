//! The embedded queue's verbs for whole lanes: withdrawing what waits, and bulk retries, each a bounded
//! number at a time inside a group of commands.

use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};
use redb::{ReadTransaction, ReadableTable};

use super::{
    Bulk, CANCEL_MOST, Cancel, Cancelled, QueueError, Slice, Standing,
    disk_group::{Group, TRIM},
    disk_lanes::Lane,
    disk_row::Row,
    disk_tables::{
        ASKED, BULK, FRESH, Kind, LANES, Mark, PARKED, RETRYING, at, due_at, first16, id_and_time, place_of,
        places,
    },
};
use crate::delivery::{Fault, Head, Place, State};

impl Group<'_, '_> {
    pub fn cancel(&mut self, lane: WebhookId, which: &Cancel) -> Result<Cancelled, QueueError> {
        let mut cancelled = Cancelled::default();
        let mut row = self.tables.lanes.get(lane)?;
        let ids = match which {
            Cancel::These(ids) => ids.clone(),
            Cancel::All(to) => {
                let to = to.unwrap_or(Place(row.last_place));
                let mut open = self.oldest(lane, to)?;
                if open.len() > CANCEL_MOST {
                    open.truncate(CANCEL_MOST);
                    cancelled.rest = Some(to);
                }
                open.into_iter().map(|(_, id)| id).collect()
            }
        };
        let ids: Vec<_> = ids.into_iter().take(CANCEL_MOST).collect();
        // Before anything is changed: one may be unreadable.
        ids.iter().try_for_each(|&id| self.delivery(id).map(drop))?;
        for id in ids {
            let Some((mut mark, mut head)) = self.delivery(id)? else { continue };
            if head.webhook_id() != lane || !matches!(mark.kind, Kind::Fresh | Kind::Scheduled) {
                continue;
            }
            self.unlist(lane, &mark)?;
            head.end(State::Cancelled, Fault::None, self.now);
            mark.kind = Kind::Ended;
            self.tables.bodies.remove(id)?;
            self.tables.ended.put(at(lane, mark.place), id_and_time(id, self.now));
            self.tables.heads.put(id.bytes(), mark.with(&head));
            row.add_ended(self.now);
            row.open = row.open.saturating_sub(1);
            row.open_bytes = row.open_bytes.saturating_sub(mark.body_bytes.into());
            cancelled.deliveries.push((head, mark.place));
        }
        if !cancelled.deliveries.is_empty() {
            self.trim(lane, &mut row, 2 * cancelled.deliveries.len() + TRIM)?;
            self.tables.lanes.put(lane, row);
        }
        Ok(cancelled)
    }

    /// An open delivery joins the batch that `member` says, and stays where it is.
    pub(super) fn join_batch(&mut self, lane: WebhookId, member: &Head) -> Result<(), QueueError> {
        if let Some((id, last)) = member.batch()
            && let Some((mark, mut head)) = self.delivery(member.id())?
            && matches!(mark.kind, Kind::Fresh | Kind::Scheduled)
            && head.webhook_id() == lane
        {
            head.join(id, last);
            self.tables.heads.put(head.id().bytes(), mark.with(&head));
        }
        Ok(())
    }

    /// What an attempt came to that was under way as its delivery was withdrawn.
    pub(super) fn settle_withdrawn(
        &mut self,
        id: DeliveryId,
        mut head: Head,
        succeeded: bool,
    ) -> Result<(), QueueError> {
        if let Some((mark, before)) = self.delivery(id)?
            && mark.kind == Kind::Ended
            && before.state() == State::Cancelled
        {
            if !succeeded {
                head.end(State::Cancelled, Fault::None, self.now);
            }
            self.tables.heads.put(id.bytes(), mark.with(&head));
        }
        Ok(())
    }

    pub fn retry_bulk(&mut self, lane: WebhookId, from: Place, to: Place) -> Result<Bulk, QueueError> {
        if self.tables.bulk.get(&lane.bytes())?.is_some() {
            return Ok(Bulk::UnderWay);
        }
        let to = to.min(Place(self.tables.lanes.get(lane)?.last_place + 1));
        if from >= to {
            return Ok(Bulk::Started(0));
        }
        let (first, last) = (at(lane, from), at(lane, Place(to.0 - 1)));
        let count = self.tables.failed.range(&first, &last)?.count() as u64;
        if count > 0 {
            self.tables.bulk.put(lane.bytes(), span(from, to));
        }
        Ok(Bulk::Started(count))
    }

    pub fn retry_slice(&mut self, lane: WebhookId, most: usize) -> Result<Slice, QueueError> {
        let mut slice = Slice::default();
        let job = self.tables.bulk.get(&lane.bytes())?.map(|job| span_of(&job));
        let Some((from, to)) = job else {
            return Ok(Slice { over: true, ..slice });
        };
        if from >= to {
            self.stop_bulk(lane)?;
            return Ok(Slice { over: true, ..slice });
        }
        let (first, last) = (due_at(lane, 0, Place(0)), due_at(lane, self.now.0, Place(u64::MAX)));
        if self.tables.scheduled.range(&first, &last)?.take(most).count() >= most {
            return Ok(slice);
        }
        let mut row = self.tables.lanes.get(lane)?;
        let (first, last) = (at(lane, from), at(lane, Place(to.0 - 1)));
        let failed: Vec<_> = (self.tables.failed.range(&first, &last)?.take(most))
            .map(|entry| {
                let (key, value) = entry?;
                Ok((place_of(&key), DeliveryId::from_bytes(first16(&value))))
            })
            .collect::<Result<_, QueueError>>()?;
        slice.over = failed.len() < most;
        match failed.last() {
            Some((last, _)) if !slice.over => {
                self.tables.bulk.put(lane.bytes(), span(Place(last.0 + 1), to));
            }
            _ => self.tables.bulk.remove(&lane.bytes())?,
        }
        for (place, id) in failed {
            let (mut mark, mut head) = match self.delivery(id) {
                Err(QueueError::Damaged(reason)) => {
                    tracing::error!(webhook = %lane, %id, reason, "a FAILED delivery is not retried");
                    continue;
                }
                delivery => match delivery? {
                    Some(delivery) => delivery,
                    None => continue,
                },
            };
            if mark.kind != Kind::Failed || !self.tables.bodies.has(id)? {
                continue;
            }
            self.tables.failed.remove(&at(lane, place))?;
            row.failed = row.failed.saturating_sub(1);
            row.open += 1;
            row.open_bytes += u64::from(mark.body_bytes);
            head.renew();
            head.asked_again = false;
            self.schedule(lane, id, &mut mark, self.now.0.max(ASKED + 1));
            self.tables.heads.put(id.bytes(), mark.with(&head));
            slice.retried.push((head, place));
        }
        self.tables.lanes.put(lane, row);
        if !slice.retried.is_empty() {
            let held = matches!(self.lanes.get(lane), Some(Lane::Held { .. }));
            match self.stopped_until(lane)? {
                Some(PARKED) if !held => {}
                until => drop(self.lanes.has_work(lane, until.unwrap_or(self.now.0), self.now)),
            }
        }
        Ok(slice)
    }

    pub fn stop_bulk(&mut self, lane: WebhookId) -> Result<(), QueueError> {
        self.tables.bulk.remove(&lane.bytes())?;
        Ok(())
    }

    /// A few more than one call withdraws, in order of place.
    fn oldest(&self, lane: WebhookId, to: Place) -> Result<Vec<(Place, DeliveryId)>, QueueError> {
        let (first, last) = (at(lane, Place(0)), at(lane, to));
        let mut open = Vec::new();
        for table in [&self.tables.fresh, &self.tables.retrying] {
            for entry in table.range(&first, &last)?.take(CANCEL_MOST + 1) {
                let (key, id) = entry?;
                open.push((place_of(&key), DeliveryId::from_bytes(id)));
            }
        }
        open.sort_unstable();
        Ok(open)
    }

    fn delivery(&self, id: DeliveryId) -> Result<Option<(Mark, Head)>, QueueError> {
        self.tables.heads.read(&id.bytes(), Mark::read_all)?.transpose()
    }
}

/// Lanes with a bulk retry.
pub(super) fn bulk_retries(txn: &ReadTransaction) -> Result<Vec<WebhookId>, QueueError> {
    let lanes = txn.open_table(BULK)?;
    lanes.iter()?.map(|entry| Ok(WebhookId::from_bytes(*entry?.0.value()))).collect()
}

pub(super) fn status(txn: &ReadTransaction, lane: WebhookId, now: Time) -> Result<Standing, QueueError> {
    let Some(row) = Row::read(&txn.open_table(LANES)?, lane)? else { return Ok(Standing::default()) };
    let (first, last) = places(lane, Place(0));
    let mut oldest = None;
    for table in [FRESH, RETRYING] {
        let table = txn.open_table(table)?;
        let first = table.range::<&[u8; 24]>(&first..=&last)?.next().transpose()?;
        let place = first.map(|(key, _)| place_of(key.value()));
        oldest = [oldest, place].into_iter().flatten().min();
    }
    let oldest = oldest.map(|place: Place| place.time().until(now));
    Ok(Standing { known: true, open: row.open, failed: row.failed, oldest })
}

fn span(from: Place, to: Place) -> [u8; 16] {
    let mut span = [0; 16];
    span[..8].copy_from_slice(&from.0.to_be_bytes());
    span[8..].copy_from_slice(&to.0.to_be_bytes());
    span
}

fn span_of(span: &[u8; 16]) -> (Place, Place) {
    let span = u128::from_be_bytes(*span);
    (Place((span >> 64) as u64), Place(span as u64))
}
