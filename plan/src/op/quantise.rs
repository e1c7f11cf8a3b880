//! Conversion to 8-bit floats with one scale a tensor (current scaling: the scale is that of the tensor itself).

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, shape};
use crate::plan::DType;

/// Inputs: x `[n, c]`; and where the op that made x knows it, its largest magnitude `[1]` f32. Outputs: x in 8 bits, its transpose `[c, n]` in 8 bits, scale `[1]` f32 (the largest magnitude ÷
/// the format's largest value).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantise {}

/// libtorch transposes bytes on the CPU through a block of 120 × 120 (aten/src/ATen/native/Copy.cpp, copy_transpose).
const TRANSPOSED_BLOCK: u64 = 120 * 120;

impl Spec for Quantise {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (inputs.len().clamp(1, 2), 3))?;
        if let Some(amax) = inputs.get(1) {
            shape("largest magnitude", amax, &[1])?;
        }
        let (n, c) = (inputs[0].extent(0), inputs[0].extent(1));
        shape("quantised", &outputs[0], &[n, c])?;
        shape("transpose", &outputs[1], &[c, n])?;
        shape("scale", &outputs[2], &[1])
    }

    /// Once to convert, and once for the largest magnitude where it is not known.
    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let read = inputs[0].bytes().saturating_mul(if inputs.len() > 1 { 1 } else { 2 });
        outputs.iter().fold(read, |sum, t| sum.saturating_add(t.bytes()))
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        if fused(backend, inputs[0].dtype) && inputs[0].dtype != DType::F32 {
            return 4; // the largest magnitude
        }
        4 * chunk::flat(backend, inputs[0].elements(), 4) + TRANSPOSED_BLOCK
    }
}
