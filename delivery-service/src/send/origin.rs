//! Where a URL leads: scheme, host and port, read once for each connection.

use std::net::IpAddr;

use http::{HeaderValue, uri::Authority};
use rustls::pki_types::ServerName;

/// The other end of connections.
#[derive(Debug)]
pub struct Origin {
    /// Scheme and authority as URLs give them: "https://example.com:8443".
    pub key: Box<str>,
    pub tls: bool,
    pub host: Host,
    pub port: u16,
    pub authority: Authority,
    /// The `host` header: without the scheme's own port.
    pub host_header: HeaderValue,
}

#[derive(Debug)]
pub enum Host {
    Address(IpAddr),
    Name(Box<str>),
}

impl Origin {
    /// From a URL's scheme and authority. What is wrong otherwise, in words.
    pub fn parse(key: &str) -> Result<Self, String> {
        let (scheme, authority) = key.split_once("://").ok_or("the URL has no scheme")?;
        let tls = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => true,
            _ if scheme.eq_ignore_ascii_case("http") => false,
            _ => return Err(format!("the URL's scheme is {scheme}, not http or https")),
        };
        if authority.contains('@') {
            return Err("the URL has user info".into());
        }
        let authority = Authority::try_from(authority).map_err(|_| "the URL has no valid host")?;
        let own_port = if tls { 443 } else { 80 };
        let name = authority.host();
        let port = match authority.as_str()[name.len()..].strip_prefix(':') {
            None | Some("") => own_port,
            Some(_) => authority.port_u16().ok_or("the URL's port is no port")?,
        };
        let host = match name.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').and_then(|literal| literal.parse().ok()).map(Host::Address),
            None if name.is_empty() => None,
            None => Some(name.parse().map_or_else(|_| Host::Name(name.into()), Host::Address)),
        };
        let host = host.ok_or("the URL has no valid host")?;
        let host_header = if port == own_port { name.to_owned() } else { format!("{name}:{port}") };
        let host_header = HeaderValue::try_from(host_header).map_err(|_| "the URL has no valid host")?;
        Ok(Self { key: key.into(), tls, host, port, authority, host_header })
    }

    /// Whom the certificate must name.
    pub fn server_name(&self) -> Option<ServerName<'static>> {
        match &self.host {
            Host::Address(address) => Some(ServerName::from(*address)),
            Host::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_from_urls() {
        let table = [
            ("https://h.example", true, "h.example", 443, "h.example"),
            ("HTTPS://h.example:443", true, "h.example", 443, "h.example"),
            ("https://h.example:8443", true, "h.example", 8443, "h.example:8443"),
            ("http://h.example:", false, "h.example", 80, "h.example"),
            ("http://h.example:443", false, "h.example", 443, "h.example:443"),
            ("http://0x7f.1", false, "0x7f.1", 80, "0x7f.1"),
        ];
        for (key, tls, name, port, header) in table {
            let origin = Origin::parse(key).unwrap();
            assert_eq!((origin.tls, origin.port), (tls, port), "{key}");
            assert_eq!(origin.host_header, header, "{key}");
            assert!(matches!(&origin.host, Host::Name(it) if **it == *name), "{key}");
        }
        for (key, address) in [("http://127.0.0.1:9", "127.0.0.1"), ("https://[::1]:9", "::1")] {
            let origin = Origin::parse(key).unwrap();
            assert!(matches!(origin.host, Host::Address(it) if it.to_string() == address), "{key}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        for key in [
            "",
            "h.example",
            "ftp://h.example",
            "http://",
            "http://a@h.example",
            "http://h.example:99999",
            "http://h.example:x",
            "http://[::1",
            "http://[fe80::1%25eth0]",
            "http://h example",
        ] {
            assert!(Origin::parse(key).is_err(), "{key}");
        }
    }
}
