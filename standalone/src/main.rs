//! `hookline`: both services in one process, for a laptop, a demo, a small server.

mod both;
mod demo;
mod settings;
mod tour;

use std::process::ExitCode;

use common::{process, settings as flags};
use tokio_util::sync::CancellationToken;

use crate::{
    both::Both,
    settings::{Cli, Settings},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut cli: Cli = flags::read();
    if cli.process.check_health {
        return process::check_health(&cli.process, &cli.addresses());
    }
    let settings = cli.check().unwrap_or_else(|problems| problems.exit());
    if cli.demo {
        cli.quieten();
        process::run(&cli.process, |stop| show(settings, cli.has_data_dir(), stop))
    } else {
        process::run(&cli.process, |stop| serve(settings, stop))
    }
}

/// Serves until told to stop.
async fn serve(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let development = settings.config.egress.development;
    let both = Both::start(settings, stop).await?;
    tour::print(both.config, both.delivery, development)?;
    both.finished().await
}

/// Runs the demo, on a folder that goes with it unless one was named.
async fn show(mut settings: Settings, keeps_data: bool, stop: CancellationToken) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    if !keeps_data {
        let store = flags::Store::Disk(folder.path().to_owned());
        settings.config.store = store.clone();
        settings.delivery.store = store;
    }
    let both = Both::start(settings, stop.clone()).await?;
    let mut out = std::io::stdout();
    let shown = stop.run_until_cancelled(demo::run(both.config, both.delivery, &mut out)).await;
    stop.cancel();
    both.finished().await?;
    shown.unwrap_or_else(|| Err(anyhow::anyhow!("stopped")))
}
