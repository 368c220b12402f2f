//! Who watches deliveries, and telling them what has changed: what this process stores at once, what
//! other replicas store by way of a stream in Redis, which is written only while someone watches. A
//! watcher that cannot be told everything is ended, never left with a gap.

mod elsewhere;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
};

use common::ids::WebhookId;
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::mpsc;

pub use elsewhere::follow;

use crate::{
    delivery::{Head, State},
    queue::{QueueError, redis_watch::Wire},
};

/// So many changes may wait for a watcher.
pub const BEHIND: usize = 10_000;

/// A delivery as it now is.
#[derive(Clone, PartialEq, Message)]
pub struct Change {
    #[prost(message, required, tag = "1")]
    pub head: Head,
    #[prost(uint64, tag = "2")]
    pub place: u64,
}

/// Narrows a watch; what is empty does not.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub webhook_id: Option<WebhookId>,
    pub states: Vec<State>,
}

/// Why a watch has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// More has changed than the watcher took, or than could be passed on.
    Behind,
    /// The store is away: other replicas cannot be heard.
    Away,
}

/// All watchers of this process.
#[derive(Default)]
pub struct Watch {
    here: RwLock<HashMap<String, Account>>,
    /// Accounts that are watched at other replicas.
    elsewhere: RwLock<HashSet<String>>,
    /// Whether anyone watches anything, anywhere.
    any: AtomicBool,
    ids: AtomicU64,
    others: OnceLock<Others>,
}

/// The way to other replicas.
struct Others {
    wire: Wire,
    posts: mpsc::Sender<(String, Vec<Change>)>,
    /// Accounts of which something could not be posted.
    dropped: RwLock<HashSet<String>>,
}

#[derive(Default)]
struct Account {
    watchers: Vec<Watcher>,
    /// How far the stream of other replicas' changes has been read.
    cursor: String,
}

struct Watcher {
    id: u64,
    filter: Filter,
    changes: mpsc::Sender<Arc<Change>>,
    ended: Arc<AtomicU8>,
}

/// A watch. It ends when it is dropped.
pub struct Watching {
    watch: Arc<Watch>,
    account: String,
    id: u64,
    changes: mpsc::Receiver<Arc<Change>>,
    ended: Arc<AtomicU8>,
}

impl Watch {
    /// Whether changes of this account are to be told.
    pub fn watches(&self, account: &str) -> bool {
        self.any() && (self.here.read().contains_key(account) || self.elsewhere.read().contains(account))
    }

    /// Whether anyone watches anything.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Begins a watch. When this returns, every replica tells of the account.
    pub async fn begin(self: &Arc<Self>, account: String, filter: Filter) -> Result<Watching, QueueError> {
        let (sender, changes) = mpsc::channel(BEHIND);
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let ended = Arc::new(AtomicU8::new(0));
        let others = self.others.get();
        let cursor = match others {
            Some(others) => others.wire.latest(&account).await?,
            None => String::new(),
        };
        let watcher = Watcher { id, filter, changes: sender, ended: ended.clone() };
        let watching = Watching { watch: self.clone(), account: account.clone(), id, changes, ended };
        {
            let mut here = self.here.write();
            let entry =
                here.entry(account.clone()).or_insert_with(|| Account { cursor, ..Account::default() });
            entry.watchers.push(watcher);
        }
        self.count();
        if let Some(others) = others {
            others.wire.register(&[account]).await?;
            tokio::time::sleep(elsewhere::HEARD).await;
        }
        Ok(watching)
    }

    /// Tells of changes that this process has stored.
    pub fn tell(&self, changes: Vec<Change>) {
        let mut accounts: HashMap<String, Vec<Change>> = HashMap::new();
        for mut change in changes {
            // With their last attempt alone.
            let earlier = change.head.attempts.len().saturating_sub(1);
            change.head.attempts.drain(..earlier);
            accounts.entry(change.head.license_code.clone()).or_default().push(change);
        }
        for (account, changes) in accounts {
            if let Some(others) = self.others.get()
                && self.elsewhere.read().contains(&account)
                && others.posts.try_send((account.clone(), changes.clone())).is_err()
            {
                others.dropped.write().insert(account.clone());
            }
            self.tell_here(&account, changes);
        }
    }

    fn tell_here(&self, account: &str, changes: Vec<Change>) {
        let mut here = self.here.write();
        let Some(entry) = here.get_mut(account) else { return };
        for change in changes.into_iter().map(Arc::new) {
            entry.watchers.retain(|watcher| {
                if !watcher.filter.matches(&change) || watcher.changes.try_send(change.clone()).is_ok() {
                    return true;
                }
                watcher.ended.store(Ended::Behind as u8 + 1, Ordering::Release);
                false
            });
        }
    }

    /// Ends the watches of an account; of all when none is named.
    fn end(&self, account: Option<&str>, why: Ended) {
        let mut here = self.here.write();
        for (name, entry) in here.iter_mut() {
            if account.is_none_or(|account| account == name) {
                for watcher in entry.watchers.drain(..) {
                    watcher.ended.store(why as u8 + 1, Ordering::Release);
                }
            }
        }
    }

    fn count(&self) {
        let any = !self.here.read().is_empty() || !self.elsewhere.read().is_empty();
        self.any.store(any, Ordering::Release);
    }
}

impl Filter {
    fn matches(&self, change: &Change) -> bool {
        self.webhook_id.is_none_or(|id| id == change.head.webhook_id())
            && (self.states.is_empty() || self.states.contains(&change.head.state()))
    }
}

impl Watching {
    /// The next change.
    pub async fn next(&mut self) -> Result<Arc<Change>, Ended> {
        let change = self.changes.recv().await;
        change.ok_or_else(|| match self.ended.load(Ordering::Acquire) {
            2 => Ended::Away,
            _ => Ended::Behind,
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        {
            let mut here = self.watch.here.write();
            if let Some(entry) = here.get_mut(&self.account) {
                entry.watchers.retain(|watcher| watcher.id != self.id);
                if entry.watchers.is_empty() {
                    here.remove(&self.account);
                }
            }
        }
        self.watch.count();
    }
}
