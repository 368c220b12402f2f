//! A service on a free port, as its callers see it.

use proto::v1::{
    ListSystemEventsRequest, ListSystemEventsResponse,
    event_catalog_service_client::EventCatalogServiceClient,
    event_catalog_service_server::{EventCatalogService, EventCatalogServiceServer},
};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

use super::*;

struct Panics;

#[tonic::async_trait]
impl EventCatalogService for Panics {
    async fn list_system_events(
        &self,
        _: Request<ListSystemEventsRequest>,
    ) -> Result<Response<ListSystemEventsResponse>, Status> {
        panic!("as tests do")
    }
}

async fn started(ready: watch::Receiver<bool>) -> (Started, Channel, CancellationToken) {
    let stop = CancellationToken::new();
    let services = Services::default().with(EventCatalogServiceServer::new(Panics));
    let started = serve("127.0.0.1:0".parse().unwrap(), services, ready, stop.clone()).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", started.address)).unwrap().connect_lazy();
    (started, channel, stop)
}

#[tokio::test]
async fn health_follows_readiness_and_a_stop_ends_what_watches_it() {
    let (set_ready, ready) = watch::channel(false);
    let (started, channel, stop) = started(ready).await;
    let mut health = HealthClient::new(channel);
    for service in ["", "hookline.v1.EventCatalogService"] {
        let request = HealthCheckRequest { service: service.into() };
        let mut statuses = health.watch(request).await.unwrap().into_inner();
        assert_eq!(statuses.next().await.unwrap().unwrap().status, 2, "NOT_SERVING");
        set_ready.send(true).unwrap();
        assert_eq!(statuses.next().await.unwrap().unwrap().status, 1, "SERVING");
        set_ready.send(false).unwrap();
        assert_eq!(statuses.next().await.unwrap().unwrap().status, 2, "NOT_SERVING");
    }
    let request = HealthCheckRequest { service: String::new() };
    let mut statuses = health.watch(request).await.unwrap().into_inner();
    stop.cancel();
    started.finished().await.unwrap();
    while let Some(Ok(status)) = statuses.next().await {
        assert_eq!(status.status, 2, "NOT_SERVING");
    }
}

#[tokio::test]
async fn a_call_that_panics_is_internal_and_the_next_is_taken() {
    let (_ready, ready) = watch::channel(true);
    let (_started, channel, _stop) = started(ready).await;
    let mut catalog = EventCatalogServiceClient::new(channel);
    for _ in 0..2 {
        let status = catalog.list_system_events(ListSystemEventsRequest {}).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "a fault of the service; it is in its log")
        );
    }
}

#[tokio::test]
async fn reflection_lists_and_describes_what_is_served_in_both_versions() {
    let (_ready, ready) = watch::channel(true);
    let (_started, channel, _stop) = started(ready).await;
    let served = ["grpc.health.v1.Health", "hookline.v1.EventCatalogService"];

    use v1::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    let ask = |message| v1::ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("hookline.v1.EventCatalogService".into())),
        ask(MessageRequest::FileContainingSymbol("grpc.health.v1.Health".into())),
        ask(MessageRequest::FileByFilename("google/protobuf/struct.proto".into())),
    ];
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().message_response.unwrap()).collect().await;
    let MessageResponse::ListServicesResponse(list) = &answers[0] else { panic!("{answers:?}") };
    let mut names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, served);
    assert!(answers[1..].iter().all(|answer| matches!(answer, MessageResponse::FileDescriptorResponse(_))));
    assert_eq!(answers.len(), 4);

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    assert!(answers.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn readiness_is_looked_at_until_the_stop() {
    let stop = CancellationToken::new();
    let mut ready = ready_when(|| async { true }, stop.clone());
    assert!(*ready.wait_for(|ready| *ready).await.unwrap());
    stop.cancel();
    assert!(ready.wait_for(|ready| !ready).await.is_err(), "nobody looks any more");
}
