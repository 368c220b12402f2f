//! One server, or the master that sentinels name: its connection is made on first use, and made again after a
//! failure, by one caller for all who wait.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind,
    TlsCertificates, TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::{
    sync::{Mutex, mpsc::UnboundedSender},
    time::timeout,
};

use super::{Address, Topology, version};

/// For one request, from writing it to its answer: less than most callers wait, for it is here that silence is noticed.
const RESPONSE: Duration = Duration::from_millis(1_800);
/// For one server to be connected to.
const CONNECT: Duration = Duration::from_secs(1);
/// For a usable connection, all steps and repeats together.
const DIAL: Duration = Duration::from_millis(1500);
/// Between two connects while one dial goes on, growing.
const PAUSE: Duration = Duration::from_millis(50);
/// After a failed dial, how long requests fail without another one.
const REST: Duration = Duration::from_millis(100);

pub(super) struct Server {
    pub address: Address,
    ca: Option<Vec<u8>>,
    live: RwLock<Option<Live>>,
    dialer: Mutex<Dialer>,
}

#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    since: Instant,
}

struct Dialer {
    client: AnyClient,
    last_failure: Option<(Instant, RedisError)>,
}

enum AnyClient {
    One(Box<Client>),
    Sentinel(Box<SentinelClient>),
}

impl Server {
    pub fn new(address: Address, ca: Option<&[u8]>) -> RedisResult<Self> {
        let client = client(&address, ca, ProtocolVersion::RESP2)?;
        let dialer = Mutex::new(Dialer { client, last_failure: None });
        Ok(Self { address, ca: ca.map(<[u8]>::to_vec), live: RwLock::new(None), dialer })
    }

    pub async fn command(self: &Arc<Self>, cmd: &Cmd) -> RedisResult<Value> {
        let mut live = self.live().await?;
        let result = live.connection.req_packed_command(cmd).await;
        let inner = result.as_ref().ok().and_then(server_error);
        self.discard_if_broken(&live, inner, result)
    }

    pub async fn commands(
        self: &Arc<Self>,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let mut live = self.live().await?;
        let result = live.connection.req_packed_commands(pipeline, offset, count).await.map_err(first_of);
        let inner = result.as_ref().ok().and_then(|values| values.iter().find_map(server_error));
        self.discard_if_broken(&live, inner, result)
    }

    /// A connection of one's own, which nobody else writes to. What the server says unasked goes to `pushes`, its
    /// end too.
    pub async fn dial(
        &self,
        pushes: Option<UnboundedSender<PushInfo>>,
    ) -> RedisResult<MultiplexedConnection> {
        let protocol = if pushes.is_some() { ProtocolVersion::RESP3 } else { ProtocolVersion::RESP2 };
        client(&self.address, self.ca.as_deref(), protocol)?.connect(pushes).await
    }

    async fn live(self: &Arc<Self>) -> RedisResult<Live> {
        let asked = Instant::now();
        let live = self.live.read().clone();
        if let Some(live) = live {
            return Ok(live);
        }
        // In a task of its own: who gives up waiting leaves it to the next.
        let server = self.clone();
        let dialed = tokio::spawn(async move { server.dialed(asked).await }).await;
        dialed.unwrap_or_else(|_| Err((ErrorKind::Io, "the runtime has ended").into()))
    }

    async fn dialed(&self, asked: Instant) -> RedisResult<Live> {
        let mut dialer = self.dialer.lock().await;
        if let Some(live) = self.live.read().clone() {
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
            Ok(connection) => {
                tracing::info!(redis = %self.address, "connected to Redis");
                dialer.last_failure = None;
                let live = Live { connection, since: Instant::now() };
                *self.live.write() = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                if first_failure {
                    tracing::warn!(redis = %self.address, %error, "cannot reach Redis; trying on");
                }
                dialer.last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Throws away what failed, unless that has been done already.
    fn discard_if_broken<T>(
        &self,
        used: &Live,
        error: Option<RedisError>,
        result: RedisResult<T>,
    ) -> RedisResult<T> {
        if let Some(error) = error.as_ref().or(result.as_ref().err())
            && is_broken(error)
        {
            let mut live = self.live.write();
            if live.as_ref().is_some_and(|live| live.since == used.since) {
                *live = None;
                tracing::warn!(redis = %self.address, %error, "lost the connection to Redis");
            }
        }
        result
    }
}

impl Dialer {
    /// A connection that answers and is new enough, or why there is none.
    async fn dial(&mut self) -> RedisResult<MultiplexedConnection> {
        let mut last = RedisError::from((ErrorKind::Io, "Redis does not answer"));
        let mut pause = PAUSE;
        let dialing = async {
            loop {
                match self.connect().await {
                    Err(error) if error.is_io_error() => last = error,
                    // What a refusal, a wrong password or an old version says, it says again.
                    decided => return decided,
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        };
        timeout(DIAL, dialing).await.unwrap_or(Err(last))
    }

    async fn connect(&mut self) -> RedisResult<MultiplexedConnection> {
        let mut connection = self.client.connect(None).await?;
        let answer = connection.send_packed_command(&version::question()).await?.extract_error()?;
        version::read(&answer)?.check()?;
        Ok(connection)
    }
}

impl AnyClient {
    async fn connect(
        &mut self,
        pushes: Option<UnboundedSender<PushInfo>>,
    ) -> RedisResult<MultiplexedConnection> {
        let mut limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(RESPONSE));
        if let Some(pushes) = pushes {
            limits = limits.set_push_sender(pushes);
        }
        match self {
            Self::One(client) => client.get_multiplexed_async_connection_with_config(&limits).await,
            Self::Sentinel(client) => client.get_async_connection_with_config(&limits).await,
        }
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
    let mut hosts = address.hosts.iter().cloned().map(|host| match address.tls {
        true => {
            ConnectionAddr::TcpTls { host: host.name, port: host.port, insecure: false, tls_params: None }
        }
        false => ConnectionAddr::Tcp(host.name, host.port),
    });
    // A call does not wait for the answer to the one before.
    let tcp = TcpSettings::default().set_nodelay(true);
    let Topology::Sentinel { master } = &address.topology else {
        let Some(host) = hosts.next() else {
            return Err((ErrorKind::InvalidClientConfig, "no server named").into());
        };
        let info = host.into_connection_info()?.set_redis_settings(login).set_tcp_settings(tcp);
        let client = match address.tls {
            true => Client::build_with_tls(info, certificates)?,
            false => Client::open(info)?,
        };
        return Ok(AnyClient::One(Box::new(client)));
    };
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

/// Another connection may do better: this one is dead, silent, or leads to a server that was demoted.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
}

/// Why a transaction was not begun, which is what can be told apart.
fn first_of(error: RedisError) -> RedisError {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, first), ..]) => first.clone().into(),
        _ => error,
    }
}

pub(super) fn server_error(value: &Value) -> Option<RedisError> {
    match value {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => None,
    }
}
