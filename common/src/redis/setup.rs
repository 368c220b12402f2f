//! Whether the Redis that a service starts on is set up to keep what it is given: too old a version is
//! refused, and what may lose data or run full is warned of, server by server, with what to do.

use redis::{Cmd, ErrorKind, RedisError, RedisResult, Value, cmd};

use super::{Connection, Master, Version, version};

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Setup {
    policy: String,
    /// Bytes; 0: without a limit.
    maxmemory: u64,
    appends: bool,
    /// Whether it saves by itself; `None`: it does not tell.
    saves: Option<bool>,
}

/// Logs a warning for each fault of a server. `wants_limit`: one without `maxmemory` is a fault. Fails
/// when a server is too old ([`is_too_old`]), or none answers.
pub async fn check_setup(connection: &Connection, wants_limit: bool) -> RedisResult<()> {
    let (mut answers, mut away) = (0, None);
    for master in connection.masters().await? {
        match check(connection, &master, wants_limit).await {
            Ok(()) => answers += 1,
            // A cluster's others may do without it.
            Err(error) if error.is_io_error() => away = Some(error),
            Err(error) => return Err(error),
        }
    }
    away.filter(|_| answers == 0).map_or(Ok(()), Err)
}

async fn check(connection: &Connection, master: &Master, wants_limit: bool) -> RedisResult<()> {
    version::read(&connection.ask(master, version::question()).await?)?.check()?;
    let setup = ask(connection, master).await?;
    for warning in faults(&setup, wants_limit) {
        tracing::warn!(redis = %connection.address(), server = master.name(), "{warning}");
    }
    Ok(())
}

/// Whether a server was refused for its version: that does not mend itself.
pub fn is_too_old(error: &RedisError) -> bool {
    error.kind() == ErrorKind::InvalidClientConfig
}

impl Connection {
    /// A server's version.
    pub async fn version_of(&self, master: &Master) -> RedisResult<Version> {
        version::read(&self.ask(master, version::question()).await?)
    }

    /// A field of a server's INFO.
    pub async fn info(
        &self,
        master: &Master,
        section: &str,
        fields: &[&str],
    ) -> RedisResult<Vec<Option<String>>> {
        let mut info = cmd("INFO");
        info.arg(section);
        let text = text(self.ask(master, info).await?)?;
        let field = |name: &&str| {
            let line = text.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        Ok(fields.iter().map(field).collect())
    }

    /// One of a server's settings; `None` when it does not let itself be asked.
    pub async fn config(&self, master: &Master, name: &str) -> RedisResult<Option<String>> {
        let pair = match self.ask(master, config_get(name)).await {
            Ok(answer) => redis::from_redis_value::<Vec<String>>(answer)?,
            Err(error) if error.is_io_error() => return Err(error),
            Err(_) => return Ok(None),
        };
        Ok(pair.into_iter().nth(1))
    }
}

fn config_get(name: &str) -> Cmd {
    let mut get = cmd("CONFIG");
    get.arg("GET").arg(name);
    get
}

async fn ask(connection: &Connection, master: &Master) -> RedisResult<Setup> {
    let memory = connection.info(master, "memory", &["maxmemory_policy", "maxmemory"]).await?;
    let persistence = connection.info(master, "persistence", &["aof_enabled"]).await?;
    let saves = connection.config(master, "save").await?.map(|rules| !rules.is_empty());
    let field = |of: &[Option<String>], n: usize| of.get(n).cloned().flatten().unwrap_or_default();
    Ok(Setup {
        policy: field(&memory, 0),
        maxmemory: field(&memory, 1).parse().unwrap_or(0),
        appends: field(&persistence, 0) == "1",
        saves,
    })
}

fn faults(setup: &Setup, wants_limit: bool) -> Vec<String> {
    let mut faults = Vec::new();
    if setup.policy != "noeviction" {
        faults.push(format!(
            "Redis may throw away what it has accepted: its maxmemory-policy is {}; set maxmemory-policy noeviction",
            if setup.policy.is_empty() { "not known" } else { &setup.policy }
        ));
    }
    if wants_limit && setup.maxmemory == 0 {
        faults.push(
            "Redis has no maxmemory, so nothing stops it from taking all of its machine's memory: set \
             maxmemory, or --store-memory-limit here"
                .into(),
        );
    }
    if !setup.appends {
        match setup.saves {
            Some(false) => faults.push(
                "Redis keeps nothing on disk: a restart loses every delivery and webhook; set appendonly yes".into(),
            ),
            Some(true) => faults.push(
                "Redis has no append-only file: a restart loses what came since its last save; set appendonly yes"
                    .into(),
            ),
            None => faults.push(
                "Redis has no append-only file, and whether it saves could not be checked, for CONFIG GET is \
                 refused: see that it persists, best with appendonly yes"
                    .into(),
            ),
        }
    }
    faults
}

fn text(answer: Value) -> RedisResult<String> {
    match answer {
        Value::VerbatimString { text, .. } => Ok(text),
        other => redis::from_redis_value(other).map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_lose_data_is_warned_of_with_what_to_do() {
        let good = Setup { policy: "noeviction".into(), maxmemory: 1, appends: true, saves: Some(true) };
        let with = |change: fn(&mut Setup)| {
            let mut setup = good.clone();
            change(&mut setup);
            setup
        };
        for (setup, wants_limit, says) in [
            (good.clone(), true, None),
            (with(|s| s.policy = "allkeys-lru".into()), true, Some("maxmemory-policy noeviction")),
            (with(|s| s.maxmemory = 0), true, Some("--store-memory-limit")),
            (with(|s| s.maxmemory = 0), false, None),
            (with(|s| (s.appends, s.saves) = (false, Some(false))), true, Some("appendonly yes")),
            (with(|s| s.appends = false), true, Some("its last save")),
            (with(|s| (s.appends, s.saves) = (false, None)), true, Some("could not be checked")),
        ] {
            let faults = faults(&setup, wants_limit);
            assert_eq!(faults.len(), usize::from(says.is_some()), "{setup:?}: {faults:?}");
            assert!(says.is_none_or(|says| faults[0].contains(says)), "{faults:?}");
        }
    }
}
