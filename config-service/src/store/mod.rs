//! Webhooks and accounts, kept durably. The seam between config-service and its stores.
//!
//! The store has one **revision**, which grows with every change; a change is in force, durable and in
//! the log of changes in the same atomic step. The log is bounded (`LOG_KEPT`): who asks for what is no
//! longer in it scans everything anew. A new store starts at its time of birth in microseconds, not at
//! 0, so a revision of a store that was emptied since lies before the new one's log.
//!
//! Every backend passes the same contract suite (`tests/store_contract.rs`). Secrets cross the seam in
//! the clear, and `Debug` never shows them.

pub mod counted;
pub mod disk;
pub mod redis;
mod scripts;
mod tables;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use common::{clock::Time, ids::WebhookId};
use prost::Message;
use proto::v1;
use tokio::sync::watch;

/// How many changes the log keeps.
pub const LOG_KEPT: u64 = 100_000;

/// How long a request id is known.
pub const REQUEST_ID_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A store of webhooks and accounts.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores a new webhook. Its id must be new; its account should exist (see `account`), for its
    /// secret key goes out with the route. `record.revision` is ignored.
    async fn create(&self, record: Record, request: Option<Request>) -> Result<Created, StoreError>;

    /// The webhooks with these ids, in their order.
    async fn get_many(&self, ids: &[WebhookId]) -> Result<Vec<Option<Record>>, StoreError>;

    async fn get(&self, id: WebhookId) -> Result<Option<Record>, StoreError> {
        Ok(self.get_many(&[id]).await?.pop().flatten())
    }

    /// Up to `limit` of an account's webhooks in the order of their ids, which is that of creation.
    /// Fewer than `limit`: there are no more.
    async fn list(
        &self,
        license_code: &str,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// Replaces a webhook if its revision is still `expected_revision`. Its account stays.
    async fn update(&self, record: Record, expected_revision: u64) -> Result<Updated, StoreError>;

    /// Removes a webhook, if its revision is still `expected_revision` where that is given.
    async fn delete(&self, id: WebhookId, expected_revision: Option<u64>) -> Result<Deleted, StoreError>;

    /// The account, made now with `fresh_key` if there is none. Not a change.
    async fn account(&self, license_code: &str, fresh_key: &str, now: Time) -> Result<Account, StoreError>;

    /// The accounts with these license codes, in their order; none is made.
    async fn accounts(&self, license_codes: &[String]) -> Result<Vec<Option<Account>>, StoreError>;

    /// Gives the account, made now if there is none, another key: a change. It takes two revisions and
    /// stands in the log under the second (see `routes`).
    async fn rotate_account_key(
        &self,
        license_code: &str,
        fresh_key: &str,
        now: Time,
    ) -> Result<Account, StoreError>;

    /// The store's present revision. All of it is seen by reads that begin later.
    async fn revision(&self) -> Result<u64, StoreError>;

    /// Up to `limit` changes after a revision, oldest first. None: `after` is the present revision.
    async fn changes(&self, after: u64, limit: usize) -> Result<Changes, StoreError>;

    /// Up to `limit` of all webhooks in the order of their ids. Fewer than `limit`: there are no more.
    async fn scan(&self, after: Option<WebhookId>, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// The newest revision that this process knows of: its own changes at once, others' within a
    /// fraction of a second. A wake-up call; what has changed is asked of `changes`.
    fn changed(&self) -> watch::Receiver<u64>;

    /// That the store answers.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// A webhook as it is kept, secrets in the clear.
#[derive(Clone, PartialEq, Default)]
pub struct Record {
    pub webhook: v1::Webhook,
    /// The present one first.
    pub signing_keys: Vec<v1::SigningKey>,
    /// The store's revision at the webhook's last change.
    pub revision: u64,
}

/// What makes a repeated create known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Unique in the account of the record.
    pub request_id: String,
    /// Equal for requests that ask for the same.
    pub fingerprint: Vec<u8>,
    pub now: Time,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    New(Record),
    /// Made before under the same request id: the record as first made.
    Repeat(Record),
    /// The request id was used with another fingerprint.
    Conflict,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and soon taken apart")]
pub enum Updated {
    Done(Record),
    /// It has another revision.
    Changed,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Done,
    /// It has another revision.
    Changed,
    Gone,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    pub license_code: String,
    pub secret_key: String,
    pub create_time: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    Page(Vec<Change>),
    /// No longer in the log, or the store has not reached it.
    OutOfRange,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub revision: u64,
    pub of: Changed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Created or updated.
    Webhook(WebhookId),
    Deleted(WebhookId),
    /// The account with this license code has another key.
    Account(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or did not answer in time: what was asked may have been done.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store holds something that this version cannot read.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl Record {
    /// The webhook's id; a record without one is damaged.
    pub fn id(&self) -> Result<WebhookId, StoreError> {
        self.webhook.id.parse().map_err(|_| StoreError::Damaged("a webhook without an id".into()))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.webhook.id)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("license_code", &self.license_code).finish_non_exhaustive()
    }
}

/// A record in bytes. The revision is kept beside it, for the store to set and to compare.
#[derive(Clone, PartialEq, Message)]
struct StoredRecord {
    #[prost(message, optional, tag = "1")]
    webhook: Option<v1::Webhook>,
    #[prost(message, repeated, tag = "2")]
    signing_keys: Vec<v1::SigningKey>,
}

fn encode_record(record: &Record) -> Vec<u8> {
    let stored =
        StoredRecord { webhook: Some(record.webhook.clone()), signing_keys: record.signing_keys.clone() };
    stored.encode_to_vec()
}

fn decode_record(bytes: &[u8], revision: u64) -> Result<Record, StoreError> {
    let stored = StoredRecord::decode(bytes).map_err(|_| StoreError::Damaged("a webhook".into()))?;
    let webhook = stored.webhook.ok_or_else(|| StoreError::Damaged("an empty webhook".into()))?;
    Ok(Record { webhook, signing_keys: stored.signing_keys, revision })
}
