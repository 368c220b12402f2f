//! The store in one file (redb) under the service's own folder; `tables` has the layout. A write is one
//! durable transaction; reads see a snapshot and wait for no writer. Both run off the async threads.
//!
//! After an error of the disk redb refuses to go on with a file: whoever comes next opens it anew, at most
//! once a second, and until then everything is refused. All that was answered is there then.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{
    clock::{Clock, Time},
    disk::DiskError,
    ids::WebhookId,
};
use parking_lot::{Mutex, RwLock};
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

/// A broken file is opened anew once in this time.
const SELDOM: Duration = Duration::from_secs(1);

pub struct DiskStore {
    file: Arc<File>,
    /// Lets one writer at a time onto a blocking thread; the others wait without one.
    turn: Arc<Semaphore>,
    log_kept: u64,
}

/// The file, and how to open it anew.
struct File {
    /// None while it is broken.
    database: RwLock<Option<Arc<Database>>>,
    opens: Box<dyn Fn() -> Result<Database, DiskError> + Send + Sync>,
    clock: Clock,
    /// When it was last opened anew; locked by who does that.
    tried: Mutex<Option<Time>>,
    revision: watch::Sender<u64>,
}

impl File {
    /// Works with the database. Where the disk fails at that, the file is broken. Blocks.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let database = self.database()?;
        let result = work(&database);
        if let Err(StoreError::Unavailable(cause)) = &result {
            // It may be another one's by now: only what failed is given up. It is closed, which takes its time,
            // after the lock, by the last who works with it.
            let broken = self.database.write().take_if(|current| Arc::ptr_eq(current, &database));
            if broken.is_some() {
                tracing::error!(cause, "the store's file could not be read or written");
            }
        }
        result
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let present = self.database.read().clone();
        present.map_or_else(|| self.reopen(), Ok)
    }

    fn reopen(&self) -> Result<Arc<Database>, StoreError> {
        let broken = || StoreError::Unavailable("the file is being opened anew".into());
        // A disk that fails may be slow at that: the others do not wait.
        let mut tried = self.tried.try_lock().ok_or_else(broken)?;
        if let Some(present) = self.database.read().clone() {
            return Ok(present);
        }
        let now = self.clock.now();
        if tried.is_some_and(|tried| (tried..tried + SELDOM).contains(&now)) {
            return Err(broken());
        }
        *tried = Some(now);
        let (database, revision) = self
            .open()
            .inspect_err(|error| tracing::error!(%error, "the store's file cannot be opened anew"))?;
        // The commit that failed may have been done: watchers hear of it, and before any later one.
        self.revision.send_replace(revision);
        *self.database.write() = Some(database.clone());
        tracing::info!("the store's file is open again");
        Ok(database)
    }

    /// No tables are made here: a file that has gone must not come back as an empty store.
    fn open(&self) -> Result<(Arc<Database>, u64), StoreError> {
        let database = (self.opens)()?;
        let revision = number(&database.begin_read()?.open_table(STATE)?, "revision")?;
        Ok((Arc::new(database), revision))
    }
}

impl DiskStore {
    /// The store in the file that `opens` opens, now and after errors; made if the file is new. With a log of
    /// `log_kept` changes (`LOG_KEPT`, as a rule). Blocks.
    pub fn new(
        opens: impl Fn() -> Result<Database, DiskError> + Send + Sync + 'static,
        clock: Clock,
        log_kept: u64,
    ) -> Result<Self, StoreError> {
        let db = opens()?;
        let mut tx = db.begin_write()?;
        tx.set_quick_repair(true);
        let revision = tables::prepare(&tx, clock.now())?;
        tx.commit()?;
        let file = File {
            database: RwLock::new(Some(Arc::new(db))),
            opens: Box::new(opens),
            clock,
            tried: Mutex::new(None),
            revision: watch::channel(revision).0,
        };
        Ok(Self { file: Arc::new(file), turn: Arc::new(Semaphore::new(1)), log_kept })
    }

    async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let file = self.file.clone();
        spawn_blocking(move || file.with(|db| look(&db.begin_read()?))).await.map_err(stopped)?
    }

    /// One durable transaction; where `change` gives no new revision, nothing is written.
    async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let turn = self.turn.clone().acquire_owned().await.map_err(stopped)?;
        let (file, log_kept) = (self.file.clone(), self.log_kept);
        let done = spawn_blocking(move || {
            let result = file.with(|db| {
                let mut tx = db.begin_write()?;
                // After a crash the file opens at once, whatever its size; and what could not be flushed is not
                // taken for done when it is opened anew.
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
                    file.revision.send_replace(revision);
                }
                Ok(result)
            });
            drop(turn);
            result
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
        self.file.revision.subscribe()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.revision().await.map(|_| ())
    }
}

fn stopped(_: impl std::error::Error) -> StoreError {
    StoreError::Unavailable("the service is stopping".into())
}

impl From<DiskError> for StoreError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Damaged { .. } => Self::Damaged(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
