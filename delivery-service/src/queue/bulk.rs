//! What callers ask of a whole lane, as it crosses the queue's seam: how it stands, withdrawing what
//! waits, and retrying what has failed, in slices.

use std::time::Duration;

use common::ids::DeliveryId;

use crate::delivery::{Head, Place};

/// How a lane stands in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether the store has anything of the lane.
    pub known: bool,
    /// Waiting, due or not, and under way.
    pub open: u64,
    pub failed: u64,
    /// How long ago the oldest open one was accepted.
    pub oldest: Option<Duration>,
}

/// What is withdrawn of a lane; one call takes up to `CANCEL_MOST`.
#[derive(Debug, Clone)]
pub enum Cancel {
    /// All open ones up to a place: first `None`, then what `Cancelled::rest` says.
    All(Option<Place>),
    /// The open ones among these, of which there are at most `CANCEL_MOST`.
    These(Vec<DeliveryId>),
}

pub const CANCEL_MOST: usize = 500;

#[derive(Debug, Default)]
pub struct Cancelled {
    /// As they now are.
    pub deliveries: Vec<(Head, Place)>,
    /// More wait, up to this place: for the next call.
    pub rest: Option<Place>,
}

/// The answer to a call for a bulk retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// It is noted; so many failed ones are selected.
    Started(u64),
    /// The lane's last one is not over.
    UnderWay,
}

/// A step of a bulk retry.
#[derive(Debug, Default)]
pub struct Slice {
    /// Those that are due now, as they now are.
    pub retried: Vec<(Head, Place)>,
    /// The bulk retry is over.
    pub over: bool,
}
