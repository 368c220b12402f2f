//! Owns webhooks and accounts, and feeds their routes to delivery-service.

pub mod accounts;
pub mod catalog;
pub mod mask;
pub mod store;
pub mod validate;
pub mod webhooks;

use std::time::Duration;

use common::status;
use tonic::Status;

use crate::store::StoreError;

/// What a caller hears of a store that fails.
fn unavailable(error: StoreError) -> Status {
    match error {
        StoreError::Unavailable(cause) => {
            tracing::warn!(cause, "a request could not be answered: the store is unavailable");
            status::unavailable("STORE_UNAVAILABLE", "the store is unavailable", Duration::from_secs(1))
        }
        StoreError::Damaged(cause) => {
            tracing::error!(cause, "a request could not be answered: the store is damaged");
            status::internal("the store holds something that this version cannot read")
        }
    }
}
