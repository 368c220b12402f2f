//! Deliveries shown and retried, on a real store.

use std::time::Duration;

use bytes::Bytes;
use common::{address::Rules, clock::Time};
use futures_util::StreamExt;
use proto::v1::{DeliveryState, WebhookType};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::{
    delivery::{Attempt, Fault, Head, State},
    queue::{Fate, LaneNow, Lease, Limits, New, Settle, Settled, Stored, disk::DiskQueue, watched::Watched},
    routes::{
        convert::Converter,
        table::{Edit, Staging},
    },
};

const NOW: Time = Time(1_800_000_000_000);
pub(super) const ACCOUNT: &str = "~99199077";

pub(super) struct World {
    pub api: Deliveries,
    nudged: mpsc::UnboundedReceiver<WebhookId>,
    withdrawn: mpsc::UnboundedReceiver<WebhookId>,
    _folder: TempDir,
}

fn world_with(limits: Limits) -> World {
    let folder = TempDir::new().unwrap();
    let clock = Clock::by_hand(NOW);
    let (nudges, nudged) = mpsc::unbounded_channel();
    let (withdrawals, withdrawn) = mpsc::unbounded_channel();
    let rules = Rules { development: true, ..Rules::default() };
    let watch = Arc::new(Watch::default());
    let queue = DiskQueue::open(folder.path(), clock.clone(), limits, 0).unwrap();
    let api = Deliveries {
        queue: Arc::new(Watched::new(queue, watch.clone())),
        routes: Arc::default(),
        sender: Arc::new(Sender::new(rules, send::Settings::default(), clock.clone()).unwrap()),
        nudge: Arc::new(move |id| nudges.send(id).unwrap()),
        withdrawn: Arc::new(move |id| {
            withdrawals.send(id).unwrap();
            Box::pin(async {})
        }),
        lane_status: Arc::new(|_| Box::pin(async { None })),
        retrying: Arc::default(),
        watch,
        stop: CancellationToken::new(),
        clock,
    };
    World { api, nudged, withdrawn, _folder: folder }
}

pub(super) fn world() -> World {
    world_with(Limits::default())
}

pub(super) fn id(number: u64) -> WebhookId {
    WebhookId::new(NOW.0, number.into())
}

pub(super) fn webhook(number: u64, kind: WebhookType) -> v1::Webhook {
    v1::Webhook {
        id: id(number).to_string(),
        license_code: ACCOUNT.into(),
        r#type: kind as i32,
        event_names: if kind == WebhookType::Event { vec!["email_open".into()] } else { Vec::new() },
        post_url: "https://example.com/hook?x=1".into(),
        ..v1::Webhook::default()
    }
}

fn route(webhook: v1::Webhook, revision: u64) -> Arc<Route> {
    let key = v1::SigningKey { secret: "whsec_c2lnbmluZyBrZXk=".into(), expire_time: None };
    let account_secret_key = "my-webhook-secret".into();
    let sent = v1::Route { webhook: Some(webhook), signing_keys: vec![key], account_secret_key };
    Arc::new(Converter::default().route(sent, revision).unwrap())
}

/// What a lane has been given so far.
struct Lane {
    webhook_id: WebhookId,
    fence: u64,
    places: Vec<(Head, crate::delivery::Place)>,
}

impl World {
    pub fn know(&self, webhooks: impl IntoIterator<Item = v1::Webhook>) {
        let mut staging = Staging::default();
        webhooks.into_iter().for_each(|webhook| staging.apply(Edit::Put(route(webhook, 1))));
        self.api.routes.replace(staging);
    }

    /// Stores `count` deliveries, 1 s apart, as a publisher's would be.
    async fn store(&self, webhook_id: WebhookId, count: u64) -> Lane {
        let mut lane = Lane { webhook_id, fence: 0, places: Vec::new() };
        for n in 0..count {
            let mut head =
                Head::new(DeliveryId::new(0, NOW.0, webhook_id.bytes()[15] as u64 * 100 + n), webhook_id);
            head.license_code = ACCOUNT.into();
            head.event_id = format!("e{n}");
            head.event_type = if n % 2 == 0 { "email_open" } else { "email_click" }.into();
            let new = New { head: head.clone(), body: Bytes::from_static(b"{}"), dedupe: true, failed: None };
            let stored = self.api.queue.enqueue(Arc::new(vec![new])).await.remove(0).unwrap();
            match stored {
                Stored::New { place, lane: LaneNow::Mine { fence, .. }, .. } => {
                    lane.fence = fence;
                    lane.places.push((head, place));
                }
                Stored::Ended { place, .. } => lane.places.push((head, place)),
                other => panic!("{other:?}"),
            }
            self.api.clock.advance(Duration::from_secs(1));
        }
        lane
    }

