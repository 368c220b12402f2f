//! What the binaries are told: groups of flags with environment twins, shared by the three of them, and
//! what they mean once checked. All problems are reported together, with exit status 64. No secret is
//! shown by Debug, help or a problem.

use std::{fmt, fs, net::SocketAddr, path::Path, path::PathBuf, process, str::FromStr};

use clap::{Args, Parser, ValueEnum, builder::BoolishValueParser};
use ipnet::IpNet;

use crate::{address::Rules, redis::Address};

#[cfg(test)]
mod tests;

/// sysexits' EX_USAGE: the settings make no sense; starting again will not help.
pub const EXIT_USAGE: i32 = 64;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Where a service keeps what it owns.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// Folder of the embedded store; each service has its own inside [default: ./data]
    #[arg(long, env = "HOOKLINE_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// Redis instead of the embedded store: redis[s]://HOST:PORT[/DB], redis[s]+cluster://H:P[,H:P…],
    /// redis[s]+sentinel://H:P[,H:P…]/MASTER, each with [USER:PASSWORD@] before its hosts
    #[arg(long, env = "HOOKLINE_REDIS_URL", value_name = "URL", hide_env_values = true)]
    pub redis_url: Option<Secret>,

    /// File with the password of Redis, instead of one in the URL
    #[arg(long, env = "HOOKLINE_REDIS_PASSWORD_FILE", value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,

    /// What all keys in Redis begin with
    #[arg(long, env = "HOOKLINE_REDIS_PREFIX", value_name = "TEXT", default_value = "hookline")]
    pub redis_prefix: String,

    /// PEM file of the authority that signed Redis' certificate, for rediss:// [default: public ones]
    #[arg(long, env = "HOOKLINE_REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
}

/// A store, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// The folder that each service has its own in.
    Disk(PathBuf),
    Redis(RedisStore),
}

#[derive(Clone, PartialEq, Eq)]
pub struct RedisStore {
    pub address: Address,
    /// PEM.
    pub ca: Option<Vec<u8>>,
    pub prefix: String,
}

/// Who may call.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Callers")]
pub struct IngressArgs {
    /// Listen beyond loopback without TLS and callers' credentials, behind something that protects it
    #[arg(long, env = "HOOKLINE_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// File with the token that delivery-service shows to config-service, the same at both
    #[arg(long, env = "HOOKLINE_ROUTE_TOKEN_FILE", value_name = "FILE")]
    pub route_token_file: Option<PathBuf>,
}

/// Where webhooks may post to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Webhooks")]
pub struct EgressArgs {
    /// Let webhooks post to loopback and to http URLs [default: when all listeners are loopback]
    #[arg(long, env = "HOOKLINE_DEVELOPMENT", value_parser = BoolishValueParser::new())]
    pub development: bool,

    /// Development mode is off, also when all listeners are loopback
    #[arg(long, env = "HOOKLINE_NO_DEVELOPMENT", value_parser = BoolishValueParser::new())]
    pub no_development: bool,

    /// Let webhooks post to http URLs
    #[arg(long, env = "HOOKLINE_ALLOW_HTTP", value_parser = BoolishValueParser::new())]
    pub allow_http: bool,

    /// Network that webhooks may post to although it is private, such as 10.1.0.0/16; can be repeated
    #[arg(long, env = "HOOKLINE_ALLOW_NETWORK", value_name = "CIDR", value_delimiter = ',')]
    pub allow_network: Vec<IpNet>,
}

/// What every process can be told.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// What to log: error, warn, info, debug, trace, also by module (info,delivery_service=debug)
    #[arg(long, env = "HOOKLINE_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How to log, to standard error
    #[arg(long, env = "HOOKLINE_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Where GET /metrics answers, for Prometheus, without TLS [default: nowhere]
    #[arg(long, env = "HOOKLINE_METRICS_LISTEN", value_name = "IP:PORT")]
    pub metrics_listen: Option<SocketAddr>,

    /// Ask what runs with the same addresses whether it is ready, and exit with 0 or 1
    #[arg(long)]
    pub check_health: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// All that is wrong with the settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

/// The process' arguments and environment. Ends the process: with 0 after --help and --version, with
/// [`EXIT_USAGE`] when they cannot be read.
pub fn read<A: Parser>() -> A {
    A::try_parse().unwrap_or_else(|error| {
        // Nothing is left to tell it to when standard error is closed.
        let _ = error.print();
        process::exit(if error.use_stderr() { EXIT_USAGE } else { 0 })
    })
}

