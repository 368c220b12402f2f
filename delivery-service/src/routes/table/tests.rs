//! The table against the naive way: every rule asked about every event.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use common::{
    clock::Time,
    event::{Activity, Journey, JourneyChange, Object},
    filter::Filter,
    matching::{Category, Name, Rule, UNDELIVERABLE},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::routes::{Policy, RouteState, SigningKey, UrlParameters};

const KINDS: [Kind; 7] = [
    Kind::Feedback,
    Kind::FeedbackReply,
    Kind::SurveyResponse,
    Kind::Event,
    Kind::GlobalSystemEvents,
    Kind::GlobalApplicationEvents,
    Kind::Journey,
];
const CATEGORIES: [Category; 2] = [Category::System, Category::Application];

fn id(number: u64) -> WebhookId {
    WebhookId::new(1_800_000_000_000, number.into())
}

fn rule(kind: Kind, names: &[&str], category: Option<Category>) -> Rule {
    Rule { kind, names: names.iter().map(|name| Name::of(name)).collect(), category, filter: None }
}

fn route(number: u64, revision: u64, account: &str, rule: Rule) -> Arc<Route> {
    Arc::new(Route {
        webhook_id: id(number),
        revision,
        license_code: account.into(),
        rule,
        state: RouteState::Active,
        xml: false,
        post_url: format!("https://receiver-{number}.example.com/hooks/in").into(),
        url_parameters: UrlParameters::Event,
        headers: Box::default(),
        authorization: None,
        signing_keys: Box::new([SigningKey { key: Box::new([7; 32]), expires: None }]),
        policy: Policy {
            timeout: Duration::from_secs(15),
            retry_delays: Arc::default(),
            max_in_flight: 50,
            max_rate: 0.0,
            ..Policy::default()
        },
    })
}

fn event(account: &str, payload: Payload) -> Event {
    Event { id: None, license_code: account.into(), time: Time(0), payload }
}

fn activity(account: &str, name: &str, category: Category) -> Event {
    let empty = || Object::Struct(prost_types::Struct::default());
    let activity = Activity {
        name: name.into(),
        category,
        user_id: Some("john".into()),
        anonymous_id: None,
        event_data: empty(),
        system_data: empty(),
    };
    event(account, Payload::Activity(activity))
}

fn journey(account: &str) -> Event {
    let journey = Journey {
        change: JourneyChange::Created,
        version: 1,
        user_id: None,
        event_data: Object::Struct(prost_types::Struct::default()),
    };
    event(account, Payload::Journey(journey))
}

fn ids(routes: &[Arc<Route>]) -> Vec<WebhookId> {
    routes.iter().map(|route| route.webhook_id).collect()
}

fn synced(routes: impl IntoIterator<Item = Arc<Route>>) -> Table {
    let mut staging = Staging::default();
    routes.into_iter().for_each(|route| staging.apply(Edit::Put(route)));
    let table = Table::default();
    table.replace(staging);
    table
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]{1,3}",
        1 => "ä[ab]?",
        1 => select(UNDELIVERABLE.as_slice()).prop_map(str::to_owned),
    ]
}

fn rules() -> impl Strategy<Value = Rule> {
    let pattern = prop_oneof![names(), names().prop_map(|name| name + "*"), Just("*".to_owned())];
    (select(&KINDS), vec(pattern, 1..4), option::of(select(&CATEGORIES))).prop_map(
        |(kind, names, category)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if kind == Kind::Event { rule(kind, &names, category) } else { rule(kind, &[], None) }
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, &'static str, Rule),
    Delete(u64),
    Withhold(u64),
    /// A start from 0 that names what is there now and does away with the rest.
    Anew,
}

fn steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
    let account = select(&["a", "b"][..]);
    let step = prop_oneof![
        8 => (0..12u64, account, rules()).prop_map(|(number, account, rule)| Step::Put(number, account, rule)),
        2 => (0..12u64).prop_map(Step::Delete),
        1 => (0..12u64).prop_map(Step::Withhold),
        1 => Just(Step::Anew),
    ];
    // With each step, whether it goes into one batch with the one before.
    vec((step, any::<bool>()), 1..40)
}

