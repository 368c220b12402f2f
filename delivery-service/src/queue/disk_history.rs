//! What the embedded queue forgets: history beyond its count and age, and lanes of which nothing is left. Always a
//! bounded bit at a time, beside other work.

use std::time::Duration;

use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};

use super::{
    QueueError,
    disk_group::Group,
    disk_ordered::Ordered,
    disk_row::Row,
    disk_tables::{account_key, first16, places, time_of},
};
use crate::delivery::Place;

/// Lanes that one round of `sweep` looks at, and history that it takes away.
const SWEEP: usize = 256;
/// History is cut to its bound by count once it is so much over: a part of the bound.
const SLACK: u64 = 16;

impl Group<'_, '_> {
    /// Looks at some more lanes, for history that is too old and lanes of which nothing is left; to be
    /// called first in a group. Where to go on.
    pub fn sweep(&mut self, from: [u8; 16]) -> Result<[u8; 16], QueueError> {
        self.forget_events(SWEEP)?;
        let lanes = self.tables.lanes.from(from, SWEEP)?;
        let mut budget = SWEEP;
        for &key in &lanes {
            let lane = WebhookId::from_bytes(key);
            let mut row = match self.tables.lanes.get(lane) {
                // It stays as it is, and keeps nobody from what comes after it.
                Err(QueueError::Damaged(_)) => continue,
                row => row?,
            };
            let trimmed = self.trim(lane, &mut row, budget)?;
            budget = budget.saturating_sub(trimmed);
            let empty = row.open + row.ended + row.failed == 0 && row.memo.is_empty();
            let empty = empty && row.is_forgotten(self.limits.dedupe_window, self.now);
            if empty && self.lanes.get(lane).is_none() && self.stopped_until(lane)?.is_none() {
                self.tables.accounts.remove(&account_key(&row.license_code, key))?;
                self.tables.lanes.remove(lane)?;
            } else if trimmed > 0 {
                self.tables.lanes.put(lane, row);
            }
            if budget == 0 {
                return Ok(key);
            }
        }
        let next = lanes.last().and_then(|&last| u128::from_be_bytes(last).checked_add(1));
        let next = if lanes.len() < SWEEP { 0 } else { next.unwrap_or_default() };
        Ok(next.to_be_bytes())
    }

    /// Takes history beyond its count and age away, the oldest first, about `most` at most. How many.
    pub(super) fn trim(&mut self, lane: WebhookId, row: &mut Row, most: usize) -> Result<usize, QueueError> {
        let Self { tables, limits, now, .. } = self;
        let mut history = |table: &mut Ordered<'_, &'static [u8; 24], &'static [u8; 24]>,
                           (count, oldest): (&mut u64, &mut i64),
                           (kept, age): (u64, Duration),
                           bodies| {
            if *count == 0 {
                return Ok(0);
            }
            // Many at once are taken away for the price of few.
            let (over, slack) = (count.saturating_sub(kept), kept / SLACK);
            let over = if over > slack { over as usize } else { 0 };
            if over == 0 && *oldest > 0 && Time(*oldest) + age > *now {
                return Ok(0);
            }
            *oldest = 0;
            let mut gone = Vec::new();
            let (from, to) = places(lane, Place(0));
            for entry in table.range(&from, &to)?.take(most.max(slack as usize)) {
                let (key, value) = entry?;
                if gone.len() >= over && time_of(&value) + age > *now {
                    *oldest = time_of(&value).0;
                    break;
                }
                gone.push((key, first16(&value)));
            }
            let (Some((first, _)), Some((last, _))) = (gone.first(), gone.last()) else { return Ok(0) };
            table.remove_range(first, last)?;
            for (_, id) in &gone {
                tables.heads.remove(*id);
                if bodies {
                    tables.bodies.remove(DeliveryId::from_bytes(*id))?;
                }
            }
            *count = count.saturating_sub(gone.len() as u64);
            Ok::<_, QueueError>(gone.len())
        };
        let ended = (&mut row.ended, &mut row.oldest_ended);
        let ended = history(&mut tables.ended, ended, (limits.ended_kept, limits.ended_age), false)?;
        let failed = (&mut row.failed, &mut row.oldest_failed);
        let failed = history(&mut tables.failed, failed, (limits.failed_kept, limits.failed_age), true)?;
        Ok(ended + failed)
    }

    /// Writes into the tables what has changed. What is noted here goes into no journal: whoever replays
    /// one notes it again.
    pub fn flush(&mut self) -> Result<(), QueueError> {
        self.expire_events()?;
        Ok(self.tables.flush()?)
    }
}
