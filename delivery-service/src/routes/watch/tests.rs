//! The feed as config-service may send it: whole, broken, silent, out of range. Against a RouteService
//! on a real socket whose every answer the test gives itself.

use std::net::SocketAddr;

use proto::v1::{
    self, DisableWebhookRequest, DisableWebhookResponse,
    route_service_server::{RouteService, RouteServiceServer},
    watch_routes_response::Synced,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc::UnboundedSender, oneshot},
};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{
    Request, Response,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::*;
use crate::routes::disable::Disabling;

type Answer = Result<WatchRoutesResponse, Status>;
type Disable = (DisableWebhookRequest, oneshot::Sender<Result<bool, Status>>);

/// A WatchRoutes call that has come in.
struct Call {
    after_revision: u64,
    authorization: Option<String>,
    answers: UnboundedSender<Answer>,
}

/// config-service, played by the test.
struct Config {
    address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Call>,
    disables: mpsc::UnboundedReceiver<Disable>,
}

struct Played {
    calls: UnboundedSender<Call>,
    disables: UnboundedSender<Disable>,
}

#[tonic::async_trait]
impl RouteService for Played {
    type WatchRoutesStream = UnboundedReceiverStream<Answer>;

    async fn watch_routes(
        &self,
        request: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let (answers, receiver) = mpsc::unbounded_channel();
        let authorization = request.metadata().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        let after_revision = request.into_inner().after_revision;
        self.calls.send(Call { after_revision, authorization, answers }).unwrap();
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }

    async fn disable_webhook(
        &self,
        request: Request<DisableWebhookRequest>,
    ) -> Result<Response<DisableWebhookResponse>, Status> {
        let (answer, answered) = oneshot::channel();
        self.disables.send((request.into_inner(), answer)).unwrap();
        let disabled = answered.await.unwrap()?;
        Ok(Response::new(DisableWebhookResponse { disabled }))
    }
}

impl Config {
    async fn start() -> Self {
        Self::serve(Server::builder()).await
    }

    async fn serve(mut server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, called) = mpsc::unbounded_channel();
        let (disables, disabled) = mpsc::unbounded_channel();
        let service = RouteServiceServer::new(Played { calls, disables });
        let serving = server.add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, calls: called, disables: disabled }
    }

    fn upstream(&self) -> Upstream {
        Upstream::new(&format!("http://{}", self.address), Some("t0ken"), None).unwrap()
    }

    async fn call(&mut self) -> Call {
        soon(self.calls.recv()).await.unwrap()
    }
}

impl Call {
    fn send(&self, revision: u64, change: Sent) {
        self.answers.send(Ok(WatchRoutesResponse { revision, change: Some(change) })).unwrap();
    }

    fn put(&self, revision: u64, number: u64) {
        self.send(revision, Sent::Put(route(number)));
    }

    fn delete(&self, revision: u64, number: u64) {
        self.send(revision, Sent::DeletedWebhookId(id(number).to_string()));
    }

