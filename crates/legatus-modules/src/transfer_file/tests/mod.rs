//! Tests of both halves against each other, in both directions.

mod contents;
mod failures;
mod hostile;
mod hostile_target;
mod interruption;
mod placement;
mod races;
mod reconnecting;
mod support;
mod sync;
mod watching;
mod whole_trees;
