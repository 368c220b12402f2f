//! The servers behind a connection, one by one: the only one, or each master of a cluster with its slots.
//! For what is asked of a server and not of a key, and for connections of one's own to one of them.

use std::{ops::RangeInclusive, sync::Arc};

use redis::{Cmd, ErrorKind, PushInfo, RedisResult, Value, aio::MultiplexedConnection};
use tokio::sync::mpsc::UnboundedSender;

use super::{Connection, Host, Way, server::Server};

/// A server that takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Of a cluster's node; `None`: the only server, wherever it is now.
    pub host: Option<Host>,
    slots: Vec<RangeInclusive<u16>>,
}

impl Master {
    fn only() -> Self {
        Self { host: None, slots: vec![0..=u16::MAX] }
    }

    /// Whether keys of this slot are its own.
    pub fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|slots| slots.contains(&slot))
    }

    /// As logs name it.
    pub fn name(&self) -> String {
        self.host.as_ref().map_or("the server".into(), |host| format!("{}:{}", host.name, host.port))
    }
}

impl Connection {
    /// All servers that take writes now, those that are away included.
    pub async fn masters(&self) -> RedisResult<Vec<Master>> {
        match &self.way {
            Way::One(_) => Ok(vec![Master::only()]),
            Way::Cluster(cluster) => cluster.masters().await,
        }
    }

    /// A command to one server, over the connection that all share.
    pub async fn ask(&self, master: &Master, cmd: Cmd) -> RedisResult<Value> {
        self.server(master).await?.command(&cmd).await?.extract_error()
    }

    /// A connection of one's own to a server, which nobody else writes to. What the server says unasked
    /// goes to `pushes`, its end too.
    pub async fn dial(
        &self,
        master: &Master,
        pushes: Option<UnboundedSender<PushInfo>>,
    ) -> RedisResult<MultiplexedConnection> {
        self.server(master).await?.dial(pushes).await
    }

    async fn server(&self, master: &Master) -> RedisResult<Arc<Server>> {
        match (&self.way, &master.host) {
            (Way::One(server), _) => Ok(server.clone()),
            (Way::Cluster(cluster), Some(host)) => cluster.server(host).await,
            (Way::Cluster(_), None) => Err((ErrorKind::Client, "a cluster has no only server").into()),
        }
    }
}

/// The masters that a cluster's node names, and whether it sees enough of the cluster to know.
pub(super) async fn of_cluster(node: &Arc<Server>) -> RedisResult<(Vec<Master>, bool)> {
    let mut info = redis::cmd("CLUSTER");
    info.arg("INFO");
    let info = node.command(&info).await?.extract_error().ok();
    let info = info.and_then(|info| redis::from_redis_value::<String>(info).ok());
    // One that does not tell is believed.
    let knows = info.is_none_or(|info| info.contains("cluster_state:ok"));
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("SLOTS");
    let asked = node.address.hosts.first().map_or("", |host| host.name.as_str());
    Ok((read_slots(node.command(&slots).await?.extract_error()?, asked)?, knows))
}

/// The slot of a key: of what stands between its first braces, if anything does.
pub fn slot(key: &str) -> u16 {
    slot_of(key.as_bytes())
}

pub(super) fn slot_of(key: &[u8]) -> u16 {
    let behind = |brace, text: &[u8]| text.iter().position(|byte| *byte == brace);
    let tag = behind(b'{', key).and_then(|at| {
        let rest = &key[at + 1..];
        Some(&rest[..behind(b'}', rest)?])
    });
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    // CRC-16/XMODEM.
    let crc = hashed.iter().fold(0_u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    });
    crc % 16_384
}

/// Reads CLUSTER SLOTS. A node that does not know its own address is where it was asked.
fn read_slots(answer: Value, asked: &str) -> RedisResult<Vec<Master>> {
    type Range = (u16, u16, Vec<Value>);
    let Value::Array(rows) = answer else { return Err(unreadable()) };
    let mut masters: Vec<Master> = Vec::new();
    for row in rows {
        let Value::Array(mut row) = row else { return Err(unreadable()) };
        row.truncate(3);
        let (from, to, node): Range = redis::from_redis_value(Value::Array(row))?;
        let mut node = node.into_iter();
        let (Some(name), Some(port)) = (node.next(), node.next()) else { return Err(unreadable()) };
        let name: Option<String> = redis::from_redis_value(name)?;
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| asked.into());
        if name == "?" {
            tracing::warn!(
                asked,
                "a node of the cluster has no name: cluster-announce-hostname is to be set"
            );
            continue;
        }
        let host = Some(Host { name, port: redis::from_redis_value(port)? });
        match masters.iter_mut().find(|master| master.host == host) {
            Some(master) => master.slots.push(from..=to),
            None => masters.push(Master { host, slots: vec![from..=to] }),
        }
    }
    if masters.is_empty() { Err(unreadable()) } else { Ok(masters) }
}

fn unreadable() -> redis::RedisError {
    (ErrorKind::UnexpectedReturnType, "CLUSTER SLOTS names no node").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keys_slot_is_that_of_its_tag() {
        for (key, at) in [("123456789", 0x31c3), ("a{123456789}b{c}", 0x31c3), ("foo", 12_182), ("", 0)] {
            assert_eq!(slot(key), at, "{key}");
        }
        assert_ne!(slot("{}x"), slot(""), "empty braces are no tag");
    }

    #[test]
    fn a_clusters_slots_are_read_master_by_master() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let row = |from, to, node| Value::Array(vec![Value::Int(from), Value::Int(to), node]);
        let answer = Value::Array(vec![
            row(0, 99, node(text("10.0.0.1"), 7000)),
            row(100, 16_383, node(Value::Nil, 7001)),
            row(200, 300, node(text("10.0.0.1"), 7000)),
            row(301, 301, node(text("?"), 7000)),
        ]);
        let masters = read_slots(answer, "seed").unwrap();
        let names: Vec<_> = masters.iter().map(Master::name).collect();
        assert_eq!(names, ["10.0.0.1:7000", "seed:7001"]);
        assert!(masters[0].has(250) && !masters[0].has(100) && masters[1].has(16_383));
        assert!(read_slots(Value::Array(vec![]), "seed").is_err());
    }
}
