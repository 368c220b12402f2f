//! What the embedded queue forgets: history beyond its count and age, event ids whose window is over,
//! lanes of which nothing is left. Always a bounded bit at a time, beside other work.

use std::time::Duration;

use common::ids::WebhookId;
use redb::{ReadableTable, Table};

use super::{
    QueueError,
    disk_group::Group,
    disk_tables::{Row, account_key, first16, places, time_of},
};
use crate::delivery::Place;

/// Lanes that one round of `sweep` looks at, and history that it takes away.
const SWEEP: usize = 256;

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

    /// Takes history beyond its count and age away, the oldest first, at most `most`. How many.
    pub(super) fn trim(&mut self, lane: WebhookId, row: &mut Row, most: usize) -> Result<usize, QueueError> {
        let Self { tables, limits, now, .. } = self;
        let mut history =
            |table: &mut Table<'_, &[u8; 24], &[u8; 24]>, count: &mut u64, kept, age: Duration, bodies| {
                let mut trimmed = 0;
                while *count > 0 && trimmed < most {
                    let (from, to) = places(lane, Place(0));
                    let first = table.range::<&[u8; 24]>(&from..=&to)?.next().transpose()?;
                    let first = first.map(|(key, value)| (*key.value(), *value.value()));
                    let Some((key, value)) = first else { break };
                    if *count <= kept && time_of(&value) + age > *now {
                        break;
                    }
                    table.remove(&key)?;
                    tables.heads.remove(&first16(&value))?;
                    if bodies {
                        tables.bodies.remove(&first16(&value))?;
                    }
                    *count -= 1;
                    trimmed += 1;
                }
                Ok::<_, QueueError>(trimmed)
            };
        let ended = history(&mut tables.ended, &mut row.ended, limits.ended_kept, limits.ended_age, false)?;
        let failed =
            history(&mut tables.failed, &mut row.failed, limits.failed_kept, limits.failed_age, true)?;
        Ok(ended + failed)
    }

    /// Forgets event ids whose time is over. How many.
    pub(super) fn forget_events(&mut self, most: usize) -> Result<usize, QueueError> {
        let mut count = 0;
        while count < most {
            let first = self.tables.expiries.first()?.map(|(key, _)| key.value().to_vec());
            let Some(key) = first else { break };
            let (expiry, event) = key.split_at(8.min(key.len()));
            if expiry > (self.now.0 + 1).to_be_bytes().as_slice() {
                break;
            }
            // Unless it was noted anew since.
            let known = self.tables.events.get(event)?.map(|value| time_of(value.value()));
            if known.is_some_and(|expiry| expiry <= self.now) {
                self.tables.events.remove(event)?;
            }
            self.tables.expiries.remove(key.as_slice())?;
            count += 1;
        }
        Ok(count)
    }
}
