//! The egress rules by table.
