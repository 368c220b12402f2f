//! Where Hookline may post to: the egress rules, for addresses, ports and whole URLs. What parsers
//! would have to mend is refused, so that what was checked is what is connected to. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

mod ranges;
mod url;

#[cfg(test)]
mod tests;

pub use url::MAX_URL_BYTES;

/// An operator's egress rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Loopback and http URLs are allowed.
    pub development: bool,
    pub allow_http: bool,
    /// Networks that are allowed whatever lies in them.
    pub allowed: Vec<IpNet>,
}

/// Hookline does not post there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address} is a {range} address, which webhooks may not post to")]
pub struct Forbidden {
    pub address: IpAddr,
    /// "loopback", "private", …
    pub range: &'static str,
}

impl Rules {
    /// Whether a connection may be made to the address.
    pub fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        match ranges::forbidden(address, &|it| self.lets_through(it)) {
            Some(range) => Err(Forbidden { address, range }),
            None => Ok(()),
        }
    }

    /// 80, 443 and from 1024 up.
    pub fn check_port(&self, port: u16) -> Result<(), String> {
        match port {
            80 | 443 | 1024.. => Ok(()),
            _ => Err(format!("port {port} is not allowed: only 80, 443 and from 1024 up")),
        }
    }

    fn lets_through(&self, address: IpAddr) -> bool {
        (self.development && address.is_loopback()) || self.allowed.iter().any(|net| net.contains(&address))
    }
}
