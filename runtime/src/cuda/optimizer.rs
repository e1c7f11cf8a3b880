//! AdamW in one pass.

use tch::{Kind, Tensor};

use super::launch::{Launch, aligned, ceil, element};
use super::source::{Element, Program};
use crate::error::Result;
use crate::ops::philox::Stream;
use crate::ops::{elements, require};

const OP: &str = "optimize";

/// How a parameter is kept.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    /// f32 weights.
    Whole(&'a Tensor),
    /// An f32 master, and bf16 weights that are its copy.
    Master {
        /// f32.
        master: &'a Tensor,
        /// bf16.
        copy: &'a Tensor,
    },
    /// bf16 weights, and the 16 bits (i16) that make an f32 master of each.
    Split {
        /// bf16: the master rounded to nearest, halves upwards.
        weights: &'a Tensor,
        /// The master's bits less the weight's.
        missing: &'a Tensor,
    },
    /// bf16 weights without a master, rounded stochastically.
    Stochastic(&'a Tensor),
}

/// Constants and device scalars of a step.
pub struct Settings<'a> {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor on the learning rate.
    pub lr_multiplier: f64,
    /// Learning rate `[1]` f32.
    pub lr: &'a Tensor,
    /// Gradients are divided by this `[1]` f32.
    pub grad_scale: &'a Tensor,
    /// `[1]` f32, 1 leaves everything as it is.
    pub skip: &'a Tensor,
    /// Steps made, this one included, `[1]` f32.
    pub step: &'a Tensor,
    /// Random numbers for stochastic rounding: of weights without a master and of bf16 moments.
    pub stream: &'a Stream,
    /// Index of the first element in the whole parameter; even.
    pub first: u64,
}

/// One step on a parameter: `gradient` f32 or bf16, moments `[m, v]` both f32 or both bf16. The gradient stays.
///
/// # Errors
/// Operands that do not fit.
pub fn adamw(
    settings: &Settings<'_>,
    gradient: &Tensor,
    weights: Weights<'_>,
    [m, v]: [&Tensor; 2],
) -> Result<()> {
    let n = elements(gradient);
    let (mode, master, weight, missing) = match weights {
        Weights::Whole(master) => (0, Some(master), None, None),
        Weights::Master { master, copy } => (1, Some(master), Some(copy), None),
        Weights::Split { weights, missing } => (2, None, Some(weights), Some(missing)),
        Weights::Stochastic(weights) => (3, None, Some(weights), None),
    };
    let given: Vec<&Tensor> = [master, weight, missing].into_iter().flatten().collect();
    for t in [m, v].into_iter().chain(given.iter().copied()) {
        require(elements(t) == n, OP, || format!("{n} elements of gradient, {} elsewhere", elements(t)))?;
    }
    require(settings.first.is_multiple_of(2), OP, || {
        format!("a block that starts at odd element {}", settings.first)
    })?;
    let all: Vec<&Tensor> = [gradient, m, v].into_iter().chain(given).collect();
    let other = element(m, OP)?;
    require(other != Element::F16, OP, || "moments in f16".into())?;
    let program = Program {
        file: "optimizer",
        element: element(gradient, OP)?,
        other,
        aligned: aligned(&all, n),
        mode,
    };
    Launch::new(gradient, OP, program, "adamw")?
        .tensor(gradient, gradient.kind())
        .optional(master, Kind::Float)
        .tensor(m, m.kind())
        .tensor(v, m.kind())
        .optional(weight, Kind::BFloat16)
        .optional(missing, Kind::Int16)
        .tensor(settings.lr, Kind::Float)
        .tensor(settings.grad_scale, Kind::Float)
        .tensor(settings.skip, Kind::Float)
        .tensor(settings.step, Kind::Float)
        .int(n)
        .double(libm::log(settings.beta1))
        .double(libm::log(settings.beta2))
        .float(settings.beta2)
        .float(1.0 - settings.beta1)
        .float(1.0 - settings.beta2)
        .float(settings.eps)
        .float(settings.weight_decay)
        .float(settings.lr_multiplier)
        .int(settings.first.cast_signed())
        .stream(settings.stream)
        // A block does eight rounds, which outweigh its start; a small parameter spreads over the card instead.
        .run(ceil(n, 8 * 256 * 4).max(ceil(n, 256 * 4).min(4 * 132)), 256)
}
