//! The egress guard: the one way to a TCP connection. A host is resolved, every one of its addresses
//! is checked, and a checked one is connected to; literals are checked alike. One forbidden address
//! forbids the host: whoever answers for a name must not choose by chance.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use common::address::Rules;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_resolver::{TokioResolver, config::LookupIpStrategy};
use tokio::net::TcpStream;

use super::{
    failure::Failure,
    origin::{Host, Origin},
};
use crate::delivery::Fault;

/// How long an address has before the next is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// How many of a name's addresses are tried.
const TRIED: usize = 8;

pub struct Guard {
    rules: Rules,
    resolver: Resolver,
}

enum Resolver {
    Hickory(Box<TokioResolver>),
    /// getaddrinfo.
    System,
}

impl Guard {
    pub fn new(rules: Rules) -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        });
        let resolver = match resolver {
            Ok(resolver) => Resolver::Hickory(Box::new(resolver)),
            Err(error) => {
                tracing::warn!(%error, "the DNS settings cannot be read, names are resolved by the system");
                Resolver::System
            }
        };
        Self { rules, resolver }
    }

    /// The addresses that may be connected to: all of the host's.
    pub async fn addresses(&self, origin: &Origin) -> Result<Vec<IpAddr>, Failure> {
        let forbidden = |message: String| Failure::new(Fault::ForbiddenAddress, message);
        if !(origin.tls || self.rules.development || self.rules.allow_http) {
            return Err(forbidden("http URLs are not allowed, only https".into()));
        }
        self.rules.check_port(origin.port).map_err(forbidden)?;
        let (addresses, name) = match &origin.host {
            Host::Address(address) => (vec![*address], None),
            Host::Name(name) => (self.resolver.resolve(name).await?, Some(name)),
        };
        for address in &addresses {
            self.rules.check(*address).map_err(|error| match name {
                Some(name) => forbidden(format!("{name} resolves to {address}: {error}")),
                None => forbidden(error.to_string()),
            })?;
        }
        Ok(addresses)
    }

    /// A connection to one of `addresses`, in their order, the next beside one that is slow.
    pub async fn connect(&self, addresses: &[IpAddr], port: u16) -> Result<(TcpStream, SocketAddr), Failure> {
        let mut rest = addresses.iter().take(TRIED).map(|address| SocketAddr::new(*address, port));
        let mut dials = FuturesUnordered::new();
        let mut failure = Failure::new(Fault::Dns, "the name has no address");
        loop {
            let next = rest.next();
            let more = next.is_some();
            dials.extend(next.map(dial));
            if dials.is_empty() {
                return Err(failure);
            }
            tokio::select! {
                Some(dialled) = dials.next() => match dialled {
                    Ok(connected) => return Ok(connected),
                    Err((address, error)) => failure = Failure::connect(address, &error),
                },
                () = tokio::time::sleep(HEAD_START), if more => {}
            }
        }
    }
}

async fn dial(address: SocketAddr) -> Result<(TcpStream, SocketAddr), (SocketAddr, io::Error)> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    connect.await.map(|stream| (stream, address)).map_err(|error| (address, error))
}

impl Resolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let addresses: Vec<IpAddr> = match self {
            Self::Hickory(resolver) => match resolver.lookup_ip(name).await {
                Ok(found) => found.iter().collect(),
                Err(error) if error.is_no_records_found() => Vec::new(),
                Err(error) => {
                    return Err(Failure::new(Fault::Dns, format!("cannot resolve {name}: {error}")));
                }
            },
            Self::System => match tokio::net::lookup_host((name, 0)).await {
                Ok(found) => found.map(|address| address.ip()).collect(),
                Err(error) => {
                    return Err(Failure::new(Fault::Dns, format!("cannot resolve {name}: {error}")));
                }
            },
        };
        if addresses.is_empty() {
            return Err(Failure::new(Fault::Dns, format!("{name} has no address")));
        }
        Ok(addresses)
    }
}
