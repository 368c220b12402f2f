//! The store in Redis, one server or a cluster. Each write is one script (`scripts`) that checks, writes,
//! takes the revision and logs the change; all keys lie in one slot. Others' changes are noticed by asking
//! for the revision five times a second while anyone watches.
//!
//! | key (after `PREFIX:{hookline}:`) | type   | what                                                         |
//! | -------------------------------- | ------ | ------------------------------------------------------------ |
//! | state                            | hash   | version, revision, floor (the log holds what is after it)    |
//! | webhooks                         | hash   | id (16 bytes) → revision, ":", StoredRecord                  |
//! | ids                              | zset   | all ids, by their bytes                                      |
//! | account:LICENSE                  | zset   | the account's ids, by their bytes                            |
//! | accounts                         | hash   | license code → created at (ms), ":", secret key              |
//! | changes                          | stream | REVISION-0 → put or deleted and an id, account and a license |
//! | request:LICENSE:REQUEST          | hash   | made_at (ms), fingerprint, record; expires                   |

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{clock::Time, ids::WebhookId, redis::Connection};
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, ScriptInvocation};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Account, Change, Changed, Changes, Created, Deleted, REQUEST_ID_KEPT, Record, Request, Store, StoreError,
    Updated, decode_record, encode_record, scripts::Scripts,
};

/// For one request to the store.
const CALL: Duration = Duration::from_secs(2);
/// Between two looks for others' changes.
const LOOK: Duration = Duration::from_millis(200);

pub struct RedisStore {
    connection: Connection,
    keys: String,
    scripts: Scripts,
    revision: Arc<watch::Sender<u64>>,
    log_kept: u64,
    _looking: AbortOnDropHandle<()>,
}

