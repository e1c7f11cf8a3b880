//! Global gradient norm and the clip factor, both on the device.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, shape};

/// Input: gradient. Output: squared norm `[1]` f32, added to (elements summed in f64 inside).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SquaredNorm {}

impl Spec for SquaredNorm {
    fn kind(&self) -> Kind {
        Kind::Optimizer
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 1))?;
        shape("squared norm", &outputs[0], &[1])
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        if fused(backend, inputs[0].dtype) {
            return 8 * chunk::norm_parts(inputs[0].elements());
        }
        8 * chunk::flat(backend, inputs[0].elements(), 8)
    }
}

/// Input: squared norm `[1]`. Outputs: gradient scale `[1]` f32 = max(1, norm/max_norm), by which gradients
/// are divided; skip flag `[1]` f32 = 1 when the norm is not finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// Largest norm; 0 = never clip.
    pub max_norm: f64,
}

impl Spec for Clip {
    fn kind(&self) -> Kind {
        Kind::Optimizer
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 2))
    }
}