    fn synced(&self, revision: u64) {
        self.send(revision, Sent::Synced(Synced {}));
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("nothing happened")
}

fn id(number: u64) -> WebhookId {
    WebhookId::new(1_800_000_000_000, number.into())
}

fn route(number: u64) -> v1::Route {
    let webhook = v1::Webhook {
        id: id(number).to_string(),
        license_code: "a".into(),
        r#type: v1::WebhookType::Journey as i32,
        post_url: "https://example.com/".into(),
        ..v1::Webhook::default()
    };
    let key = v1::SigningKey { secret: "whsec_AAECAw==".into(), expire_time: None };
    v1::Route { webhook: Some(webhook), signing_keys: vec![key], account_secret_key: "key".into() }
}

fn follow(config: &Config) -> (Arc<Table>, mpsc::Receiver<Change>) {
    let table = Arc::new(Table::default());
    let changes = start(config.upstream(), Arc::clone(&table), CancellationToken::new());
    (table, changes)
}

/// Following, with routes 1 and 2 at revision 5, and the stream that sent them.
async fn in_step(config: &mut Config) -> (Arc<Table>, mpsc::Receiver<Change>, Call) {
    let (table, mut changes) = follow(config);
    let call = config.call().await;
    assert_eq!(call.after_revision, 0);
    call.put(5, 2);
    call.put(3, 1);
    call.synced(5);
    assert_eq!(soon(changes.recv()).await, Some(Change::Synced));
    (table, changes, call)
}

#[tokio::test]
async fn a_start_is_seen_when_it_is_whole_and_then_every_change() {
    let mut config = Config::start().await;
    let (table, mut changes) = follow(&config);
    let call = config.call().await;
    assert_eq!(call.authorization.as_deref(), Some("Bearer t0ken"));
    call.put(1, 1);
    drop(call);
    let call = config.call().await;
    assert_eq!(call.after_revision, 0, "a start that broke begins anew");
    assert!(!table.synced() && table.is_empty());
    call.put(4, 2);
    call.synced(4);
    assert_eq!(soon(changes.recv()).await, Some(Change::Synced));
    assert!(table.synced());
    assert_eq!(table.ids(), [id(2)], "and what it had sent does not count");
    call.put(5, 3);
    assert_eq!(soon(changes.recv()).await, Some(Change::Put(id(3))));
    assert_eq!(table.route(id(3)).unwrap().revision, 5);
    call.synced(5);
    call.delete(6, 2);
    assert_eq!(soon(changes.recv()).await, Some(Change::Deleted(id(2))));
    assert!(table.is_deleted(id(2)) && table.route(id(2)).is_none());
}

#[tokio::test]
async fn a_broken_stream_is_resumed_and_the_routes_are_kept_meanwhile() {
    let mut config = Config::start().await;
    let (table, mut changes, call) = in_step(&mut config).await;
    call.put(6, 3);
    call.answers.send(Err(Status::unavailable("restarting"))).unwrap();
    let call = config.call().await;
    assert_eq!(call.after_revision, 6);
    assert!(table.synced() && table.len() == 3);
    assert_eq!(soon(changes.recv()).await, Some(Change::Put(id(3))));
    // Within a resumption they come in no order, and more than once.
    call.put(9, 1);
    call.put(7, 1);
    call.delete(8, 2);
    assert_eq!(soon(changes.recv()).await, Some(Change::Put(id(1))));
    assert_eq!(soon(changes.recv()).await, Some(Change::Deleted(id(2))));
    assert_eq!(table.route(id(1)).unwrap().revision, 9);
    drop(call);
    let call = config.call().await;
    assert_eq!(call.after_revision, 6, "what came before `synced` may have gaps");
    call.synced(9);
    drop(call);
    assert_eq!(config.call().await.after_revision, 9);
    assert_eq!(changes.try_recv(), Err(mpsc::error::TryRecvError::Empty), "no sign of life is a change");
}

#[tokio::test]
async fn out_of_range_starts_anew_and_cancels_nothing() {
    let mut config = Config::start().await;
    let (table, mut changes, call) = in_step(&mut config).await;
    drop(call);
    let call = config.call().await;
    assert_eq!(call.after_revision, 5);
    call.answers.send(Err(Status::out_of_range("never heard of"))).unwrap();
    let call = config.call().await;
    assert_eq!((call.after_revision, table.len()), (0, 2));
    call.put(2, 1);
    call.put(1, 3);
    call.synced(2);
    assert_eq!(soon(changes.recv()).await, Some(Change::Synced));
    assert_eq!(table.route(id(1)).unwrap().revision, 2, "whatever the revisions");
    assert!(table.route(id(2)).is_none() && !table.is_deleted(id(2)));
    drop(call);
    assert_eq!(config.call().await.after_revision, 2);
}

#[tokio::test]
async fn a_silent_stream_is_given_up() {
    let mut config = Config::start().await;
    let table = Arc::new(Table::default());
    let (mut watch, _changes) = Watch::new(config.upstream(), Arc::clone(&table));
    watch.silence = Duration::from_millis(200);
    let following = tokio::spawn(async move { watch.follow().await });
    let call = config.call().await;
    call.put(4, 1);
    call.synced(4);
    assert_eq!(config.call().await.after_revision, 4);
    assert_eq!(table.len(), 1);
    following.abort();
}

#[tokio::test]
async fn a_webhook_that_cannot_be_understood_is_held_and_the_others_go_on() {
    let mut config = Config::start().await;
    let (table, mut changes, call) = in_step(&mut config).await;
    let mut strange = route(1);
    strange.webhook.as_mut().unwrap().r#type = 99;
    call.send(6, Sent::Put(strange));
    call.put(7, 3);
    assert_eq!(soon(changes.recv()).await, Some(Change::Put(id(1))));
    assert_eq!(soon(changes.recv()).await, Some(Change::Put(id(3))));
    assert!(table.route(id(1)).is_none() && !table.is_deleted(id(1)));
    call.send(8, Sent::RevokedTokenId("t1".into()));
    call.put(9, 1);
    assert_eq!(soon(changes.recv()).await, Some(Change::Put(id(1))));
    assert!(table.route(id(1)).is_some());
}

#[tokio::test]
async fn an_engine_that_does_not_listen_is_told_to_look_at_everything() {
    let mut config = Config::start().await;
    let (table, mut changes, call) = in_step(&mut config).await;
    let last = 100 + TOLD as u64 + 50;
    (100..=last).for_each(|number| call.put(number, number));
    // A stream resumed after the last says that all of them have been applied.
    drop(call);
    assert_eq!(config.call().await.after_revision, last);
    assert_eq!(table.len() as u64, 2 + last - 99);
    for number in (100..).take(TOLD) {
        assert_eq!(soon(changes.recv()).await, Some(Change::Put(id(number))));
    }
    assert_eq!(soon(changes.recv()).await, Some(Change::Synced));
}

#[tokio::test]
async fn a_webhook_is_turned_off_by_asking_until_it_is_answered() {
    let mut config = Config::start().await;
    let (table, _changes, _call) = in_step(&mut config).await;
    let stop = CancellationToken::new();
    let disabling = Disabling::start(config.upstream(), Arc::clone(&table), stop.clone());
    disabling.disable(id(1), 3, "410 Gone");
    disabling.disable(id(1), 3, "410 Gone, again");
    let (first, answer) = soon(config.disables.recv()).await.unwrap();
    assert_eq!((first.webhook_id, first.revision), (id(1).to_string(), 3));
    assert_eq!(first.reason, "410 Gone");
    assert!(disabling.is_asked(id(1)));
    answer.send(Err(Status::unavailable("not now"))).unwrap();
    let (_, answer) = soon(config.disables.recv()).await.unwrap();
    // One that config-service has trouble with does not keep the others from being asked for.
    disabling.disable(id(7), 8, "gone too");
    answer.send(Err(Status::internal("trouble"))).unwrap();
    let mut asked = Vec::new();
    while asked.len() < 2 {
        let (request, answer) = soon(config.disables.recv()).await.unwrap();
        if !asked.contains(&request.webhook_id) {
            asked.push(request.webhook_id);
            answer.send(Ok(true)).unwrap();
        } else {
            answer.send(Ok(false)).unwrap();
        }
    }
    // Route 2 stands at revision 5: what was meant has been overtaken, so nobody is asked.
    disabling.disable(id(2), 4, "too late");
    disabling.disable(id(2), 5, "in time");
    let (request, answer) = soon(config.disables.recv()).await.unwrap();
    assert_eq!((request.revision, request.reason.as_str()), (5, "in time"));
    assert!(!disabling.is_asked(id(1)) && !disabling.is_asked(id(7)));
    answer.send(Err(Status::not_found("no such webhook"))).unwrap();
    disabling.disable(id(1), 3, "410 Gone");
    let (_, answer) = soon(config.disables.recv()).await.unwrap();
    assert!(!disabling.is_asked(id(2)), "NOT_FOUND is an answer");
    answer.send(Ok(true)).unwrap();
    stop.cancel();
}

#[tokio::test]
async fn over_https_config_service_is_checked_before_it_gets_the_token() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = own.cert.pem();
    let identity = Identity::from_pem(&pem, own.signing_key.serialize_pem());
    let tls = ServerTlsConfig::new().identity(identity);
    let mut config = Config::serve(Server::builder().tls_config(tls).unwrap()).await;
    let url = format!("https://localhost:{}", config.address.port());
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    for ca in [None, Some(other.as_bytes())] {
        let refused = Upstream::new(&url, Some("t0ken"), ca).unwrap().client().await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("certificate"), "{}", refused.message());
    }
    let upstream = Upstream::new(&url, Some("t0ken"), Some(pem.as_bytes())).unwrap();
    let table = Arc::new(Table::default());
    let _changes = start(upstream, table, CancellationToken::new());
    assert_eq!(config.call().await.authorization.as_deref(), Some("Bearer t0ken"));
}

#[test]
fn urls_that_cannot_be_asked_are_refused_at_start() {
    for url in ["", "config:50051", "ftp://config:50051", "unix:/x"] {
        assert!(Upstream::new(url, None, None).is_err(), "{url:?}");
    }
    assert!(Upstream::new("http://config:50051", Some("a\nb"), None).is_err());
    assert!(Upstream::new("https://config:50051", Some("t0ken"), None).is_ok());
    let shown = format!("{:?}", Upstream::new("http://config:50051", Some("t0ken"), None).unwrap());
    assert!(!shown.contains("t0ken"), "{shown}");
}
