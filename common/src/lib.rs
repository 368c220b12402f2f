//! What both services use: the domain (events, bodies, filters, matching, egress rules), all of it
//! pure, and how a service is set up, run, watched and stopped.

pub mod address;
pub mod body;
pub mod clock;
pub mod disk;
pub mod event;
pub mod filter;
pub mod ids;
pub mod intake;
pub mod matching;
pub mod metrics;
pub mod page;
pub mod process;
pub mod redis;
pub mod service;
pub mod settings;
pub mod status;
pub mod telemetry;
