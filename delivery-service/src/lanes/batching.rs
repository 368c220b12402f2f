//! Putting a batch together: which of the deliveries that wait in a lane go in one request, and when.
//! Pure.
//!
//! Deliveries come in order of place. Those that go together are of one type where types are kept
//! apart, and were asked for again all or none. A group goes when it is full, when nothing can join it
//! any more, or when its first has waited for long enough. Where order is kept, none overtakes another
//! of the same key: what comes after one that is left behind is left behind too.

use std::collections::HashMap;

use common::clock::Time;

use crate::{
    delivery::Place,
    routes::{Batching, Order},
};

/// Bytes of a batch's body. One delivery alone may have more.
pub const BYTES: usize = 1 << 20;
/// What an array takes beside its items, and each item beside itself.
const BRACKETS: usize = 2;
const COMMA: usize = 1;

/// A delivery that waits.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub place: Place,
    /// Its `eventType`.
    pub event_type: &'a str,
    /// Whom it is ordered with; `None`: nobody.
    pub key: Option<&'a str>,
    /// Of its body.
    pub bytes: usize,
    pub asked: bool,
    /// It goes in no batch but by itself.
    pub alone: bool,
    /// It waits for nobody: it was tried or asked for before.
    pub prompt: bool,
    /// It goes now in no new batch: it waits for a time, is under way, or has a batch.
    pub taken: bool,
}

/// By what groups are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub order: Order,
    pub batching: Batching,
    /// Only those that were asked for again may go.
    pub only_asked: bool,
    /// More may come of the store at once: what is not full waits for that.
    pub more: bool,
    pub now: Time,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// These go together.
    Go(Vec<Place>),
    /// None may go before then; `None`: before something happens.
    Wait(Option<Time>),
}

#[derive(Debug)]
struct Group {
    places: Vec<Place>,
    bytes: usize,
    asked: bool,
    /// Nothing joins it any more.
    full: bool,
    /// When it goes though it is not full.
    ripe: Time,
}

/// Which delivery goes with which: type, asked for, alone.
type Sort<'a> = (&'a str, bool, bool);

impl Group {
    fn takes(&self, one: Candidate<'_>, most: usize) -> bool {
        // Each counts with a comma, of which the last needs none.
        !self.full && self.places.len() < most && self.bytes + one.bytes <= BYTES
    }

    fn add(&mut self, one: Candidate<'_>, rules: &Rules) {
        self.places.push(one.place);
        self.bytes += one.bytes + COMMA;
        self.full |= one.alone || self.places.len() >= rules.batching.max_events;
        let ripe = if one.prompt || one.asked {
            rules.now
        } else {
            // A clock that was set back keeps nobody waiting for longer.
            (one.place.time() + rules.batching.max_delay).min(rules.now + rules.batching.max_delay)
        };
        self.ripe = self.ripe.min(ripe);
    }

    fn may_go(&self, rules: &Rules) -> bool {
        let ready = self.full || self.asked || (self.ripe <= rules.now && !rules.more);
        ready && (self.asked || !rules.only_asked)
    }
}

