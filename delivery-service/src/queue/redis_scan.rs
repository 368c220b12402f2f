//! What the queue on Redis reads for lanes that are kept in order: open deliveries by place, and the
//! bodies of those that are about to start.

use common::ids::DeliveryId;
use redis::Value;

use super::{
    Lease, LeaseLost, Open, Place, QueueError, Scan, Waiting,
    redis::RedisQueue,
    redis_call::{Answer, TIMEOUT},
    redis_record as record,
};

impl RedisQueue {
    pub(super) async fn scan_lane(
        &self,
        lane: Lease,
        after: Place,
        limit: usize,
    ) -> Result<Result<Scan, LeaseLost>, QueueError> {
        let mut call = self.call(&self.verbs.scan, self.shard(lane.webhook_id))?;
        call.arg(&lane.webhook_id.bytes()).arg(lane.fence).arg(after.0).arg(limit.clamp(1, 1_000));
        let answer = self.verbs.scan.run(&self.connection, call, TIMEOUT).await?;
        if answer == Value::Int(0) {
            self.leases.ended(lane);
            return Ok(Err(LeaseLost));
        }
        let mut answer = Answer::of(answer)?;
        let read_to = Place(answer.number()?.max(0) as u64);
        let more = answer.number()? == 1;
        let mut open = Vec::with_capacity(answer.left() / 2);
        while answer.left() > 1 {
            let stored = answer.bytes()?.unwrap_or_default();
            let due = record::duration(answer.number()?);
            match record::read(&stored) {
                Ok(found) => open.push(Open { head: found.head, place: found.place, due }),
                // What others wait for goes on without it.
                Err(error) => tracing::error!(%error, "a waiting delivery cannot be read"),
            }
        }
        Ok(Ok(Scan { open, read_to, more }))
    }

    pub(super) async fn fetch_bodies(
        &self,
        lane: Lease,
        ids: Vec<DeliveryId>,
        bytes: usize,
    ) -> Result<Result<Vec<Option<Waiting>>, LeaseLost>, QueueError> {
        let mut call = self.call(&self.verbs.fetch, self.shard(lane.webhook_id))?;
        call.arg(&lane.webhook_id.bytes()).arg(lane.fence).arg(bytes);
        for id in &ids {
            call.arg(&id.bytes());
        }
        let answer = self.verbs.fetch.run(&self.connection, call, TIMEOUT).await?;
        if answer == Value::Int(0) {
            self.leases.ended(lane);
            return Ok(Err(LeaseLost));
        }
        let mut answer = Answer::of(answer)?;
        let mut found = Vec::with_capacity(ids.len());
        while answer.left() > 1 {
            let (stored, body) = (answer.bytes()?, answer.bytes()?);
            let record = stored.map(|stored| record::read(&stored));
            found.push(match (record, body) {
                (Some(Ok(record)), Some(body)) => Some(Waiting {
                    scheduled: record.is_scheduled(),
                    head: record.head,
                    body: body.into(),
                    place: record.place,
                }),
                (Some(Err(error)), _) => {
                    tracing::error!(%error, "a waiting delivery cannot be read");
                    None
                }
                _ => None,
            });
        }
        Ok(Ok(found))
    }
}
