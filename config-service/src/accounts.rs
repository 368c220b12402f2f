//! AccountService: what an account's webhooks share, its secret key. An account is made by the first
//! call that names its license code.

use std::sync::Arc;

use common::{clock::Clock, status::Violations};
use proto::v1::{Account, GetAccountRequest, RotateSecretKeyRequest, account_service_server::AccountService};
use tonic::{Request, Response, Status};

use crate::{
    store::{self, Store},
    unavailable, validate,
};

/// Serves accounts from a store.
pub struct Accounts {
    store: Arc<dyn Store>,
    clock: Clock,
}

impl Accounts {
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self { store, clock }
    }
}

#[tonic::async_trait]
impl AccountService for Accounts {
    async fn get_account(&self, request: Request<GetAccountRequest>) -> Result<Response<Account>, Status> {
        let code = checked(&request.get_ref().license_code)?;
        let account = self.store.account(code, &fresh_key(), self.clock.now()).await.map_err(unavailable)?;
        Ok(Response::new(present(account)))
    }

    async fn rotate_secret_key(
        &self,
        request: Request<RotateSecretKeyRequest>,
    ) -> Result<Response<Account>, Status> {
        let code = checked(&request.get_ref().license_code)?;
        let now = self.clock.now();
        let account = self.store.rotate_account_key(code, &fresh_key(), now).await.map_err(unavailable)?;
        tracing::info!(account = code, "an account has a new secret key");
        Ok(Response::new(present(account)))
    }
}

/// A new account secret key: 128 random bits as 32 lower-case hex digits.
pub fn fresh_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn checked(license_code: &str) -> Result<&str, Status> {
    let mut found = Violations::default();
    validate::license_code(license_code, "license_code", &mut found);
    found.check()?;
    Ok(license_code)
}

fn present(account: store::Account) -> Account {
    Account {
        license_code: account.license_code,
        secret_key: account.secret_key,
        create_time: Some(account.create_time.into()),
    }
}
