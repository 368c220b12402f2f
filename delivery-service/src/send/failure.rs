//! Failures as people read them: what went wrong on the way to an answer, as a `Fault` and a sentence
//! that names the address. Pure.

use std::{error::Error, fmt::Display, io, net::SocketAddr};

use crate::delivery::Fault;

/// Why a request got no whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub fault: Fault,
    pub message: String,
}

/// Bytes of a message: a certificate's faults name all that it is for, and every attempt keeps its own.
const LONGEST: usize = 512;

impl Failure {
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > LONGEST {
            message.truncate(message.floor_char_boundary(LONGEST));
            message.push('…');
        }
        Self { fault, message }
    }

    /// No TCP connection came about.
    pub fn connect(address: SocketAddr, error: &io::Error) -> Self {
        let message = match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("connection refused by {address}"),
            io::ErrorKind::ConnectionReset => format!("connection reset by {address}"),
            kind => format!("cannot connect to {address}: {kind}"),
        };
        Self::new(Fault::Connect, message)
    }

    /// No TLS session came about.
    pub fn tls(address: SocketAddr, error: &io::Error) -> Self {
        let message = match cause::<rustls::Error>(error) {
            Some(error) => format!("TLS with {address} failed: {error}"),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                format!("TLS with {address} failed: connection closed")
            }
            None => format!("TLS with {address} failed: {}", error.kind()),
        };
        Self::new(Fault::Tls, message)
    }

    /// The exchange broke. `heard`: after the first bytes of an answer.
    pub fn exchange(address: SocketAddr, error: &hyper::Error, heard: bool) -> Self {
        let protocol = |what: &dyn Display| {
            Self::new(Fault::Protocol, format!("the answer of {address} is no HTTP: {what}"))
        };
        if error.is_parse_too_large() {
            return Self::new(Fault::Protocol, format!("the head of {address}'s answer is over 64 KiB"));
        }
        if error.is_parse() {
            return protocol(error);
        }
        if let Some(error) = cause::<rustls::Error>(error) {
            return Self::new(Fault::Tls, format!("TLS with {address} failed: {error}"));
        }
        if let Some(error) = cause::<h2::Error>(error)
            && let Some(reason) = error.reason()
            && is_protocol(reason)
        {
            return protocol(&reason.description());
        }
        let ending = if heard { "its answer was whole" } else { "it answered" };
        let message = match cause::<io::Error>(error) {
            Some(error) if is_malformed(error.kind()) => return protocol(error),
            Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                format!("the connection to {address} broke before {ending}: {}", error.kind())
            }
            _ => format!("{address} closed the connection before {ending}"),
        };
        Self::new(Fault::Disconnected, message)
    }
}

/// Whether HTTP/2's rules were broken, rather than the connection.
fn is_protocol(reason: h2::Reason) -> bool {
    [
        h2::Reason::PROTOCOL_ERROR,
        h2::Reason::FRAME_SIZE_ERROR,
        h2::Reason::COMPRESSION_ERROR,
        h2::Reason::FLOW_CONTROL_ERROR,
        h2::Reason::HTTP_1_1_REQUIRED,
    ]
    .contains(&reason)
}

/// What hyper says of chunks that are none.
fn is_malformed(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

/// The first error of a type among an error and its causes.
pub fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // An io::Error hides what it was made of from `source`.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_people_read() {
        let failure = Failure::new(Fault::Tls, "short");
        assert_eq!(failure.message, "short");
        let failure = Failure::new(Fault::Tls, "ä".repeat(400));
        assert_eq!(failure.message, format!("{}…", "ä".repeat(256)));
    }
}
