//! From a publisher's bytes to the bodies that receivers get: read and check, match, render.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark that cannot run has failed")]

mod subject;

use delivery_service::payload;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

#[divan::bench]
fn read_and_check(bencher: Bencher) {
    let published = subject::published();
    bencher.bench(|| subject::event(black_box(&published)));
}

#[divan::bench]
fn match_one_of_a_hundred(bencher: Bencher) {
    let (routes, event) = (subject::routes(), subject::event(&subject::published()));
    bencher.bench(|| subject::fired(black_box(&routes), black_box(&event)));
}

#[divan::bench]
fn render_json(bencher: Bencher) {
    let event = subject::event(&subject::published());
    bencher.bench(|| payload::json::render(black_box(&event)));
}

#[divan::bench]
fn render_form_json(bencher: Bencher) {
    let form = subject::form();
    bencher.bench(|| payload::json::render(black_box(&form)));
}

#[divan::bench]
fn render_form_xml(bencher: Bencher) {
    let form = subject::form();
    bencher.bench(|| payload::xml::render(black_box(&form)));
}
