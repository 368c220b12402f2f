//! Where Redis is, read from `--redis-url`. Says what is wrong with a URL without repeating its
//! password, which no Debug and no error shows. Pure.
//!
//! ```text
//! redis[s]://[user[:password]@]host[:port][/db]
//! redis[s]+cluster://[user[:password]@]host[:port][,host[:port]…]
//! redis[s]+sentinel://[user[:password]@]host[:port][,host[:port]…]/MASTER[/db]
//! ```
//!
//! Ports are 6379, and 26379 of sentinels. User and password (percent-encoded) are for the servers;
//! sentinels are asked without.

use std::{fmt, str::FromStr};

/// One server, a cluster, or the master that sentinels name.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub topology: Topology,
    pub tls: bool,
    /// The server, some of the cluster's nodes, or the sentinels. Never empty.
    pub hosts: Vec<Host>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub db: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    Single,
    Cluster,
    Sentinel { master: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name or an address, IPv6 without brackets.
    pub name: String,
    pub port: u16,
}

/// Why text is no address; without the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("must begin with redis://, rediss://, or one of them with +cluster or +sentinel")]
    Scheme,
    #[error("names no host")]
    NoHost,
    #[error("has a host that is neither a name nor an address, IPv6 in brackets")]
    Host,
    #[error("has a port that is no number from 1 to 65535")]
    Port,
    #[error("names several servers: use redis+cluster:// or redis+sentinel://")]
    SeveralHosts,
    #[error("has a broken percent-encoding in its user or password")]
    Encoding,
    #[error("has a user and no password")]
    NoPassword,
    #[error("must end with the number of a database, or with nothing, after the host")]
    Database,
    #[error("names a database other than 0, which a cluster does not have")]
    ClusterDatabase,
    #[error("names no master: redis+sentinel://host:port/MASTER")]
    NoMaster,
    #[error("has a ? or #: it takes no parameters, and these are percent-encoded in a password")]
    Parameters,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Scheme)?;
        let (base, kind) = scheme.split_once('+').map_or((scheme, None), |(base, kind)| (base, Some(kind)));
        let tls = match base {
            "redis" => false,
            "rediss" => true,
            _ => return Err(AddressError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(AddressError::Parameters);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let (username, password) = userinfo.map_or(Ok((None, None)), credentials)?;
        let default_port = if kind == Some("sentinel") { 26379 } else { 6379 };
        let hosts =
            hosts.split(',').map(|host| self::host(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        let (topology, db) = match kind {
            None if hosts.len() > 1 => return Err(AddressError::SeveralHosts),
            None => (Topology::Single, database(path)?),
            Some("cluster") if database(path)? != 0 => return Err(AddressError::ClusterDatabase),
            Some("cluster") => (Topology::Cluster, 0),
            Some("sentinel") => {
                let (master, db) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(AddressError::NoMaster);
                }
                (Topology::Sentinel { master: decoded(master)? }, database(db)?)
            }
            Some(_) => return Err(AddressError::Scheme),
        };
        Ok(Self { topology, tls, hosts, username, password, db })
    }
}

fn credentials(userinfo: &str) -> Result<(Option<String>, Option<String>), AddressError> {
    let Some((username, password)) = userinfo.split_once(':') else {
        return if userinfo.is_empty() { Ok((None, None)) } else { Err(AddressError::NoPassword) };
    };
    let given = |text: String| (!text.is_empty()).then_some(text);
    Ok((given(decoded(username)?), given(decoded(password)?)))
}

fn host(text: &str, default_port: u16) -> Result<Host, AddressError> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, after) = rest.split_once(']').ok_or(AddressError::Host)?;
            name.parse::<std::net::Ipv6Addr>().map_err(|_| AddressError::Host)?;
            (
                name,
                if after.is_empty() {
                    None
                } else {
                    Some(after.strip_prefix(':').ok_or(AddressError::Host)?)
                },
            )
        }
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let ipv6 = text.starts_with('[');
    if name.is_empty() {
        return Err(AddressError::NoHost);
    }
    if !ipv6 && !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        return Err(AddressError::Host);
    }
    let port = match port {
        None => default_port,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().map_err(|_| AddressError::Port)?
        }
        Some(_) => return Err(AddressError::Port),
    };
    if port == 0 { Err(AddressError::Port) } else { Ok(Host { name: name.to_owned(), port }) }
}

fn database(text: &str) -> Result<i64, AddressError> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() {
        return Ok(0);
    }
    text.parse::<u16>().map(i64::from).map_err(|_| AddressError::Database)
}

fn decoded(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (digits, after) = after.split_at_checked(2).ok_or(AddressError::Encoding)?;
            bytes.extend(hex::decode(digits).map_err(|_| AddressError::Encoding)?);
            rest = after;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| AddressError::Encoding)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// For logs: without user and password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.topology {
            Topology::Single => "",
            Topology::Cluster => "+cluster",
            Topology::Sentinel { .. } => "+sentinel",
        };
        write!(f, "redis{}{kind}://", if self.tls { "s" } else { "" })?;
        for (at, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if at == 0 { "" } else { "," })?;
        }
        if let Topology::Sentinel { master } = &self.topology {
            write!(f, "/{master}")?;
        }
        if self.db == 0 { Ok(()) } else { write!(f, "/{}", self.db) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_shown_without_its_password() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://localhost/", "redis://localhost:6379"),
            ("redis://:s3cret@10.0.0.1:7000/2", "redis://10.0.0.1:7000/2"),
            ("rediss://me:s3cret@r_1.example.com", "rediss://r_1.example.com:6379"),
            ("redis://[::1]:7000", "redis://[::1]:7000"),
            ("redis+cluster://a:7000,b,[::1]", "redis+cluster://a:7000,b:6379,[::1]:6379"),
            ("rediss+cluster://u:s3cret@a:1/0", "rediss+cluster://a:1"),
            ("redis+sentinel://a,b:7/main", "redis+sentinel://a:26379,b:7/main"),
            ("redis+sentinel://:s3cret@a/main/3", "redis+sentinel://a:26379/main/3"),
        ] {
            let address: Address = url.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{url}");
            assert!(!format!("{address:?}").contains("s3cret"), "{url}");
        }
        let address: Address = "redis://a%40b:p%2Fq%3A@h".parse().unwrap();
        assert_eq!(address.username.as_deref(), Some("a@b"));
        assert_eq!(address.password.as_deref(), Some("p/q:"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        use AddressError::*;
        for (url, error) in [
            ("", Scheme),
            ("localhost:6379", Scheme),
            ("http://localhost", Scheme),
            ("redis+other://a", Scheme),
            ("redis://", NoHost),
            ("redis://:6379", NoHost),
            ("redis+cluster://a,,b", NoHost),
            ("redis://a b", Host),
            ("redis://[::1", Host),
            ("redis://[::1]7", Host),
            ("redis://[a]", Host),
            ("redis://::1", NoHost),
            ("redis://a:0", Port),
            ("redis://a:", Port),
            ("redis://a:+7", Port),
            ("redis://a:65536", Port),
            ("redis://a,b", SeveralHosts),
            ("redis://:%zz@a", Encoding),
            ("redis://:%ff@a", Encoding),
            ("redis://me@a", NoPassword),
            ("redis://a/x", Database),
            ("redis://a/-1", Database),
            ("redis+cluster://a/1", ClusterDatabase),
            ("redis+sentinel://a", NoMaster),
            ("redis+sentinel://a/m/x", Database),
            ("redis://a?db=1", Parameters),
        ] {
            assert_eq!(url.parse::<Address>(), Err(error), "{url}");
        }
    }
}
