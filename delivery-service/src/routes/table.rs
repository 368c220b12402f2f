//! The routes in memory, and which of them an event fires. Pure. Reading takes no lock and never
//! waits: readers see a generation of immutable accounts; a writer copies the account that it changes.
//!
//! A start of the feed from 0 is collected aside (`Staging`) and takes the table's place in one step.
//! A table that has never been synced is empty but says nothing; an empty synced one is a table.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use common::{
    event::{Event, Payload},
    filter::Subject,
    ids::{HashesIds, WebhookId},
    matching::Kind,
};
use parking_lot::Mutex;

use super::{
    Route,
    account::{Account, Occasion},
    short::Short,
};

/// Of so many webhooks it is remembered that they were deleted: the newest.
const DELETED_KEPT: usize = 100_000;

/// All routes that this process knows.
#[derive(Debug, Default)]
pub struct Table {
    present: ArcSwap<Generation>,
    synced: AtomicBool,
    /// Grows with every change, as soon as it is in force.
    changes: AtomicU64,
    /// By the revision of their deletion.
    deleted: papaya::HashMap<WebhookId, u64, HashesIds>,
    /// Writers take turns. Holds what went into `deleted`, oldest first.
    writer: Mutex<VecDeque<(WebhookId, u64)>>,
}

#[derive(Debug, Default)]
struct Generation {
    accounts: papaya::HashMap<Short, Account>,
    routes: papaya::HashMap<WebhookId, Arc<Route>, HashesIds>,
}

/// A webhook as a table had it.
#[derive(Debug)]
pub struct Known {
    /// `Table::changes` before it was looked up.
    changes: u64,
    pub route: Option<Arc<Route>>,
    /// See `Table::is_deleted`.
    pub deleted: bool,
}

/// A change of a route. One that is older than what the table knows has no effect.
#[derive(Debug)]
pub enum Edit {
    Put(Arc<Route>),
    /// The webhook is gone: its lane is to be cancelled.
    Delete(WebhookId, u64),
    /// There is such a webhook, but not as a route that this version understands: its lane is held.
    Withhold(WebhookId, u64),
}

/// A start of the feed from 0, until it is whole.
#[derive(Debug, Default)]
pub struct Staging {
    routes: HashMap<WebhookId, Arc<Route>>,
    /// Gone, or withheld (false), by revision.
    gone: HashMap<WebhookId, (u64, bool)>,
}

impl Table {
    /// The routes that an event fires, but for their filters, in the order of their ids. Paused and
    /// disabled ones too.
    pub fn candidates(&self, event: &Event) -> Vec<Arc<Route>> {
        let present = self.present.load();
        let accounts = present.accounts.pin();
        accounts.get(event.license_code.as_bytes()).map(|a| a.candidates(occasion(event))).unwrap_or_default()
    }

    /// The routes that an event fires, filters included. `subject` is asked for at most once, and only
    /// if there is a filter.
    pub fn matching(&self, event: &Event, subject: impl FnOnce() -> Subject) -> Vec<Arc<Route>> {
        let mut routes = self.candidates(event);
        if routes.iter().any(|route| route.rule.filter.is_some()) {
            let subject = subject();
            routes.retain(|route| route.rule.filter.as_ref().is_none_or(|filter| filter.matches(&subject)));
        }
        routes
    }

    /// The same, in a form in which they are known of still when they are used.
    pub fn known_matching(
        &self,
        event: &Event,
        subject: impl FnOnce() -> Subject,
    ) -> impl Iterator<Item = Known> {
        let changes = self.changes();
        let routes = self.matching(event, subject).into_iter();
        routes.map(move |route| Known { changes, route: Some(route), deleted: false })
    }

    pub fn known(&self, id: WebhookId) -> Known {
        let (changes, route) = (self.changes(), self.route(id));
        let deleted = route.is_none() && self.is_deleted(id);
        Known { changes, route, deleted }
    }

    pub fn route(&self, id: WebhookId) -> Option<Arc<Route>> {
        self.present.load().routes.pin().get(&id).cloned()
    }