proptest! {
    #[test]
    fn the_index_finds_what_every_rule_asked_in_turn_finds(
        steps in steps(),
        names in vec((names(), select(&CATEGORIES)), 1..6),
    ) {
        let table = Table::default();
        let mut present: Vec<Arc<Route>> = Vec::new();
        let mut batch = Vec::new();
        for (revision, (step, together)) in (1..).zip(steps) {
            if !together {
                table.apply(std::mem::take(&mut batch));
            }
            let number = match step {
                Step::Put(number, ..) | Step::Delete(number) | Step::Withhold(number) => number,
                Step::Anew => {
                    table.apply(std::mem::take(&mut batch));
                    let mut staging = Staging::default();
                    present.iter().for_each(|route| staging.apply(Edit::Put(Arc::clone(route))));
                    table.replace(staging);
                    continue;
                }
            };
            present.retain(|route| route.webhook_id != id(number));
            batch.push(match step {
                Step::Put(number, account, rule) => {
                    let route = route(number, revision, account, rule);
                    present.push(Arc::clone(&route));
                    Edit::Put(route)
                }
                Step::Withhold(number) => Edit::Withhold(id(number), revision),
                _ => Edit::Delete(id(number), revision),
            });
        }
        table.apply(batch);
        present.sort_by_key(|route| route.webhook_id);
        for account in ["a", "b", "c"] {
            let mut events = vec![journey(account)];
            events.extend(names.iter().map(|(name, category)| activity(account, name, *category)));
            for event in events {
                let naive = present.iter().filter(|route| {
                    *route.license_code == *event.license_code && route.rule.fires_without_filter(&event)
                });
                let naive: Vec<WebhookId> = naive.map(|route| route.webhook_id).collect();
                prop_assert_eq!(ids(&table.candidates(&event)), naive, "{:?}", event);
            }
        }
        prop_assert_eq!(table.len(), present.len());
    }
}

#[test]
fn a_webhook_that_several_of_its_names_fit_fires_once() {
    let table = synced([route(1, 1, "a", rule(Kind::Event, &["abc", "abc", "a*", "ab*", "*"], None))]);
    assert_eq!(ids(&table.candidates(&activity("a", "abc", Category::System))), [id(1)]);
    assert_eq!(ids(&table.candidates(&activity("a", "é", Category::System))), [id(1)]);
    assert!(table.candidates(&activity("b", "abc", Category::System)).is_empty());
}

#[test]
fn the_seven_names_are_carried_as_application_events_alone() {
    let table = synced([
        route(1, 1, "a", rule(Kind::Event, &["app_*"], None)),
        route(2, 1, "a", rule(Kind::GlobalSystemEvents, &[], None)),
    ]);
    for name in UNDELIVERABLE {
        assert!(table.candidates(&activity("a", name, Category::System)).is_empty(), "{name}");
    }
    assert_eq!(ids(&table.candidates(&activity("a", "app_crashed", Category::Application))), [id(1)]);
    assert_eq!(ids(&table.candidates(&activity("a", "app_seen", Category::System))), [id(1), id(2)]);
}

