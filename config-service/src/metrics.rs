//! What config-service counts of its work. docs/operations.md says what each number means. Everything is
//! counted whether or not anyone reads it; a clone counts into the same.

use common::metrics::{Counter, Counters, Gauge, Registry};

#[derive(Debug, Clone)]
pub struct Metrics {
    /// By `Write`.
    pub writes: Counters<4>,
    /// Streams of routes that are open.
    pub watchers: Gauge,
    pub store_errors: Counter,
}

/// A change that was stored.
#[derive(Debug, Clone, Copy)]
pub enum Write {
    Created,
    Updated,
    Deleted,
    KeyRotated,
}

impl Default for Metrics {
    fn default() -> Self {
        let kinds = ["webhook_created", "webhook_updated", "webhook_deleted", "account_key_rotated"];
        Self {
            writes: Counters::new("kind", kinds),
            watchers: Gauge::default(),
            store_errors: Counter::default(),
        }
    }
}

impl Metrics {
    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        let all = self.clone();
        registry.register("config_writes", "Changes of webhooks and accounts that were stored", all.writes);
        registry.register("route_watchers", "Streams of routes that are open", all.watchers);
        registry.register("config_store_errors", "Calls to the store that failed", all.store_errors);
    }
}
