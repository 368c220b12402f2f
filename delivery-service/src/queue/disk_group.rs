//! The embedded queue's verbs that write, for a group of commands. They see what the commands before them
//! did; nothing counts before the group's changes are in the journal.

use std::borrow::Cow;

use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};

use super::{
    Fate, Found, LaneNow, LeaseLost, Limits, New, QueueError, Release, Retried, Settle, Settled, Stored,
    disk_lanes::{Lane, Lanes},
    disk_row::Row,
    disk_tables::{
        ASKED, Kind, Mark, PARKED, Tables, account_key, at, due_at, due_of, id_and_time, places, schedule,
    },
};
use crate::delivery::{Fault, Place, State};

/// History that one call may trim beside twice what it adds.
pub(super) const TRIM: usize = 16;

pub(super) struct Group<'g, 't> {
    pub tables: &'g mut Tables<'t>,
    pub lanes: &'g mut Lanes,
    pub limits: &'g Limits,
    pub now: Time,
}

impl Group<'_, '_> {
    pub fn enqueue(&mut self, new: &New) -> Result<Stored, QueueError> {
        let New { head, body, dedupe, failed } = new;
        let (mut head, dedupe, failed) = (Cow::Borrowed(head), *dedupe, *failed);
        let (id, lane, now) = (head.id(), head.webhook_id(), self.now);
        let mut row = self.tables.lanes.get(lane)?;
        if dedupe && let Some(id) = self.note_event(lane, &row, &head.event_id, id)? {
            return Ok(Stored::Duplicate { id });
        }

        if row.license_code != head.license_code {
            self.tables.accounts.put(account_key(&head.license_code, lane.bytes()), []);
            row.license_code.clone_from(&head.license_code);
        }
        let before = Place(row.last_place);
        let place = Place::next(before, now);
        row.last_place = place.0;
        if head.body_bytes != body.len() as u32 {
            head.to_mut().body_bytes = body.len() as u32;
        }
        let bytes = u64::from(head.body_bytes);
        let full = row.open >= self.limits.backlog_deliveries
            || row.open_bytes.saturating_add(bytes) > self.limits.backlog_bytes;
        let mut mark =
            Mark { kind: Kind::Fresh, place, due: 0, body_bytes: head.body_bytes, renewals: head.renewals };

        if let Some(reason) = failed.or(full.then_some(Fault::BacklogFull)) {
            head.to_mut().end(State::Failed, reason, now);
            mark.kind = Kind::Failed;
            self.tables.heads.add(id.bytes(), mark.with(&head));
            if failed.is_some() {
                self.tables.bodies.add(id, body)?;
            }
            self.tables.failed.put(at(lane, place), id_and_time(id, now));
            row.add_failed(now);
            self.trim(lane, &mut row, TRIM)?;
            self.tables.lanes.put(lane, row);
            return Ok(Stored::Ended { place, reason });
        }

        self.tables.heads.add(id.bytes(), mark.with(&head));
        self.tables.bodies.add(id, body)?;
        self.tables.fresh.put(at(lane, place), id.bytes());
        row.open += 1;
        row.open_bytes += bytes;
        let alone = row.open == 1 && row.memo.is_empty();
        self.tables.lanes.put(lane, row);
        Ok(Stored::New { place, before, lane: self.lane_now(lane, alone)? })
    }

    /// Who has a lane to which something was added. `alone`: it may be given to the caller.
    fn lane_now(&mut self, lane: WebhookId, alone: bool) -> Result<LaneNow, QueueError> {
        let known = self.lanes.get(lane);
        if let Some(Lane::Held { fence, .. }) = known {
            return Ok(LaneNow::Mine { fence, given: false });
        }
        let at = match self.stopped_until(lane)? {
            Some(PARKED) => None,
            Some(until) => Some(until),
            None if alone => return Ok(LaneNow::Mine { fence: self.lanes.grant(lane), given: true }),
            None => Some(self.now.0),
        };
        // A parked lane that a caller's retry or wake has made due stays so.
        let due = match (at, known) {
            (Some(at), _) => self.lanes.has_work(lane, at, self.now),
            (None, Some(Lane::Free { due })) => due <= self.now.0,
            (None, _) => false,
        };
        Ok(if due { LaneNow::Due } else { LaneNow::NotNow })
    }

