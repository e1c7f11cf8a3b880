//! Dropout without a stored mask: Philox keyed by (seed, site, layer, step, global element index).

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, is_math, math_bytes, traffic};

/// Output: x, scaled by 1/(1−p) or zeroed in place. The backward pass is the same op on the gradient.
/// No inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// Probability of zero.
    pub p: f64,
    /// Name of the place, part of the key.
    pub site: String,
}

impl Spec for Dropout {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (0, 1))
    }

    fn bytes(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(&[], outputs)
    }

    fn workspace(&self, backend: Backend, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        if fused(backend, outputs[0].dtype) {
            return 0;
        }
        let (x, bytes) = (&outputs[0], math_bytes(outputs[0].dtype));
        // The factors in f32; beside them the factors in f64 for f64, or x in f32 for narrow formats.
        let beside = if is_math(x.dtype) && bytes == 4 { 0 } else { bytes };
        chunk::flat(backend, x.elements(), bytes) * (4 + beside)
    }
}
