//! A webhook's filter: a CEL expression over the event's JSON body, compiled once, bounded in cost.

/// A compiled filter.
#[derive(Debug)]
pub struct Filter {
    // (to be written)
}
