//! What intake takes and refuses, rule by rule.
