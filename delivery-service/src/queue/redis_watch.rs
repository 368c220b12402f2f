//! Passing changes between replicas on Redis: who watches which account, and a short stream of changes
//! for each account that is watched. No subscriptions: a stream is read on, so a broken connection loses
//! nothing, and it works the same on one server, behind sentinels and on a cluster.
//!
//! | key | what |
//! | --- | --- |
//! | `P:watched` | zset: account, 0 byte, replica → until when it is watched there, ms |
//! | `P:changes:LICENSE` | stream of batches, field `c`; short, and gone 30 s after the last one |

use std::{collections::HashSet, sync::Arc};

use common::redis::Connection;
use redis::{RedisError, RedisResult, Script, cmd, pipe};

use super::QueueError;

/// Says what is watched at a replica (ARGV[2…]) for 10 s; answers all that is watched anywhere.
const REGISTER: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now + 10000, ARGV[i] .. '\\0' .. ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)";

/// Batches that a stream keeps.
const KEPT: usize = 512;
const KEPT_SECONDS: usize = 30;
/// Batches that are read at once.
pub const READ_MOST: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub struct Wire {
    connection: Connection,
    prefix: String,
    /// This process.
    replica: String,
    register: Arc<Script>,
}

impl Wire {
    pub fn new(connection: Connection, prefix: &str) -> Self {
        let register = Arc::new(Script::new(REGISTER));
        Self {
            connection,
            prefix: prefix.into(),
            replica: format!("{:016x}", rand::random::<u64>()),
            register,
        }
    }

    /// Says that these accounts are watched here; answers those that are watched at other replicas.
    pub async fn register(&self, accounts: &[String]) -> Result<HashSet<String>, QueueError> {
        let mut call = self.register.key(format!("{}:watched", self.prefix));
        call.arg(&self.replica);
        for account in accounts {
            call.arg(account);
        }
        let watched: Vec<String> =
            call.invoke_async(&mut self.connection.clone()).await.map_err(unavailable)?;
        let others = watched.iter().filter_map(|member| member.split_once('\0'));
        Ok(others.filter(|(_, replica)| *replica != self.replica).map(|(name, _)| name.into()).collect())
    }

    /// Where an account's stream ends now.
    pub async fn latest(&self, account: &str) -> Result<String, QueueError> {
        let mut last = cmd("XREVRANGE");
        last.arg(self.stream(account)).arg("+").arg("-").arg("COUNT").arg(1);
        let found: RedisResult<Vec<(String, Vec<Vec<u8>>)>> =
            last.query_async(&mut self.connection.clone()).await;
        let found = found.map_err(unavailable)?.pop();
        Ok(found.map_or_else(|| "0-0".into(), |(id, _)| id))
    }

    pub async fn post(&self, account: &str, batch: Vec<u8>) -> Result<(), QueueError> {
        let stream = self.stream(account);
        let mut posting = pipe();
        posting.cmd("XADD").arg(&stream).arg("MAXLEN").arg(KEPT).arg("*").arg("c").arg(batch).ignore();
        posting.cmd("EXPIRE").arg(&stream).arg(KEPT_SECONDS).ignore();
        posting.query_async::<()>(&mut self.connection.clone()).await.map_err(unavailable)
    }

    /// Batches after a place in an account's stream, each with its own.
    pub async fn read(&self, account: &str, after: &str) -> Result<Vec<(String, Vec<u8>)>, QueueError> {
        let mut range = cmd("XRANGE");
        range.arg(self.stream(account)).arg(format!("({after}")).arg("+").arg("COUNT").arg(READ_MOST);
        let found: RedisResult<Vec<(String, Vec<Vec<u8>>)>> =
            range.query_async(&mut self.connection.clone()).await;
        let batch = |(id, mut fields): (String, Vec<Vec<u8>>)| (id, fields.pop().unwrap_or_default());
        Ok(found.map_err(unavailable)?.into_iter().map(batch).collect())
    }

    fn stream(&self, account: &str) -> String {
        format!("{}:changes:{account}", self.prefix)
    }
}

fn unavailable(error: RedisError) -> QueueError {
    QueueError::Unavailable(error.to_string())
}
