//! Conversion to 8-bit floats with one scale a tensor.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, shape};
use crate::plan::DType;

/// Input: x. Outputs: x in 8 bits, scale `[1]` f32 (the largest magnitude ÷ the format's largest value).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantise {}

impl Spec for Quantise {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 2))?;
        shape("quantised", &outputs[0], &inputs[0].shape)?;
        shape("scale", &outputs[1], &[1])
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        if fused(backend, inputs[0].dtype) && inputs[0].dtype != DType::F32 {
            return 4; // the largest magnitude
        }
        4 * chunk::flat(backend, inputs[0].elements(), 4)
    }
}
