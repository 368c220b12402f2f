//! A request made ready: for whichever connection there is, and handed to one.

use bytes::Bytes;
use http::{
    HeaderMap, Method, Uri,
    header::HOST,
    uri::{PathAndQuery, Scheme},
};
use http_body_util::Full;

use super::{
    Request,
    connection::{Answering, Http1, Message, Place},
    failure::Failure,
    origin::Origin,
    pool::Taken,
    unusable,
};

/// A request, ready for whichever connection there is.
pub struct Parts {
    url: String,
    /// Where scheme and authority end in it.
    key: usize,
    path: PathAndQuery,
    headers: HeaderMap,
    body: Bytes,
}

/// A request that a connection has, and will give the answer to.
pub enum Sent {
    Http1(Box<Http1>, Answering),
    Http2(Place, Answering),
}

impl Parts {
    pub fn of(request: Request) -> Result<Self, Failure> {
        let Request { url, headers, body, .. } = request;
        let key = origin_end(&url);
        let path = &url[key..];
        let path = match path.strip_prefix('/') {
            Some(_) => PathAndQuery::try_from(path),
            None => PathAndQuery::try_from(format!("/{path}")),
        };
        let path = path.map_err(|_| unusable("the URL's path is not valid"))?;
        Ok(Self { url, key, path, headers, body })
    }

    /// Scheme and authority.
    pub fn key(&self) -> &str {
        &self.url[..self.key]
    }

    /// Hands the request to a connection.
    pub fn send(self, over: Taken) -> Sent {
        match over {
            Taken::Http1(mut connection) => {
                let message = self.http1(&connection.peer.origin);
                let answering = connection.send(message);
                Sent::Http1(connection, answering)
            }
            Taken::Http2(place) => {
                let message = self.http2(&place.peer().origin);
                let answering = place.send(message);
                Sent::Http2(place, answering)
            }
        }
    }

    fn http1(self, origin: &Origin) -> Message {
        let mut message = self.message();
        message.headers_mut().insert(HOST, origin.host_header.clone());
        message
    }

    fn http2(self, origin: &Origin) -> Message {
        let mut message = self.message();
        let mut uri = std::mem::take(message.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(origin.authority.clone());
        // Cannot fail: all three parts are there.
        *message.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        message
    }

    fn message(self) -> Message {
        let mut message = Message::new(Full::new(self.body));
        *message.method_mut() = Method::POST;
        *message.uri_mut() = Uri::from(self.path);
        *message.headers_mut() = self.headers;
        message
    }
}

/// Where the scheme and authority of a URL end.
pub fn origin_end(url: &str) -> usize {
    let authority = url.find("://").map_or(0, |at| at + 3);
    url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at)
}
