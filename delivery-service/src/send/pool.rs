//! Connections that wait for their next request. HTTP/1.1 connections are taken out and put back, the
//! newest first; HTTP/2 connections are shared. None lives longer than it may, none waits longer than
//! it may, and there are never more than the limits say.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::{Http1, Http2, Peer, Place};

/// How much a pool keeps, and for how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a connection waits for its next request.
    pub idle_timeout: Duration,
    /// How long a connection is used, from its making.
    pub max_age: Duration,
    /// HTTP/1.1 connections that wait: of one host, and of all.
    pub idle_per_host: usize,
    pub idle: usize,
}

pub struct Pool {
    limits: Limits,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By `Origin::key`; a sweep removes empty ones.
    hosts: HashMap<Box<str>, Host>,
    /// HTTP/1.1 connections of all hosts.
    waiting: usize,
}

#[derive(Default)]
struct Host {
    /// Since when each waits, in that order.
    waiting: Vec<(Instant, Box<Http1>)>,
    /// When each was last asked for.
    shared: Vec<(Instant, Arc<Http2>)>,
}

/// A connection for one request.
pub enum Taken {
    Http1(Box<Http1>),
    Http2(Place),
}

impl Pool {
    pub fn new(limits: Limits) -> Self {
        Self { limits, kept: Mutex::default() }
    }

    /// A connection that has been used before.
    pub fn take(&self, key: &str, now: Instant) -> Option<Taken> {
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        let host = kept.hosts.get_mut(key)?;
        while let Some((since, connection)) = host.waiting.pop() {
            kept.waiting -= 1;
            if now - since < self.limits.idle_timeout && self.is_young(&connection.peer, now) {
                return Some(Taken::Http1(connection));
            }
        }
        // A host that is left empty stays for the next connection, or until the sweep.
        let young = host.shared.iter_mut().filter(|(_, connection)| self.is_young(&connection.peer, now));
        for (used, connection) in young {
            if let Some(place) = connection.place() {
                *used = now;
                return Some(Taken::Http2(place));
            }
        }
        None
    }

    /// Keeps a connection for the next request, if there is room and it is not too old.
    pub fn put(&self, connection: Box<Http1>, now: Instant) {
        if !self.is_young(&connection.peer, now) {
            return;
        }
        // Dropped, thus closed, after the lock.
        let _surplus;
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        if kept.waiting >= self.limits.idle {
            _surplus = kept.evict();
        }
        let key = &connection.peer.origin.key;
        let host = match kept.hosts.get_mut(key) {
            Some(host) => host,
            None => kept.hosts.entry(key.clone()).or_default(),
        };
        if host.waiting.len() < self.limits.idle_per_host {
            host.waiting.push((now, connection));
            kept.waiting += 1;
        }
    }

    /// Shares a new connection with the requests to come.
    pub fn share(&self, connection: Arc<Http2>, now: Instant) {
        let key = connection.peer.origin.key.clone();
        let mut kept = self.kept.lock();
        kept.hosts.entry(key).or_default().shared.push((now, connection));
    }

    /// Shares a connection no more: a request on it has broken. Others on it go on.
    pub fn retire(&self, place: &Place) {
        let mut kept = self.kept.lock();
        if let Some(host) = kept.hosts.get_mut(&place.peer().origin.key) {
            host.shared.retain(|(_, shared)| !place.is_on(shared));
        }
    }

    /// Closes what has waited or lived too long.
    pub fn sweep(&self, now: Instant) {
        // Dropped, thus closed, after the lock.
        let mut old = Vec::new();
        let mut old_shared = Vec::new();
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        kept.hosts.retain(|_, host| {
            let waits = |since: Instant| now - since < self.limits.idle_timeout;
            let stays =
                |(since, it): &mut (Instant, Box<Http1>)| waits(*since) && self.is_young(&it.peer, now);
            let before = old.len();
            old.extend(host.waiting.extract_if(.., |it| !stays(it)));
            kept.waiting -= old.len() - before;
            let stays = |(used, it): &mut (Instant, Arc<Http2>)| {
                !it.is_closed() && self.is_young(&it.peer, now) && (waits(*used) || !it.is_idle())
            };
            old_shared.extend(host.shared.extract_if(.., |it| !stays(it)));
            !host.is_empty()
        });
    }

    fn is_young(&self, peer: &Peer, now: Instant) -> bool {
        now - peer.born < self.limits.max_age
    }
}

impl Kept {
    /// Makes room for one: some host's oldest.
    fn evict(&mut self) -> Option<Box<Http1>> {
        let host = self.hosts.values_mut().find(|host| !host.waiting.is_empty())?;
        let (_, connection) = host.waiting.remove(0);
        self.waiting -= 1;
        Some(connection)
    }
}

impl Host {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.shared.is_empty()
    }
}
