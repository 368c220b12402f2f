//! The machine's limits, measured in the same run: a bare hyper client that posts the same request to
//! the same receivers, and a bare tonic service that takes the same events.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proto::v1::{PreviewDeliveryRequest, delivery_service_client::DeliveryServiceClient};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    args::{Args, Mode},
    publish::{Published, connect, publish},
    receivers::Receivers,
    tickets::Tickets,
    workloads::Workload,
};

const CONNECTIONS: usize = 64;

/// POSTs a second, of the request that the first event (or the sample) makes at the first webhook.
pub async fn posts(
    seconds: f64,
    receivers: &Receivers,
    delivery: SocketAddr,
    webhook_id: &str,
    workload: &Workload,
) -> anyhow::Result<f64> {
    let event = workload.first();
    let request = PreviewDeliveryRequest { webhook_id: webhook_id.to_owned(), event };
    let mut client = DeliveryServiceClient::new(connect(delivery).await?);
    let shown = client.preview_delivery(request).await?.into_inner().request.context("a request")?;
    let mut request = Request::post(format!("/r/0?{}", shown.url.split_once('?').unwrap_or_default().1));
    for (name, value) in &shown.headers {
        // The client writes it itself.
        if name != "content-length" {
            request = request.header(name, value);
        }
    }
    let head = Arc::new(request.header("host", receivers.address.to_string()).body(())?.into_parts().0);
    let (began, time) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(post(receivers.address, head.clone(), shown.body.clone(), began + time));
    }
    let mut posts = 0;
    while let Some(ended) = connections.join_next().await {
        posts += ended??;
    }
    Ok(posts as f64 / began.elapsed().as_secs_f64())
}

async fn post(to: SocketAddr, head: Arc<Parts>, body: Bytes, until: Instant) -> anyhow::Result<u64> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut posts = 0;
    while Instant::now() < until {
        send.ready().await?;
        let request = Request::from_parts((*head).clone(), Full::new(body.clone()));
        let mut answer = send.send_request(request).await?.into_body();
        while answer.frame().await.transpose()?.is_some() {}
        posts += 1;
    }
    drop(send);
    connection.await??;
    Ok(posts)
}

/// Events a second that a service takes which does nothing, published in the same way.
pub async fn events(args: &Args, workload: &Arc<Workload>) -> anyhow::Result<f64> {
    let empty = Receivers::start("empty").await?;
    let tickets = Tickets::new(None, u64::MAX, Duration::from_secs_f64(args.raw_seconds));
    let published = Arc::new(Published::default());
    let args = Args { publish: Mode::Streamed, ..args.clone() };
    let began = Instant::now();
    publish(&args, empty.address, workload.clone(), Arc::new(tickets), published.clone()).await?;
    Ok(published.events.load(std::sync::atomic::Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}
