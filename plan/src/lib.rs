//! The narrow waist of llmc: `Plan`, `ParamSpec`, ops, `Program`, lowering, the memory and time walk.
//!
//! Everything upstream ends in a [`plan::Plan`]; everything downstream starts from a
//! [`program::Program`] lowered from it. Not here: search, text, tensors.

pub mod arena;
pub mod batch;
pub mod columns;
pub mod data;
pub mod lang;
mod live;
pub mod lower;
pub mod model;
pub mod mount;
pub mod op;
mod order;
pub mod param;
pub mod pass;
pub mod plan;
pub mod program;
pub mod ranks;
pub mod record;
pub mod sync;
pub mod verify;
pub mod walk;
