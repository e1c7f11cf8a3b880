//! Every op against libtorch's autograd, in f64 and f32, and its temporaries against the formula beside it.
//!
//! The allocator's counters are one per process, so every test holds [`bench`]'s lock while it runs.

#![allow(clippy::expect_used, clippy::panic)] // a test helper fails its test

mod bandwidth;
mod check;
mod dense;
mod fused;
mod kernels;
mod sequence;
mod shim;
mod speed;
mod support;
mod training;
