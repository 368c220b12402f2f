//! What callers ask of a whole lane, on Redis: how it stands, withdrawing what waits, and bulk retries,
//! whose heads are renewed here, slice by slice.

use common::ids::{DeliveryId, WebhookId};
use futures_util::future::join_all;
use prost::Message;
use redis::{Cmd, Value};

use super::{
    Bulk, CANCEL_MOST, Cancel, Cancelled, Place, Queue, QueueError, Slice, Standing,
    redis::{RedisQueue, millis},
    redis_call::{Answer, TIMEOUT, Verb, number},
    redis_record::{self as record, Record},
};

impl RedisQueue {
    fn lane_call(&self, verb: &Verb, lane: WebhookId) -> Result<Cmd, QueueError> {
        let mut call = self.call(verb, self.shard(lane))?;
        call.arg(&lane.bytes());
        Ok(call)
    }

    async fn ask(&self, verb: &Verb, call: Cmd) -> Result<Value, QueueError> {
        verb.run(&self.connection, call, TIMEOUT).await
    }

    pub(super) async fn status_of(&self, lane: WebhookId) -> Result<Standing, QueueError> {
        let verb = &self.verbs.status;
        let mut answer = Answer::of(self.ask(verb, self.lane_call(verb, lane)?).await?)?;
        Ok(Standing {
            known: answer.number()? == 1,
            open: answer.number()?.max(0) as u64,
            failed: answer.number()?.max(0) as u64,
            oldest: record::duration(answer.number()?),
        })
    }

    pub(super) async fn cancel_some(&self, lane: WebhookId, which: Cancel) -> Result<Cancelled, QueueError> {
        let (verb, limits) = (&self.verbs.cancel, &self.limits);
        let mut call = self.lane_call(verb, lane)?;
        call.arg(CANCEL_MOST).arg(limits.ended_kept);
        call.arg(millis(limits.ended_age)).arg(millis(limits.failed_age));
        match which {
            Cancel::All(None) => call.arg(""),
            Cancel::All(Some(to)) => call.arg(to.0),
            Cancel::These(ids) if ids.is_empty() => return Ok(Cancelled::default()),
            Cancel::These(ids) => {
                call.arg("");
                for id in ids.iter().take(CANCEL_MOST) {
                    call.arg(&id.bytes());
                }
                &mut call
            }
        };
        let mut answer = Answer::of(self.ask(verb, call).await?)?;
        let rest = answer.number()?;
        let rest = (rest > 0).then_some(Place(rest.max(0) as u64));
        let mut deliveries = Vec::with_capacity(answer.left());
        while answer.left() > 0 {
            let Record { head, place, .. } = record::read(&answer.bytes()?.unwrap_or_default())?;
            deliveries.push((head, place));
        }
        Ok(Cancelled { deliveries, rest })
    }

    pub(super) async fn start_bulk(
        &self,
        lane: WebhookId,
        from: Place,
        to: Place,
    ) -> Result<Bulk, QueueError> {
        let verb = &self.verbs.bulk;
        let mut call = self.lane_call(verb, lane)?;
        call.arg(from.0).arg(to.0);
        let count = number(&self.ask(verb, call).await?)?;
        Ok(u64::try_from(count).map_or(Bulk::UnderWay, Bulk::Started))
    }

    pub(super) async fn bulks(&self) -> Result<Vec<WebhookId>, QueueError> {
        let asking = (0..self.shards()).map(|shard| async move {
            let verb = &self.verbs.bulks;
            let mut answer = Answer::of(self.ask(verb, self.call(verb, shard)?).await?)?;
            (0..answer.left()).map(|_| Ok(WebhookId::from_bytes(answer.id()?))).collect()
        });
        let (mut lanes, mut failure) = (Vec::new(), None);
        for answer in join_all(asking).await {
            match answer {
                Ok(some) => lanes.extend::<Vec<_>>(some),
                Err(error) => failure = Some(error),
            }
        }
        // Those of a shard that is away are heard of when it is back, and keep no others waiting.
        match failure {
            Some(error) if lanes.is_empty() => Err(error),
            _ => Ok(lanes),
        }
    }

    pub(super) async fn slice(&self, lane: WebhookId, most: usize) -> Result<Slice, QueueError> {
        let verb = &self.verbs.slice;
        let mut call = self.lane_call(verb, lane)?;
        call.arg(most);
        let mut answer = match self.ask(verb, call).await? {
            Value::Nil => return Ok(Slice { over: true, ..Slice::default() }),
            Value::Int(_) => return Ok(Slice::default()),
            found => Answer::of(found)?,
        };
        let (from, last) = (answer.number()?, answer.number()?);
        let over = (answer.number()?.max(0) as usize) < most;

        let verb = &self.verbs.slice_done;
        let mut call = self.lane_call(verb, lane)?;
        call.arg(from);
        if over {
            call.arg("")
        } else {
            call.arg(last + 1)
        };
        let mut found = Vec::with_capacity(answer.left());
        while answer.left() > 0 {
            let stored = answer.bytes()?.unwrap_or_default();
            let Record { mut head, place, .. } = record::read(&stored)?;
            head.renew();
            head.asked_again = false;
            call.arg(&head.id().bytes()).arg(&stored).arg(head.encode_to_vec()).arg(head.renewals);
            found.push((head, place));
        }
        let mut done = Answer::of(self.ask(verb, call).await?)?;
        let mut retried = std::collections::HashSet::with_capacity(done.left());
        while done.left() > 0 {
            retried.insert(DeliveryId::from_bytes(done.id()?));
        }
        found.retain(|(head, _)| retried.contains(&head.id()));
        Ok(Slice { retried: found, over })
    }

    pub(super) async fn end_bulk(&self, lane: WebhookId) -> Result<(), QueueError> {
        let verb = &self.verbs.bulk_stop;
        self.ask(verb, self.lane_call(verb, lane)?).await.map(drop)
    }
}
