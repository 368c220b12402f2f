//! The machine's limits, measured in the same run: a bare hyper client that posts the same request to
//! the same receivers, a bare tonic service that takes the same events, or stores them and no more, and a bare
//! Redis stream.

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
    measure,
    pair::{Pair, Where},
    publish::{Published, connect, publish},
    receivers::Receivers,
    report::{Latency, latencies},
    tickets::Tickets,
    workloads::Workload,
};

const CONNECTIONS: usize = 64;
/// Entries of a stream in one pipeline, and their bytes: about as many as a body has.
const PIPELINE: usize = 128;
const ENTRY: usize = 1_024;

/// What the machine does now. It is asked before and after a workload, for it may be another from minute to minute.
pub struct Limits {
    pub posts_per_second: f64,
    /// CPU of the client and the receiver for a POST, µs.
    pub post_us: Option<f64>,
    /// CPU of Redis for an entry of a stream, µs.
    pub stream_us: Option<f64>,
}

/// Asks for so long.
pub async fn limits(
    seconds: f64,
    pair: &Pair,
    receivers: &Receivers,
    webhook_id: &str,
    workload: &Workload,
) -> anyhow::Result<Limits> {
    receivers.reset(0, 1).await?;
    let cpu = || {
        let both = [("receiver", receivers.pid), ("generator", std::process::id())].map(measure::process);
        both.into_iter().map(|process| Some(process?.cpu_seconds)).sum::<Option<f64>>()
    };
    let (before, seconds) = (cpu(), seconds / 2.0);
    let posts_per_second = posts(seconds, receivers, pair.delivery, webhook_id, workload).await?;
    let each = 1e6 / (posts_per_second * seconds).max(1.0);
    let post_us = before.zip(cpu()).map(|(before, after)| (after - before) * each);
    Ok(Limits { posts_per_second, post_us, stream_us: streams(seconds, pair).await? })
}

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

/// What a service that does nothing takes of the same events, published in the same way: so many a second, answered
/// so soon.
pub async fn events(args: &Args, workload: &Arc<Workload>) -> anyhow::Result<(f64, Latency)> {
    asked(args, workload, &["empty"]).await
}

/// How soon a service answers single events at a rate that does nothing but add them to a Redis stream: what an answer
/// takes beyond that is what the pair does.
pub async fn stored(args: &Args, pair: &Pair, workload: &Arc<Workload>) -> anyhow::Result<Option<Latency>> {
    let Where::Redis { url, connection } = &pair.store else { return Ok(None) };
    if args.publish != Mode::Unary || args.rate.is_none() {
        return Ok(None);
    }
    let key = format!("load-{}-stored", std::process::id());
    let answered = asked(args, workload, &["empty", url, &key]).await;
    redis::cmd("DEL").arg(key).query_async::<()>(&mut connection.clone()).await?;
    Ok(Some(answered?.1))
}

/// Publishes to a service that is started in this role.
async fn asked(args: &Args, workload: &Arc<Workload>, role: &[&str]) -> anyhow::Result<(f64, Latency)> {
    let empty = Receivers::start(role).await?;
    let tickets = Tickets::new(args.rate, u64::MAX, Duration::from_secs_f64(args.raw_seconds));
    let published = Arc::new(Published::default());
    let began = Instant::now();
    let answered =
        publish(args, empty.address, workload.clone(), Arc::new(tickets), published.clone()).await?;
    let count = published.events.load(std::sync::atomic::Ordering::Relaxed);
    Ok((count as f64 / began.elapsed().as_secs_f64(), latencies(&answered)))
}

/// µs of Redis' CPU for a body that goes through a stream: added, read by a group, acknowledged and deleted, many in
/// a pipeline. None without a Redis whose process can be looked at.
async fn streams(seconds: f64, pair: &Pair) -> anyhow::Result<Option<f64>> {
    let cpu = || pair.cpu_seconds("redis");
    let (Some(before), Where::Redis { connection, .. }) = (cpu(), &pair.store) else { return Ok(None) };
    // Of this run alone: one that was stopped may have left its own in a Redis that was given.
    let key = format!("load-{}-stream", std::process::id());
    let (mut connection, key, body) = (connection.clone(), key.as_str(), vec![b'x'; ENTRY]);
    let mut make = redis::cmd("XGROUP");
    make.arg("CREATE").arg(key).arg("all").arg("$").arg("MKSTREAM");
    make.query_async::<()>(&mut connection).await?;
    let (began, time) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut count = 0;
    while began.elapsed() < time {
        let mut adds = redis::pipe();
        for _ in 0..PIPELINE {
            adds.cmd("XADD").arg(key).arg("*").arg("body").arg(&body);
        }
        let ids: Vec<String> = adds.query_async(&mut connection).await?;
        let mut read = redis::pipe();
        read.cmd("XREADGROUP").arg("GROUP").arg("all").arg("one").arg("COUNT").arg(PIPELINE);
        read.arg("STREAMS").arg(key).arg(">").ignore();
        read.query_async::<()>(&mut connection).await?;
        let mut ends = redis::pipe();
        ends.cmd("XACK").arg(key).arg("all").arg(&ids).cmd("XDEL").arg(key).arg(&ids);
        let ended: (usize, usize) = ends.query_async(&mut connection).await?;
        anyhow::ensure!(ended == (PIPELINE, PIPELINE), "a stream lost entries: {ended:?}");
        count += PIPELINE;
    }
    redis::cmd("DEL").arg(key).query_async::<()>(&mut connection).await?;
    Ok(cpu().map(|after| (after - before) / count.max(1) as f64 * 1e6))
}
