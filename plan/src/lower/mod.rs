//! Plan → Program: the one definition of what a training step computes, keeps and frees.
//!
//! [`lower`] is pure: the same plan and coordinates give the same program on every machine. Every file here
//! writes the segments of one theme over the buffers of `params` and `activations`; `schedule` puts them in
//! order.
//!
//! Not here: addresses ([`crate::arena`]), costs ([`crate::walk`]), well-formedness ([`crate::verify`]).

mod activations;
mod attention;
mod block;
mod build;
mod head;
mod optimizer;
mod params;
mod pipeline;
mod product;
mod schedule;
mod shape;
mod transfer;
mod units;
mod update;

use crate::op::Backend;
use crate::plan::Plan;
use crate::program::Program;
use crate::sync;

pub(crate) use block::policy_name;
pub use shape::{Coordinates, check, head_rows, lowered};

/// What lowering needs beside the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// For which library workspaces are computed.
    pub backend: Backend,
    /// Attention segments a sequence may hold; none: attention sees the whole sequence.
    pub documents_per_sequence: Option<u64>,
    /// Sources of the data; with more than one, the loss of each is summed up too.
    pub sources: u64,
    /// Lower at most this many micro-batches a step. The peak of memory does not depend on how often a
    /// micro-batch is repeated once every slot is in use, so memory questions stay cheap with a small cap.
    pub accumulation_cap: Option<u64>,
}

impl Options {
    /// Whole sequences, one source, all micro-batches.
    pub fn new(backend: Backend) -> Options {
        Options { backend, documents_per_sequence: None, sources: 1, accumulation_cap: None }
    }
}

/// Why a plan was not lowered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LowerError {
    /// The plan contradicts itself; a planner never writes this, an edited file may.
    Invalid {
        /// Path in the plan.
        path: &'static str,
        /// One sentence with the figures.
        reason: String,
    },
    /// The plan is sound but asks for something that is not lowered.
    Unsupported {
        /// Path in the plan.
        path: &'static str,
        /// One sentence with what to choose instead.
        reason: String,
    },
    /// An instruction does not fit its operands: a bug of ours.
    Bug {
        /// Segment and index.
        place: String,
        /// What the op says.
        reason: String,
    },
}

impl std::fmt::Display for LowerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LowerError::Invalid { path, reason } => write!(f, "plan.{path} is impossible: {reason}"),
            LowerError::Unsupported { path, reason } => write!(f, "plan.{path} cannot be run: {reason}"),
            LowerError::Bug { place, reason } => write!(f, "lowering wrote a wrong {place}: {reason}"),
        }
    }
}

impl std::error::Error for LowerError {}

/// The program of the rank at `coordinates`: whole sequences, all micro-batches.
///
/// # Errors
/// [`LowerError`] when the plan contradicts itself or asks for what is not lowered.
pub fn lower(plan: &Plan, coordinates: &Coordinates, backend: Backend) -> Result<Program, LowerError> {
    lower_with(plan, coordinates, &Options::new(backend))
}

/// As [`lower`], with options.
///
/// # Errors
/// As [`lower`].
pub fn lower_with(plan: &Plan, coordinates: &Coordinates, options: &Options) -> Result<Program, LowerError> {
    let shape = shape::Shape::new(plan, coordinates, options)?;
    let mut builder = build::Builder::new(&shape, options.backend);
    let params = params::declare(&mut builder, plan, &shape)?;
    let acts = activations::declare(&mut builder, plan, &shape);
    let lowering = Lowering { plan, shape: &shape, params: &params, acts: &acts };
    schedule::write(&mut builder, &lowering)?;
    let mut program = builder.program;
    sync::derive(&mut program);
    Ok(program)
}

/// What every segment writer reads.
struct Lowering<'a> {
    plan: &'a Plan,
    shape: &'a shape::Shape,
    params: &'a params::Params,
    acts: &'a activations::Activations,
}
