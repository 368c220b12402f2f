//! What an operator does to a lane that waits: a mended webhook, a delivery that is withdrawn or asked for.
//! What comes after is held back by nothing that is over.

use std::{sync::Arc, time::Duration};

use common::{
    clock::Clock,
    ids::{DeliveryId, WebhookId},
};
use delivery_service::{
    delivery::State,
    intake::Intake,
    lanes::{Input, Lanes, Limits},
    queue::{self, Queue, disk::DiskQueue, group::Group},
    routes::{
        Order, Policy, Route,
        table::{Edit, Table},
    },
};
use hyper::header::RETRY_AFTER;
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE, account, engine, event,
    receiver::{Receiver, answer},
    route,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn ordered(url: &str, order: Order) -> Route {
    let mut route = route(0, url);
    route.policy =
        Policy { timeout: PATIENCE, retry_delays: [10 * HOUR; 3].into(), order, ..Policy::default() };
    route
}

/// An engine with one webhook.
struct World {
    lane: WebhookId,
    store: Arc<dyn Queue>,
    lanes: Lanes,
    routes: Arc<Table>,
    intake: Intake,
    stop: CancellationToken,
    done: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl World {
    fn start(url: &str, order: Order) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Queue> =
            DiskQueue::open(folder.path(), Clock::System, queue::Limits::default(), 0).unwrap();
        let route = ordered(url, order);
        let (lane, stop) = (route.webhook_id, CancellationToken::new());
        let (lanes, done, routes) =
            engine(store.clone(), vec![route], Clock::System, Limits::default(), stop.clone());
        let intake =
            Intake::new(routes.clone(), Group::start(store.clone(), lanes.clone()), Clock::System, 1);
        Self { lane, store, lanes, routes, intake, stop, done, _folder: folder }
    }

    async fn publish(&self, id: usize) -> DeliveryId {
        let mut results = self.intake.accept(vec![event(&account(0), id)], None).await;
        results.remove(0).unwrap().delivery_ids[0]
    }

    /// Waits until an attempt has failed and that is stored.
    async fn waits_for_its_retry(&self, id: DeliveryId) {
        let stored = async {
            while self.store.get(id).await.unwrap().unwrap().head.state != State::Retrying as i32 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stored).await.expect("it should be stored");
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.done).await.expect("the engine should stop").unwrap();
    }
}

async fn arrives(receiver: &Receiver, id: DeliveryId) -> String {
    let received = tokio::time::timeout(PATIENCE, receiver.next()).await.expect("it should arrive");
    assert_eq!(received.header("webhook-id"), id.to_string());
    received.target.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_address_asked_for_does_not_hold_the_new_one() {
    let answers = Arc::new(Semaphore::new(0));
    let let_go = answers.clone();
    let receiver = Receiver::answering(move |request| {
        let let_go = let_go.clone();
        async move {
            if request.target != "/old" {
                return answer(200);
            }
            let_go.acquire().await.unwrap().forget();
            let mut answer = answer(429);
            answer.headers_mut().insert(RETRY_AFTER, "86400".parse().unwrap());
            answer
        }
    })
    .await;
    let world = World::start(&receiver.url("/old"), Order::Unordered);
    let first = world.publish(1).await;
    assert_eq!(arrives(&receiver, first).await, "/old");
    let mended = Route { revision: 2, ..ordered(&receiver.url("/new"), Order::Unordered) };
    world.routes.apply(vec![Edit::Put(Arc::new(mended))]);
    world.lanes.tell(Input::Route(world.lane)).await;
    let second = world.publish(2).await;
    assert_eq!(arrives(&receiver, second).await, "/new");
    answers.add_permits(1);
    world.waits_for_its_retry(first).await;
    let third = world.publish(3).await;
    assert_eq!(arrives(&receiver, third).await, "/new");
    world.end().await;
}
