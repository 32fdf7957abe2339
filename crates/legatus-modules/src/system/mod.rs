//! Module `system`.
