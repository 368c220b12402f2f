//! Takes events in, finds the webhooks that they fire, and delivers.

pub mod api;
pub mod auth;
pub mod delivery;
pub mod payload;
pub mod queue;
pub mod request;
pub mod retry;
pub mod routes;
pub mod sample;
pub mod send;
