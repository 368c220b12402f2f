//! What the embedded queue forgets: history beyond its count and age, event ids whose window is over,
//! lanes of which nothing is left. Always a bounded bit at a time, beside other work.

use std::time::Duration;

use common::ids::WebhookId;
use redb::{ReadableTable, Table};

use super::{
    QueueError,
    disk_group::Group,
    disk_tables::{Row, account_key, expiry_key, first16, pack, places, time_of, unpack},
};
use crate::delivery::Place;

/// Lanes that one round of `sweep` looks at, and history that it takes away.
const SWEEP: usize = 256;
/// History is cut to its bound by count once it is so much over: a part of the bound.
const SLACK: u64 = 16;
/// Event ids that are forgotten together.
const PACKED: usize = 64;

impl Group<'_, '_> {
    /// Looks at some more lanes, for history that is too old and lanes of which nothing is left; to be
    /// called first in a group. Where to go on, and whether anything was changed.
    pub fn sweep(&mut self, from: [u8; 16]) -> Result<([u8; 16], bool), QueueError> {
        let mut changed = self.forget_events(SWEEP)? > 0;
        let lanes: Vec<[u8; 16]> = (self.tables.lanes.range::<&[u8; 16]>(&from..)?)
            .take(SWEEP)
            .map(|entry| entry.map(|(lane, _)| *lane.value()))
            .collect::<Result<_, _>>()?;
        let mut budget = SWEEP;
        for &key in &lanes {
            let lane = WebhookId::from_bytes(key);
            let mut row = self.take_row(lane)?;
            let trimmed = self.trim(lane, &mut row, budget)?;
            budget = budget.saturating_sub(trimmed);
            let forgotten = Place(row.last_place).time() + self.limits.dedupe_window < self.now;
            let empty = row.open + row.ended + row.failed == 0 && row.memo.is_empty() && forgotten;
            if empty && self.lanes.get(lane).is_none() && self.stopped_until(lane)?.is_none() {
                self.tables.accounts.remove(account_key(&row.license_code, key).as_slice())?;
                self.tables.lanes.remove(&key)?;
                changed = true;
            } else if trimmed > 0 {
                self.rows.insert(lane, row);
            }
            changed |= trimmed > 0;
            if budget == 0 {
                return Ok((key, true));
            }
        }
        let next = lanes.last().and_then(|&last| u128::from_be_bytes(last).checked_add(1));
        let next = if lanes.len() < SWEEP { 0 } else { next.unwrap_or_default() };
        Ok((next.to_be_bytes(), changed))
    }

    /// Takes history beyond its count and age away, the oldest first, about `most` at most. How many.
    pub(super) fn trim(&mut self, lane: WebhookId, row: &mut Row, most: usize) -> Result<usize, QueueError> {
        let Self { tables, limits, now, .. } = self;
        let mut history = |table: &mut Table<'_, &[u8; 24], &[u8; 24]>,
                           count: &mut u64,
                           kept: u64,
                           age: Duration,
                           bodies| {
            if *count == 0 {
                return Ok(0);
            }
            // Many at once are taken away for the price of few.
            let (over, slack) = (count.saturating_sub(kept), kept / SLACK);
            let over = if over > slack { over as usize } else { 0 };
            let mut gone = Vec::new();
            let (from, to) = places(lane, Place(0));
            for entry in table.range::<&[u8; 24]>(&from..=&to)?.take(most.max(slack as usize)) {
                let (key, value) = entry?;
                if gone.len() >= over && time_of(value.value()) + age > *now {
                    break;
                }
                gone.push((*key.value(), first16(value.value())));
            }
            let (Some((first, _)), Some((last, _))) = (gone.first(), gone.last()) else { return Ok(0) };
            table.retain_in::<&[u8; 24], _>(first..=last, |_, _| false)?;
            for (_, id) in &gone {
                tables.heads.remove(*id);
                if bodies {
                    tables.bodies.remove(*id);
                }
            }
            *count = count.saturating_sub(gone.len() as u64);
            Ok::<_, QueueError>(gone.len())
        };
        let ended = history(&mut tables.ended, &mut row.ended, limits.ended_kept, limits.ended_age, false)?;
        let failed =
            history(&mut tables.failed, &mut row.failed, limits.failed_kept, limits.failed_age, true)?;
        Ok(ended + failed)
    }

    /// Notes when event ids that were noted now are to be forgotten.
    pub(super) fn expire(&mut self, events: &[Vec<u8>]) -> Result<(), QueueError> {
        let expiry = self.now + self.limits.dedupe_window;
        let (first, last) = (expiry_key(expiry, 0), expiry_key(expiry, u64::MAX));
        let last = self.tables.expiries.range::<&[u8; 16]>(&first..=&last)?.next_back().transpose()?;
        let next = last.map_or(0, |(key, _)| u128::from_be_bytes(*key.value()) as u64 + 1);
        for (events, n) in events.chunks(PACKED).zip(next..) {
            self.tables.expiries.insert(&expiry_key(expiry, n), pack(events).as_slice())?;
        }
        Ok(())
    }

    /// Forgets event ids whose time is over, about `most` at most. How many.
    pub(super) fn forget_events(&mut self, most: usize) -> Result<usize, QueueError> {
        let mut count = 0;
        while count < most {
            let first = self.tables.expiries.first()?;
            let Some((key, events)) = first.map(|(key, events)| (*key.value(), unpack(events.value())))
            else {
                break;
            };
            if key >= expiry_key(self.now + Duration::from_millis(1), 0) {
                break;
            }
            for event in &events {
                // Unless it was noted anew since.
                let known = self.tables.events.get(event.as_slice())?.map(|value| time_of(value.value()));
                if known.is_some_and(|expiry| expiry <= self.now) {
                    self.tables.events.remove(event.as_slice())?;
                }
            }
            self.tables.expiries.remove(&key)?;
            count += events.len().max(1);
        }
        Ok(count)
    }
}
