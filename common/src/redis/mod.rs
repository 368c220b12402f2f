//! A connection to Redis: one server, a cluster, or the master that sentinels name. It is made on first
//! use and made again after a failure, so a service starts, lives and recovers while Redis is away; a
//! request meanwhile fails within a few seconds and spins on nothing. What was under way when a
//! connection broke fails, and may have been done: callers repeat what can be repeated. Servers older
//! than 7.0 are refused at every connect.

mod address;
mod cluster;
mod masters;
mod setup;
mod version;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, ServerErrorKind,
    TlsCertificates, TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::{sync::Mutex, time::timeout};

use self::cluster::Remedy;
pub use self::{
    address::{Address, AddressError, Host, Topology},
    masters::{Master, slot},
    setup::{check_setup, is_too_old},
    version::Version,
};

/// For one request, from writing it to its answer.
const RESPONSE: Duration = Duration::from_secs(2);
/// For one server to be connected to.
const CONNECT: Duration = Duration::from_secs(1);
/// For a usable connection, all steps and repeats together.
const DIAL: Duration = Duration::from_millis(1500);
/// As `DIAL`: a cluster asks several nodes.
const DIAL_CLUSTER: Duration = Duration::from_secs(3);
/// Between two connects while one dial goes on, growing.
const PAUSE: Duration = Duration::from_millis(50);
/// After a failed dial, how long requests fail without another one.
const REST: Duration = Duration::from_millis(100);
/// How old a cluster's connection is before it is replaced: it mends itself as a rule.
const CLUSTER_AGE: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones share what is connected. Works with `Script` and pipelines.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    is_cluster: bool,
    db: i64,
}

struct Shared {
    address: Address,
    ca: Option<Vec<u8>>,
    live: RwLock<Option<Live>>,
    dialer: Mutex<Dialer>,
}

#[derive(Clone)]
struct Live {
    socket: Socket,
    since: Instant,
}

#[derive(Clone)]
enum Socket {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

struct Dialer {
    client: AnyClient,
    last_failure: Option<(Instant, RedisError)>,
}

enum AnyClient {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<SentinelClient>),
}

/// A connection to `address` that is made when it is first used. `ca` is PEM, for `rediss` whose
/// certificates no public authority has signed. Fails only when these two make no sense.
pub fn connect(address: &Address, ca: Option<&[u8]>) -> RedisResult<Connection> {
    let client = client(address, ca, ProtocolVersion::RESP2)?;
    let dialer = Mutex::new(Dialer { client, last_failure: None });
    let ca = ca.map(<[u8]>::to_vec);
    Ok(Connection {
        shared: Arc::new(Shared { address: address.clone(), ca, live: RwLock::new(None), dialer }),
        is_cluster: address.topology == Topology::Cluster,
        db: address.db,
    })
}

impl Connection {
    /// Whether keys of different slots may not meet in a script or a pipeline.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Whether Redis answers, now; of a cluster, any of its nodes.
    pub async fn check(&self) -> RedisResult<()> {
        self.ask_any(redis::cmd("PING")).await.map(drop)
    }

    /// The server's version; of a cluster, any of its nodes'.
    pub async fn version(&self) -> RedisResult<Version> {
        version::read(&self.ask_any(version::question()).await?)
    }

    async fn ask_any(&self, cmd: Cmd) -> RedisResult<Value> {
        let mut live = self.live().await?;
        let result = live.socket.ask_any(cmd).await;
        self.settle(&live, None, result)
    }

