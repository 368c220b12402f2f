//! How a service is served over gRPC: bind, health, reflection, readiness, and a stop that lets calls
//! end. Every service crate has the same front door, so that a binary can run one or both:
//!
//! ```text
//! pub struct Settings { pub listen: SocketAddr, pub store: settings::Store, … }
//! pub async fn start(settings: Settings, stop: CancellationToken) -> anyhow::Result<Started>
//! ```
//!
//! `start` returns once the service listens, ready or not (Redis may be away). When `stop` is
//! cancelled the service winds down by itself, and `done` says how that went.

use std::{convert::Infallible, net::SocketAddr, panic::AssertUnwindSafe, time::Duration};

use anyhow::Context;
use futures_util::FutureExt;
use tokio::{sync::watch, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::util::MapFutureLayer;

use crate::{address::Rules, settings::Store, status};

/// A request at most, in bytes; each service sets it (`max_decoding_message_size`).
pub const MAX_REQUEST: usize = 4 << 20;
/// How long calls under way may take to end once the service stops.
const DRAIN: Duration = Duration::from_secs(30);
/// Between two looks at whether a service that is ready still is, and whether one that is not is now.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often a connection without traffic is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// What a client may send ahead of being read, in bytes, per call and per connection.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);

/// A call as it is worked on.
type Call = <Routes as tower::Service<http::Request<Body>>>::Future;

/// A service that runs.
#[derive(Debug)]
pub struct Started {
    /// As bound: never port 0.
    pub address: SocketAddr,
    /// Ends once all has wound down after the stop, or with what ended it before.
    pub done: JoinHandle<anyhow::Result<()>>,
}

impl Started {
    /// Waits for the end.
    pub async fn finished(self) -> anyhow::Result<()> {
        self.done.await?
    }
}

/// The one line of a start: who listens where, on which store, and whether in development mode.
pub fn announce(service: &str, started: &Started, store: &Store, egress: &Rules) {
    tracing::info!(
        address = %started.address,
        version = env!("CARGO_PKG_VERSION"),
        %store,
        development = egress.development,
        "{service} listens"
    );
}

/// The gRPC services of one listener, without health and reflection, which every one has.
#[derive(Debug, Default)]
pub struct Services {
    routes: Routes,
    names: Vec<&'static str>,
}

impl Services {
    /// With one more: a generated server, or such in an interceptor.
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }
}

/// Serves until `stop` is cancelled: first health says NOT_SERVING, then no new call is taken, then
/// those under way end, for 30 s at most; streams that have no end of their own should watch `stop` too.
/// Health is SERVING, for "" and each service by name, while `ready` is true.
pub async fn serve(
    listen: SocketAddr,
    services: Services,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
) -> anyhow::Result<Started> {
    let incoming = TcpIncoming::bind(listen)
        .with_context(|| format!("cannot listen on {listen}"))?
        .with_nodelay(Some(true))
        .with_keepalive(Some(KEEPALIVE));
    let address = incoming.local_addr()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    let names = services.names;
    report(&reporter, &names, *ready.borrow()).await;
    let routes = services
        .routes
        .add_service(health)
        .add_service(reflection(&names).build_v1()?)
        .add_service(reflection(&names).build_v1alpha()?);

    let closing = CancellationToken::new();
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .layer(MapFutureLayer::new(surviving))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
    let done = tokio::spawn(async move {
        let mut serving = tokio::spawn(serving);
        tokio::select! {
            ended = &mut serving => return Ok(ended??),
            () = follow(address, ready, &reporter, &names, &stop) => {}
        }
        report(&reporter, &names, false).await;
        closing.cancel();
        end_watches(reporter, &names).await;
        match time::timeout(DRAIN, &mut serving).await {
            Ok(ended) => Ok(ended??),
            Err(_) => {
                tracing::warn!(%address, waited_s = DRAIN.as_secs(), "stopped with calls still under way");
                serving.abort();
                Ok(())
            }
        }
    });
    Ok(Started { address, done })
}

/// Looks every second whether a service is ready, until `stop`; more often while it is not.
pub fn ready_when<C, F>(mut check: C, stop: CancellationToken) -> watch::Receiver<bool>
where
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = bool> + Send,
{
    let (sender, receiver) = watch::channel(false);
    let watching = async move {
        loop {
            let is_ready = check().await;
            sender.send_if_modified(|was| std::mem::replace(was, is_ready) != is_ready);
            time::sleep(if is_ready { LOOK } else { LOOK_AGAIN }).await;
        }
    };
    tokio::spawn(async move { stop.run_until_cancelled_owned(watching).await });
    receiver
}

/// Tells health what `ready` says, until `stop`.
async fn follow(
    address: SocketAddr,
    mut ready: watch::Receiver<bool>,
    reporter: &HealthReporter,
    names: &[&'static str],
    stop: &CancellationToken,
) {
    let following = async {
        loop {
            let is_ready = *ready.borrow_and_update();
            tracing::info!(%address, "{}", if is_ready { "ready" } else { "not ready" });
            report(reporter, names, is_ready).await;
            if ready.changed().await.is_err() {
                // Nobody looks any more: what was last seen stands.
                std::future::pending::<()>().await;
            }
        }
    };
    stop.run_until_cancelled(following).await;
}

async fn report(reporter: &HealthReporter, names: &[&'static str], ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in [""].iter().chain(names) {
        reporter.set_service_status(name, status).await;
    }
}

/// Those who watch health would hold their connections open for ever.
async fn end_watches(mut reporter: HealthReporter, names: &[&'static str]) {
    for name in [""].iter().chain(names) {
        reporter.clear_service_status(name).await;
    }
}

/// With the details that errors carry, so that a tool can show them.
fn reflection(names: &[&'static str]) -> tonic_reflection::server::Builder<'static> {
    let contract = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    names.iter().fold(contract, |builder, name| builder.with_service_name(*name))
}

/// A call that panics is INTERNAL; the others on its connection do not notice.
async fn surviving(call: Call) -> Result<http::Response<Body>, Infallible> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a call panicked");
        Ok(status::internal("a fault of the service; it is in its log").into_http())
    })
}

#[cfg(test)]
mod tests;
