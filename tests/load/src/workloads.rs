//! The workloads: which webhooks there are, and what the nth event is.

use anyhow::Context;
use integration_tests::fixtures;
use proto::v1::{
    Activity, DeliveryPolicy, Event, EventCategory, PayloadFormat, Webhook, WebhookType, event::Payload,
};

use crate::{args::Name, receivers::Receivers, tickets::Ticket};

/// Webhooks in an account.
const PER_ACCOUNT: usize = 10;
const ACCOUNTS: usize = 10;
/// Accounts of `mixed`; the receivers of the first one hang.
const MIXED: usize = 100;
const IN_FLIGHT: i32 = 200;
/// Fills an event's data, so that its body has about 1 KB.
const FILLING: usize = 760;

pub struct Workload {
    pub webhooks: Vec<Webhook>,
    /// Deliveries of an event at most: their paths tell them apart.
    pub slots: usize,
    /// Tells its accounts from others in the same stores.
    tag: u64,
    /// The run that its events count in, and their first number in it.
    run: u64,
    first: u64,
    accounts: usize,
    /// Events in turn, without id and account.
    templates: Vec<Event>,
    /// Whether all accounts get a template before the next one's turn.
    by_account: bool,
    /// Whether the receivers of the first account hang.
    hangs: bool,
}

impl Workload {
    pub fn new(name: Name, run: u64, webhooks: usize, receivers: &Receivers) -> anyhow::Result<Self> {
        let many = webhooks.div_ceil(PER_ACCOUNT).max(1);
        let named: Vec<_> = (0..PER_ACCOUNT).map(|n| activity(&format!("Event {n}"))).collect();
        let accounts = match name {
            Name::Many => many,
            Name::Mixed => MIXED,
            _ => ACCOUNTS,
        };
        let (templates, slots) = match name {
            Name::Fanout => (vec![activity("Event 0")], PER_ACCOUNT),
            Name::Miss => (vec![activity("Nothing")], 1),
            Name::Steady | Name::Many | Name::Backlog => (named, 1),
            Name::Mixed => (mixed()?, 2),
        };
        let mut workload = Self::of(run, accounts, templates, slots, name != Name::Mixed);
        workload.hangs = name == Name::Mixed;
        for n in 0..accounts {
            let account = workload.account(n);
            workload.webhooks.extend(match name {
                Name::Mixed => one_of_each(&account, if n == 0 { 'h' } else { 'n' }, receivers),
                _ => ten(&account, name == Name::Fanout, 'n', receivers),
            });
        }
        Ok(workload)
    }

    /// One webhook whose receiver stands behind the gate, and its events.
    pub fn gated(run: u64, receivers: &Receivers) -> Self {
        let mut workload = Self::of(run, 1, vec![activity("Event 0")], 1, true);
        workload.webhooks = ten(&workload.account(0), false, 'g', receivers);
        workload.webhooks.truncate(1);
        for webhook in &mut workload.webhooks {
            // The longest that there is: what hangs is not to be given up meanwhile.
            let policy = webhook.delivery_policy.get_or_insert_default();
            policy.timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        }
        workload
    }

    fn of(run: u64, accounts: usize, templates: Vec<Event>, slots: usize, by_account: bool) -> Self {
        Self {
            webhooks: Vec::new(),
            slots,
            tag: run,
            run,
            first: 0,
            accounts,
            templates,
            by_account,
            hangs: false,
        }
    }

    /// The same webhooks, whose events count in another run, from a number of their own on.
    pub fn counted_in(&self, run: u64, first: u64) -> Self {
        let (webhooks, templates) = (Vec::new(), self.templates.clone());
        Self { webhooks, templates, run, first, ..*self }
    }

    fn account(&self, n: usize) -> String {
        format!("~load{}-{n}", self.tag)
    }

    /// An event of the first webhook's kind; none where kinds are mixed.
    pub fn first(&self) -> Option<Event> {
        self.by_account.then(|| self.event(Ticket { n: 0, due_us: 0 }))
    }

    /// Whether the nth event is of the account whose receivers hang.
    pub fn hangs(&self, ticket: Ticket) -> bool {
        self.hangs && self.account_and_template(ticket).0 == 0
    }

    fn account_and_template(&self, ticket: Ticket) -> (usize, usize) {
        let n = ticket.n as usize;
        if self.by_account {
            (n % self.accounts, n / self.accounts % self.templates.len())
        } else {
            (n / self.templates.len() % self.accounts, n % self.templates.len())
        }
    }

    /// The nth event. Its id says when it was due.
    pub fn event(&self, ticket: Ticket) -> Event {
        let (account, template) = self.account_and_template(ticket);
        let mut event = self.templates[template].clone();
        event.id = format!("{}.{}.{}", self.run, self.first + ticket.n, ticket.due_us);
        event.license_code = self.account(account);
        event
    }
}

/// Ten webhooks of an account, of ten events or all of one.
fn ten(account: &str, same: bool, class: char, receivers: &Receivers) -> Vec<Webhook> {
    let webhook = |n: usize| {
        let (event, slot) = if same { (0, n) } else { (n, 0) };
        Webhook {
            event_names: vec![format!("Event {event}")],
            ..webhook(account, WebhookType::Event, receivers.url(class, slot))
        }
    };
    (0..PER_ACCOUNT).map(webhook).collect()
}

fn one_of_each(account: &str, class: char, receivers: &Receivers) -> Vec<Webhook> {
    use WebhookType::{
        Event, Feedback, FeedbackReply, GlobalApplicationEvents, GlobalSystemEvents, Journey, SurveyResponse,
    };
    let xml = |webhook| Webhook { format: PayloadFormat::Xml as i32, ..webhook };
    let of = |kind, slot| {
        let mut webhook = webhook(account, kind, receivers.url(class, slot));
        if class == 'h' {
            // Fails after the shortest time that there is, once.
            let policy = webhook.delivery_policy.get_or_insert_default();
            policy.timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
            policy.no_retries = true;
        }
        webhook
    };
    let cart = Webhook { event_names: vec!["Added to Cart".into()], ..of(Event, 1) };
    vec![
        of(Feedback, 0),
        xml(of(Feedback, 1)),
        xml(of(FeedbackReply, 0)),
        of(SurveyResponse, 0),
        xml(of(SurveyResponse, 1)),
        cart,
        of(GlobalApplicationEvents, 0),
        of(GlobalSystemEvents, 0),
        of(Journey, 0),
    ]
}

fn webhook(account: &str, kind: WebhookType, url: String) -> Webhook {
    let policy = DeliveryPolicy { max_in_flight: IN_FLIGHT, ..Default::default() };
    Webhook {
        license_code: account.to_owned(),
        r#type: kind as i32,
        post_url: url,
        delivery_policy: Some(policy),
        ..Default::default()
    }
}

fn activity(name: &str) -> Event {
    let filling = "Givenchy Pour Homme Cologne ".repeat(FILLING / 28);
    let activity = Activity {
        event_name: name.to_owned(),
        category: EventCategory::Application as i32,
        user_id: "johndoe".into(),
        event_data_json: format!(
            r#"{{"Product ID":9007199254740993,"Price":39.80,"Quantity":1,"Product":"{filling}"}}"#
        ),
        ..Default::default()
    };
    Event { payload: Some(Payload::Activity(activity)), ..Default::default() }
}

/// The samples of every kind.
fn mixed() -> anyhow::Result<Vec<Event>> {
    let events = fixtures::NAMES.iter().map(|name| fixtures::event(name).event);
    events.collect::<Option<_>>().context("a sample without an event")
}
