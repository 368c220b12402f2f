//! How full Redis is, looked at once a second and never in a call: the shards of a server that has used
//! nine tenths of its memory take nothing more in, so that delivering and settling keep room.

use std::{sync::Arc, time::Duration};

use common::redis::{Connection, Master, slot};
use futures_util::future::join_all;
use parking_lot::RwLock;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::QueueError;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Of a server's memory, in hundredths.
const FULL: u64 = 90;

/// Which shards are full, as of the last look.
pub(super) struct Memory {
    full: Arc<RwLock<Vec<Option<String>>>>,
    _looking: AbortOnDropHandle<()>,
}

struct Watch {
    connection: Connection,
    /// By shard.
    slots: Vec<u16>,
    /// Of each server, in bytes, beside its own.
    limit: Option<u64>,
    full: Arc<RwLock<Vec<Option<String>>>>,
}

impl Memory {
    /// Looks once, and from then on by itself. `bases`: what the keys of each shard begin with.
    pub async fn watch(connection: Connection, bases: &[String], limit: Option<u64>) -> Self {
        let full = Arc::new(RwLock::new(vec![None; bases.len()]));
        let slots = bases.iter().map(|base| slot(base)).collect();
        let watch = Watch { connection, slots, limit, full: full.clone() };
        watch.look().await;
        let looking = tokio::spawn(async move {
            let mut looks = interval(LOOK);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                watch.look().await;
            }
        });
        Self { full, _looking: AbortOnDropHandle::new(looking) }
    }

    /// Refuses when the shard is full.
    pub fn check(&self, shard: u16) -> Result<(), QueueError> {
        match self.full.read().get(usize::from(shard)) {
            Some(Some(why)) => Err(QueueError::Full(why.clone())),
            _ => Ok(()),
        }
    }
}

impl Watch {
    /// A server that does not answer is taken to be as it was: what is away takes nothing anyway.
    async fn look(&self) {
        let Ok(masters) = self.connection.masters().await else { return };
        let answers = join_all(masters.iter().map(|master| self.ask(master))).await;
        for (master, answer) in masters.iter().zip(answers) {
            if let Some(why) = answer {
                self.note(master, why);
            }
        }
    }

    async fn ask(&self, master: &Master) -> Option<Option<String>> {
        let answer = self.connection.info(master, "memory", &["used_memory", "maxmemory"]).await.ok()?;
        let number = |n: usize| answer.get(n)?.as_ref()?.parse::<u64>().ok();
        Some(fullness(number(0)?, number(1)?, self.limit).map(|(used, limit)| {
            format!("{} uses {used} bytes of memory, its limit is {FULL} % of {limit}", master.name())
        }))
    }

    fn note(&self, master: &Master, why: Option<String>) {
        let mut full = self.full.write();
        let mut changed = false;
        for (shard, at) in full.iter_mut().zip(&self.slots) {
            if master.has(*at) {
                changed |= shard.is_some() != why.is_some();
                shard.clone_from(&why);
            }
        }
        match why {
            Some(why) if changed => tracing::error!(
                "Redis is nearly full, publishing is refused until there is room: {why}; give it more memory, or \
                 mend receivers that are behind"
            ),
            None if changed => tracing::info!(server = master.name(), "Redis has room again"),
            _ => {}
        }
    }
}

/// Bytes used and the limit, where the first is too near to the second.
fn fullness(used: u64, maxmemory: u64, limit: Option<u64>) -> Option<(u64, u64)> {
    let limits = [Some(maxmemory).filter(|max| *max > 0), limit];
    let limit = limits.into_iter().flatten().min()?;
    (u128::from(used) * 100 >= u128::from(limit) * u128::from(FULL)).then_some((used, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_full_at_nine_tenths_of_the_lower_limit() {
        for (used, maxmemory, limit, full) in [
            (u64::MAX, 0, None, None),
            (899, 1_000, None, None),
            (900, 1_000, None, Some(1_000)),
            (900, 0, Some(1_000), Some(1_000)),
            (900, 2_000, Some(1_000), Some(1_000)),
            (900, 1_000, Some(2_000), Some(1_000)),
            (u64::MAX, u64::MAX, None, Some(u64::MAX)),
        ] {
            assert_eq!(
                fullness(used, maxmemory, limit).map(|(_, limit)| limit),
                full,
                "{used} of {maxmemory}"
            );
        }
    }
}
