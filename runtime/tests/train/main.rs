//! The interpreter and the worker: whole-model gradients, memory, resume, traces, edited programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

mod accounting;
mod faults;
mod gradients;
mod interpreter;
mod mixing;
mod reference;
mod resume;
mod support;
mod tensor;
mod worker;
