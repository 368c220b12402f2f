//! A lane of batches by table, where some wait behind a retry of their user's, or are held back: who else goes,
//! and when.

use super::{
    batched_tests::{Bench, SECOND, head, open},
    gate::Pass,
};
use crate::{delivery::Place, routes::Order};

/// A lane in which a batch of u's waits for its retry.
fn waits_for_a_retry() -> Bench {
    let mut bench = Bench::new(Order::ByUser, 100);
    bench.offer(1, "u");
    bench.pass(2 * SECOND);
    assert_eq!((bench.form(), bench.start()), (vec![vec![1]], vec![1]));
    bench.store(&[1], Some(60 * SECOND));
    assert!(bench.form().is_empty());
    bench
}

#[test]
fn a_user_whose_retry_waits_delays_no_other_s_batch() {
    // What comes meanwhile, one a millisecond, and which of it go together once they have waited.
    let table: [(&[&str], &[u64]); 5] = [
        (&["v"], &[2_001]),
        (&["u", "v"], &[2_002]),
        (&["u", "v", "u", "v", "w"], &[2_002, 2_004, 2_005]),
        (&["u", ""], &[2_002]),
        (&["u/a", "u/b", "v/b"], &[2_003]),
    ];
    for (keys, expected) in table {
        let mut bench = waits_for_a_retry();
        for (key, ms) in keys.iter().zip(2_001..) {
            bench.offer(ms, key);
            assert!(bench.form().is_empty(), "it waits for company");
        }
        assert!(bench.lane.form_at.is_some(), "{keys:?}");
        bench.pass(2 * SECOND);
        assert_eq!(bench.form(), [expected], "{keys:?}");
    }
    let mut bench = waits_for_a_retry();
    bench.offer(2_001, "u");
    assert!(bench.form().is_empty());
    bench.offer(2_002, "u");
    assert!(!bench.lane.look, "nothing has changed for who is behind another");
}

#[test]
fn a_retry_behind_an_older_one_of_its_key_waits_for_that() {
    for order in [Order::ByUser, Order::Strict] {
        // As they were left when the webhook had no batches and no order.
        let retry = |ms, after| open(ms, head(ms, "u"), Some(after));
        let mut bench = Bench::claimed(order, 5, vec![retry(1, 60 * SECOND), retry(2, SECOND)]);
        assert!(bench.form().is_empty() && bench.lane.empty() && !bench.lane.is_blocked());
        bench.pass(2 * SECOND);
        assert!(bench.form().is_empty() && bench.lane.quiet() && bench.lane.empty());
        assert!(bench.lane.is_blocked(), "given back it would be due at once");
        bench.pass(60 * SECOND);
        assert_eq!(bench.form(), [[1, 2]]);
    }
}

#[test]
fn one_that_is_asked_for_has_its_body_read_however_many_others_have_theirs() {
    let fresh = |ms| open(ms, head(ms, ""), None);
    let mut bench = Bench::claimed(Order::Unordered, 1, vec![fresh(1), fresh(2)]);
    assert_eq!(bench.form(), [[1], [2]]);
    assert_eq!((bench.fetch(), bench.fetch()), (vec![1], vec![2]));
    let mut asked = fresh(3);
    asked.head.renew();
    bench.lane.is_unread(Place(0));
    bench.scan(vec![asked], false);
    assert_eq!(bench.form_as(Pass::Asked, 8), [[3]]);
    assert_eq!(bench.fetch(), [3]);
}
