//! The store in one file (redb) under the service's own folder; `tables` has the layout. A write is one
//! durable transaction; reads see a snapshot and wait for no writer. Both run off the async threads.

use std::sync::Arc;

use async_trait::async_trait;
use common::{clock::Time, ids::WebhookId};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
};

use super::{
    Account, Change, Changes, Created, Deleted, Record, Request, Store, StoreError, Updated, decode_record,
    tables::{
        self, ACCOUNT, ACCOUNTS, BY_ACCOUNT, CHANGES, DELETED, STATE, WEBHOOKS, Write, account, beyond,
        changed, find, find_account, key, number,
    },
};

pub struct DiskStore {
    db: Arc<Database>,
    /// Lets one writer at a time onto a blocking thread; the others wait without one.
    turn: Arc<Semaphore>,
    revision: watch::Sender<u64>,
    log_kept: u64,
}

impl DiskStore {
    /// The store in an open file, made at `now` if the file is new, with a log of `log_kept` changes
    /// (`LOG_KEPT`, as a rule). Blocks.
    pub fn new(db: Database, now: Time, log_kept: u64) -> Result<Self, StoreError> {
        let mut tx = db.begin_write()?;
        tx.set_quick_repair(true);
        let revision = tables::prepare(&tx, now)?;
        tx.commit()?;
        let (revision, _) = watch::channel(revision);
        Ok(Self { db: Arc::new(db), turn: Arc::new(Semaphore::new(1)), revision, log_kept })
    }

    async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let db = self.db.clone();
        spawn_blocking(move || look(&db.begin_read()?)).await.map_err(stopped)?
    }

    /// One durable transaction; where `change` gives no new revision, nothing is written.
    async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let turn = self.turn.clone().acquire_owned().await.map_err(stopped)?;
        let (db, log_kept, newest) = (self.db.clone(), self.log_kept, self.revision.clone());
        let done = spawn_blocking(move || {
            let mut tx = db.begin_write()?;
            // After a crash the file opens at once, whatever its size.
            tx.set_quick_repair(true);
            let mut write = Write::new(&tx, log_kept);
            let result = change(&mut write)?;
            let (revision, dirty) = (write.revision, write.dirty);
            if dirty {
                tx.commit()?
            } else {
                tx.abort()?
            }
            // Even if the caller has gone meanwhile, watchers hear of it.
            if let Some(revision) = revision {
                newest.send_replace(revision);
            }
            drop(turn);
            Ok(result)
        });
        done.await.map_err(stopped)?
    }
}

#[async_trait]
impl Store for DiskStore {
    async fn create(&self, mut record: Record, request: Option<Request>) -> Result<Created, StoreError> {
        let id = record.id()?;
        self.write(move |write| {
            let license_code = record.webhook.license_code.clone();
            if let Some(request) = &request
                && let Some(earlier) = write.earlier(&license_code, request)?
            {
                return Ok(earlier);
            }
            write.put(&mut record, id)?;
            write.tx.open_table(BY_ACCOUNT)?.insert((license_code.as_str(), key(id)), ())?;
            if let Some(request) = &request {
                write.remember(&record, request)?;
            }
            Ok(Created::New(record))
        })
        .await
    }

    async fn get_many(&self, ids: &[WebhookId]) -> Result<Vec<Option<Record>>, StoreError> {
        let ids = ids.to_vec();
        self.read(move |tx| {
            let webhooks = tx.open_table(WEBHOOKS)?;
            ids.into_iter().map(|id| find(&webhooks, key(id))).collect()
        })
        .await
    }

    async fn list(
        &self,
        license_code: &str,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let license_code = license_code.to_owned();
        self.read(move |tx| {
            let (webhooks, by_account) = (tx.open_table(WEBHOOKS)?, tx.open_table(BY_ACCOUNT)?);
            let Some(from) = beyond(after) else { return Ok(Vec::new()) };
            let license_code = license_code.as_str();
            let mut records = Vec::new();
            for entry in by_account.range((license_code, from)..=(license_code, u128::MAX))?.take(limit) {
                let (_, id) = entry?.0.value();
                let missing = || StoreError::Damaged("an account names a webhook that is not there".into());
                records.push(find(&webhooks, id)?.ok_or_else(missing)?);
            }
            Ok(records)
        })
        .await
    }

