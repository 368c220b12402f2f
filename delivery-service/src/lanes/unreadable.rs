//! A lane of which something cannot be read: its harm alone. It goes on with what it has, so that no attempt is
//! forgotten; when nothing of that can start it is left alone for a while, and claimed anew.

use std::time::{Duration, Instant};

use super::{engine::Engine, held::Held};
use crate::queue::{Lease, QueueError, Release};

/// For how long it is left alone, unless something of it is due before.
const ASIDE: Duration = Duration::from_secs(60);
/// How soon it is looked at again while it goes on.
const AGAIN: Duration = Duration::from_millis(250);

impl Engine {
    /// What was to be read of a lane that is held is damaged.
    pub(super) fn unreadable(&mut self, lease: Lease, error: &QueueError, now: Instant) {
        let (id, settles) = (lease.webhook_id, !self.settling.of(lease).done());
        let next = self.with(id, |held| {
            held.lane.reading_failed();
            next(held, settles, now)
        });
        match next {
            Some(Ok(release)) => {
                tracing::error!(webhook = %id, %error, "what waits in a lane cannot be read");
                self.give_back(id, Some(release));
            }
            Some(Err(at)) => self.set_timer(id, Some(at)),
            None => {}
        }
    }
}

/// How such a lane is given back, or when it is looked at again. `settles`: outcomes are being stored.
fn next(held: &mut Held, settles: bool, now: Instant) -> Result<Release, Instant> {
    let due = held.lane.next_scheduled().filter(|at| *at > now && *at < now + ASIDE);
    let again = due.map_or(now + AGAIN, |at| at.min(now + AGAIN));
    match held.release(true, now) {
        _ if settles || !held.quiet() => Err(again),
        Release::Hold { duration } if duration > 4 * AGAIN => Ok(Release::Hold { duration }),
        _ if held.lane.waits() || due.is_some() => Err(again),
        // Once more: what is known before the damage and has no body yet is read first then.
        _ if !std::mem::replace(&mut held.unreadable, true) => Err(again),
        _ => Ok(Release::Hold { duration: ASIDE }),
    }
}
