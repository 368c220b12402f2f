//! Owns webhooks and accounts, and feeds their routes to delivery-service.
//!
//! `start` opens the store (Redis may come later), binds, and serves until told to stop; whether it is
//! ready follows the store. The binary `config-service` and `hookline` run it.

pub mod accounts;
pub mod catalog;
pub mod mask;
pub mod metrics;
pub mod routes;
pub mod store;
pub mod validate;
pub mod webhooks;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use common::{
    address::Rules,
    clock::Clock,
    disk, redis,
    service::{self, MAX_REQUEST, Services, Started},
    settings::{self, Secret},
    status,
};
use proto::v1::{
    account_service_server::AccountServiceServer, event_catalog_service_server::EventCatalogServiceServer,
    route_service_server::RouteServiceServer, webhook_service_server::WebhookServiceServer,
};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use metrics::Metrics;

use crate::{
    accounts::Accounts,
    catalog::Catalog,
    routes::Routes,
    store::{LOG_KEPT, Store, StoreError, counted::Counted, disk::DiskStore, redis::RedisStore},
    webhooks::Webhooks,
};

/// What the service is told, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; port 0 takes any free one.
    pub listen: SocketAddr,
    pub store: settings::Store,
    /// What callers of RouteService show; none: it is open, which settings allow on loopback alone.
    pub route_token: Option<Secret>,
    /// Where webhooks may post to.
    pub egress: Rules,
}

/// Serves until `stop` is cancelled.
pub async fn start(settings: Settings, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<Started> {
    let clock = Clock::System;
    let store = open(&settings.store, &clock).await?;
    let store: Arc<dyn Store> = Arc::new(Counted::new(store, metrics.clone()));
    let rules = Arc::new(settings.egress);
    let webhooks = Webhooks::new(store.clone(), rules.clone(), clock.clone());
    let accounts = Accounts::new(store.clone(), clock.clone());
    let routes = Routes::new(store.clone(), clock, settings.route_token, metrics.watchers, stop.clone());
    let services = Services::default()
        .with(WebhookServiceServer::new(webhooks).max_decoding_message_size(MAX_REQUEST))
        .with(AccountServiceServer::new(accounts).max_decoding_message_size(MAX_REQUEST))
        .with(EventCatalogServiceServer::new(Catalog).max_decoding_message_size(MAX_REQUEST))
        .with(RouteServiceServer::new(routes).max_decoding_message_size(MAX_REQUEST));
    let ready = service::ready_when(
        move || {
            let store = store.clone();
            async move { store.ping().await.is_ok() }
        },
        stop.clone(),
    );
    let serving = service::serve(settings.listen, services, ready, stop).await?;
    service::announce("config-service", &serving, &settings.store, &rules);
    let address = serving.address;
    let done = tokio::spawn(async move {
        let ended = serving.finished().await;
        tracing::info!("config-service stopped");
        ended
    });
    Ok(Started { address, done })
}

async fn open(store: &settings::Store, clock: &Clock) -> anyhow::Result<Arc<dyn Store>> {
    match store {
        settings::Store::Disk(folder) => {
            let (folder, clock) = (folder.join("config-service"), clock.clone());
            let opens = move || disk::open(&folder, "webhooks.redb");
            let opened = spawn_blocking(move || DiskStore::new(opens, clock, LOG_KEPT));
            Ok(Arc::new(opened.await?.context("cannot open the embedded store")?))
        }
        settings::Store::Redis(at) => {
            let connection = redis::connect(&at.address, at.ca.as_deref()).context("cannot use Redis")?;
            match redis::check_setup(&connection, false).await {
                Err(error) if redis::is_too_old(&error) => return Err(error).context("cannot use Redis"),
                Err(_) => drop(tokio::spawn(check_later(connection.clone()))),
                Ok(()) => {}
            }
            Ok(Arc::new(RedisStore::new(connection, &at.prefix, LOG_KEPT)))
        }
    }
}

/// A Redis that is away at the start is looked at when it comes.
async fn check_later(connection: redis::Connection) {
    while let Err(error) = redis::check_setup(&connection, false).await {
        if redis::is_too_old(&error) {
            return tracing::error!(%error, "this Redis cannot be used");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What a caller hears of a store that fails; the cause is in the log.
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
