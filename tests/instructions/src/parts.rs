//! The parts of the hot path that are counted, each run as often as it is told.

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use common::clock::Clock;
use delivery_service::{
    auth::signature,
    delivery::{Head, Place},
    payload,
    queue::{Fate, LaneNow, Lease, Limits, Queue, Settle, Settled, Stored, disk::DiskQueue},
    request,
};
use prost::Message;

use crate::subject::{self, NOW};

/// Deliveries in one call to the store.
const BATCH: u64 = 64;

pub struct Part {
    pub name: &'static str,
    /// Does it so many times.
    pub run: fn(u64),
    /// How often, so that it takes about a second under valgrind.
    pub times: u64,
}

pub const PARTS: [Part; 10] = [
    Part { name: "read and check an event", run: read, times: 500 },
    Part { name: "match it", run: matching, times: 2_000 },
    Part { name: "render JSON", run: json, times: 1_000 },
    Part { name: "render a form as JSON", run: form_json, times: 500 },
    Part { name: "render a form as XML", run: form_xml, times: 500 },
    Part { name: "build a request", run: build, times: 1_000 },
    Part { name: "sign a body of 1 KB", run: sign, times: 100 },
    Part { name: "encode a head", run: encode, times: 2_000 },
    Part { name: "decode a head", run: decode, times: 1_000 },
    Part { name: "embedded: store and settle 64", run: queue, times: 20 },
];

fn read(times: u64) {
    let published = subject::published();
    for _ in 0..times {
        black_box(subject::event(black_box(&published)));
    }
}

fn matching(times: u64) {
    let (routes, event) = (subject::routes(), subject::event(&subject::published()));
    assert_eq!(subject::fired(&routes, &event).len(), 1, "one fires");
    for _ in 0..times {
        black_box(subject::fired(black_box(&routes), black_box(&event)));
    }
}

fn json(times: u64) {
    let event = subject::event(&subject::published());
    for _ in 0..times {
        black_box(payload::json::render(black_box(&event)));
    }
}

fn form_json(times: u64) {
    let form = subject::form();
    for _ in 0..times {
        black_box(payload::json::render(black_box(&form)));
    }
}

fn form_xml(times: u64) {
    let form = subject::form();
    for _ in 0..times {
        black_box(payload::xml::render(black_box(&form)));
    }
}

/// Without a signature, which would hide the rest.
fn build(times: u64) {
    let (route, head) = (subject::route(43, false), subject::head(1, subject::lane(43)));
    let body = body();
    for _ in 0..times {
        black_box(request::build(black_box(&route), black_box(&head), body.clone(), NOW));
    }
}

fn sign(times: u64) {
    let (route, body) = (subject::route(43, true), body());
    for _ in 0..times {
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(b"0192f0c17b9a7c3e9f102f6a1b7c8d9e1800000000");
        signature::sign(black_box(&route.signing_keys), 32, black_box(&body), NOW, &mut text);
        black_box(text);
    }
}

fn encode(times: u64) {
    let head = subject::tried(subject::head(1, subject::lane(43)));
    for _ in 0..times {
        black_box(black_box(&head).encode_to_vec());
    }
}

fn decode(times: u64) {
    let bytes = subject::tried(subject::head(1, subject::lane(43))).encode_to_vec();
    for _ in 0..times {
        drop(black_box(Head::decode(black_box(bytes.as_slice()))));
    }
}

/// One batch after another, each stored, delivered from memory and settled, by a clock that stands.
fn queue(times: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Clock::by_hand(NOW);
    let queue = DiskQueue::open(folder.path(), clock, Limits::default(), 0).expect("a store");
    let (lane, body) = (subject::lane(43), body());
    runtime.block_on(async {
        for round in 0..times {
            let new = Arc::new(subject::new(lane, round * BATCH..(round + 1) * BATCH, &body));
            let stored = queue.enqueue(new.clone()).await;
            let (mut deliveries, mut lease, mut done_to) = (Vec::new(), None, Place(0));
            for (new, stored) in new.iter().zip(stored) {
                let Ok(Stored::New { place, lane: LaneNow::Mine { fence, .. }, .. }) = stored else {
                    panic!("not ours: {stored:?}")
                };
                (lease, done_to) = (Some(Lease { webhook_id: lane, fence }), place);
                let head = subject::tried(new.head.clone());
                deliveries.push(Settled { head, place, fate: Fate::Succeeded });
            }
            let lane = lease.expect("a lease");
            let settle = Settle { lane, deliveries, done_to, memo: None, release: None };
            queue.settle(Arc::new(vec![settle])).await.expect("settled")[0].expect("still held");
        }
    });
}

fn body() -> Bytes {
    payload::json::render(&subject::event(&subject::published()))
}
