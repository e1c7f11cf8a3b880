//! One optimizer step of one parameter. Learning rate, gradient scale and skip flag are device scalars.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, shape, traffic};
use crate::plan::OptimizerKind;

/// Inputs: gradient, learning rate `[1]`, gradient scale `[1]`, skip flag `[1]`, step number `[1]` (from 1).
/// Outputs: the f32 master (or the parameter itself when it is f32), the states (AdamW: first and second
/// moment; Lion: momentum; Adafactor: row and column second moments), then the compute-format parameter when
/// there is a master.
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
    /// Whether the last output is a compute-format copy of the master.
    pub master: bool,
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
        output <= Optimize::state_shapes(self.kind, &[0, 0]).len()
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        let parameter = outputs.first().map(|t| t.shape.clone()).unwrap_or_default();
        let states = Optimize::state_shapes(self.kind, &parameter);
        arity(inputs, outputs, (5, 1 + states.len() + usize::from(self.master)))?;
        shape("gradient", &inputs[0], &parameter)?;
        for (state, output) in states.iter().zip(&outputs[1..]) {
            shape("state", output, state)?;
        }
        Ok(())
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(&inputs[..1], outputs)
    }

    fn workspace(&self, backend: Backend, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let parameter = &outputs[0];
        let flat = chunk::flat(backend, parameter.elements(), 4);
        match (self.kind, parameter.shape.as_slice()) {
            // One kernel; on the CPU moments in another format go through blocks that are copied back.
            (OptimizerKind::Adamw | OptimizerKind::PagedAdamw, _) => {
                let same = outputs.get(1).is_none_or(|m| m.dtype == parameter.dtype);
                if same || backend == Backend::Cuda { 0 } else { 4 * flat }
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
