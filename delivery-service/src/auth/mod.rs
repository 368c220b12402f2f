//! How a request shows the receiver who sent it.

pub mod signature;
