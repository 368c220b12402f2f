//! From a stored delivery to the request that it makes: its head, the URL and headers, the signature.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark that cannot run has failed")]

mod subject;

use delivery_service::{auth::signature, delivery::Head, payload, request};
use divan::{Bencher, black_box, counter::BytesCount};
use prost::Message;
use subject::NOW;

fn main() {
    divan::main();
}

#[divan::bench]
fn encode_head(bencher: Bencher) {
    let head = subject::tried(subject::head(1, subject::lane(43)));
    bencher.bench(|| black_box(&head).encode_to_vec());
}

#[divan::bench]
fn decode_head(bencher: Bencher) {
    let bytes = subject::tried(subject::head(1, subject::lane(43))).encode_to_vec();
    bencher.bench(|| Head::decode(black_box(bytes.as_slice())).unwrap());
}

#[divan::bench(args = [false, true])]
fn build_signed(bencher: Bencher, signed: bool) {
    let (route, head) = (subject::route(43, signed), subject::head(1, subject::lane(43)));
    let body = payload::json::render(&subject::event(&subject::published()));
    bencher.bench(|| request::build(black_box(&route), black_box(&head), body.clone(), NOW));
}

#[divan::bench(args = [100, 1_000, 10_000, 100_000])]
fn sign(bencher: Bencher, bytes: usize) {
    let (route, body) = (subject::route(43, true), vec![b'x'; bytes]);
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(b"0192f0c17b9a7c3e9f102f6a1b7c8d9e1800000000");
        signature::sign(black_box(&route.signing_keys), 32, black_box(&body), NOW, &mut text);
        text
    });
}
