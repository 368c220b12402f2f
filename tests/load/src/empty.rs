//! A service that answers every event and does nothing, or only adds it to a Redis stream first: what `miss`, and
//! answers at a rate, are measured by.

use std::{net::SocketAddr, pin::Pin};

use futures_util::{Stream, StreamExt};
use prost::Message;
use proto::v1::{
    PublishEventRequest, PublishEventResponse, PublishEventsRequest, PublishEventsResponse, PublishResult,
    StreamEventsRequest, StreamEventsResponse,
    event_service_server::{EventService, EventServiceServer},
    publish_result::Outcome,
};
use redis::aio::MultiplexedConnection;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use crate::receiver;

struct Empty {
    stream: Option<(MultiplexedConnection, String)>,
}

/// Serves until its standard input ends; prints its address. `stream`: a Redis, and the key of the stream.
pub async fn run(stream: Option<(String, String)>) -> anyhow::Result<()> {
    let stream = match stream {
        Some((url, key)) => Some((redis::Client::open(url)?.get_multiplexed_async_connection().await?, key)),
        None => None,
    };
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.with_nodelay(Some(true));
    println!("{}", incoming.local_addr()?);
    let mut lines = receiver::lines();
    let ends = async { while lines.recv().await.is_some() {} };
    Server::builder()
        .add_service(EventServiceServer::new(Empty { stream }))
        .serve_with_incoming_shutdown(incoming, ends)
        .await?;
    Ok(())
}

fn answer() -> PublishResult {
    PublishResult { outcome: Some(Outcome::Accepted(PublishEventResponse::default())) }
}

#[tonic::async_trait]
impl EventService for Empty {
    async fn publish_event(
        &self,
        request: Request<PublishEventRequest>,
    ) -> Result<Response<PublishEventResponse>, Status> {
        if let Some((connection, key)) = &self.stream {
            let mut add = redis::cmd("XADD");
            add.arg(key).arg("*").arg("event").arg(request.get_ref().encode_to_vec());
            let added: redis::RedisResult<String> = add.query_async(&mut connection.clone()).await;
            added.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        Ok(Response::new(PublishEventResponse::default()))
    }

    async fn publish_events(
        &self,
        request: Request<PublishEventsRequest>,
    ) -> Result<Response<PublishEventsResponse>, Status> {
        let results = request.get_ref().events.iter().map(|_| answer()).collect();
        Ok(Response::new(PublishEventsResponse { results }))
    }

    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<StreamEventsResponse, Status>> + Send>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let answers = request.into_inner().enumerate().map(|(n, event)| {
            event.map(|_| StreamEventsResponse { sequence: n as u64 + 1, result: Some(answer()) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