impl RedisStore {
    /// The store whose keys start with `prefix`, with a log of `log_kept` changes (`LOG_KEPT`, as a rule).
    /// Redis may be away meanwhile. Starts a task: call it within the runtime.
    pub fn new(connection: Connection, prefix: &str, log_kept: u64) -> Self {
        let keys = format!("{prefix}:{{hookline}}:");
        let revision = Arc::new(watch::channel(0).0);
        let looking = tokio::spawn(look(connection.clone(), format!("{keys}state"), revision.clone()));
        let _looking = AbortOnDropHandle::new(looking);
        Self { connection, keys, scripts: Scripts::default(), revision, log_kept, _looking }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.keys)
    }

    fn ids_of(&self, license_code: &str) -> String {
        format!("{}account:{license_code}", self.keys)
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let mut connection = self.connection.clone();
        in_time(script.invoke_async(&mut connection)).await
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut connection = self.connection.clone();
        in_time(command.query_async(&mut connection)).await
    }

    /// Wakes watchers for a change of our own.
    fn took(&self, revision: u64) {
        self.revision.send_if_modified(|newest| {
            let is_newer = revision > *newest;
            *newest = revision.max(*newest);
            is_newer
        });
    }

    /// The outcome of a write, and the revision that it took.
    async fn write(&self, script: &ScriptInvocation<'_>) -> Result<(String, Vec<u8>), StoreError> {
        let (outcome, answer): (String, Vec<u8>) = self.run(script).await?;
        if outcome == "done" {
            self.took(number(&answer)?);
        }
        Ok((outcome, answer))
    }

    async fn page(
        &self,
        ids: String,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let from = after.map_or(b"-".to_vec(), |id| [b"(".as_slice(), &id.bytes()].concat());
        let mut call = self.scripts.list.prepare_invoke();
        call.key(self.key("state")).key(self.key("webhooks")).key(ids).arg(from).arg(limit);
        let records: Vec<Option<Vec<u8>>> = self.run(&call).await?;
        let missing = || StoreError::Damaged("an id names a webhook that is not there".into());
        records.into_iter().map(|record| read_record(&record.ok_or_else(missing)?)).collect()
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn create(&self, mut record: Record, request: Option<Request>) -> Result<Created, StoreError> {
        let id = record.id()?;
        let license_code = &record.webhook.license_code;
        let request_id = request.as_ref().map_or("", |request| &request.request_id);
        let mut call = self.scripts.create.prepare_invoke();
        call.key(self.key("state"))
            .key(self.key("changes"))
            .key(self.key("webhooks"))
            .key(self.key("ids"))
            .key(self.ids_of(license_code))
            .key(format!("{}request:{license_code}:{request_id}", self.keys))
            .arg(self.log_kept)
            .arg(&id.bytes()[..])
            .arg(encode_record(&record));
        if let Some(request) = &request {
            let kept = REQUEST_ID_KEPT.as_millis() as u64;
            call.arg(request.now.0).arg(kept).arg(request.fingerprint.as_slice());
        } else {
            call.arg("");
        }
        let (outcome, answer) = self.write(&call).await?;
        match outcome.as_str() {
            "conflict" => Ok(Created::Conflict),
            "repeat" => Ok(Created::Repeat(read_record(&answer)?)),
            _ => {
                record.revision = number(&answer)?;
                Ok(Created::New(record))
            }
        }
    }

    async fn get_many(&self, ids: &[WebhookId]) -> Result<Vec<Option<Record>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(self.key("webhooks"));
        for id in ids {
            command.arg(&id.bytes()[..]);
        }
        let found: Vec<Option<Vec<u8>>> = self.ask(&command).await?;
        found.into_iter().map(|record| record.map(|record| read_record(&record)).transpose()).collect()
    }

    async fn list(
        &self,
        license_code: &str,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.page(self.ids_of(license_code), after, limit).await
    }

    async fn update(&self, mut record: Record, expected_revision: u64) -> Result<Updated, StoreError> {
        let id = record.id()?;
        let mut call = self.scripts.update.prepare_invoke();
        call.key(self.key("state"))
            .key(self.key("changes"))
            .key(self.key("webhooks"))
            .arg(self.log_kept)
            .arg(&id.bytes()[..])
            .arg(encode_record(&record))
            .arg(expected_revision);
        let (outcome, answer) = self.write(&call).await?;
        match outcome.as_str() {
            "gone" => Ok(Updated::Gone),
            "changed" => Ok(Updated::Changed),
            _ => {
                record.revision = number(&answer)?;
                Ok(Updated::Done(record))
            }
        }
    }

    async fn delete(&self, id: WebhookId, expected_revision: Option<u64>) -> Result<Deleted, StoreError> {
        // An id never changes its account, so this need not be in the script.
        let Some(record) = self.get(id).await? else { return Ok(Deleted::Gone) };
        let mut call = self.scripts.delete.prepare_invoke();
        call.key(self.key("state"))
            .key(self.key("changes"))
            .key(self.key("webhooks"))
            .key(self.key("ids"))
            .key(self.ids_of(&record.webhook.license_code))
            .arg(self.log_kept)
            .arg(&id.bytes()[..])
            .arg(expected_revision.map_or(String::new(), |revision| revision.to_string()));
        let (outcome, _) = self.write(&call).await?;
        Ok(match outcome.as_str() {
            "gone" => Deleted::Gone,
            "changed" => Deleted::Changed,
            _ => Deleted::Done,
        })
    }

    async fn account(&self, license_code: &str, fresh_key: &str, now: Time) -> Result<Account, StoreError> {
        let fresh = format!("{}:{fresh_key}", now.0.max(0));
        let mut call = self.scripts.account.prepare_invoke();
        call.key(self.key("state")).key(self.key("accounts")).arg(license_code).arg(fresh);
        let account: Vec<u8> = self.run(&call).await?;
        read_account(license_code, &account)
    }

    async fn accounts(&self, license_codes: &[String]) -> Result<Vec<Option<Account>>, StoreError> {
        if license_codes.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(self.key("accounts")).arg(license_codes);
        let found: Vec<Option<Vec<u8>>> = self.ask(&command).await?;
        let read = |(license_code, account): (&String, Option<Vec<u8>>)| {
            account.map(|account| read_account(license_code, &account)).transpose()
        };
        license_codes.iter().zip(found).map(read).collect()
    }

    async fn rotate_account_key(
        &self,
        license_code: &str,
        fresh_key: &str,
        now: Time,
    ) -> Result<Account, StoreError> {
        let mut call = self.scripts.rotate.prepare_invoke();
        call.key(self.key("state"))
            .key(self.key("changes"))
            .key(self.key("accounts"))
            .arg(self.log_kept)
            .arg(license_code)
            .arg(now.0.max(0))
            .arg(fresh_key);
        let (account, revision): (Vec<u8>, u64) = self.run(&call).await?;
        self.took(revision);
        read_account(license_code, &account)
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.run(self.scripts.revision.prepare_invoke().key(self.key("state"))).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes, StoreError> {
        let mut call = self.scripts.changes.prepare_invoke();
        call.key(self.key("state")).key(self.key("changes")).arg(after).arg(limit);
        let Some(page): Option<Vec<Vec<u8>>> = self.run(&call).await? else {
            return Ok(Changes::OutOfRange);
        };
        let read = |change: &[Vec<u8>]| match change {
            [kind, name, revision] => Ok(Change { revision: number(revision)?, of: changed(kind, name)? }),
            _ => Err(StoreError::Damaged("a change".into())),
        };
        Ok(Changes::Page(page.chunks(3).map(read).collect::<Result<_, _>>()?))
    }

    async fn scan(&self, after: Option<WebhookId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.page(self.key("ids"), after, limit).await
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.revision().await.map(|_| ())
    }
}

