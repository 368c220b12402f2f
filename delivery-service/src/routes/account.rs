//! One account's routes, indexed by what fires them. Pure, and copied when it changes: a copy shares
//! the lists that stay as they were, so a change costs what it touches and a map of names.
//!
//! Promises that `candidates` gives exactly the routes whose rule an event meets, filters apart, each
//! once and in the order of their ids, at a cost that depends on what fires and on how many lengths
//! of prefixes there are, not on how many routes.

use std::{collections::HashMap, ops::Deref, sync::Arc};

use common::matching::{Category, Kind, Name, UNDELIVERABLE};

use super::{Route, short::Short};

/// What of an event decides which routes it fires, filters apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion<'a> {
    /// A form or a journey: it fires the webhooks of this kind.
    Kind(Kind),
    Activity {
        name: &'a str,
        category: Category,
    },
}

/// Sorted by webhook id. One alone, as most are, is a step nearer.
#[derive(Debug, Clone)]
enum Routes {
    One(Arc<Route>),
    Others(Arc<[Arc<Route>]>),
}

type Named = HashMap<Short, Routes>;

/// The routes of an account.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// By `place`.
    kinds: [Routes; 6],
    exact: Arc<Named>,
    prefixes: Arc<Named>,
    /// How long the prefixes are, in bytes, each length once.
    lengths: Box<[usize]>,
}

impl Deref for Routes {
    type Target = [Arc<Route>];

    fn deref(&self) -> &Self::Target {
        match self {
            Self::One(route) => std::slice::from_ref(route),
            Self::Others(routes) => routes,
        }
    }
}

impl From<Vec<Arc<Route>>> for Routes {
    fn from(mut routes: Vec<Arc<Route>>) -> Self {
        match routes.pop() {
            Some(one) if routes.is_empty() => Self::One(one),
            last => Self::Others(routes.into_iter().chain(last).collect()),
        }
    }
}

impl FromIterator<Arc<Route>> for Routes {
    fn from_iter<T: IntoIterator<Item = Arc<Route>>>(routes: T) -> Self {
        routes.into_iter().collect::<Vec<_>>().into()
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self::Others(Arc::default())
    }
}

impl Account {
    /// All at once, in time that grows with their number alone.
    pub fn of(mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_unstable_by_key(|route| route.webhook_id);
        let mut kinds: [Vec<Arc<Route>>; 6] = Default::default();
        let mut exact: HashMap<&str, Vec<Arc<Route>>> = HashMap::new();
        let mut prefixes: HashMap<&str, Vec<Arc<Route>>> = HashMap::new();
        for route in &routes {
            if let Some(place) = place(route.rule.kind) {
                kinds[place].push(Arc::clone(route));
                continue;
            }
            for name in &route.rule.names {
                let list = match name {
                    Name::Exact(name) => exact.entry(name).or_default(),
                    Name::Prefix(prefix) => prefixes.entry(prefix).or_default(),
                };
                if list.last().is_none_or(|last| last.webhook_id != route.webhook_id) {
                    list.push(Arc::clone(route));
                }
            }
        }
        let named = |lists: HashMap<&str, Vec<Arc<Route>>>| -> Arc<Named> {
            Arc::new(lists.into_iter().map(|(name, list)| (name.into(), list.into())).collect())
        };
        let mut account = Self {
            kinds: kinds.map(Into::into),
            exact: named(exact),
            prefixes: named(prefixes),
            ..Self::default()
        };
        account.note_lengths();
        account
    }

    pub fn is_empty(&self) -> bool {
        self.kinds.iter().all(|list| list.is_empty()) && self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// Adds a route that is not there; one that is has to be removed first.
    pub fn add(&mut self, route: &Arc<Route>) {
        self.change(route, |list| match list.binary_search_by_key(&route.webhook_id, |r| r.webhook_id) {
            Ok(_) => None,
            Err(at) => {
                let (before, after) = list.split_at(at);
                Some(before.iter().chain([route]).chain(after).cloned().collect())
            }
        });
    }

    /// Takes away a route as it was added.
    pub fn remove(&mut self, route: &Route) {
        self.change(route, |list| {
            list.binary_search_by_key(&route.webhook_id, |r| r.webhook_id).ok()?;
            Some(list.iter().filter(|r| r.webhook_id != route.webhook_id).cloned().collect())
        });
    }

    /// Puts what `edit` makes of it in the place of every list that the route belongs to; `None`
    /// leaves a list.
    fn change(&mut self, route: &Route, edit: impl Fn(&Routes) -> Option<Routes>) {
        if let Some(place) = place(route.rule.kind) {
            if let Some(edited) = edit(&self.kinds[place]) {
                self.kinds[place] = edited;
            }
            return;
        }
        let mut new_lengths = false;
        for name in &route.rule.names {
            let (lists, text, prefix) = match name {
                Name::Exact(name) => (Arc::make_mut(&mut self.exact), name, false),
                Name::Prefix(name) => (Arc::make_mut(&mut self.prefixes), name, true),
            };
            let list = lists.get(text.as_bytes());
            let known = list.is_some();
            match edit(list.unwrap_or(&Routes::default())) {
                Some(edited) if edited.is_empty() => {
                    lists.remove(text.as_bytes());
                    new_lengths |= prefix;
                }
                Some(edited) => {
                    lists.insert((&**text).into(), edited);
                    new_lengths |= prefix && !known;
                }
                None => {}
            }
        }
        if new_lengths {
            self.note_lengths();
        }
    }

    fn note_lengths(&mut self) {
        let mut lengths: Vec<usize> = self.prefixes.keys().map(|prefix| prefix.bytes().len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        self.lengths = lengths.into();
    }

    /// The routes that `on` fires, but for their filters.
    pub fn candidates(&self, on: Occasion<'_>) -> Vec<Arc<Route>> {
        let (name, category) = match on {
            Occasion::Kind(kind) => return place(kind).map(|p| self.kinds[p].to_vec()).unwrap_or_default(),
            Occasion::Activity { name, category } => (name, category),
        };
        if category == Category::System && UNDELIVERABLE.contains(&name) {
            return Vec::new();
        }
        let global = match category {
            Category::System => Kind::GlobalSystemEvents,
            Category::Application => Kind::GlobalApplicationEvents,
        };
        let mut found = place(global).map(|p| self.kinds[p].to_vec()).unwrap_or_default();
        let prefixes = self
            .lengths
            .iter()
            .filter_map(|&length| name.as_bytes().get(..length))
            .filter_map(|prefix| self.prefixes.get(prefix));
        for list in self.exact.get(name.as_bytes()).into_iter().chain(prefixes) {
            let fits = |route: &&Arc<Route>| route.rule.category.is_none_or(|wanted| wanted == category);
            found.extend(list.iter().filter(fits).cloned());
        }
        // Several names of one webhook can fit. (The sort is cheap: what one list gave is in order.)
        found.sort_by_key(|route| route.webhook_id);
        found.dedup_by_key(|route| route.webhook_id);
        found
    }
}

/// Where routes that their kind alone decides stand in `Account::kinds`.
fn place(kind: Kind) -> Option<usize> {
    match kind {
        Kind::Feedback => Some(0),
        Kind::FeedbackReply => Some(1),
        Kind::SurveyResponse => Some(2),
        Kind::GlobalSystemEvents => Some(3),
        Kind::GlobalApplicationEvents => Some(4),
        Kind::Journey => Some(5),
        Kind::Event => None,
    }
}
