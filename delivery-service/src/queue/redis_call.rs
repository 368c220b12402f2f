//! Calls of the queue's scripts: one script, one shard, one answer within 2 s. A server that does not
//! know a script is sent it; what goes wrong is told apart by what a caller can do about it.

use std::time::Duration;

use common::redis::Connection;
use redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisWrite, Script, ServerErrorKind, Value, aio::ConnectionLike,
    cmd, pipe,
};
use tokio::time::timeout;

use super::{QueueError, redis_script::whole};

/// How long a call may take as a rule, repeats included.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// A script and its name on the server.
pub(super) struct Verb {
    code: String,
    hash: String,
}

/// What the queue can do in Redis. `enqueue` alone is refused when memory runs out: all else frees it.
pub(super) struct Verbs {
    pub enqueue: Verb,
    pub claim: Verb,
    pub read: Verb,
    pub scan: Verb,
    pub fetch: Verb,
    pub settle: Verb,
    pub retry: Verb,
    pub wake: Verb,
    pub list: Verb,
    pub get: Verb,
    pub status: Verb,
    pub cancel: Verb,
    pub bulk: Verb,
    pub bulk_stop: Verb,
    pub bulks: Verb,
    pub slice: Verb,
    pub slice_done: Verb,
}

impl Verbs {
    pub fn new() -> Self {
        let verb = |flags: &str, script: &str| {
            let code = whole(flags, script);
            Verb { hash: Script::new(&code).get_hash().to_owned(), code }
        };
        let frees = |script: &str| verb(" flags=allow-oom", script);
        let reads = |script: &str| verb(" flags=no-writes", script);
        Self {
            enqueue: verb("", include_str!("lua/enqueue.lua")),
            claim: frees(include_str!("lua/claim.lua")),
            scan: frees(include_str!("lua/scan.lua")),
            fetch: reads(include_str!("lua/fetch.lua")),
            read: frees(include_str!("lua/read.lua")),
            settle: frees(include_str!("lua/settle.lua")),
            retry: frees(include_str!("lua/retry.lua")),
            wake: frees(include_str!("lua/wake.lua")),
            list: reads(include_str!("lua/list.lua")),
            get: reads(include_str!("lua/get.lua")),
            status: reads(include_str!("lua/status.lua")),
            cancel: frees(include_str!("lua/cancel.lua")),
            bulk: frees(include_str!("lua/bulk.lua")),
            bulk_stop: frees(include_str!("lua/bulk_stop.lua")),
            bulks: frees(include_str!("lua/bulks.lua")),
            slice: frees(include_str!("lua/slice.lua")),
            slice_done: frees(include_str!("lua/slice_done.lua")),
        }
    }
}

impl Verb {
    /// A call on the shard whose keys begin with `base`; arguments follow. Two keys are named, though neither
    /// is ever there: while their slot is moved, no node of a cluster takes a call on two that it does not
    /// have, where one on one key would be done on the half of the shard that is there.
    pub fn on(&self, base: &str) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.hash).arg(2).arg(base);
        call.write_arg_fmt(format_args!("{base}moving"));
        call
    }

    pub async fn run(
        &self,
        connection: &Connection,
        call: Cmd,
        limit: Duration,
    ) -> Result<Value, QueueError> {
        within(limit, self.asked(connection, &call)).await
    }

    /// The same after a plain command, in one transaction on one server.
    pub async fn run_after(
        &self,
        connection: &Connection,
        before: Cmd,
        call: Cmd,
        limit: Duration,
    ) -> Result<Value, QueueError> {
        let mut both = pipe();
        both.atomic().add_command(before).add_command(call);
        let asking = async {
            match ask_both(connection, &both).await {
                Err(error) if is_unknown(&error) => {
                    let mut anew = pipe();
                    anew.atomic();
                    for (n, cmd) in both.cmd_iter().enumerate() {
                        anew.add_command(if n == 0 { cmd.clone() } else { self.whole(cmd) });
                    }
                    ask_both(connection, &anew).await
                }
                answer => answer,
            }
        };
        within(limit, asking).await
    }

    /// The same with no limit, down a connection of the caller's choice.
    pub async fn call<C>(&self, connection: &C, call: &Cmd) -> Result<Value, QueueError>
    where
        C: ConnectionLike + Clone,
    {
        self.asked(connection, call).await.map_err(sorted)
    }

    async fn asked<C: ConnectionLike + Clone>(
        &self,
        connection: &C,
        call: &Cmd,
    ) -> Result<Value, RedisError> {
        match ask(connection, call).await {
            Err(error) if is_unknown(&error) => ask(connection, &self.whole(call)).await,
            answer => answer,
        }
    }

    /// A call that brings its script.
    fn whole(&self, call: &Cmd) -> Cmd {
        let mut whole = cmd("EVAL");
        whole.arg(&self.code);
        for arg in call.args_iter().skip(2) {
            if let redis::Arg::Simple(arg) = arg {
                whole.arg(arg);
            }
        }
        whole
    }
}

fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// The second one's answer, of two in a transaction.
async fn ask_both(connection: &Connection, both: &Pipeline) -> Result<Value, RedisError> {
    let answers = connection.clone().req_packed_commands(both, 3, 1).await?.pop().unwrap_or(Value::Nil);
    match answers.extract_error()? {
        Value::Array(mut answers) => answers.pop().unwrap_or(Value::Nil).extract_error(),
        other => Ok(other),
    }
}

/// A plain command.
pub(super) async fn command(connection: &Connection, cmd: &Cmd) -> Result<Value, QueueError> {
    within(TIMEOUT, ask(connection, cmd)).await
}

pub(super) async fn ask<C>(connection: &C, cmd: &Cmd) -> Result<Value, RedisError>
where
    C: ConnectionLike + Clone,
{
    connection.clone().req_packed_command(cmd).await?.extract_error()
}

async fn within(
    limit: Duration,
    asking: impl Future<Output = Result<Value, RedisError>>,
) -> Result<Value, QueueError> {
    match timeout(limit, asking).await {
        Ok(answer) => answer.map_err(sorted),
        Err(_) => {
            Err(QueueError::Unavailable(format!("Redis did not answer within {} ms", limit.as_millis())))
        }
    }
}

pub(super) fn sorted(error: RedisError) -> QueueError {
    match error.code() {
        Some("OOM") => QueueError::Full("Redis has reached its maxmemory".into()),
        Some("WRONGTYPE") => damaged(&error.to_string()),
        // A script that fails as a script met values that it does not know.
        Some("ERR") if error.to_string().contains("user_script") => damaged(&error.to_string()),
        _ => QueueError::Unavailable(error.to_string()),
    }
}

pub(super) fn damaged(what: &str) -> QueueError {
    QueueError::Damaged(what.into())
}

/// Reads an answer from front to back.
pub(super) struct Answer(std::vec::IntoIter<Value>);

impl From<Vec<Value>> for Answer {
    fn from(values: Vec<Value>) -> Self {
        Self(values.into_iter())
    }
}

impl Answer {
    pub fn of(value: Value) -> Result<Self, QueueError> {
        match value {
            Value::Array(values) | Value::Set(values) => Ok(Self(values.into_iter())),
            Value::Nil => Ok(Self(Vec::new().into_iter())),
            other => Err(unexpected(&other)),
        }
    }

    pub fn left(&self) -> usize {
        self.0.len()
    }

    pub fn value(&mut self) -> Result<Value, QueueError> {
        self.0.next().ok_or_else(|| damaged("an answer of Redis is cut short"))
    }

    pub fn array(&mut self) -> Result<Self, QueueError> {
        Self::of(self.value()?)
    }

    pub fn number(&mut self) -> Result<i64, QueueError> {
        number(&self.value()?)
    }

    pub fn bytes(&mut self) -> Result<Option<Vec<u8>>, QueueError> {
        match self.value()? {
            Value::BulkString(bytes) => Ok(Some(bytes)),
            Value::Nil => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// An id's 16 bytes.
    pub fn id(&mut self) -> Result<[u8; 16], QueueError> {
        let bytes = self.bytes()?.unwrap_or_default();
        bytes.as_slice().try_into().map_err(|_| damaged("an id that is none"))
    }
}

pub(super) fn number(value: &Value) -> Result<i64, QueueError> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::Double(number) => Ok(*number as i64),
        Value::BulkString(text) => {
            let text = std::str::from_utf8(text).unwrap_or_default();
            text.parse::<f64>().map(|number| number as i64).map_err(|_| unexpected(value))
        }
        other => Err(unexpected(other)),
    }
}

fn unexpected(value: &Value) -> QueueError {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) => "a string",
        Value::Array(_) => "a list",
        _ => "something else",
    };
    QueueError::Damaged(format!("Redis answered {kind} where another kind was due"))
}
