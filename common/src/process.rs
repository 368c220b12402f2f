//! A process from its first line to its last: runtime, TLS provider, logs, signals, exit status.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{settings::ProcessArgs, telemetry};

/// How long a health check waits for its answer.
const HEALTH: Duration = Duration::from_secs(3);
/// As shells have it for a process that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;

/// Runs `body` until it ends. The first SIGTERM or SIGINT cancels its token, the second ends the process
/// at once. 0 when all is well, 1 with a line in the log when not.
pub fn run<F>(args: &ProcessArgs, body: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    telemetry::start(args);
    exit_code(within_runtime(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        body(stop).await
    }))
}

/// Asks the services at `addresses` for their health, as `--check-health` does: 0 when all are ready.
pub fn check_health(args: &ProcessArgs, addresses: &[SocketAddr]) -> ExitCode {
    telemetry::start(args);
    exit_code(within_runtime(async {
        for address in addresses {
            let answer = timeout(HEALTH, health(*address)).await;
            answer.with_context(|| format!("{address} does not answer"))??;
        }
        Ok(())
    }))
}

fn within_runtime(body: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(body)
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first {
                tracing::info!(signal = name, "stopping; once more stops at once");
                stop.cancel();
            } else {
                std::process::exit(EXIT_INTERRUPTED);
            }
        }
    });
    Ok(())
}

async fn health(mut address: SocketAddr) -> anyhow::Result<()> {
    if address.ip().is_unspecified() {
        // All interfaces: loopback is one of them.
        address.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            [0, 0, 0, 0, 0, 0, 0, 1u16].into()
        });
    }
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await;
    let channel = channel.with_context(|| format!("cannot connect to {address}"))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        _ => bail!("{address} is not ready"),
    }
}