/// The group that goes next.
pub fn choose<'a>(candidates: impl Iterator<Item = Candidate<'a>>, rules: &Rules) -> Choice {
    let mut groups: Vec<Group> = Vec::new();
    let mut open: HashMap<Sort<'a>, usize> = HashMap::new();
    // In which group each key's ones are; `None`: one of them was left behind.
    let mut bonds: HashMap<&str, Option<usize>> = HashMap::new();
    let strict = rules.order == Order::Strict;
    for one in candidates {
        let key = match rules.order {
            Order::Unordered => None,
            Order::ByUser => one.key,
            Order::Strict => Some(""),
        };
        let bond = key.and_then(|key| bonds.get(key).copied());
        let event_type = if rules.batching.one_type { one.event_type } else { "" };
        let sort = (event_type, one.asked, one.alone);
        let joins = open.get(&sort).copied();
        let free = !one.taken && bond.is_none_or(|bond| bond.is_some() && bond == joins);
        let fits = joins.is_none_or(|at| groups[at].takes(one, rules.batching.max_events));
        if free && fits {
            let at = joins.unwrap_or(groups.len());
            if joins.is_none() {
                let (asked, bytes) = (one.asked, BRACKETS);
                groups.push(Group { places: Vec::new(), bytes, asked, full: false, ripe: Time(i64::MAX) });
                open.insert(sort, at);
            }
            groups[at].add(one, rules);
            if let Some(key) = key {
                bonds.insert(key, Some(at));
            }
            if groups[at].full && groups[at].may_go(rules) {
                break;
            }
            continue;
        }
        if free && let Some(at) = joins {
            groups[at].full = true;
        }
        if strict {
            // What stands behind is for later, so nothing can join the first ones any more.
            groups.iter_mut().for_each(|group| group.full = true);
            break;
        }
        if let Some(key) = key {
            bonds.insert(key, None);
        }
    }
    let may_go = |asked: bool| groups.iter().position(|g| g.may_go(rules) && (g.asked || !asked));
    match may_go(true).or(may_go(false)) {
        Some(at) => Choice::Go(groups.swap_remove(at).places),
        None if rules.more => Choice::Wait(None),
        None => {
            let waits = groups.iter().filter(|group| group.asked || !rules.only_asked);
            Choice::Wait(waits.map(|group| group.ripe).min())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Time = Time(1_800_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    /// One accepted so many ms after the start.
    fn one(ms: i64) -> Candidate<'static> {
        Candidate {
            place: Place::at(Time(START.0 + ms)),
            event_type: "a",
            key: None,
            bytes: 100,
            asked: false,
            alone: false,
            prompt: false,
            taken: false,
        }
    }

    fn of(ms: i64, event_type: &'static str, key: &'static str) -> Candidate<'static> {
        Candidate { event_type, key: (!key.is_empty()).then_some(key), ..one(ms) }
    }

    fn taken(candidate: Candidate<'static>) -> Candidate<'static> {
        Candidate { taken: true, ..candidate }
    }

    fn rules(order: Order, ms: i64) -> Rules {
        let batching = Batching { max_events: 3, max_delay: SECOND, one_type: true };
        Rules { order, batching, only_asked: false, more: false, now: Time(START.0 + ms) }
    }

    /// Which go, by their ms; or when they will, in ms.
    fn chosen(all: &[Candidate<'static>], rules: &Rules) -> Result<Vec<i64>, Option<i64>> {
        match choose(all.iter().copied(), rules) {
            Choice::Go(places) => Ok(places.iter().map(|place| place.time().0 - START.0).collect()),
            Choice::Wait(until) => Err(until.map(|until| until.0 - START.0)),
        }
    }

    #[test]
    fn a_full_batch_goes_at_once_and_another_when_its_first_has_waited() {
        let all = [one(0), one(10), one(20), one(30)];
        let unordered = |ms| rules(Order::Unordered, ms);
        let table = [
            (&all[..0], unordered(50), Err(None)),
            (&all[..2], unordered(50), Err(Some(1_000))),
            (&all[..2], unordered(999), Err(Some(1_000))),
            (&all[..2], unordered(1_000), Ok(vec![0, 10])),
            (&all[1..2], unordered(5_000), Ok(vec![10])),
            (&all[..3], unordered(50), Ok(vec![0, 10, 20])),
            (&all[..4], unordered(50), Ok(vec![0, 10, 20])),
            (&all[..2], Rules { more: true, ..unordered(5_000) }, Err(None)),
            (&all[..3], Rules { more: true, ..unordered(5_000) }, Ok(vec![0, 10, 20])),
            (&all[..3], Rules { only_asked: true, ..unordered(5_000) }, Err(None)),
            // A clock set back by an hour.
            (&all[..1], unordered(-3_600_000), Err(Some(-3_599_000))),
        ];
        for (number, (all, rules, expected)) in table.into_iter().enumerate() {
            assert_eq!(chosen(all, &rules), expected, "row {number}");
        }
    }

    #[test]
    fn types_go_apart_unless_the_query_has_none() {
        let all = [of(0, "a", ""), of(1, "b", ""), of(2, "b", ""), of(3, "a", ""), of(4, "b", "")];
        assert_eq!(chosen(&all, &rules(Order::Unordered, 10)), Ok(vec![1, 2, 4]), "full first");
        assert_eq!(chosen(&all, &rules(Order::Unordered, 2_000)), Ok(vec![0, 3]), "but the oldest if ripe");
        let mut mixed = rules(Order::Unordered, 10);
        mixed.batching.one_type = false;
        assert_eq!(chosen(&all, &mixed), Ok(vec![0, 1, 2]));
        assert_eq!(chosen(&all, &rules(Order::ByUser, 10)), Ok(vec![1, 2, 4]), "ordered with nobody");
        assert_eq!(chosen(&all, &rules(Order::Strict, 10)), Ok(vec![0]), "none can join it any more");
    }

    #[test]
    fn a_batch_has_one_mib_of_body_and_more_only_by_a_single_one() {
        let big = |ms, bytes| Candidate { bytes, ..one(ms) };
        let half = BYTES / 2;
        let rules = rules(Order::Unordered, 10);
        assert_eq!(chosen(&[big(0, half - 2), big(1, half - 1)], &rules), Err(Some(1_000)), "to the byte");
        assert_eq!(chosen(&[big(0, half - 2), big(1, half)], &rules), Ok(vec![0]));
        assert_eq!(chosen(&[big(0, half), big(1, half), big(2, 10)], &rules), Ok(vec![0]));
        assert_eq!(chosen(&[big(0, 3 * BYTES), one(1)], &rules), Ok(vec![0]));
    }

    #[test]
    fn by_user_nothing_overtakes_what_is_left_behind() {
        let by_user = |ms| rules(Order::ByUser, ms);
        let table = [
            ("in order within", vec![of(0, "a", "u"), of(1, "a", "u"), of(2, "a", "v")], Ok(vec![0, 1, 2])),
            ("u waits", vec![taken(of(0, "a", "u")), of(1, "a", "u"), of(2, "a", "v")], Ok(vec![2])),
            ("nobody waits", vec![taken(of(0, "a", "")), of(1, "a", "")], Ok(vec![1])),
            // u's second is of another type, so its third has to wait as well.
            (
                "types",
                vec![of(0, "a", "u"), of(1, "b", "u"), of(2, "a", "u"), of(3, "a", "v")],
                Ok(vec![0, 3]),
            ),
            // v's would be the first of type b, but u's has to go before.
            ("two", vec![of(0, "a", "u"), of(1, "b", "u"), of(2, "b", "v")], Ok(vec![0])),
        ];
        for (what, all, expected) in table {
            assert_eq!(chosen(&all, &by_user(5_000)), expected, "{what}");
        }
        let crowd = [of(0, "a", "u"), of(1, "a", "u"), of(2, "a", "u"), of(3, "a", "u")];
        assert_eq!(chosen(&crowd, &by_user(1)), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn strict_takes_what_stands_in_front_and_no_more() {
        let strict = |ms| rules(Order::Strict, ms);
        let table = [
            (vec![of(0, "a", "u"), of(1, "a", "v")], strict(10), Err(Some(1_000))),
            (vec![of(0, "a", "u"), of(1, "a", "v"), of(2, "b", "v")], strict(10), Ok(vec![0, 1])),
            (vec![of(0, "a", "u"), taken(of(1, "a", "v")), of(2, "a", "v")], strict(10), Ok(vec![0])),
            (vec![taken(of(0, "a", "u")), of(1, "a", "v")], strict(5_000), Err(None)),
        ];
        for (number, (all, rules, expected)) in table.into_iter().enumerate() {
            assert_eq!(chosen(&all, &rules), expected, "row {number}");
        }
    }

    #[test]
    fn what_was_asked_for_goes_at_once_by_itself() {
        let asked = |candidate| Candidate { asked: true, ..candidate };
        let unordered = rules(Order::Unordered, 10);
        let all = [one(0), asked(one(1)), one(2), asked(one(3))];
        assert_eq!(chosen(&all, &unordered), Ok(vec![1, 3]));
        assert_eq!(chosen(&all, &Rules { only_asked: true, more: true, ..unordered }), Ok(vec![1, 3]));
        let all = [of(0, "a", "u"), asked(of(1, "a", "u")), asked(of(2, "a", "v"))];
        assert_eq!(chosen(&all, &rules(Order::ByUser, 10)), Ok(vec![2]), "u's first is not asked for");
        let all = [asked(of(0, "a", "u")), of(1, "a", "u")];
        assert_eq!(chosen(&all, &rules(Order::Strict, 10)), Ok(vec![0]));
    }

    #[test]
    fn what_was_tried_before_waits_for_nobody_and_what_goes_alone_goes_alone() {
        let unordered = rules(Order::Unordered, 10);
        let tried = Candidate { prompt: true, ..one(5) };
        assert_eq!(chosen(&[one(0), tried], &unordered), Ok(vec![0, 5]));
        let alone = |ms| Candidate { alone: true, ..one(ms) };
        assert_eq!(chosen(&[one(0), alone(1), alone(2)], &unordered), Ok(vec![1]));
        assert_eq!(chosen(&[one(0), alone(1)], &rules(Order::Strict, 10)), Ok(vec![0]));
        assert_eq!(chosen(&[alone(0), one(1)], &rules(Order::Strict, 10)), Ok(vec![0]));
    }
}
