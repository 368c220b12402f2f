//! A lane that this process holds, with what the loop keeps beside it.

use std::time::Instant;

use bytes::Bytes;

use super::{gate::Gate, lane::Lane};

pub struct Held {
    pub lane: Lane,
    pub gate: Gate,
    /// As the store has it.
    pub memo: Bytes,
    pub ready: bool,
    /// Whether it waits for the process to have room.
    pub starved: bool,
    pub timer: Option<Instant>,
    pub idle_since: Option<Instant>,
    /// Nothing has come but what it was given with, long after the one before.
    pub alone: bool,
    /// Its lease may be lost: nothing starts until the store has said that it is not.
    pub unsure: bool,
    /// The receiver is gone: nothing starts until config-service has turned the webhook off.
    pub gone: bool,
    /// Something that waits here was withdrawn in the store: nothing starts, and the lane is given back
    /// to be read anew.
    pub stale: bool,
}

impl Held {
    pub fn new(lane: Lane, gate: Gate, memo: Bytes) -> Self {
        Self {
            lane,
            gate,
            memo,
            ready: false,
            starved: false,
            timer: None,
            idle_since: None,
            alone: false,
            unsure: false,
            gone: false,
            stale: false,
        }
    }

    /// Whether nothing is under way or unstored: the lease could be given back.
    pub fn quiet(&self) -> bool {
        self.gate.under_way() == 0 && self.lane.quiet()
    }

    /// Whether it was held for one delivery, which has been made: it can be given back with that one's outcome,
    /// which saves a call. Where two came one soon after the other, more often comes.
    pub fn is_spent(&self, now: Instant) -> bool {
        let hindered = self.unsure || self.gone || self.stale || self.gate.paced_until(now).is_some();
        self.alone && !hindered && self.gate.under_way() == 0 && self.lane.is_spent()
    }
}