impl Problems {
    pub fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// Keeps what is wrong with a setting, and goes on.
    pub fn note<T>(&mut self, setting: &str, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|error| self.add(format!("{setting} {error}"))).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the process with [`EXIT_USAGE`] and all problems.
    pub fn exit(self) -> ! {
        eprintln!("{self}");
        process::exit(EXIT_USAGE)
    }
}

impl ProcessArgs {
    /// All that the process listens on, with the flags' names: its services, and metrics.
    pub fn listeners(&self, services: &[(&'static str, SocketAddr)]) -> Vec<(&'static str, SocketAddr)> {
        let metrics = self.metrics_listen.map(|address| ("--metrics-listen", address));
        services.iter().copied().chain(metrics).collect()
    }
}

impl StoreArgs {
    pub fn check(&self, problems: &mut Problems) -> Option<Store> {
        let Some(url) = &self.redis_url else {
            for (flag, given) in [
                ("--redis-password-file", self.redis_password_file.is_some()),
                ("--redis-ca", self.redis_ca.is_some()),
            ] {
                if given {
                    problems.add(format!("{flag} has no effect without --redis-url"));
                }
            }
            return Some(Store::Disk(self.data_dir.clone().unwrap_or_else(|| "./data".into())));
        };
        let mut address = problems.note("--redis-url", url.expose().parse::<Address>());
        if let Some(file) = &self.redis_password_file {
            let password = problems.note("--redis-password-file", Secret::from_file(file));
            if let (Some(address), Some(Secret(password))) = (&mut address, password)
                && address.password.replace(password).is_some()
            {
                problems.add("--redis-password-file and the password in --redis-url exclude each other");
            }
        }
        let ca = self.redis_ca.as_ref().and_then(|file| {
            let pem = problems.note("--redis-ca", contents(file))?;
            if !pem.contains("-----BEGIN CERTIFICATE-----") {
                problems.add(format!("--redis-ca {} is no PEM certificate", file.display()));
            }
            Some(pem.into_bytes())
        });
        if ca.is_some() && address.as_ref().is_some_and(|address| !address.tls) {
            problems.add("--redis-ca has no effect without rediss://");
        }
        let prefix = &self.redis_prefix;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(allowed) {
            problems.add("--redis-prefix must be 1 to 64 characters of A-Z a-z 0-9 . _ : -");
        }
        Some(Store::Redis(RedisStore { address: address?, ca, prefix: prefix.clone() }))
    }
}

impl IngressArgs {
    /// The token of RouteService, if there is one. `listeners` are all of the process', with their
    /// flags' names; `route_service` is the one that serves RouteService.
    pub fn check(
        &self,
        listeners: &[(&str, SocketAddr)],
        route_service: Option<SocketAddr>,
        problems: &mut Problems,
    ) -> Option<Secret> {
        for (flag, address) in listeners {
            if !address.ip().is_loopback() && !self.insecure {
                problems.add(format!(
                    "{flag} {address} is beyond loopback: TLS and callers' credentials are not supported \
                     yet, use --insecure behind something that protects it"
                ));
            }
        }
        if route_service.is_some_and(|at| !at.ip().is_loopback()) && self.route_token_file.is_none() {
            problems.add(
                "--route-token-file is needed beyond loopback, also with --insecure: RouteService carries \
                 every secret",
            );
        }
        problems.note("--route-token-file", Secret::from_file(self.route_token_file.as_ref()?)).and_then(
            |token| {
                let sendable = token.expose().bytes().all(|b| (0x21..0x7f).contains(&b));
                let sendable = if sendable { Ok(token) } else { Err("must hold one word of visible ASCII") };
                problems.note("--route-token-file", sendable)
            },
        )
    }
}

impl EgressArgs {
    pub fn check(&self, listeners: &[(&str, SocketAddr)], problems: &mut Problems) -> Rules {
        if self.development && self.no_development {
            problems.add("--development and --no-development exclude each other");
        }
        let all_loopback = listeners.iter().all(|(_, address)| address.ip().is_loopback());
        Rules {
            development: self.development || (all_loopback && !self.no_development),
            allow_http: self.allow_http,
            allowed: self.allow_network.clone(),
        }
    }
}

impl Secret {
    /// 256 random bits, in hex.
    pub fn random() -> Self {
        Self(hex::encode(rand::random::<[u8; 32]>()))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The file's text without one newline at its end; an empty one is refused.
    pub fn from_file(file: &Path) -> Result<Self, String> {
        let text = contents(file)?;
        let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
        if text.is_empty() { Err(format!("{} is empty", file.display())) } else { Ok(Self(text.to_owned())) }
    }
}

fn contents(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} prefix {}", self.address, self.prefix)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(folder) => write!(f, "embedded in {}", folder.display()),
            Self::Redis(redis) => write!(f, "{redis:?}"),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot start with these settings:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}
