//! Putting batches together as far as they could go now. Who is in one is stored before it goes: what is
//! settled here makes its members known to any later holder.

use std::{sync::Arc, time::Instant};

use common::ids::{DeliveryId, WebhookId};

use super::{engine::Engine, gate::Pass, turns::ENTRIES};
use crate::{
    delivery::Head,
    queue::{Fate, Settled},
    routes::Route,
};

/// Batches of a lane that are put together before they can start: the store takes its time.
const AHEAD: usize = 8;

impl Engine {
    /// Puts a lane's next batches together.
    pub(super) fn form(&mut self, id: WebhookId, route: &Arc<Route>, now: Instant) {
        let (at, shard) = (self.moment(), id.shard(self.parts.queue.shards()));
        let room = self.entries < ENTRIES;
        while !self.settling.is_full(id) && self.context.lease.safe(id) {
            let Some(held) = self.lanes.get(&id).filter(|held| !held.unsure) else { return };
            let (lease, pass) = (held.lane.lease, held.gate.pass(&route.policy, now));
            let free = held.gate.limit(&route.policy).saturating_sub(held.gate.under_way()) as usize;
            let ahead = match pass {
                Pass::Probe => 1,
                // What goes later may be joined by more until then.
                _ if route.policy.max_rate > 0.0 => 1,
                _ => free.clamp(1, AHEAD),
            };
            let batch = DeliveryId::new(shard, at.time.0, rand::random());
            let formed = self.with(id, |held| held.lane.form(pass, ahead, room, batch, at)).flatten();
            let Some(members) = formed else { return };
            let last = members.last().map(|(_, place)| *place).unwrap_or_default();
            for (delivery, place) in members {
                let mut head = Head::new(delivery, id);
                head.join(batch, last);
                self.settling.of(lease).outcome(lease, Settled { head, place, fate: Fate::Batch });
            }
        }
    }
}
