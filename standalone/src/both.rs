//! Both services in one process, joined over loopback gRPC as they are in production.

use std::net::SocketAddr;

use common::{metrics, service::Started};
use tokio_util::sync::CancellationToken;

use crate::{settings::Settings, tour::reachable};

/// Both, running.
pub struct Both {
    pub config: SocketAddr,
    pub delivery: SocketAddr,
    services: [Started; 2],
    stop: CancellationToken,
}

impl Both {
    pub async fn start(settings: Settings, stop: CancellationToken) -> anyhow::Result<Self> {
        let Settings { config, mut delivery, metrics_listen } = settings;
        let (configs, deliveries) =
            (config_service::Metrics::default(), delivery_service::Metrics::default());
        metrics::serve(metrics_listen, |registry| {
            configs.register(registry);
            deliveries.register(registry);
        })
        .await?;
        let config = config_service::start(config, configs, stop.clone()).await?;
        delivery.config_url = format!("http://{}", reachable(config.address));
        let delivery = delivery_service::start(delivery, deliveries, stop.clone()).await?;
        Ok(Self { config: config.address, delivery: delivery.address, services: [config, delivery], stop })
    }

    /// Waits for both to end. When one ends by itself the other is stopped too.
    pub async fn finished(self) -> anyhow::Result<()> {
        let end = async |service: Started| {
            let ended = service.finished().await;
            self.stop.cancel();
            ended
        };
        let [config, delivery] = self.services;
        let (config, delivery) = tokio::join!(end(config), end(delivery));
        config.and(delivery)
    }
}
