//! `Program` and batches to trained weights: op executors over libtorch, interpreter, checkpoints.

pub mod error;
pub mod ops;
pub mod shim;