    async fn update(&self, mut record: Record, expected_revision: u64) -> Result<Updated, StoreError> {
        let id = record.id()?;
        self.write(move |write| {
            let present = write.tx.open_table(WEBHOOKS)?.get(key(id))?.map(|found| found.value().0);
            match present {
                None => Ok(Updated::Gone),
                Some(revision) if revision != expected_revision => Ok(Updated::Changed),
                Some(_) => {
                    write.put(&mut record, id)?;
                    Ok(Updated::Done(record))
                }
            }
        })
        .await
    }

    async fn delete(&self, id: WebhookId, expected_revision: Option<u64>) -> Result<Deleted, StoreError> {
        self.write(move |write| {
            let mut webhooks = write.tx.open_table(WEBHOOKS)?;
            let Some(record) = find(&webhooks, key(id))? else { return Ok(Deleted::Gone) };
            if expected_revision.is_some_and(|expected| expected != record.revision) {
                return Ok(Deleted::Changed);
            }
            webhooks.remove(key(id))?;
            let name = (record.webhook.license_code.as_str(), key(id));
            write.tx.open_table(BY_ACCOUNT)?.remove(name)?;
            write.log(1, DELETED, &id.bytes())?;
            Ok(Deleted::Done)
        })
        .await
    }

    async fn account(&self, license_code: &str, fresh_key: &str, now: Time) -> Result<Account, StoreError> {
        let known = self.accounts(&[license_code.to_owned()]).await?.pop().flatten();
        if let Some(account) = known {
            return Ok(account);
        }
        let fresh = account(license_code, fresh_key, now);
        self.write(move |write| {
            if let Some(account) = find_account(&write.tx.open_table(ACCOUNTS)?, &fresh.license_code)? {
                return Ok(account);
            }
            write.put_account(&fresh)?;
            Ok(fresh)
        })
        .await
    }

    async fn accounts(&self, license_codes: &[String]) -> Result<Vec<Option<Account>>, StoreError> {
        let license_codes = license_codes.to_vec();
        self.read(move |tx| {
            let accounts = tx.open_table(ACCOUNTS)?;
            license_codes.iter().map(|license_code| find_account(&accounts, license_code)).collect()
        })
        .await
    }

    async fn rotate_account_key(
        &self,
        license_code: &str,
        fresh_key: &str,
        now: Time,
    ) -> Result<Account, StoreError> {
        let mut fresh = account(license_code, fresh_key, now);
        self.write(move |write| {
            if let Some(old) = find_account(&write.tx.open_table(ACCOUNTS)?, &fresh.license_code)? {
                fresh.create_time = old.create_time;
            }
            write.put_account(&fresh)?;
            write.log(2, ACCOUNT, fresh.license_code.as_bytes())?;
            Ok(fresh)
        })
        .await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.read(|tx| number(&tx.open_table(STATE)?, "revision")).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes, StoreError> {
        self.read(move |tx| {
            let state = tx.open_table(STATE)?;
            if after < number(&state, "floor")? || after > number(&state, "revision")? {
                return Ok(Changes::OutOfRange);
            }
            let changes = tx.open_table(CHANGES)?;
            let page = changes.range(after + 1..)?.take(limit).map(|entry| {
                let (revision, change) = entry?;
                let (kind, name) = change.value();
                Ok(Change { revision: revision.value(), of: changed(kind, name)? })
            });
            Ok(Changes::Page(page.collect::<Result<_, StoreError>>()?))
        })
        .await
    }

    async fn scan(&self, after: Option<WebhookId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.read(move |tx| {
            let Some(from) = beyond(after) else { return Ok(Vec::new()) };
            let webhooks = tx.open_table(WEBHOOKS)?;
            let page = webhooks.range(from..)?.take(limit).map(|entry| {
                let (_, record) = entry?;
                let (revision, bytes) = record.value();
                decode_record(bytes, revision)
            });
            page.collect()
        })
        .await
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.revision().await.map(|_| ())
    }
}

fn stopped(_: impl std::error::Error) -> StoreError {
    StoreError::Unavailable("the service is stopping".into())
}
