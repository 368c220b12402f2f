//! What is read of an answer: its status, the wish to be left alone, and as much of its body as the
//! limits allow.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use common::clock::Time;
use http::{StatusCode, header::RETRY_AFTER};
use http_body::Body;
use hyper::body::Incoming;

/// How much of a body is read.
pub const READ: usize = 64 * 1024;

/// How much of a body is kept.
pub const KEPT: usize = 1024;

/// What has come of an answer so far.
#[derive(Default)]
pub struct Answer {
    /// 0: nothing yet.
    pub status: u16,
    pub retry_after: Option<Duration>,
    body: Vec<u8>,
    read: usize,
}

/// How reading a body ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// There is more, which is not read.
    Cut,
}

impl Answer {
    /// Notes the head that came.
    pub fn begin<B>(&mut self, response: &http::Response<B>, now: Time) {
        self.status = response.status().as_u16();
        self.retry_after = match response.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let value = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                value.and_then(|text| retry_after(text, now))
            }
            _ => None,
        };
    }

    /// Reads on, to the body's end or the limit.
    pub fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Result<End, hyper::Error>> {
        loop {
            if body.is_end_stream() {
                return Poll::Ready(Ok(End::Whole));
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(End::Whole)),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok(frame)) => {
                    let Some(bytes) = frame.data_ref() else { continue };
                    let room = KEPT - self.body.len();
                    self.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    self.read += bytes.len();
                    if self.read > READ {
                        return Poll::Ready(Ok(End::Cut));
                    }
                }
            }
        }
    }

    /// The first bytes of the body.
    pub fn into_body(self) -> Bytes {
        self.body.into()
    }
}

/// A Retry-After header: seconds, or a date.
fn retry_after(text: &str, now: Time) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits are a very long time.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let now: SystemTime = UNIX_EPOCH + Duration::from_millis(now.0.max(0) as u64);
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT.
        let now = Time(784_111_777_000);
        let table = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ];
        for (text, seconds) in table {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn only_429_and_503_are_asked_for_it() {
        for (status, asked) in [(429, true), (503, true), (500, false), (200, false), (301, false)] {
            let response = http::Response::builder().status(status).header("retry-after", "7").body(());
            let mut answer = Answer::default();
            answer.begin(&response.unwrap(), Time(0));
            assert_eq!(answer.status, status);
            assert_eq!(answer.retry_after, asked.then_some(Duration::from_secs(7)), "{status}");
        }
    }
}
