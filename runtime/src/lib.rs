//! `Program` and batches to trained weights: op executors over libtorch, interpreter, checkpoints.

pub mod checkpoint;
pub mod cuda;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod events;
pub mod examine;
pub mod failure;
pub mod host;
pub mod import;
pub mod interpret;
pub mod memory;
pub mod meter;
pub mod metrics;
pub mod ops;
pub mod prepare;
pub mod progress;
pub mod report;
pub mod run_folder;
pub mod schedule;
pub mod selftest;
pub mod shim;
pub mod snapshot;
pub mod stop;
pub mod trace;
pub mod train;
