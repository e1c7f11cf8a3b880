//! `Program` and batches to trained weights: op executors over libtorch, interpreter, checkpoints.

pub mod checkpoint;
pub mod error;
pub mod events;
pub mod failure;
pub mod metrics;
pub mod ops;
pub mod progress;
pub mod schedule;
pub mod shim;
