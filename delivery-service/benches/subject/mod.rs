//! What the benchmarks and the counts of instructions work on: routes and events as the load generator has
//! them in `steady`, a form for XML, the head of a delivery.

#![allow(dead_code, reason = "each of those who share it takes a part")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{
    clock::Time,
    event::Event,
    filter::Subject,
    ids::{DeliveryId, WebhookId},
    intake as checked,
    matching::Rule,
    status::Violations,
};
use delivery_service::{
    delivery::{Attempt, Fault, Head, State},
    payload,
    queue::New,
    routes::{
        Policy, Route, RouteState, SigningKey, UrlParameters,
        table::{Edit, Staging, Table},
    },
    sample,
};
use prost::Message;
use proto::v1;

pub const NOW: Time = Time(1_800_000_000_000);
/// Webhooks in an account, each of an event of its own, and accounts.
const PER_ACCOUNT: u128 = 10;
const ACCOUNTS: u128 = 10;
/// Fills an event's data, so that its body has about 1 KB.
const FILLING: usize = 760;

fn account(n: u128) -> String {
    format!("~account-{n}")
}

pub fn lane(n: u128) -> WebhookId {
    WebhookId::new(1_700_000_000_000, n)
}

/// A hundred webhooks in ten accounts; each event of ours fires one.
pub fn routes() -> Table {
    let mut all = Staging::default();
    for n in 0..ACCOUNTS * PER_ACCOUNT {
        all.apply(Edit::Put(Arc::new(route(n, true))));
    }
    let table = Table::default();
    table.replace(all);
    table
}

/// `signs`: with a key.
pub fn route(n: u128, signs: bool) -> Route {
    let webhook = v1::Webhook {
        r#type: v1::WebhookType::Event as i32,
        event_names: vec![format!("Event {}", n % PER_ACCOUNT)],
        ..Default::default()
    };
    let key = SigningKey { key: [7; 24].into(), expires: None };
    Route {
        webhook_id: lane(n),
        revision: 1,
        license_code: account(n / PER_ACCOUNT).into(),
        rule: Rule::of(&webhook).expect("a rule"),
        state: RouteState::Active,
        xml: false,
        post_url: "https://receiver.example.com/hooks/orders?tenant=12".into(),
        url_parameters: UrlParameters::Event,
        headers: [].into(),
        authorization: None,
        signing_keys: if signs { [key].into() } else { [].into() },
        policy: Policy { retry_delays: [Duration::from_secs(60); 5].into(), ..Policy::default() },
    }
}

/// An activity of about 1 KB, as its publisher sends it.
pub fn published() -> Vec<u8> {
    let activity = v1::Activity {
        event_name: "Event 3".into(),
        category: v1::EventCategory::Application as i32,
        user_id: "jane@example.com".into(),
        event_data_json: format!(r#"{{"Product":"Shoe","Price":39.8,"note":"{}"}}"#, "x".repeat(FILLING)),
        ..Default::default()
    };
    let event = v1::Event {
        id: "0192f0c1-7b9a-7c3e-9f10-2f6a1b7c8d9e".into(),
        license_code: account(4),
        payload: Some(v1::event::Payload::Activity(activity)),
        ..Default::default()
    };
    v1::PublishEventRequest { event: Some(event) }.encode_to_vec()
}

/// A publisher's bytes, read and checked.
pub fn event(published: &[u8]) -> Event {
    let request = v1::PublishEventRequest::decode(published).expect("a request");
    let event = request.event.expect("an event");
    checked::event(event, NOW, "event", &mut Violations::default()).expect("a good event")
}

/// A form with answers, attachments and replies.
pub fn form() -> Event {
    let webhook = v1::Webhook { r#type: v1::WebhookType::Feedback as i32, ..Default::default() };
    sample::event(&Rule::of(&webhook).expect("a rule"), &account(4), NOW)
}

/// The routes that an event fires.
pub fn fired(routes: &Table, event: &Event) -> Vec<Arc<Route>> {
    routes.matching(event, || Subject::parse(&payload::json::render(event)))
}

/// A delivery's head, before its first attempt.
pub fn head(n: u64, lane: WebhookId) -> Head {
    let mut head = Head::new(DeliveryId::new(0, NOW.0, n), lane);
    head.license_code = account(4);
    head.event_id = format!("0192f0c1-7b9a-7c3e-9f10-{n:012x}");
    head.event_type = "Event 3".into();
    head.order_key = "jane@example.com".into();
    head.body_bytes = 1_000;
    head
}

/// The same after an attempt.
pub fn tried(mut head: Head) -> Head {
    head.add(Attempt {
        number: 1,
        start_ms: NOW.0,
        duration_us: 1_500,
        http_status: 200,
        remote_address: "192.0.2.1:443".into(),
        ..Attempt::default()
    });
    head.end(State::Succeeded, Fault::None, NOW);
    head
}

/// Deliveries to be stored in a lane, with event ids of their own.
pub fn new(lane: WebhookId, numbers: std::ops::Range<u64>, body: &Bytes) -> Vec<New> {
    let one = |n| New { head: head(n, lane), body: body.clone(), dedupe: true, failed: None };
    numbers.map(one).collect()
}