#[test]
fn filters_are_asked_last_and_their_subject_is_made_at_most_once() {
    let filtered = |number, source| {
        let filter = Some(Arc::new(Filter::compile(source).unwrap()));
        route(number, 1, "a", Rule { filter, ..rule(Kind::Journey, &[], None) })
    };
    let table = synced([
        filtered(1, "event.version == 1"),
        filtered(2, "event.version == 2"),
        route(3, 1, "a", rule(Kind::Journey, &[], None)),
        route(4, 1, "b", rule(Kind::Journey, &[], None)),
    ]);
    let made = AtomicUsize::new(0);
    let subject = || {
        made.fetch_add(1, Ordering::Relaxed);
        Subject::parse(br#"{"version":1}"#)
    };
    assert_eq!(ids(&table.matching(&journey("a"), subject)), [id(1), id(3)]);
    assert_eq!(ids(&table.matching(&journey("b"), subject)), [id(4)]);
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[test]
fn what_is_older_than_what_is_known_changes_nothing() {
    let table = synced([route(1, 5, "a", rule(Kind::Journey, &[], None))]);
    let put = |revision| Edit::Put(route(1, revision, "a", rule(Kind::Feedback, &[], None)));
    assert!(table.apply(vec![put(4), put(5), Edit::Delete(id(1), 3)]).is_empty());
    assert_eq!(table.route(id(1)).unwrap().revision, 5);
    assert_eq!(table.apply(vec![Edit::Delete(id(1), 6)]), [id(1)]);
    assert!(table.is_deleted(id(1)) && table.route(id(1)).is_none());
    assert!(table.apply(vec![put(6)]).is_empty(), "a put that the deletion has overtaken");
    assert!(table.is_deleted(id(1)));
}

#[test]
fn a_start_anew_replaces_everything_whatever_the_revisions_and_deletes_nothing() {
    let table = Table::default();
    assert!(!table.synced());
    table.replace(Staging::default());
    assert!(table.synced() && table.is_empty(), "an empty synced table is a table");
    table.apply((1..=3).map(|n| Edit::Put(route(n, 100, "a", rule(Kind::Journey, &[], None)))).collect());
    table.apply(vec![Edit::Delete(id(3), 101)]);

    let mut staging = Staging::default();
    staging.apply(Edit::Put(route(2, 7, "b", rule(Kind::Journey, &[], None))));
    staging.apply(Edit::Put(route(2, 6, "a", rule(Kind::Journey, &[], None))));
    staging.apply(Edit::Put(route(3, 8, "b", rule(Kind::Journey, &[], None))));
    staging.apply(Edit::Put(route(4, 8, "b", rule(Kind::Journey, &[], None))));
    staging.apply(Edit::Delete(id(4), 9));
    assert_eq!(ids(&table.candidates(&journey("a"))), [id(1), id(2)], "until it is whole");
    table.replace(staging);
    assert!(table.candidates(&journey("a")).is_empty());
    assert_eq!(ids(&table.candidates(&journey("b"))), [id(2), id(3)]);
    assert!(table.route(id(1)).is_none() && !table.is_deleted(id(1)), "its lane is held, not cancelled");
    assert!(!table.is_deleted(id(3)) && table.is_deleted(id(4)));
}

#[test]
fn deletions_are_remembered_up_to_a_number() {
    let table = synced([]);
    let last = DELETED_KEPT as u64 + 10;
    table.apply((0..last).map(|n| Edit::Delete(id(n), n + 1)).collect());
    assert!(!table.is_deleted(id(9)) && table.is_deleted(id(10)) && table.is_deleted(id(last - 1)));
    assert_eq!(table.deleted.len(), DELETED_KEPT);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// How long it takes when nothing else happens to run: the shortest of twenty times.
fn quietest(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..20).map(time).min().unwrap_or_default()
}

/// With HOOKLINE_LONG=1 at full size, and then its figures are held to: a million webhooks.
#[test]
fn matching_stays_flat_and_memory_bounded_with_many_webhooks() {
    let long = std::env::var("HOOKLINE_LONG").is_ok_and(|v| v == "1");
    let accounts: u64 = if long { 100_000 } else { 500 };
    let before = resident();
    let start = Instant::now();
    let mut staging = Staging::default();
    for number in 0..accounts * 10 {
        let account = format!("~account{}", number % accounts);
        let rule = match number / accounts {
            0 => rule(Kind::GlobalSystemEvents, &[], None),
            1 => rule(Kind::Journey, &[], None),
            2 => rule(Kind::Event, &["email_*", "sms_*"], Some(Category::System)),
            n => rule(Kind::Event, &[&format!("event {n}"), &format!("Added to Cart {n}")], None),
        };
        staging.apply(Edit::Put(route(number, 1, &account, rule)));
    }
    let table = Table::default();
    table.replace(staging);
    let loaded = start.elapsed();
    let memory = resident().saturating_sub(before);

    let events: Vec<Event> = (0..1_000)
        .map(|n| activity(&format!("~account{}", n * 97 % accounts), "email_open", Category::System))
        .collect();
    let each = quietest(|| {
        let found: usize = events.iter().map(|event| table.candidates(event).len()).sum();
        assert_eq!(found, 2 * events.len());
    }) / 1_000;

    // One account with 10,000 webhooks: what a change of one of them costs.
    table.apply(
        (0..10_000)
            .map(|n| {
                let rule = rule(Kind::Event, &[&format!("event {n}")], None);
                Edit::Put(route(n | 1 << 40, 1, "big", rule))
            })
            .collect(),
    );
    let mut revision = 1;
    let change = quietest(|| {
        revision += 1;
        let rule = rule(Kind::Event, &[&format!("renamed {revision}")], None);
        assert_eq!(table.apply(vec![Edit::Put(route(1 << 40, revision, "big", rule))]).len(), 1);
    });
    println!(
        "{} webhooks: loaded in {loaded:?}, {} MiB, matching {each:?}, a change among 10,000 {change:?}",
        accounts * 10,
        memory >> 20
    );
    // A build without optimisation on a busy machine gets some room.
    assert!(each < Duration::from_micros(if long { 2 } else { 20 }), "matching takes {each:?}");
    assert!(change < Duration::from_millis(10), "a change takes {change:?}");
    assert!(memory < 1_500 << 20, "{} MiB", memory >> 20);
}
