//! Sends requests to receivers: the room in which HTTP is spoken. What an attempt comes to is data,
//! an `Outcome`, never an error.

use std::{fmt, time::Duration};

use bytes::Bytes;
use common::clock::Time;
use http::HeaderMap;

use crate::delivery::Fault;

/// A request as it goes out: always a POST.
#[derive(Clone)]
pub struct Request {
    /// Absolute, http or https, no fragment.
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For all of it, from connect to the answer's last byte.
    pub timeout: Duration,
}

/// What a request came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub start: Time,
    pub duration: Duration,
    /// 0 when no answer came.
    pub http_status: u16,
    /// `Fault::None` is success.
    pub fault: Fault,
    /// In words, such as "connection refused by 203.0.113.7:443".
    pub message: String,
    /// The first 1,024 bytes of the answer's body.
    pub response_body: Bytes,
    /// The address that was connected to; empty when there was none.
    pub remote_address: String,
    /// What the answer asked for with Retry-After, on 429 and 503.
    pub retry_after: Option<Duration>,
}

/// Without headers, body and all of the URL but its host: they hold secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = origin_end(&self.url);
        let origin = self.url.get(..end).unwrap_or_default();
        write!(f, "Request({origin}, {} headers, {} bytes)", self.headers.len(), self.body.len())
    }
}

/// Where the scheme and authority of a URL end.
fn origin_end(url: &str) -> usize {
    let authority = url.find("://").map_or(0, |at| at + 3);
    url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at)
}
