//! A route as config-service sends it, made ready for use: keys decoded, headers parsed, defaults
//! filled in. Pure.
//!
//! What this version does not understand makes no route: it is an error that names the webhook, whose
//! lane is then held rather than served in a way that its owner did not ask for. Errors never show
//! secrets.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{
    clock::Time,
    filter::Filter,
    matching::{Kind, Rule},
};
use http::{HeaderName, HeaderValue};
use md5::{Digest, Md5};
use proto::v1;

use super::{Batching, Order, Policy, Route, RouteState, SigningKey, UrlParameters};

/// A webhook that this version cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("webhook {webhook_id:?}: {problem}")]
pub struct NotUnderstood {
    /// As it was sent.
    pub webhook_id: String,
    pub problem: String,
}

/// Makes routes. Equal filters and default policies are made once and shared.
#[derive(Debug, Default)]
pub struct Converter {
    filters: HashMap<Box<str>, Weak<Filter>>,
    /// Filters that nothing uses any more are dropped when there are so many.
    sweep_at: usize,
}

static DEFAULT_DELAYS: LazyLock<Arc<[Duration]>> =
    LazyLock::new(|| [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(Duration::from_secs).into());
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
const DEFAULT_MAX_IN_FLIGHT: u32 = 50;
const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(1);

impl Converter {
    /// The route as of `revision`.
    pub fn route(&mut self, route: v1::Route, revision: u64) -> Result<Route, NotUnderstood> {
        let webhook = route.webhook.unwrap_or_default();
        let webhook_id = webhook.id.clone();
        let account_secret = route.account_secret_key;
        self.understood(webhook, &account_secret, route.signing_keys, revision)
            .map_err(|problem| NotUnderstood { webhook_id, problem })
    }

    fn understood(
        &mut self,
        mut webhook: v1::Webhook,
        account_secret: &str,
        keys: Vec<v1::SigningKey>,
        revision: u64,
    ) -> Result<Route, String> {
        if webhook.signature_scheme() == v1::SignatureScheme::Ed25519 {
            return Err("signing with ED25519 is not supported yet".into());
        }
        v1::SignatureScheme::try_from(webhook.signature_scheme)
            .map_err(|_| unknown("signature_scheme", webhook.signature_scheme))?;
        let rule = self.rule(&mut webhook)?;
        let xml = match v1::PayloadFormat::try_from(webhook.format) {
            Ok(v1::PayloadFormat::Unspecified | v1::PayloadFormat::Json) => false,
            Ok(v1::PayloadFormat::Xml) => true,
            Err(_) => return Err(unknown("format", webhook.format)),
        };
        if xml && !matches!(rule.kind, Kind::Feedback | Kind::FeedbackReply | Kind::SurveyResponse) {
            return Err("its type supports JSON only".into());
        }
        let state = match v1::WebhookState::try_from(webhook.state) {
            Ok(v1::WebhookState::Unspecified | v1::WebhookState::Active) => RouteState::Active,
            Ok(v1::WebhookState::Paused) => RouteState::Paused,
            Ok(v1::WebhookState::Disabled) => RouteState::Disabled,
            Err(_) => return Err(unknown("state", webhook.state)),
        };
        let url_parameters = url_parameters(&webhook, account_secret)?;
        let policy = policy(webhook.delivery_policy.unwrap_or_default(), &url_parameters)?;
        if xml && policy.batch.is_some() {
            return Err("its format goes in no batch".into());
        }
        Ok(Route {
            webhook_id: webhook.id.parse().map_err(|_| "its id is no webhook id")?,
            revision,
            rule,
            state,
            xml,
            url_parameters,
            headers: webhook.headers.iter().map(header).collect::<Result<_, _>>()?,
            authorization: webhook.authentication.map(authorization).transpose()?.flatten(),
            signing_keys: signing_keys(keys)?,
            policy,
            license_code: webhook.license_code.into(),
            post_url: webhook.post_url.into(),
        })
    }

    fn rule(&mut self, webhook: &mut v1::Webhook) -> Result<Rule, String> {
        let filter = std::mem::take(&mut webhook.filter);
        let mut rule = Rule::of(webhook).map_err(|e| e.to_string())?;
        if rule.kind == Kind::Event && rule.names.is_empty() {
            return Err("it names no event".into());
        }
        if !filter.is_empty() {
            rule.filter = Some(self.filter(&filter)?);
        }
        Ok(rule)
    }

    fn filter(&mut self, source: &str) -> Result<Arc<Filter>, String> {
        if let Some(filter) = self.filters.get(source).and_then(Weak::upgrade) {
            return Ok(filter);
        }
        let filter = Arc::new(Filter::compile(source).map_err(|e| format!("its filter: {e}"))?);
        if self.filters.len() >= self.sweep_at {
            self.filters.retain(|_, filter| filter.strong_count() > 0);
            self.sweep_at = (self.filters.len() * 2).max(1_024);
        }
        self.filters.insert(source.into(), Arc::downgrade(&filter));
        Ok(filter)
    }
}

fn unknown(field: &str, number: i32) -> String {
    format!("{field} {number} is not known to this version")
}

fn url_parameters(webhook: &v1::Webhook, account_secret: &str) -> Result<UrlParameters, String> {
    match v1::UrlParameters::try_from(webhook.url_parameters) {
        Ok(v1::UrlParameters::None) => Ok(UrlParameters::None),
        Ok(v1::UrlParameters::Unspecified | v1::UrlParameters::Event) => Ok(UrlParameters::Event),
        Ok(v1::UrlParameters::EventAndSecret) if account_secret.is_empty() => {
            Err("its account's secret key is missing".into())
        }
        Ok(v1::UrlParameters::EventAndSecret) => {
            let digest = Md5::digest(format!("{}:{account_secret}", webhook.license_code));
            Ok(UrlParameters::EventAndSecret { secret: hex::encode(digest).into() })
        }
        Err(_) => Err(unknown("url_parameters", webhook.url_parameters)),
    }
}

fn header((name, value): (&String, &String)) -> Result<(HeaderName, HeaderValue), String> {
    let parsed =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))?;
    let value = secret_value(value).ok_or_else(|| format!("the value of header {name} cannot be sent"))?;
    Ok((parsed, value))
}

