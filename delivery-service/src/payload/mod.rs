//! Bodies as bytes: what receivers get, rendered once per event and format. Pure.

pub mod json;
pub mod xml;

#[cfg(test)]
mod tests;
