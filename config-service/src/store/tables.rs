//! The embedded store's tables, and the steps that a write is made of.
//!
//! | table         | key                                     | value                                         |
//! | ------------- | --------------------------------------- | --------------------------------------------- |
//! | state         | "version", "revision", "floor"          | number; the log holds what is after `floor`   |
//! | webhooks      | id                                      | revision, StoredRecord                        |
//! | by_account    | license code, id                        |                                               |
//! | accounts      | license code                            | created at (ms), secret key                   |
//! | changes       | revision                                | kind, id or license code                      |
//! | requests      | license code, request id                | made at, revision, fingerprint, StoredRecord  |
//! | request_times | made at (ms), license code, request id  |                                               |

use common::{clock::Time, ids::WebhookId};
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use super::{
    Account, Changed, Created, REQUEST_ID_KEPT, Record, Request, StoreError, decode_record, encode_record,
};

pub const STATE: TableDefinition<&str, u64> = TableDefinition::new("state");
pub const WEBHOOKS: TableDefinition<u128, (u64, &[u8])> = TableDefinition::new("webhooks");
pub const BY_ACCOUNT: TableDefinition<(&str, u128), ()> = TableDefinition::new("by_account");
pub const ACCOUNTS: TableDefinition<&str, (i64, &str)> = TableDefinition::new("accounts");
pub const CHANGES: TableDefinition<u64, (u8, &[u8])> = TableDefinition::new("changes");
/// Made at, revision, fingerprint, StoredRecord.
type Made<'a> = (i64, u64, &'a [u8], &'a [u8]);
const REQUESTS: TableDefinition<(&str, &str), Made<'_>> = TableDefinition::new("requests");
const REQUEST_TIMES: TableDefinition<(i64, &str, &str), ()> = TableDefinition::new("request_times");

/// The layout above.
const VERSION: u64 = 1;
/// How many request ids that have run out a create takes away.
const EXPIRED_AT_ONCE: usize = 100;

const PUT: u8 = 0;
pub const DELETED: u8 = 1;
pub const ACCOUNT: u8 = 2;

/// A write transaction.
pub struct Write<'a> {
    pub tx: &'a WriteTransaction,
    log_kept: u64,
    /// The revision that it has taken.
    pub revision: Option<u64>,
    /// Whether there is anything to commit.
    pub dirty: bool,
}

impl<'a> Write<'a> {
    pub fn new(tx: &'a WriteTransaction, log_kept: u64) -> Self {
        Self { tx, log_kept, revision: None, dirty: false }
    }

    /// Takes the revision `step` on from the present one, and logs a change under it.
    pub fn log(&mut self, step: u64, kind: u8, name: &[u8]) -> Result<u64, StoreError> {
        let mut state = self.tx.open_table(STATE)?;
        let revision = number(&state, "revision")? + step;
        state.insert("revision", revision)?;
        let mut changes = self.tx.open_table(CHANGES)?;
        changes.insert(revision, (kind, name))?;
        while changes.len()? > self.log_kept {
            let Some((oldest, _)) = changes.pop_first()? else { break };
            state.insert("floor", oldest.value())?;
        }
        (self.revision, self.dirty) = (Some(revision), true);
        Ok(revision)
    }

    pub fn put(&mut self, record: &mut Record, id: WebhookId) -> Result<(), StoreError> {
        record.revision = self.log(1, PUT, &id.bytes())?;
        let bytes = encode_record(record);
        self.tx.open_table(WEBHOOKS)?.insert(key(id), (record.revision, bytes.as_slice()))?;
        Ok(())
    }

    pub fn put_account(&mut self, account: &Account) -> Result<(), StoreError> {
        let value = (account.create_time.0, account.secret_key.as_str());
        self.tx.open_table(ACCOUNTS)?.insert(account.license_code.as_str(), value)?;
        self.dirty = true;
        Ok(())
    }

    /// What an earlier request of the same id came to, while that is known.
    pub fn earlier(&self, license_code: &str, request: &Request) -> Result<Option<Created>, StoreError> {
        let requests = self.tx.open_table(REQUESTS)?;
        let Some(found) = requests.get((license_code, request.request_id.as_str()))? else { return Ok(None) };
        let (made_at, revision, fingerprint, bytes) = found.value();
        if Time(made_at) + REQUEST_ID_KEPT <= request.now {
            return Ok(None);
        }
        if fingerprint != request.fingerprint {
            return Ok(Some(Created::Conflict));
        }
        Ok(Some(Created::Repeat(decode_record(bytes, revision)?)))
    }

