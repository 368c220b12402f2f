//! The way to config-service's RouteService: where it is, how this service names itself there, and how
//! long to wait before trying again.

use std::time::Duration;

use proto::v1::route_service_client::RouteServiceClient;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Where config-service is, and the credential for it.
#[derive(Debug, Clone)]
pub struct Upstream {
    endpoint: Endpoint,
    credential: Credential,
}

/// Puts the route token, if there is one, on calls.
#[derive(Debug, Clone)]
pub struct Credential(Option<MetadataValue<Ascii>>);

pub type Client = RouteServiceClient<InterceptedService<Channel, Credential>>;

/// config-service cannot be asked with these settings.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{0:?} is no http or https URL")]
    Url(String),
    #[error("the route token cannot be sent in a header")]
    Token,
    #[error("the connection to config-service cannot be set up: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Upstream {
    /// `url` is http or https. `ca` (PEM) alone is trusted when given; otherwise the system's
    /// authorities and the well-known ones.
    pub fn new(url: &str, token: Option<&str>, ca: Option<&[u8]>) -> Result<Self, UpstreamError> {
        let wrong = || UpstreamError::Url(url.into());
        let secure = match url.split_once("://") {
            Some(("http", _)) => false,
            Some(("https", _)) => true,
            _ => return Err(wrong()),
        };
        let mut endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
        if secure {
            endpoint = endpoint.tls_config(trust(ca))?;
        }
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        let mut credential = Credential(None);
        if let Some(token) = token {
            let bearer = format!("Bearer {token}");
            let mut value = MetadataValue::try_from(bearer).map_err(|_| UpstreamError::Token)?;
            value.set_sensitive(true);
            credential.0 = Some(value);
        }
        Ok(Self { endpoint, credential })
    }

    /// A connection of its own: one that has gone silent is never used again.
    pub async fn client(&self) -> Result<Client, Status> {
        let channel = self.endpoint.connect().await.map_err(|e| Status::unavailable(words(&e)))?;
        Ok(RouteServiceClient::with_interceptor(channel, self.credential.clone()))
    }
}

fn trust(ca: Option<&[u8]>) -> ClientTlsConfig {
    let tls = ClientTlsConfig::new();
    if let Some(pem) = ca {
        return tls.ca_certificate(Certificate::from_pem(pem));
    }
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    tls.trust_anchors(roots.roots)
}

/// An error with its causes: the outermost alone says "transport error".
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// How long to wait before trying again: from 100 ms, doubled each time, to 5 s, less up to half of it
/// by chance, so that replicas do not come back all at once.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn next_wait(&mut self) -> Duration {
        let longest = (FIRST_WAIT * 2u32.saturating_pow(self.failures).min(1_000)).min(LONGEST_WAIT);
        self.failures += 1;
        longest.mul_f64(rand::random_range(0.5..=1.0))
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}
