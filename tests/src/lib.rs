//! What scenarios are made of: the real binaries as processes, real receivers, real Redis servers, and
//! the fixtures. A scenario that cannot go on panics, with what it waited for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a scenario that cannot go on has failed")]

pub mod api;
pub mod fixtures;
pub mod fleet;
pub mod process;
pub mod receiver;
pub mod redis;
