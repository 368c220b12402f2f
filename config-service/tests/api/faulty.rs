//! A store that fails: each call, by chance, is refused, is slow, or is performed and then said to have
//! failed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use common::{clock::Time, ids::WebhookId};
use config_service::store::{
    Account, Changes, Created, Deleted, Record, Request, Store, StoreError, Updated,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::watch;

pub struct Faulty {
    inner: Arc<dyn Store>,
    chance: Mutex<StdRng>,
    /// Of 100 calls, so many go wrong in each way.
    percent: u32,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Store>, seed: u64, percent: u32) -> Self {
        Self { inner, chance: Mutex::new(StdRng::seed_from_u64(seed)), percent }
    }

    /// The call, and what becomes of it.
    async fn by_chance<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let roll = self.chance.lock().unwrap().random_range(0..100);
        let away = || Err(StoreError::Unavailable("injected".into()));
        match roll / self.percent.max(1) {
            0 => away(),
            1 => call.await.and_then(|_| away()),
            // Before it is performed, or before its answer arrives: others come in between.
            2 => {
                slow().await;
                call.await
            }
            3 => {
                let answer = call.await;
                slow().await;
                answer
            }
            _ => call.await,
        }
    }
}

async fn slow() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

#[async_trait]
impl Store for Faulty {
    async fn create(&self, record: Record, request: Option<Request>) -> Result<Created, StoreError> {
        self.by_chance(self.inner.create(record, request)).await
    }

    async fn get_many(&self, ids: &[WebhookId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.by_chance(self.inner.get_many(ids)).await
    }

    async fn list(
        &self,
        license_code: &str,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.by_chance(self.inner.list(license_code, after, limit)).await
    }

    async fn update(&self, record: Record, expected_revision: u64) -> Result<Updated, StoreError> {
        self.by_chance(self.inner.update(record, expected_revision)).await
    }

    async fn delete(&self, id: WebhookId, expected_revision: Option<u64>) -> Result<Deleted, StoreError> {
        self.by_chance(self.inner.delete(id, expected_revision)).await
    }

    async fn account(&self, license_code: &str, fresh_key: &str, now: Time) -> Result<Account, StoreError> {
        self.by_chance(self.inner.account(license_code, fresh_key, now)).await
    }

    async fn accounts(&self, license_codes: &[String]) -> Result<Vec<Option<Account>>, StoreError> {
        self.by_chance(self.inner.accounts(license_codes)).await
    }

    async fn rotate_account_key(
        &self,
        license_code: &str,
        fresh_key: &str,
        now: Time,
    ) -> Result<Account, StoreError> {
        self.by_chance(self.inner.rotate_account_key(license_code, fresh_key, now)).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.by_chance(self.inner.revision()).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes, StoreError> {
        self.by_chance(self.inner.changes(after, limit)).await
    }

    async fn scan(&self, after: Option<WebhookId>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.by_chance(self.inner.scan(after, limit)).await
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.by_chance(self.inner.ping()).await
    }
}