/// Tells watchers of changes that others made. A Redis that is away is asked on.
async fn look(mut connection: Connection, state: String, newest: Arc<watch::Sender<u64>>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut command = redis::cmd("HGET");
    command.arg(state).arg("revision");
    loop {
        looks.tick().await;
        if newest.receiver_count() == 0 {
            continue;
        }
        // An emptied store has none: its watchers have to hear of that too.
        let asked: Result<Option<u64>, _> = in_time(command.query_async(&mut connection)).await;
        if let Ok(revision) = asked {
            let revision = revision.unwrap_or(0);
            newest.send_if_modified(|known| std::mem::replace(known, revision) != revision);
        }
    }
}

async fn in_time<T>(call: impl Future<Output = RedisResult<T>>) -> Result<T, StoreError> {
    match timeout(CALL, call).await {
        Ok(done) => done.map_err(failure),
        Err(_) => Err(StoreError::Unavailable("Redis did not answer in time".into())),
    }
}

fn failure(error: RedisError) -> StoreError {
    match error.code() {
        Some("LAYOUT" | "WRONGTYPE") => StoreError::Damaged(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

fn changed(kind: &[u8], name: &[u8]) -> Result<Changed, StoreError> {
    let damaged = || StoreError::Damaged("a change".into());
    let id = || Ok(WebhookId::from_bytes(name.try_into().map_err(|_| damaged())?));
    match kind {
        b"put" => id().map(Changed::Webhook),
        b"deleted" => id().map(Changed::Deleted),
        b"account" => String::from_utf8(name.to_vec()).map(Changed::Account).map_err(|_| damaged()),
        _ => Err(damaged()),
    }
}

fn read_record(record: &[u8]) -> Result<Record, StoreError> {
    let (revision, bytes) = split(record)?;
    decode_record(bytes, number(revision)?)
}

fn read_account(license_code: &str, account: &[u8]) -> Result<Account, StoreError> {
    let (created_at, key) = split(account)?;
    let damaged = |_| StoreError::Damaged("an account".into());
    Ok(Account {
        license_code: license_code.to_owned(),
        secret_key: String::from_utf8(key.to_vec()).map_err(damaged)?,
        create_time: Time(i64::try_from(number(created_at)?).unwrap_or(i64::MAX)),
    })
}

/// What stands before the first colon, and after it.
fn split(value: &[u8]) -> Result<(&[u8], &[u8]), StoreError> {
    let colon = value.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or_else(|| StoreError::Damaged("a value without its number".into()))?;
    Ok((&value[..colon], &value[colon + 1..]))
}

fn number(text: &[u8]) -> Result<u64, StoreError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| StoreError::Damaged("a number".into()))
}