    /// Ends a delivery of a lane after two attempts.
    async fn settle(&self, lane: &Lane, index: usize, state: State) {
        let (mut head, place) = lane.places[index].clone();
        for number in 1..=2 {
            let fault = Fault::Status as i32;
            head.add(Attempt { number, start_ms: NOW.0, http_status: 500, fault, ..Attempt::default() });
        }
        head.end(state, Fault::None, self.api.clock.now());
        let fate = if state == State::Failed { Fate::Failed } else { Fate::Succeeded };
        let settle = Settle {
            lane: Lease { webhook_id: lane.webhook_id, fence: lane.fence },
            deliveries: vec![Settled { head, place, fate }],
            done_to: place,
            memo: None,
            release: None,
        };
        self.api.queue.settle(Arc::new(vec![settle])).await.unwrap().remove(0).unwrap();
    }

    async fn get(&self, id: &str) -> Result<Delivery, Status> {
        let request = GetDeliveryRequest { id: id.into() };
        self.api.get_delivery(Request::new(request)).await.map(Response::into_inner)
    }

    pub async fn list(&self, request: ListDeliveriesRequest) -> Result<ListDeliveriesResponse, Status> {
        self.api.list_deliveries(Request::new(request)).await.map(Response::into_inner)
    }

    async fn retry(&self, id: &str) -> Result<Delivery, Status> {
        let request = RetryDeliveryRequest { id: id.into() };
        self.api.retry_delivery(Request::new(request)).await.map(Response::into_inner)
    }
}

pub(super) fn of_account() -> ListDeliveriesRequest {
    ListDeliveriesRequest { license_code: ACCOUNT.into(), ..ListDeliveriesRequest::default() }
}

fn text(lane: &Lane, index: usize) -> String {
    lane.places[index].0.id().to_string()
}

pub(super) fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

pub(super) fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn a_delivery_is_shown_whole_also_without_routes() {
    let world = world();
    let lane = world.store(id(1), 2).await;
    world.settle(&lane, 0, State::Failed).await;
    let failed = world.get(&text(&lane, 0)).await.unwrap();
    assert_eq!((failed.id.as_str(), failed.license_code.as_str()), (&*text(&lane, 0), ACCOUNT));
    assert_eq!((failed.webhook_id, failed.event_id.as_str()), (id(1).to_string(), "e0"));
    assert_eq!((failed.state, failed.attempt_count), (DeliveryState::Failed as i32, 2));
    assert_eq!((failed.attempts.len(), failed.attempts[1].http_status), (2, 500));
    assert_eq!(
        (&failed.body[..], failed.content_type.as_str()),
        (&b"{}"[..], "application/json; charset=utf-8")
    );
    assert_eq!(failed.create_time, Some(NOW.into()));
    assert_eq!(
        (failed.next_attempt_time, failed.end_time),
        (None, Some((NOW + Duration::from_secs(2)).into()))
    );
    let waiting = world.get(&text(&lane, 1)).await.unwrap();
    assert_eq!((waiting.state, waiting.end_time), (DeliveryState::Pending as i32, None));
    assert_eq!(waiting.next_attempt_time, waiting.create_time);

    assert_eq!(world.get("").await.unwrap_err().code(), Code::InvalidArgument);
    for unknown in ["x", &"0".repeat(32), &text(&lane, 0).to_uppercase().replace('0', "A")] {
        assert_eq!(world.get(unknown).await.unwrap_err().code(), Code::NotFound, "{unknown}");
    }
}

