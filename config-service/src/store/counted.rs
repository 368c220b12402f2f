//! A store that counts what it writes and what fails.

use std::sync::Arc;

use async_trait::async_trait;
use common::{clock::Time, ids::WebhookId};
use tokio::sync::watch;

use super::{Account, Changes, Created, Deleted, Record, Request, Store, StoreError, Updated};
use crate::metrics::{Metrics, Write};

pub struct Counted {
    inner: Arc<dyn Store>,
    metrics: Metrics,
}

impl Counted {
    pub fn new(inner: Arc<dyn Store>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    fn check<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            self.metrics.store_errors.inc();
        }
        result
    }

    fn wrote<T>(
        &self,
        write: Write,
        result: Result<T, StoreError>,
        done: impl FnOnce(&T) -> bool,
    ) -> Result<T, StoreError> {
        let result = self.check(result);
        self.metrics.writes.add(write as usize, result.as_ref().is_ok_and(done).into());
        result
    }
}

#[async_trait]
impl Store for Counted {
    async fn create(&self, record: Record, request: Option<Request>) -> Result<Created, StoreError> {
        let result = self.inner.create(record, request).await;
        self.wrote(Write::Created, result, |created| matches!(created, Created::New(_)))
    }

    async fn get_many(&self, ids: &[WebhookId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.check(self.inner.get_many(ids).await)
    }

    async fn list(
        &self,
        license_code: &str,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.check(self.inner.list(license_code, after, limit).await)
    }

    async fn update(&self, record: Record, expected_revision: u64) -> Result<Updated, StoreError> {
        let result = self.inner.update(record, expected_revision).await;
        self.wrote(Write::Updated, result, |updated| matches!(updated, Updated::Done(_)))
    }

    async fn delete(&self, id: WebhookId, expected_revision: Option<u64>) -> Result<Deleted, StoreError> {
        let result = self.inner.delete(id, expected_revision).await;
        self.wrote(Write::Deleted, result, |deleted| *deleted == Deleted::Done)
    }

    async fn account(&self, license_code: &str, fresh_key: &str, now: Time) -> Result<Account, StoreError> {
        self.check(self.inner.account(license_code, fresh_key, now).await)
    }

    async fn accounts(&self, license_codes: &[String]) -> Result<Vec<Option<Account>>, StoreError> {
        self.check(self.inner.accounts(license_codes).await)
    }

    async fn rotate_account_key(
        &self,
        license_code: &str,
        fresh_key: &str,
        now: Time,
    ) -> Result<Account, StoreError> {
        let result = self.inner.rotate_account_key(license_code, fresh_key, now).await;
        self.wrote(Write::KeyRotated, result, |_| true)
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.check(self.inner.revision().await)
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes, StoreError> {
        self.check(self.inner.changes(after, limit).await)
    }

    async fn scan(&self, after: Option<WebhookId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.check(self.inner.scan(after, limit).await)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check(self.inner.ping().await)
    }
}
