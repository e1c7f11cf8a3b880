//! The few elementwise ops that are not fused into a neighbour.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, shape, traffic};
use crate::plan::DType;

/// Inputs: a, b of one shape. Output: a + b; may be a or b itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Add {}

impl Spec for Add {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, 1))?;
        shape("b", &inputs[1], &inputs[0].shape)?;
        shape("sum", &outputs[0], &inputs[0].shape)
    }
}

/// Input: b. Output: a, a += b, in a's format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accumulate {}

impl Spec for Accumulate {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 1))?;
        shape("a", &outputs[0], &inputs[0].shape)
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(inputs, outputs)
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let (n, bytes) = (inputs[0].elements(), outputs[0].dtype.bytes());
        let none = inputs[0].dtype == outputs[0].dtype
            || fused(backend, inputs[0].dtype) && outputs[0].dtype == DType::F32;
        if none { 0 } else { chunk::flat(backend, n, bytes) * bytes }
    }
}

/// Output: x, every element set to `value`. No inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fill {
    /// The value.
    pub value: f64,
}

impl Spec for Fill {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (0, 1))
    }
}