#[tokio::test]
async fn lists_are_narrowed_and_paged_newest_first() {
    let world = world();
    let lane = world.store(id(1), 5).await;
    world.settle(&lane, 0, State::Failed).await;
    let other = world.store(id(2), 1).await;
    let all = world.list(of_account()).await.unwrap();
    let newest_first: Vec<String> =
        [text(&other, 0)].into_iter().chain((0..5).rev().map(|n| text(&lane, n))).collect();
    let ids =
        |page: &ListDeliveriesResponse| page.deliveries.iter().map(|d| d.id.clone()).collect::<Vec<_>>();
    assert_eq!((ids(&all), all.next_page_token.as_str()), (newest_first.clone(), ""));
    let failed = &all.deliveries[5];
    assert_eq!((failed.attempts.len(), failed.attempts[0].number, failed.body.len()), (1, 2, 0));

    let mut paged = Vec::new();
    let mut request = ListDeliveriesRequest { page_size: 2, ..of_account() };
    loop {
        let page = world.list(request.clone()).await.unwrap();
        assert!(page.deliveries.len() <= 2);
        paged.extend(ids(&page));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        let elsewhere = ListDeliveriesRequest { event_id: "e1".into(), ..request.clone() };
        assert_eq!(fields(&world.list(elsewhere).await.unwrap_err()), ["page_token"]);
        request.page_size = 2;
    }
    assert_eq!(paged, newest_first);

    let at = |seconds, nanos| Some(prost_types::Timestamp { seconds: NOW.seconds() + seconds, nanos });
    let of_lane = |range: std::ops::Range<usize>| range.rev().map(|n| text(&lane, n)).collect::<Vec<_>>();
    for (narrowed, expected) in [
        (ListDeliveriesRequest { webhook_id: id(1).to_string(), ..of_account() }, of_lane(0..5)),
        (ListDeliveriesRequest { webhook_id: id(9).to_string(), ..of_account() }, vec![]),
        (ListDeliveriesRequest { webhook_id: "nonsense".into(), ..of_account() }, vec![]),
        (ListDeliveriesRequest { event_id: "e3".into(), ..of_account() }, of_lane(3..4)),
        (
            ListDeliveriesRequest { event_type: "email_click".into(), ..of_account() },
            vec![text(&lane, 3), text(&lane, 1)],
        ),
        (ListDeliveriesRequest { states: vec![DeliveryState::Failed as i32], ..of_account() }, of_lane(0..1)),
        (ListDeliveriesRequest { start_time: at(1, 0), end_time: at(3, 0), ..of_account() }, of_lane(1..3)),
        (ListDeliveriesRequest { start_time: at(1, 1), end_time: at(3, 1), ..of_account() }, of_lane(2..4)),
        (ListDeliveriesRequest { license_code: "other".into(), ..ListDeliveriesRequest::default() }, vec![]),
    ] {
        assert_eq!(ids(&world.list(narrowed.clone()).await.unwrap()), expected, "{narrowed:?}");
    }
    let wrong = ListDeliveriesRequest {
        states: vec![DeliveryState::Failed as i32, 0, 99],
        start_time: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
        page_size: 1_001,
        ..ListDeliveriesRequest::default()
    };
    let refused = world.list(wrong).await.unwrap_err();
    assert_eq!(fields(&refused), ["license_code", "states[1]", "states[2]", "start_time", "page_size"]);
}

