//! Module `shell`.
