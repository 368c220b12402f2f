//! How new a server is. Valkey says in `redis_version` which Redis it equals.

use std::fmt;

use redis::{Cmd, ErrorKind, RedisResult, Value};

/// Such as 7.0.15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

const OLDEST: Version = Version(7, 0, 0);

impl Version {
    /// Refuses what cannot run hookline's scripts and lacks sharded pub/sub.
    pub(super) fn check(self) -> RedisResult<()> {
        if self >= OLDEST {
            return Ok(());
        }
        let detail = format!("{self}: 7.0 or newer is needed");
        Err((ErrorKind::InvalidClientConfig, "Redis is too old", detail).into())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What a server is asked.
pub(super) fn question() -> Cmd {
    let mut cmd = redis::cmd("INFO");
    cmd.arg("server");
    cmd
}

/// The version in a server's answer.
pub(super) fn read(answer: &Value) -> RedisResult<Version> {
    let version = match answer {
        Value::BulkString(text) => parse(&String::from_utf8_lossy(text)),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => parse(text),
        _ => None,
    };
    version.ok_or_else(|| (ErrorKind::UnexpectedReturnType, "INFO server names no redis_version").into())
}

fn parse(info: &str) -> Option<Version> {
    let text = info.lines().find_map(|line| line.strip_prefix("redis_version:"))?;
    let mut parts = text.trim().split('.').map(|part| part.parse().unwrap_or(0));
    Some(Version(parts.next()?, parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_older_than_7_0_are_refused() {
        for (text, version, taken) in [
            ("7.0.15", Some(Version(7, 0, 15)), true),
            ("7.0.0-rc1", Some(Version(7, 0, 0)), true),
            ("6.2.14", Some(Version(6, 2, 14)), false),
            ("8.2", Some(Version(8, 2, 0)), true),
            ("255.255.255", Some(Version(255, 255, 255)), true),
        ] {
            let answer =
                Value::BulkString(format!("# Server\r\nredis_version:{text}\r\nos:x\r\n").into_bytes());
            assert_eq!(read(&answer).ok(), version, "{text}");
            assert_eq!(read(&answer).is_ok_and(|version| version.check().is_ok()), taken, "{text}");
        }
        assert!(read(&Value::Nil).is_err());
        assert!(read(&Value::BulkString(b"# Server".to_vec())).is_err());
    }
}