    /// Whether nothing has changed since that was looked up: cheap to ask.
    pub fn has_still(&self, known: &Known) -> bool {
        known.changes == self.changes()
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether the feed has told this process that the webhook is gone. (False also for one that was
    /// never known, or deleted long ago.)
    pub fn is_deleted(&self, id: WebhookId) -> bool {
        self.deleted.pin().contains_key(&id)
    }

    /// Whether the table was ever whole. From then on it stays a table, also while the feed is away.
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    pub fn len(&self) -> usize {
        self.present.load().routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In no order.
    pub fn ids(&self) -> Vec<WebhookId> {
        self.present.load().routes.pin().keys().copied().collect()
    }

    /// Makes changes, in order, and says which webhooks have changed by them. Many at once are cheap:
    /// each account is copied once.
    pub fn apply(&self, edits: Vec<Edit>) -> Vec<WebhookId> {
        let mut order = self.writer.lock();
        let present = self.present.load();
        let mut accounts: HashMap<Box<str>, Account> = HashMap::new();
        let copy = |license_code: &str| {
            present.accounts.pin().get(license_code.as_bytes()).cloned().unwrap_or_default()
        };
        let mut latest: HashMap<WebhookId, (Option<Arc<Route>>, bool)> = HashMap::new();
        let mut changed = Vec::new();
        for edit in edits {
            let (id, revision) = edit.subject();
            let before = match latest.get(&id) {
                Some((route, _)) => route.clone(),
                None => present.routes.pin().get(&id).cloned(),
            };
            let known = before.as_ref().map(|route| route.revision).max(self.deleted.pin().get(&id).copied());
            if known.is_some_and(|known| known >= revision) {
                continue;
            }
            if let Some(before) = &before {
                accounts
                    .entry(before.license_code.clone())
                    .or_insert_with(|| copy(&before.license_code))
                    .remove(before);
            }
            let after = match edit {
                Edit::Put(route) => {
                    accounts
                        .entry(route.license_code.clone())
                        .or_insert_with(|| copy(&route.license_code))
                        .add(&route);
                    self.deleted.pin().remove(&id);
                    (Some(route), false)
                }
                Edit::Delete(..) => {
                    self.note_deleted(id, revision, &mut order);
                    (None, true)
                }
                Edit::Withhold(..) => (None, false),
            };
            latest.insert(id, after);
            changed.push(id);
        }
        // Whoever finds a route by an event finds it by its id: in before the accounts, out after them.
        let routes = present.routes.pin();
        for (id, (route, _)) in &latest {
            if let Some(route) = route {
                routes.insert(*id, Arc::clone(route));
            }
        }
        for (license_code, account) in accounts {
            if account.is_empty() {
                present.accounts.pin().remove(license_code.as_bytes());
            } else {
                present.accounts.pin().insert((&*license_code).into(), account);
            }
        }
        for (id, (route, _)) in &latest {
            if route.is_none() {
                routes.remove(id);
            }
        }
        self.changes.fetch_add(1, Ordering::Release);
        changed
    }

    /// Puts a whole start of the feed in the place of all that was known.
    pub fn replace(&self, staging: Staging) {
        let mut order = self.writer.lock();
        for id in staging.routes.keys() {
            self.deleted.pin().remove(id);
        }
        for (id, (revision, deleted)) in &staging.gone {
            if *deleted {
                self.note_deleted(*id, *revision, &mut order);
            }
        }
        self.present.store(Arc::new(Generation::of(staging.routes)));
        self.changes.fetch_add(1, Ordering::Release);
        self.synced.store(true, Ordering::Release);
    }

    fn note_deleted(&self, id: WebhookId, revision: u64, order: &mut VecDeque<(WebhookId, u64)>) {
        let deleted = self.deleted.pin();
        deleted.insert(id, revision);
        order.push_back((id, revision));
        while order.len() > DELETED_KEPT
            && let Some((oldest, then)) = order.pop_front()
        {
            // Unless it was there anew and deleted again since.
            let _ = deleted.remove_if(&oldest, |_, revision| *revision == then);
        }
    }
}

impl Generation {
    fn of(routes: HashMap<WebhookId, Arc<Route>>) -> Self {
        let mut accounts: HashMap<Box<str>, Vec<Arc<Route>>> = HashMap::new();
        for route in routes.values() {
            match accounts.get_mut(&route.license_code) {
                Some(list) => list.push(Arc::clone(route)),
                None => {
                    accounts.insert(route.license_code.clone(), vec![Arc::clone(route)]);
                }
            }
        }
        let generation = Self {
            accounts: papaya::HashMap::with_capacity(accounts.len()),
            routes: papaya::HashMap::with_capacity_and_hasher(routes.len(), HashesIds::default()),
        };
        {
            let by_account = generation.accounts.pin();
            for (license_code, list) in accounts {
                by_account.insert((&*license_code).into(), Account::of(list));
            }
            let by_id = generation.routes.pin();
            for (id, route) in routes {
                by_id.insert(id, route);
            }
        }
        generation
    }
}

impl Edit {
    /// Whose change it is, and its revision.
    fn subject(&self) -> (WebhookId, u64) {
        match self {
            Self::Put(route) => (route.webhook_id, route.revision),
            Self::Delete(id, revision) | Self::Withhold(id, revision) => (*id, *revision),
        }
    }
}

impl Staging {
    pub fn apply(&mut self, edit: Edit) {
        let (id, revision) = edit.subject();
        let route = self.routes.get(&id).map(|route| route.revision);
        if route.max(self.gone.get(&id).map(|gone| gone.0)).is_some_and(|known| known > revision) {
            return;
        }
        match edit {
            Edit::Put(route) => {
                self.gone.remove(&id);
                self.routes.insert(id, route);
            }
            Edit::Delete(..) | Edit::Withhold(..) => {
                self.routes.remove(&id);
                self.gone.insert(id, (revision, matches!(edit, Edit::Delete(..))));
            }
        }
    }
}

fn occasion(event: &Event) -> Occasion<'_> {
    match &event.payload {
        Payload::Activity(activity) => {
            Occasion::Activity { name: &activity.name, category: activity.category }
        }
        Payload::Feedback(_) => Occasion::Kind(Kind::Feedback),
        Payload::FeedbackReply(_) => Occasion::Kind(Kind::FeedbackReply),
        Payload::SurveyResponse(_) => Occasion::Kind(Kind::SurveyResponse),
        Payload::Journey(_) => Occasion::Kind(Kind::Journey),
    }
}

#[cfg(test)]
mod tests;
