//! Owns webhooks and accounts, and feeds their routes to delivery-service.

pub mod store;