    /// Keeps the request with what it made, and takes away some that have run out.
    pub fn remember(&mut self, record: &Record, request: &Request) -> Result<(), StoreError> {
        let mut requests = self.tx.open_table(REQUESTS)?;
        let mut times = self.tx.open_table(REQUEST_TIMES)?;
        let expired = request.now.0.saturating_sub(REQUEST_ID_KEPT.as_millis() as i64);
        for _ in 0..EXPIRED_AT_ONCE {
            let oldest = times.first()?.map(|(name, _)| {
                let (made_at, license_code, request_id) = name.value();
                (made_at, license_code.to_owned(), request_id.to_owned())
            });
            let Some((made_at, license_code, request_id)) = oldest else { break };
            if made_at > expired {
                break;
            }
            times.remove((made_at, license_code.as_str(), request_id.as_str()))?;
            requests.remove((license_code.as_str(), request_id.as_str()))?;
        }
        let name = (record.webhook.license_code.as_str(), request.request_id.as_str());
        let bytes = encode_record(record);
        let value = (request.now.0, record.revision, request.fingerprint.as_slice(), bytes.as_slice());
        let stale = requests.insert(name, value)?.map(|old| old.value().0);
        if let Some(made_at) = stale {
            times.remove((made_at, name.0, name.1))?;
        }
        times.insert((request.now.0, name.0, name.1), ())?;
        Ok(())
    }
}

/// Makes the tables of a new file; gives the store's revision.
pub fn prepare(tx: &WriteTransaction, now: Time) -> Result<u64, StoreError> {
    let mut state = tx.open_table(STATE)?;
    let version = state.get("version")?.map(|v| v.value());
    match version {
        Some(VERSION) => {}
        Some(other) => return Err(StoreError::Damaged(format!("layout {other} is not known"))),
        None => {
            let birth = now.0.max(0) as u64 * 1_000;
            state.insert("version", VERSION)?;
            state.insert("revision", birth)?;
            state.insert("floor", birth)?;
        }
    }
    tx.open_table(WEBHOOKS)?;
    tx.open_table(BY_ACCOUNT)?;
    tx.open_table(ACCOUNTS)?;
    tx.open_table(CHANGES)?;
    tx.open_table(REQUESTS)?;
    tx.open_table(REQUEST_TIMES)?;
    number(&state, "revision")
}

pub fn number(state: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, StoreError> {
    let missing = || StoreError::Damaged(format!("no {name}"));
    Ok(state.get(name)?.ok_or_else(missing)?.value())
}

pub fn find(
    webhooks: &impl ReadableTable<u128, (u64, &'static [u8])>,
    id: u128,
) -> Result<Option<Record>, StoreError> {
    let Some(found) = webhooks.get(id)? else { return Ok(None) };
    let (revision, bytes) = found.value();
    decode_record(bytes, revision).map(Some)
}

pub fn find_account(
    accounts: &impl ReadableTable<&'static str, (i64, &'static str)>,
    license_code: &str,
) -> Result<Option<Account>, StoreError> {
    let found = accounts.get(license_code)?;
    Ok(found.map(|found| {
        let (create_time, secret_key) = found.value();
        account(license_code, secret_key, Time(create_time))
    }))
}

pub fn changed(kind: u8, name: &[u8]) -> Result<Changed, StoreError> {
    let damaged = || StoreError::Damaged("a change".into());
    let id = || Ok(WebhookId::from_bytes(name.try_into().map_err(|_| damaged())?));
    match kind {
        PUT => id().map(Changed::Webhook),
        DELETED => id().map(Changed::Deleted),
        ACCOUNT => String::from_utf8(name.to_vec()).map(Changed::Account).map_err(|_| damaged()),
        _ => Err(damaged()),
    }
}

pub fn account(license_code: &str, secret_key: &str, create_time: Time) -> Account {
    Account { license_code: license_code.to_owned(), secret_key: secret_key.to_owned(), create_time }
}

pub fn key(id: WebhookId) -> u128 {
    u128::from_be_bytes(id.bytes())
}

/// The first key after an id; none after the last.
pub fn beyond(after: Option<WebhookId>) -> Option<u128> {
    after.map_or(Some(0), |id| key(id).checked_add(1))
}

fn failure(error: redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => StoreError::Damaged(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

impl From<redb::StorageError> for StoreError {
    fn from(error: redb::StorageError) -> Self {
        failure(error.into())
    }
}

impl From<redb::TableError> for StoreError {
    fn from(error: redb::TableError) -> Self {
        failure(error.into())
    }
}

impl From<redb::TransactionError> for StoreError {
    fn from(error: redb::TransactionError) -> Self {
        failure(error.into())
    }
}

impl From<redb::CommitError> for StoreError {
    fn from(error: redb::CommitError) -> Self {
        failure(error.into())
    }
}
