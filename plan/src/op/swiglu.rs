//! SwiGLU (Shazeer 2020, arXiv 2002.05202): silu(gate)·up on packed gate and up.

use serde::{Deserialize, Serialize};

use super::{Kind, Spec, TensorType, arity, shape};

/// Input: gate_up `[n, 2f]`. Output: product `[n, f]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwigluForward {}

impl Spec for SwigluForward {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 1))?;
        shape("product", &outputs[0], &[inputs[0].extent(0), inputs[0].extent(1) / 2])
    }
}

/// Input: dproduct `[n, f]`. Output: gate_up `[n, 2f]`, read and replaced by its gradient in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwigluBackward {}

impl Spec for SwigluBackward {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 1))?;
        shape("dproduct", &inputs[0], &[outputs[0].extent(0), outputs[0].extent(1) / 2])
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        inputs[0].bytes() + 2 * outputs[0].bytes()
    }
}