    /// `Settle::done_to` is not needed here: the index of fresh deliveries is exact. What cannot be read is found
    /// before anything is changed.
    pub fn settle(&mut self, settle: &Settle) -> Result<Result<(), LeaseLost>, QueueError> {
        if !self.lanes.holds(settle.lane) {
            return Ok(Err(LeaseLost));
        }
        let lane = settle.lane.webhook_id;
        let mut row = self.tables.lanes.get(lane)?;
        let count = settle.deliveries.len();
        settle.deliveries.iter().try_for_each(|settled| self.check(settled))?;
        for settled in &settle.deliveries {
            self.settle_one(lane, &mut row, settled)?;
        }
        if let Some(memo) = &settle.memo {
            row.memo = memo.clone();
        }
        self.trim(lane, &mut row, 2 * count + TRIM)?;
        if let Some(release) = settle.release {
            self.release(lane, &row, release)?;
        }
        self.tables.lanes.put(lane, row);
        Ok(Ok(()))
    }

    /// That what is needed of a delivery's record can be read.
    fn check(&self, settled: &Settled) -> Result<(), QueueError> {
        let read = |value: &[u8]| {
            let mark = Mark::read(value)?;
            let needs_head = mark.kind == Kind::Ended || settled.fate == Fate::Batch;
            if needs_head { Mark::read_all(value).map(drop) } else { Ok(()) }
        };
        self.tables.heads.read(&settled.head.id().bytes(), read)?.unwrap_or(Ok(()))
    }

    fn settle_one(&mut self, lane: WebhookId, row: &mut Row, settled: &Settled) -> Result<(), QueueError> {
        let (mut head, fate) = (Cow::Borrowed(&settled.head), settled.fate);
        let id = head.id();
        let Some(mut mark) = self.mark(id)? else { return Ok(()) };
        if fate == Fate::Batch {
            return self.join_batch(lane, &head);
        }
        if mark.kind == Kind::Ended && fate != Fate::Cancelled && head.webhook_id() == lane {
            return self.settle_withdrawn(id, head.into_owned(), fate == Fate::Succeeded);
        }
        // Said before, and its answer was lost.
        if !matches!(mark.kind, Kind::Fresh | Kind::Scheduled) || head.webhook_id() != lane {
            return Ok(());
        }
        // The attempt began before that.
        let asked = head.renewals < mark.renewals;
        self.unlist(lane, &mark)?;
        let bytes = u64::from(mark.body_bytes);
        match fate {
            Fate::Retry { .. } | Fate::Failed if asked => {
                head.to_mut().renew();
                head.to_mut().renewals = mark.renewals;
                self.schedule(lane, id, &mut mark, ASKED);
            }
            Fate::Retry { after } => {
                self.schedule(lane, id, &mut mark, (self.now + after).0.max(ASKED + 1));
            }
            // Not settled: see above.
            Fate::Batch => return Ok(()),
            Fate::Failed => {
                mark.kind = Kind::Failed;
                self.tables.failed.put(at(lane, mark.place), id_and_time(id, self.now));
                row.add_failed(self.now);
            }
            Fate::Succeeded | Fate::Cancelled => {
                mark.kind = Kind::Ended;
                self.tables.bodies.remove(id)?;
                self.tables.ended.put(at(lane, mark.place), id_and_time(id, self.now));
                row.add_ended(self.now);
            }
        }
        if matches!(mark.kind, Kind::Failed | Kind::Ended) {
            row.open = row.open.saturating_sub(1);
            row.open_bytes = row.open_bytes.saturating_sub(bytes);
        }
        self.tables.heads.put(id.bytes(), mark.with(&head));
        Ok(())
    }

    fn release(&mut self, lane: WebhookId, row: &Row, release: Release) -> Result<(), QueueError> {
        let woken = matches!(self.lanes.get(lane), Some(Lane::Held { woken: true, .. }));
        let until = match release {
            _ if woken => None,
            Release::Free { .. } => None,
            Release::Hold { duration } => Some((self.now + duration).0.min(PARKED - 1)),
            Release::Park => Some(PARKED),
        };
        match until {
            Some(until) => self.tables.stopped.put(lane.bytes(), until.to_le_bytes()),
            None => self.no_longer_stopped(lane)?,
        }
        // The index of fresh ones is exact, so what the holder knew of them need not be asked.
        let due = if row.open == 0 { None } else { self.due(lane, until)? };
        self.lanes.free(lane, if woken { due.map(|_| self.now.0) } else { due });
        Ok(())
    }

    /// When a lane with open deliveries is due, given until when it is stopped.
    pub fn due(&self, lane: WebhookId, stopped: Option<i64>) -> Result<Option<i64>, QueueError> {
        let (from, to) = schedule(lane);
        let first = self.tables.scheduled.first(&from, &to)?.map(|(key, _)| due_of(&key));
        let has_fresh = || {
            let (from, to) = places(lane, Place(0));
            Ok(self.tables.fresh.first(&from, &to)?.is_some())
        };
        due(first, has_fresh, stopped, self.now)
    }

