//! Routes: webhooks as this service knows them, secrets included. In memory only.

pub mod account;
pub mod convert;
pub mod disable;
mod short;
pub mod table;
pub mod upstream;
pub mod watch;

use std::{sync::Arc, time::Duration};

use common::{clock::Time, ids::WebhookId, matching::Rule};
use http::{HeaderName, HeaderValue};

/// A webhook with all that sending to it takes. Read when sending, never stored in the queue, so a
/// mended route mends the backlog.
pub struct Route {
    pub webhook_id: WebhookId,
    pub revision: u64,
    pub license_code: Box<str>,
    pub rule: Rule,
    pub state: RouteState,
    pub xml: bool,
    /// As the customer gave it.
    pub post_url: Box<str>,
    pub url_parameters: UrlParameters,
    /// The webhook's own.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    /// The `authorization` header that its authentication comes to.
    pub authorization: Option<HeaderValue>,
    /// The present one first.
    pub signing_keys: Box<[SigningKey]>,
    pub policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    Active,
    Paused,
    Disabled,
}

/// What is appended to the URL's query.
#[derive(Clone, PartialEq, Eq)]
pub enum UrlParameters {
    None,
    Event,
    /// With the lower-case hex MD5 of "<license code>:<account secret key>".
    EventAndSecret {
        secret: Box<str>,
    },
}

/// A key of HMAC-SHA256, decoded.
#[derive(Clone)]
pub struct SigningKey {
    pub key: Box<[u8]>,
    /// `None`: the present key.
    pub expires: Option<Time>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub timeout: Duration,
    /// Empty: one attempt and no more.
    pub retry_delays: Arc<[Duration]>,
    pub max_in_flight: u32,
    /// A second; 0 is unlimited.
    pub max_rate: f64,
    pub order: Order,
    /// One request for several deliveries.
    pub batch: Option<Batching>,
}

/// How deliveries go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// In one request.
    pub max_events: usize,
    /// How long the first waits for others, from when it was accepted.
    pub max_delay: Duration,
    /// Only those with the same `eventType` go together: it stands in the query.
    pub one_type: bool,
}

/// Which deliveries wait for which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Unordered,
    /// Those with the same key, one at a time.
    ByUser,
    /// All, one at a time.
    Strict,
}

impl Default for Policy {
    /// What the contract says of a policy that says nothing, but for its retries: none.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            retry_delays: Arc::default(),
            max_in_flight: 50,
            max_rate: 0.0,
            order: Order::Unordered,
            batch: None,
        }
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// Without what is secret: the URL may be too.
impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Route({} at {}, {:?})", self.webhook_id, self.revision, self.state)
    }
}

impl std::fmt::Debug for UrlParameters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Event => "Event",
            Self::EventAndSecret { .. } => "EventAndSecret(..)",
        })
    }
}
