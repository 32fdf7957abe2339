//! Module `transfer-file`.
