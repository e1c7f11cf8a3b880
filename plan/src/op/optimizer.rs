//! One optimizer step of one parameter. Learning rate, gradient scale and skip flag are device scalars.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, dtype, shape, traffic};
use crate::plan::{DType, OptimizerKind};

/// What [`Optimize`] updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// f32 weights.
    Whole,
    /// An f32 master; the last output is its copy in the compute format.
    Master,
    /// bf16 weights; the last output, i16, is what they lack of their f32 master: its bits less the weight's. The
    /// weight is the master rounded to nearest, halves upwards. AdamW only.
    Split,
    /// bf16 weights alone, rounded stochastically. AdamW only.
    Stochastic,
}

/// Inputs: gradient, learning rate `[1]`, gradient scale `[1]`, skip flag `[1]`, step number `[1]` (from 1).
/// Outputs: what [`Weights`] says is updated, the states (AdamW: first and second moment; Lion: momentum; Adafactor:
/// row and column second moments), then what [`Weights`] says comes last, if anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimize {
    /// Family.
    pub kind: OptimizerKind,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// Decoupled decay of this parameter; 0 for norms.
    pub weight_decay: f64,
    /// Factor on the learning rate.
    pub lr_multiplier: f64,
    /// How the parameter is kept.
    pub weights: Weights,
}

impl Optimize {
    /// Shapes of the optimizer states of a parameter of this shape.
    pub fn state_shapes(kind: OptimizerKind, parameter: &[u64]) -> Vec<Vec<u64>> {
        match (kind, parameter) {
            (OptimizerKind::Adamw | OptimizerKind::PagedAdamw, shape) => vec![shape.to_vec(), shape.to_vec()],
            (OptimizerKind::Lion, shape) => vec![shape.to_vec()],
            (OptimizerKind::Adafactor, [rows, columns]) => vec![vec![*rows], vec![*columns]],
            (OptimizerKind::Adafactor, shape) => vec![shape.to_vec()],
        }
    }
}

impl Spec for Optimize {
    fn kind(&self) -> Kind {
        Kind::Optimizer
    }

    fn updates(&self, output: usize) -> bool {
        self.weights == Weights::Split || output <= Optimize::state_shapes(self.kind, &[0, 0]).len()
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        let parameter = outputs.first().map(|t| t.shape.clone()).unwrap_or_default();
        let states = Optimize::state_shapes(self.kind, &parameter);
        let last = matches!(self.weights, Weights::Master | Weights::Split);
        arity(inputs, outputs, (5, 1 + states.len() + usize::from(last)))?;
        let adamw = matches!(self.kind, OptimizerKind::Adamw | OptimizerKind::PagedAdamw);
        if matches!(self.weights, Weights::Split | Weights::Stochastic) {
            if !adamw {
                return Err(format!("{:?} needs an f32 master", self.kind));
            }
            dtype("weight", &outputs[0], DType::Bf16)?;
        }
        if self.weights == Weights::Split {
            let missing = &outputs[states.len() + 1];
            shape("missing bits", missing, &parameter)?;
            dtype("missing bits", missing, DType::I16)?;
        }
        shape("gradient", &inputs[0], &parameter)?;
        for (state, output) in states.iter().zip(&outputs[1..]) {
            shape("state", output, state)?;
        }
        Ok(())
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        // A weight that a master is kept of is written, not read.
        let both = outputs.len() - usize::from(self.weights == Weights::Master && !outputs.is_empty());
        let (changed, written) = outputs.split_at(both);
        traffic(&inputs[..1], changed).saturating_add(traffic(written, &[]))
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        if backend == Backend::Cpu && inputs[0].dtype == DType::Bf16 {
            // The gradient in f32, then a step by it.
            let wide = TensorType { dtype: DType::F32, ..inputs[0].clone() };
            return 4 * wide.elements() + self.workspace(backend, &[wide], outputs);
        }
        let parameter = &outputs[0];
        let flat = chunk::flat(backend, parameter.elements(), 4);
        match (self.kind, parameter.shape.as_slice()) {
            (OptimizerKind::Adamw | OptimizerKind::PagedAdamw, _) if backend == Backend::Cuda => 0, // one kernel
            // bf16 moments go through blocks that are copied back; a master that is no tensor becomes one a block at a
            // time, beside a second block to take it apart and what is rounded stochastically.
            (OptimizerKind::Adamw | OptimizerKind::PagedAdamw, _) => {
                let narrow = outputs.get(1).is_some_and(|m| m.dtype != DType::F32);
                let each = match self.weights {
                    Weights::Whole | Weights::Master => {
                        if narrow {
                            4
                        } else {
                            0
                        }
                    }
                    Weights::Split => 8 + if narrow { 4 } else { 0 },
                    Weights::Stochastic => 8 + if narrow { 4 } else { 2 },
                };
                each * flat
            }
            (OptimizerKind::Lion, _) => 8 * flat, // gradient and update of a block
            (OptimizerKind::Adafactor, [rows, columns]) => {
                // Gradient and squares of a block, a block's and all column sums, row means.
                let block = (flat / columns.max(&1)).clamp(1, (*rows).max(1));
                8 * block * columns + 8 * columns + 4 * rows
            }
            (OptimizerKind::Adafactor, _) => 12 * parameter.elements(),
        }
    }
}