    async fn live(&self) -> RedisResult<Live> {
        let asked = Instant::now();
        if let Some(live) = self.shared.live.read().clone() {
            return Ok(live);
        }
        let mut dialer = self.shared.dialer.lock().await;
        if let Some(live) = self.shared.live.read().clone() {
            return Ok(live);
        }
        // One dial answers for all that waited for it.
        if let Some((at, error)) = &dialer.last_failure
            && (*at >= asked || at.elapsed() < REST)
        {
            return Err(error.clone());
        }
        let first_failure = dialer.last_failure.is_none();
        match dialer.dial().await {
            Ok(socket) => {
                tracing::info!(redis = %self.shared.address, "connected to Redis");
                dialer.last_failure = None;
                let live = Live { socket, since: Instant::now() };
                *self.shared.live.write() = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                if first_failure {
                    tracing::warn!(redis = %self.shared.address, %error, "cannot reach Redis; trying on");
                }
                dialer.last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Throws away what failed, unless that has been done already.
    fn settle<T>(&self, used: &Live, error: Option<RedisError>, result: RedisResult<T>) -> RedisResult<T> {
        let Some(error) = error.as_ref().or(result.as_ref().err()) else { return result };
        if !is_broken(error) || self.is_cluster && used.since.elapsed() < CLUSTER_AGE {
            return result;
        }
        match if self.is_cluster { cluster::remedy(error) } else { Remedy::Discard } {
            Remedy::Keep => {}
            Remedy::Renew => {
                tokio::spawn(renew(self.shared.clone(), used.since));
            }
            Remedy::Discard => {
                let mut live = self.shared.live.write();
                if live.as_ref().is_some_and(|live| live.since == used.since) {
                    *live = None;
                    tracing::warn!(redis = %self.shared.address, %error, "lost the connection to Redis");
                }
            }
        }
        result
    }
}

/// Makes a new connection instead of the one since then, which meanwhile serves those whose nodes answer.
async fn renew(shared: Arc<Shared>, since: Instant) {
    let Ok(mut dialer) = shared.dialer.try_lock() else { return };
    let is_present = shared.live.read().as_ref().is_some_and(|live| live.since == since);
    let rests = dialer.last_failure.as_ref().is_some_and(|(at, _)| at.elapsed() < CLUSTER_AGE);
    if !is_present || rests {
        return;
    }
    match dialer.dial().await {
        Ok(socket) => {
            tracing::info!(redis = %shared.address, "connected to Redis anew: a node did not answer");
            dialer.last_failure = None;
            *shared.live.write() = Some(Live { socket, since: Instant::now() });
        }
        Err(error) => dialer.last_failure = Some((Instant::now(), error)),
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut live = self.live().await?;
            let result = match &mut live.socket {
                Socket::One(socket) => socket.req_packed_command(cmd).await,
                Socket::Cluster(socket) => {
                    let once = async |mut socket: ClusterConnection| socket.req_packed_command(cmd).await;
                    cluster::until_taken(|| once(socket.clone())).await
                }
            };
            let inner = result.as_ref().ok().and_then(server_error);
            self.settle(&live, inner, result)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut live = self.live().await?;
            let result = match &mut live.socket {
                Socket::One(socket) => socket.req_packed_commands(pipeline, offset, count).await,
                Socket::Cluster(socket) => {
                    let once = async |mut socket: ClusterConnection| {
                        socket.req_packed_commands(pipeline, offset, count).await
                    };
                    cluster::until_taken(|| once(socket.clone())).await
                }
            };
            let result = result.map_err(first_of);
            let inner = result.as_ref().ok().and_then(|values| values.iter().find_map(server_error));
            self.settle(&live, inner, result)
        })
    }

    fn get_db(&self) -> i64 {
        self.db
    }
}

impl Socket {
    /// A command without keys. A cluster would ask all its nodes, and fail with any of them.
    async fn ask_any(&mut self, cmd: Cmd) -> RedisResult<Value> {
        match self {
            Self::One(socket) => socket.send_packed_command(&cmd).await,
            Self::Cluster(socket) => {
                let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
                socket.route_command(cmd, any).await
            }
        }?
        .extract_error()
    }
}

impl Dialer {
    /// A connection that answers and is new enough, or why there is none.
    async fn dial(&mut self) -> RedisResult<Socket> {
        let within = if matches!(self.client, AnyClient::Cluster(_)) { DIAL_CLUSTER } else { DIAL };
        let mut last = RedisError::from((ErrorKind::Io, "Redis does not answer"));
        let mut pause = PAUSE;
        let dialing = async {
            loop {
                match self.client.connect().await {
                    Err(error) if error.is_io_error() => last = error,
                    // What a refusal, a wrong password or an old version says, it says again.
                    decided => return decided,
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        };
        timeout(within, dialing).await.unwrap_or(Err(last))
    }
}

impl AnyClient {
    async fn connect(&mut self) -> RedisResult<Socket> {
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(RESPONSE));
        let mut socket = match self {
            Self::One(client) => {
                Socket::One(client.get_multiplexed_async_connection_with_config(&limits).await?)
            }
            Self::Sentinel(client) => Socket::One(client.get_async_connection_with_config(&limits).await?),
            Self::Cluster(client) => Socket::Cluster(client.get_async_connection().await?),
        };
        let version = version::read(&socket.ask_any(version::question()).await?)?;
        version.check()?;
        Ok(socket)
    }
}

fn client(address: &Address, ca: Option<&[u8]>, protocol: ProtocolVersion) -> RedisResult<AnyClient> {
    let certificates = TlsCertificates { client_tls: None, root_cert: ca.map(<[u8]>::to_vec) };
    let mut login = RedisConnectionInfo::default().set_db(address.db).set_protocol(protocol);
    if let Some(username) = &address.username {
        login = login.set_username(username);
    }
    if let Some(password) = &address.password {
        login = login.set_password(password);
    }
    let hosts = address.hosts.iter().map(|host| {
        let Host { name, port } = host.clone();
        match address.tls {
            true => ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(name, port),
        }
    });
    // A call does not wait for the answer to the one before.
    let tcp = TcpSettings::default().set_nodelay(true);
    let nodes = hosts.clone().map(|host| {
        let node = host.into_connection_info()?.set_redis_settings(login.clone());
        Ok(node.set_tcp_settings(tcp.clone()))
    });
    let mut nodes = nodes.collect::<RedisResult<Vec<_>>>()?;
    match &address.topology {
        Topology::Single => {
            let Some(node) = nodes.pop() else {
                return Err((ErrorKind::InvalidClientConfig, "no server named").into());
            };
            let client = match address.tls {
                true => Client::build_with_tls(node, certificates)?,
                false => Client::open(node)?,
            };
            Ok(AnyClient::One(Box::new(client)))
        }
        Topology::Cluster => {
            // What goes again is for `cluster` to say.
            let mut builder = ClusterClientBuilder::new(nodes)
                .retries(0)
                .connection_timeout(CONNECT)
                .response_timeout(RESPONSE)
                .tcp_settings(tcp);
            if address.tls {
                builder = builder.certs(certificates);
            }
            Ok(AnyClient::Cluster(Box::new(builder.build()?)))
        }
        Topology::Sentinel { master } => {
            let mut builder = SentinelClientBuilder::new(hosts, master, SentinelServerType::Master)?
                .set_client_to_redis_db(address.db)
                .set_client_to_redis_protocol(protocol)
                .set_client_to_redis_tcp_settings(tcp);
            if let Some(username) = &address.username {
                builder = builder.set_client_to_redis_username(username);
            }
            if let Some(password) = &address.password {
                builder = builder.set_client_to_redis_password(password);
            }
            if address.tls {
                builder = builder
                    .set_client_to_redis_tls_mode(TlsMode::Secure)
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_certificates(certificates);
            }
            Ok(AnyClient::Sentinel(Box::new(builder.build()?)))
        }
    }
}

/// Another connection may do better: this one is dead, silent, or leads to a server that was demoted.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
                | ErrorKind::ClusterConnectionNotFound
        )
}

/// Why a transaction was not begun, which is what can be told apart.
fn first_of(error: RedisError) -> RedisError {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, first), ..]) => first.clone().into(),
        _ => error,
    }
}

fn server_error(value: &Value) -> Option<RedisError> {
    match value {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => None,
    }
}
