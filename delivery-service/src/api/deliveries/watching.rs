//! WatchDeliveries: a stream of what changes, until the caller goes, falls behind, or the service stops.

use std::pin::Pin;

use common::{ids::WebhookId, status};
use futures_util::{Stream, stream};
use proto::v1::{Delivery, WatchDeliveriesRequest};
use tonic::Status;

use super::Deliveries;
use crate::{
    api::{RETRY_AFTER, convert, from_queue, stopping},
    delivery::Place,
    watchers::{BEHIND, Ended, Filter},
};

pub(super) type Changes = Pin<Box<dyn Stream<Item = Result<Delivery, Status>> + Send>>;

impl Deliveries {
    pub(super) async fn watch(&self, request: WatchDeliveriesRequest) -> Result<Changes, Status> {
        let states = convert::watched(&request)?;
        let webhook_id = match request.webhook_id.as_str() {
            "" => None,
            id => Some(id.parse::<WebhookId>().map_err(|_| status::not_found("webhook", id))?),
        };
        let filter = Filter { webhook_id, states };
        let begun = self.watch.begin(request.license_code, filter).await.map_err(from_queue)?;
        let watching = Some((begun, self.stop.clone()));
        Ok(Box::pin(stream::unfold(watching, |watching| async move {
            let (mut watching, stop) = watching?;
            let change = stop.run_until_cancelled(watching.next()).await;
            match change {
                Some(Ok(change)) => {
                    let delivery = convert::listed(change.head.clone(), Place(change.place));
                    Some((Ok(delivery), Some((watching, stop))))
                }
                Some(Err(why)) => Some((Err(ended(why)), None)),
                None => Some((Err(stopping()), None)),
            }
        })))
    }
}

fn ended(why: Ended) -> Status {
    match why {
        Ended::Behind => {
            let message = format!("{BEHIND} changes wait for this watch: take them faster, or narrow it");
            status::exhausted("WATCH_BEHIND", "watch", message)
        }
        Ended::Away => status::unavailable("STORE_UNAVAILABLE", "the store is unavailable", RETRY_AFTER),
    }
}
