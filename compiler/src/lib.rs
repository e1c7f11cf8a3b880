//! Recipe to plan.
pub mod diag;
pub mod shape;
pub mod suggest;
pub mod unit;
mod check { pub fn rule(_: &str) -> Option<&'static crate::diag::Rule> { None } }