#[tokio::test]
async fn a_failed_delivery_is_retried_and_its_lane_is_nudged() {
    let mut world = world();
    let lane = world.store(id(1), 3).await;
    world.settle(&lane, 0, State::Failed).await;
    world.settle(&lane, 1, State::Succeeded).await;
    assert_eq!(reason(&world.retry(&text(&lane, 0)).await.unwrap_err()), "ROUTES_UNKNOWN");
    world.know([]);
    assert_eq!(reason(&world.retry(&text(&lane, 0)).await.unwrap_err()), "WEBHOOK_GONE");
    let state =
        |state: v1::WebhookState| v1::Webhook { state: state as i32, ..webhook(1, WebhookType::Event) };
    world.know([state(v1::WebhookState::Disabled)]);
    let refused = world.retry(&text(&lane, 0)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "WEBHOOK_DISABLED"));
    assert!(world.nudged.try_recv().is_err());

    world.know([state(v1::WebhookState::Paused)]);
    let again = world.retry(&text(&lane, 0)).await.unwrap();
    assert_eq!((again.state, again.attempt_count), (DeliveryState::Retrying as i32, 2));
    assert!(again.end_time.is_none() && again.next_attempt_time.is_some() && again.body.is_empty());
    assert_eq!(world.nudged.recv().await, Some(id(1)));
    let refused = world.retry(&text(&lane, 1)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "DELIVERY_ENDED"));
    assert!(refused.message().contains("SUCCEEDED"), "{}", refused.message());
    assert_eq!(world.retry(&text(&lane, 2)).await.unwrap().state, DeliveryState::Pending as i32);
    assert_eq!(world.retry("").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(world.retry("x").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_delivery_without_its_body_cannot_be_retried() {
    let world = world_with(Limits { backlog_deliveries: 1, ..Limits::default() });
    world.know([webhook(1, WebhookType::Event)]);
    let lane = world.store(id(1), 2).await;
    let shown = world.get(&text(&lane, 1)).await.unwrap();
    assert_eq!(shown.end_reason, v1::AttemptError::BacklogFull as i32);
    assert_eq!(reason(&world.retry(&text(&lane, 1)).await.unwrap_err()), "BODY_NOT_KEPT");
}

#[tokio::test]
async fn a_deleted_webhooks_deliveries_stay_readable() {
    let world = world();
    world.know([webhook(1, WebhookType::Event)]);
    let lane = world.store(id(1), 1).await;
    world.api.routes.apply(vec![Edit::Delete(id(1), 2)]);
    assert!(world.get(&text(&lane, 0)).await.is_ok());
    assert_eq!(world.list(of_account()).await.unwrap().deliveries.len(), 1);
    assert_eq!(reason(&world.retry(&text(&lane, 0)).await.unwrap_err()), "WEBHOOK_GONE");
}

#[tokio::test]
async fn a_watch_shows_what_changes_until_the_service_stops() {
    let world = world();
    let request = |states: &[DeliveryState]| WatchDeliveriesRequest {
        license_code: ACCOUNT.into(),
        webhook_id: String::new(),
        states: states.iter().map(|state| *state as i32).collect(),
    };
    let mut all = world.api.watch(request(&[])).await.unwrap();
    let mut failed = world.api.watch(request(&[DeliveryState::Failed])).await.unwrap();
    let lane = world.store(id(1), 2).await;
    world.settle(&lane, 1, State::Failed).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = all.next().await.unwrap().unwrap();
        seen.push((delivery.id.clone(), delivery.state(), delivery.attempts.len(), delivery.attempt_count));
        assert!(delivery.body.is_empty());
    }
    let [first, second] = [0, 1].map(|at: usize| lane.places[at].0.id().to_string());
    assert_eq!(seen[0], (first, DeliveryState::Pending, 0, 0));
    assert_eq!(seen[1], (second.clone(), DeliveryState::Pending, 0, 0));
    assert_eq!(seen[2], (second.clone(), DeliveryState::Failed, 1, 2), "with its last attempt");
    assert_eq!(failed.next().await.unwrap().unwrap().id, second);
    world.api.stop.cancel();
    assert_eq!(failed.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(failed.next().await.is_none());

    let bad = WatchDeliveriesRequest { states: vec![77], ..Default::default() };
    let refused = world.api.watch(bad).await.map(drop).unwrap_err();
    let faults = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(faults.iter().map(|f| f.field.as_str()).collect::<Vec<_>>(), ["license_code", "states[0]"]);
}

#[tokio::test]
async fn a_webhook_says_how_it_stands_and_what_waits_is_withdrawn() {
    let mut world = world();
    world.know([webhook(1, WebhookType::Event)]);
    let lane = world.store(id(1), 4).await;
    world.settle(&lane, 0, State::Failed).await;
    let stands = world.api.status(&id(1).to_string()).await.unwrap();
    assert_eq!((stands.backlog_count, stands.failed_count), (3, 1));
    assert_eq!(stands.oldest_age.unwrap().seconds, 3);

    let named = vec![lane.places[0].0.id().to_string(), lane.places[2].0.id().to_string()];
    let cancel = |delivery_ids| {
        let request = CancelDeliveriesRequest { webhook_id: id(1).to_string(), delivery_ids };
        world.api.cancel(request)
    };
    assert_eq!(cancel(named).await.unwrap().cancelled_count, 1, "the other one has ended");
    assert_eq!(world.withdrawn.recv().await, Some(id(1)), "the engine is told");
    assert_eq!(cancel(vec!["no id".into()]).await.unwrap().cancelled_count, 0, "and not all");
    assert_eq!(cancel(Vec::new()).await.unwrap().cancelled_count, 2);
    let stands = world.api.status(&id(1).to_string()).await.unwrap();
    assert_eq!((stands.backlog_count, stands.failed_count, stands.oldest_age), (0, 1, None));

    for (unknown, code) in [("", Code::InvalidArgument), ("wh_x", Code::NotFound)] {
        assert_eq!(world.api.status(unknown).await.unwrap_err().code(), code);
    }
    let nobody = id(7).to_string();
    assert_eq!(world.api.status(&nobody).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn failed_ones_are_retried_together_one_call_at_a_time() {
    let world = world();
    let turned_off =
        v1::Webhook { state: v1::WebhookState::Disabled as i32, ..webhook(2, WebhookType::Event) };
    world.know([webhook(1, WebhookType::Event), turned_off]);
    let lane = world.store(id(1), 3).await;
    for index in 0..3 {
        world.settle(&lane, index, State::Failed).await;
    }
    let request = |number, end_time| RetryDeliveriesRequest {
        webhook_id: id(number).to_string(),
        start_time: None,
        end_time,
    };
    // The deliveries are a second apart: the end is exclusive.
    let end = (NOW + Duration::from_secs(2)).into();
    assert_eq!(world.api.retry_all(request(1, Some(end))).await.unwrap().retried_count, 2);
    let refused = world.api.retry_all(request(1, None)).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "RETRY_UNDER_WAY");
    let refused = world.api.retry_all(request(2, None)).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "WEBHOOK_DISABLED");
    let refused = world.api.retry_all(request(3, None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}