fn authorization(authentication: v1::Authentication) -> Result<Option<HeaderValue>, String> {
    use v1::authentication::Method;
    let text = match authentication.method {
        None => return Ok(None),
        Some(Method::Basic(basic)) => {
            format!("Basic {}", STANDARD.encode(format!("{}:{}", basic.username, basic.password)))
        }
        Some(Method::Bearer(bearer)) => format!("Bearer {}", bearer.token),
        Some(Method::Oauth2(_)) => return Err("oauth2 is not supported yet".into()),
        Some(Method::ClientCertificate(_)) => return Err("client_certificate is not supported yet".into()),
    };
    secret_value(&text).map(Some).ok_or_else(|| "its credentials cannot be sent in a header".into())
}

fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn signing_keys(keys: Vec<v1::SigningKey>) -> Result<Box<[SigningKey]>, String> {
    if keys.is_empty() {
        return Err("it has no signing key".into());
    }
    let decode = |key: v1::SigningKey| {
        let encoded = key.secret.strip_prefix("whsec_").ok_or("a signing key is not of HMAC-SHA256")?;
        let decoded = STANDARD.decode(encoded).map_err(|_| "a signing key is not base64")?;
        let expires = key.expire_time.map(|t| Time(t.seconds * 1_000 + i64::from(t.nanos) / 1_000_000));
        Ok(SigningKey { key: decoded.into(), expires })
    };
    keys.into_iter().map(decode).collect::<Result<_, &str>>().map_err(Into::into)
}

fn policy(policy: v1::DeliveryPolicy, parameters: &UrlParameters) -> Result<Policy, String> {
    let order = match v1::DeliveryOrder::try_from(policy.order) {
        Ok(v1::DeliveryOrder::Unspecified | v1::DeliveryOrder::Unordered) => Order::Unordered,
        Ok(v1::DeliveryOrder::ByUser) => Order::ByUser,
        Ok(v1::DeliveryOrder::Strict) => Order::Strict,
        Err(_) => return Err(unknown("delivery_policy.order", policy.order)),
    };
    let duration = |d: prost_types::Duration| Duration::try_from(d).map_err(|_| "a negative duration");
    let batching = |batch: v1::BatchPolicy| -> Result<Batching, String> {
        Ok(Batching {
            max_events: usize::try_from(batch.max_events).ok().filter(|n| *n > 0).ok_or("a batch of none")?,
            max_delay: batch.max_delay.map(duration).transpose()?.unwrap_or(DEFAULT_MAX_DELAY),
            one_type: *parameters != UrlParameters::None,
        })
    };
    let batch = policy.batch.map(batching).transpose()?;
    let retry_delays: Arc<[Duration]> = if policy.no_retries {
        Arc::default()
    } else if policy.retry_delays.is_empty() {
        Arc::clone(&DEFAULT_DELAYS)
    } else {
        let delays: Vec<Duration> =
            policy.retry_delays.into_iter().map(duration).collect::<Result<_, _>>()?;
        if delays == **DEFAULT_DELAYS { Arc::clone(&DEFAULT_DELAYS) } else { delays.into() }
    };
    let max_in_flight = match u32::try_from(policy.max_in_flight) {
        Ok(0) => DEFAULT_MAX_IN_FLIGHT,
        Ok(limit) => limit,
        Err(_) => return Err("a negative max_in_flight".into()),
    };
    if !policy.max_rate.is_finite() || policy.max_rate < 0.0 {
        return Err("max_rate is no rate".into());
    }
    let timeout = policy.timeout.map(duration).transpose()?.unwrap_or(DEFAULT_TIMEOUT);
    Ok(Policy { timeout, retry_delays, max_in_flight, max_rate: policy.max_rate, order, batch })
}

#[cfg(test)]
mod tests;