    pub fn retry(&mut self, id: DeliveryId) -> Result<Retried, QueueError> {
        let Some((mut mark, mut head)) = self.tables.heads.read(&id.bytes(), Mark::read_all)?.transpose()?
        else {
            return Ok(Retried::NotFound);
        };
        if mark.kind == Kind::Ended {
            return Ok(Retried::Ended(head.state()));
        }
        let Some(body) = self.tables.bodies.get(id)? else { return Ok(Retried::NoBody) };
        let lane = head.webhook_id();
        let is_held = matches!(self.lanes.get(lane), Some(Lane::Held { .. }));
        if mark.kind == Kind::Failed {
            let mut row = self.tables.lanes.get(lane)?;
            self.tables.failed.remove(&at(lane, mark.place))?;
            row.failed = row.failed.saturating_sub(1);
            row.open += 1;
            row.open_bytes += u64::from(mark.body_bytes);
            self.tables.lanes.put(lane, row);
        } else {
            self.unlist(lane, &mark)?;
        }
        head.renew();
        self.schedule(lane, id, &mut mark, ASKED);
        self.tables.heads.put(id.bytes(), mark.with(&head));
        if is_held || self.stopped_until(lane)? != Some(PARKED) {
            self.lanes.has_work(lane, self.now.0, self.now);
        }
        Ok(Retried::Now(Box::new(Found { head, place: mark.place, body: Some(body) })))
    }

    pub fn wake(&mut self, lane: WebhookId) -> Result<(), QueueError> {
        // A hold ends too: what held the lane back may be mended.
        self.no_longer_stopped(lane)?;
        let has_open = match self.tables.lanes.get(lane) {
            // Whoever works on it is told; it does not keep the others.
            Err(QueueError::Damaged(_)) => true,
            row => row?.open > 0,
        };
        if has_open || matches!(self.lanes.get(lane), Some(Lane::Held { .. })) {
            self.lanes.wake(lane, self.now);
        }
        Ok(())
    }

    pub fn wake_parked(&mut self) -> Result<(), QueueError> {
        let mut parked = Vec::new();
        for entry in self.tables.stopped.range(&[0; 16], &[255; 16])? {
            let (lane, until) = entry?;
            if i64::from_le_bytes(until) == PARKED {
                parked.push(WebhookId::from_bytes(lane));
            }
        }
        parked.into_iter().try_for_each(|lane| self.wake(lane))
    }

    fn no_longer_stopped(&mut self, lane: WebhookId) -> Result<(), QueueError> {
        if self.tables.stopped.get(&lane.bytes())?.is_some() {
            self.tables.stopped.remove(&lane.bytes())?;
        }
        Ok(())
    }

    fn mark(&self, id: DeliveryId) -> Result<Option<Mark>, QueueError> {
        self.tables.heads.read(&id.bytes(), Mark::read)?.transpose()
    }

    /// Takes an open delivery out of its indexes.
    pub(super) fn unlist(&mut self, lane: WebhookId, mark: &Mark) -> Result<(), QueueError> {
        if mark.kind == Kind::Fresh {
            self.tables.fresh.remove(&at(lane, mark.place))?;
        } else {
            self.tables.retrying.remove(&at(lane, mark.place))?;
            self.tables.scheduled.remove(&due_at(lane, mark.due, mark.place))?;
        }
        Ok(())
    }

    pub(super) fn schedule(&mut self, lane: WebhookId, id: DeliveryId, mark: &mut Mark, due: i64) {
        mark.kind = Kind::Scheduled;
        mark.due = due;
        self.tables.retrying.put(at(lane, mark.place), id.bytes());
        self.tables.scheduled.put(due_at(lane, due, mark.place), id.bytes());
    }

    /// Until when a lane is stopped (ms, or `PARKED`).
    pub(super) fn stopped_until(&self, lane: WebhookId) -> Result<Option<i64>, QueueError> {
        let until = self.tables.stopped.get(&lane.bytes())?.map(i64::from_le_bytes);
        Ok(until.filter(|&until| until > self.now.0))
    }
}

/// When a lane with open deliveries is due (ms), given when the first of its schedule is, and until when it
/// is stopped; a caller's retry goes past a hold.
pub(super) fn due(
    first: Option<i64>,
    has_fresh: impl Fn() -> Result<bool, QueueError>,
    stopped: Option<i64>,
    now: Time,
) -> Result<Option<i64>, QueueError> {
    Ok(match stopped {
        Some(PARKED) => None,
        _ if first == Some(ASKED) => Some(now.0),
        Some(until) if has_fresh()? => Some(until),
        Some(until) => first.map(|due| due.max(until)),
        None if has_fresh()? => Some(now.0),
        None => first,
    })
}
